//! The worst moment of a run.

use std::time::Duration;

use super::client::Outcome;

const WINDOW: Duration = Duration::from_secs(10);

/// Returns the longest mean time of the uploads that began within one window of ten seconds, in seconds. A run that is
/// shorter is one window. `outcomes` are in the order of their beginnings.
pub fn worst_window(outcomes: &[Outcome]) -> f64 {
    let Some(end) = outcomes.iter().map(|outcome| outcome.started + outcome.took).max() else { return 0.0 };
    let is_whole = |at: &usize| *at == 0 || outcomes[*at].started + WINDOW <= end;
    (0..outcomes.len()).take_while(is_whole).map(|at| mean_of_window(&outcomes[at..])).fold(0.0, f64::max)
}

/// Returns the mean time of the uploads in the window that begins with the first one.
fn mean_of_window(outcomes: &[Outcome]) -> f64 {
    let end = outcomes[0].started + WINDOW;
    let took = outcomes.iter().take_while(|outcome| outcome.started < end).map(|outcome| outcome.took.as_secs_f64());
    let (sum, count) = took.fold((0.0, 0), |(sum, count), took| (sum + took, count + 1));
    sum / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Uploads one after another that take these times, in seconds.
    fn run(took: impl IntoIterator<Item = f64>) -> Vec<Outcome> {
        let mut started = Instant::now();
        let outcome = |took| {
            let outcome = Outcome { started, status: Some(200), took: Duration::from_secs_f64(took) };
            started += outcome.took;
            outcome
        };
        took.into_iter().map(outcome).collect()
    }

    fn is(seconds: f64, expected: f64) -> bool {
        (seconds - expected).abs() < 1e-6
    }

    #[test]
    fn worst_window_is_found_wherever_it_is() {
        let steady = || std::iter::repeat_n(0.5, 100);
        let slow = || std::iter::repeat_n(2.0, 5);
        for run in
            [run(slow().chain(steady())), run(steady().chain(slow()).chain(steady())), run(steady().chain(slow()))]
        {
            assert!(is(worst_window(&run), 2.0));
        }
        assert!(is(worst_window(&run(steady())), 0.5));
    }

    #[test]
    fn short_runs_are_one_window_and_the_end_is_part_of_the_last_one() {
        assert!(is(worst_window(&[]), 0.0));
        assert!(is(worst_window(&run([1.0, 3.0])), 2.0));
        // The window that would begin with the last upload is not complete.
        let late = run(std::iter::repeat_n(1.0, 19).chain([2.0]));
        assert!(is(worst_window(&late), 10.0 / 9.0), "{}", worst_window(&late));
    }
}
