//! Every order of the steps of a few requests, with few faults.

use super::*;

/// A situation: what the store has when the requests of the run come, and these requests. They are sent in this order at any
/// time, whether the client waits for the earlier ones or not.
struct Scenario {
    units: u64,
    deferred: bool,
    /// Whether another upload of the key has created an image of the same bytes, after the requests before the run.
    is_repeated: bool,
    /// Requests that are answered before the run.
    before: Vec<Call>,
    requests: Vec<Request>,
    budget: Budget,
}

impl Scenario {
    fn start(&self) -> World {
        let mut world = World::new(self.units, self.deferred, NO_FAULTS);
        for call in &self.before {
            world.ask(*call);
        }
        if self.is_repeated {
            world.upload.is_fixed_key = true;
            world.shared.lay_image(&world.upload.image(), &world.file, Uuid::from_u128(8));
        }
        world.budget = self.budget;
        world.steps.clear();
        world
    }

    /// Returns the steps that are possible now.
    fn steps(&self, world: &World, sent: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(next) = self.requests.get(sent).filter(|next| !world.dead.contains(&next.process)) {
            steps.push(Step::Send(*next));
        }
        for (at, (_, _, changes)) in world.shared.waiting().into_iter().enumerate() {
            steps.push(Step::Answer(at, Fate::Answered));
            if world.budget.lost > 0 {
                steps.push(Step::Answer(at, Fate::Dropped));
                if changes {
                    steps.extend([Step::Answer(at, Fate::Lost), Step::Answer(at, Fate::Late)]);
                }
            }
        }
        steps.extend((0..world.shared.late()).map(Step::Land));
        let current = world.unfinished();
        if world.budget.leaves > 0 {
            steps.extend(current.iter().flat_map(|at| [Step::Leave(*at), Step::Ignore(*at)]));
        }
        if world.budget.kills > 0 && !current.is_empty() {
            let processes: HashSet<usize> = current.iter().map(|at| world.requests[*at].request.process).collect();
            let mut processes: Vec<usize> = processes.into_iter().collect();
            processes.sort_unstable();
            steps.extend(processes.into_iter().map(Step::Kill));
        }
        steps
    }

    /// Checks what must hold when all requests have ended and no call is under way.
    fn check_end(&self, world: &World) {
        let steps = &world.steps;
        assert!(world.unfinished().is_empty(), "a request does not end: {steps:?}");
        let is_over =
            world.client.is_deleted || if self.is_repeated { world.client.is_done } else { world.image().is_some() };
        if !is_over {
            return;
        }
        assert_eq!(world.shared.open_uploads(&world.upload.image()), 0, "an upload remains: {steps:?}");
        // What a late writer leaves has a name that a sweep removes.
        let is_other = |name: &String| *name != world.upload.key.to_string() && !name.ends_with(".same");
        let others = world.shared.objects().into_iter().filter(is_other);
        let names: Vec<String> = others.collect();
        let prefix = format!("incoming/{}.{}.", world.upload.key, world.upload.id);
        assert!(names.iter().all(|name| name.starts_with(&prefix)), "{names:?}: {steps:?}");
        assert!(self.requests.len() > 1 || self.budget != NO_FAULTS || names.is_empty(), "{names:?} remain: {steps:?}");
    }
}

/// The result of an exploration.
#[derive(Debug, Default)]
struct Explored {
    states: usize,
    /// Ends, and those with an image.
    ends: usize,
    images: usize,
}

/// Takes all steps in every order.
fn explore(scenario: &Scenario) -> Explored {
    let (mut seen, mut recovered, mut explored) = (HashSet::new(), HashSet::new(), Explored::default());
    let mut open: Vec<Vec<Step>> = vec![Vec::new()];
    while let Some(steps) = open.pop() {
        let mut world = scenario.start();
        let before = world.requests.len();
        steps.iter().for_each(|step| world.take(*step));
        loop {
            let mut fingerprint = DefaultHasher::new();
            (world.fingerprint(), world.requests.len()).hash(&mut fingerprint);
            if !seen.insert(fingerprint.finish()) {
                break;
            }
            explored.states += 1;
            let mut next = scenario.steps(&world, world.requests.len() - before);
            if next.is_empty() {
                scenario.check_end(&world);
                explored.ends += 1;
                explored.images += usize::from(world.image().is_some());
            }
            // From every state that a crash could leave, the upload can be finished.
            if !world.client.has_asked_to_delete && recovered.insert(world.shared.contents()) {
                let steps = world.steps.clone();
                let mut other = scenario.start();
                steps.iter().for_each(|step| other.take(*step));
                other.requests.iter_mut().for_each(|request| request.is_current = false);
                other.recover();
            }
            let Some(last) = next.pop() else { break };
            open.extend(next.into_iter().map(|step| world.steps.iter().copied().chain([step]).collect()));
            world.take(last);
        }
    }
    explored
}

fn at(process: usize, call: Call) -> Request {
    Request { process, call }
}

fn patch(from: u64, to: u64) -> Call {
    Call::Patch { from, to, how: PLAIN }
}

/// Explores two requests, in one process and in two.
fn explore_pairs(units: u64, deferred: bool, before: &[Call], calls: [Call; 2], budget: Budget) {
    for process in [0, 1] {
        let requests = vec![at(0, calls[0]), at(process, calls[1])];
        let before = before.to_vec();
        let explored = explore(&Scenario { units, deferred, is_repeated: false, before, requests, budget });
        assert!(explored.ends > 1, "{calls:?}: {explored:?}");
    }
}

const ONE_LOST: Budget = Budget { kills: 0, lost: 1, leaves: 0 };
const ONE_KILL: Budget = Budget { kills: 1, lost: 0, leaves: 0 };
const ONE_LEAVE: Budget = Budget { kills: 0, lost: 0, leaves: 1 };

#[test]
fn one_request_is_consistent_with_every_fault() {
    let calls = [
        (9, vec![], patch(0, 9)),
        (9, vec![], patch(0, 6)),
        (9, vec![patch(0, 3)], patch(3, 9)),
        (9, vec![patch(0, 3)], Call::Patch { from: 3, to: 9, how: BROKEN }),
        (9, vec![patch(0, 2)], patch(2, 4)),
        (12, vec![patch(0, 9)], patch(9, 12)),
        (3, vec![], patch(0, 3)),
        (9, vec![patch(0, 3)], Call::Delete),
        (9, vec![patch(0, 9)], Call::Delete),
        (9, vec![patch(0, 9)], Call::Head),
    ];
    for (units, before, call) in calls {
        for budget in [NO_FAULTS, ONE_LEAVE, Budget { kills: 1, lost: 1, leaves: 0 }] {
            let requests = vec![at(0, call)];
            let (deferred, is_repeated, before) = (false, false, before.clone());
            let explored = explore(&Scenario { units, deferred, is_repeated, before, requests, budget });
            assert!(explored.ends > 0 && explored.states > explored.ends, "{explored:?}");
        }
    }
}

#[test]
fn two_requests_are_consistent_in_every_order() {
    for (units, before, calls) in [
        (9, vec![], [patch(0, 9), patch(0, 9)]),
        (9, vec![], [patch(0, 3), patch(0, 9)]),
        (9, vec![patch(0, 3)], [patch(3, 9), Call::Head]),
        (9, vec![patch(0, 3)], [patch(3, 9), patch(3, 6)]),
        (9, vec![patch(0, 6)], [patch(6, 9), Call::Head]),
        (9, vec![patch(0, 2)], [patch(2, 4), patch(2, 5)]),
        (9, vec![patch(0, 1), patch(1, 2)], [patch(2, 4), Call::Head]),
        (12, vec![patch(0, 9)], [patch(9, 12), patch(9, 12)]),
        (15, vec![patch(0, 3)], [patch(3, 12), patch(3, 15)]),
        (3, vec![], [patch(0, 3), patch(0, 3)]),
        (3, vec![], [patch(0, 3), Call::Head]),
    ] {
        explore_pairs(units, false, &before, calls, NO_FAULTS);
    }
}

/// An upload of the same bytes as an image that another upload has created is complete, whatever fails, and stays so.
#[test]
fn repeated_upload_is_complete_in_every_order() {
    for (before, calls) in [
        (vec![], [patch(0, 3), Call::Head]),
        (vec![], [patch(0, 3), patch(0, 3)]),
        (vec![patch(0, 2)], [patch(2, 3), Call::Head]),
    ] {
        for budget in [ONE_LOST, ONE_KILL] {
            for process in [0, 1] {
                let (before, requests) = (before.clone(), vec![at(0, calls[0]), at(process, calls[1])]);
                let scenario = Scenario { units: 3, deferred: false, is_repeated: true, before, requests, budget };
                let explored = explore(&scenario);
                assert!(explored.ends > 1, "{calls:?}: {explored:?}");
            }
        }
    }
}

#[test]
fn delete_beside_another_request_leaves_no_image() {
    for (units, before, call) in [
        (3, vec![], patch(0, 3)),
        (9, vec![patch(0, 3)], patch(3, 9)),
        (12, vec![patch(0, 9)], patch(9, 12)),
        (9, vec![patch(0, 3)], Call::Head),
        (9, vec![patch(0, 3)], Call::Delete),
    ] {
        for budget in [ONE_LOST, ONE_KILL] {
            explore_pairs(units, false, &before, [call, Call::Delete], budget);
        }
    }
}

#[test]
fn requests_are_consistent_if_the_one_before_dies_or_is_late() {
    const KILLS: &[Budget] = &[ONE_KILL, ONE_LEAVE];
    const ALL: &[Budget] = &[ONE_KILL, ONE_LEAVE, ONE_LOST];
    for (units, before, calls, budgets) in [
        (3, vec![], [patch(0, 3), Call::Head], ALL),
        (9, vec![], [patch(0, 9), Call::Head], KILLS),
        (9, vec![patch(0, 3)], [patch(3, 9), patch(3, 9)], KILLS),
        (9, vec![patch(0, 3)], [patch(3, 6), patch(3, 9)], KILLS),
        (12, vec![patch(0, 9)], [patch(9, 12), Call::Head], ALL),
        (9, vec![patch(0, 2)], [patch(2, 4), patch(2, 5)], ALL),
    ] {
        for budget in budgets {
            explore_pairs(units, false, &before, calls, *budget);
        }
    }
}

#[test]
fn deferred_length_is_consistent_in_every_order() {
    let with = |from, to, how| Call::Patch { from, to, how };
    for (units, before, calls, budgets) in [
        (9, vec![], [with(0, 9, WITH_LENGTH), Call::Head], [NO_FAULTS, ONE_KILL]),
        (9, vec![patch(0, 3)], [with(3, 6, WITH_LENGTH), with(3, 9, WITH_LENGTH)], [NO_FAULTS, NO_FAULTS]),
        (9, vec![with(0, 3, WITH_LENGTH)], [patch(3, 9), Call::Head], [ONE_LOST, ONE_KILL]),
        (9, vec![patch(0, 3)], [with(3, 9, LAST), Call::Head], [ONE_LOST, ONE_KILL]),
        (12, vec![patch(0, 12)], [with(12, 12, LAST), with(12, 12, LAST)], [ONE_LOST, ONE_KILL]),
        (12, vec![patch(0, 12)], [with(12, 12, WITH_LENGTH), Call::Head], [ONE_LOST, ONE_KILL]),
        (9, vec![patch(0, 3)], [with(3, 9, LAST), Call::Delete], [NO_FAULTS, ONE_KILL]),
    ] {
        for budget in budgets {
            explore_pairs(units, true, &before, calls, budget);
        }
    }
}
