//! Long runs of a client that uploads one file, with several faults, drawn at random.

use super::*;

/// Number of requests that the client sends at most.
const MAX_REQUESTS: usize = 12;

impl World {
    /// Returns a step that is possible now, drawn at random. `None` if there is none.
    fn draw(&self, random: &mut Random) -> Option<Step> {
        let mut steps: Vec<Step> =
            (0..self.shared.waiting().len()).map(|at| Step::Answer(at, Fate::Answered)).collect();
        let current = self.unfinished();
        if current.is_empty() {
            steps.extend(self.draw_request(random).map(Step::Send));
        }
        for (at, (_, _, changes)) in self.shared.waiting().into_iter().enumerate() {
            if self.budget.lost > 0 && random.one_in(12) {
                let fates: &[Fate] = if changes { &[Fate::Dropped, Fate::Lost, Fate::Late] } else { &[Fate::Dropped] };
                steps.push(Step::Answer(at, fates[random.below(fates.len())]));
            }
        }
        if random.one_in(3) {
            steps.extend((0..self.shared.late()).map(Step::Land));
        }
        if self.budget.leaves > 0 && random.one_in(4) {
            steps.extend(current.iter().map(|at| if random.one_in(2) { Step::Leave(*at) } else { Step::Ignore(*at) }));
        }
        if self.budget.kills > 0 && random.one_in(12) {
            steps.extend(current.iter().map(|at| Step::Kill(self.requests[*at].request.process)));
        }
        (!steps.is_empty()).then(|| steps[random.below(steps.len())])
    }

    fn draw_request(&self, random: &mut Random) -> Option<Request> {
        let alive: Vec<usize> = (0..FRESH).filter(|process| !self.dead.contains(process)).take(2).collect();
        let client = &self.client;
        if client.is_done || client.is_deleted || self.requests.len() >= MAX_REQUESTS || alive.is_empty() {
            return None;
        }
        let process = alive[random.below(alive.len())];
        let end = self.file.len() as u64 / UNIT;
        let call = match client.known.map(|offset| offset / UNIT) {
            _ if random.one_in(25) => Call::Delete,
            None => Call::Head,
            Some(_) if random.one_in(6) => Call::Head,
            Some(from) => {
                let to = (from + 1 + random.below(end as usize) as u64).min(end);
                let says_length = !client.is_length_known && (random.one_in(3) || (from == end && random.one_in(2)));
                let completes = to == end && !says_length && (!client.is_length_known || random.one_in(3));
                Call::Patch { from, to, how: How { says_length, completes, breaks: random.one_in(4) } }
            }
        };
        Some(Request { process, call })
    }
}

/// What has happened in some runs.
#[derive(Debug, Default)]
struct Runs {
    done: usize,
    deleted: usize,
    steps: usize,
}

impl Runs {
    fn run(&mut self, seed: u64, units: u64, deferred: bool, budget: Budget) {
        let mut random = Random::new(seed);
        let mut world = World::new(units, deferred, budget);
        world.shared.list_checksums(seed.is_multiple_of(2));
        while let Some(step) = world.draw(&mut random) {
            world.take(step);
            self.steps += 1;
        }
        self.deleted += usize::from(world.client.is_deleted);
        self.done += usize::from(world.client.is_done);
        if budget == NO_FAULTS && (world.client.is_done || world.client.is_deleted) {
            assert_eq!(world.shared.objects().len(), usize::from(world.client.is_done), "{:?}", world.steps);
            assert_eq!(world.shared.open_uploads(&world.upload.image()), 0, "{:?}", world.steps);
        }
        if !world.client.has_asked_to_delete {
            world.recover();
        }
    }
}

#[test]
fn client_finishes_its_upload_in_random_runs() {
    let mut runs = Runs::default();
    for seed in 0..120 {
        for (units, deferred) in [(3, false), (9, false), (12, false), (15, false), (7, true), (12, true), (20, true)] {
            for budget in [NO_FAULTS, Budget { kills: 2, lost: 3, leaves: 3 }] {
                runs.run(seed, units, deferred, budget);
            }
        }
    }
    assert!(runs.done > 1_000 && runs.deleted > 80, "{runs:?}");
}
