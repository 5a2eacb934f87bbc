//! Time that the host of a virtual machine gave to other machines.

/// The processors' times since the system was started (`/proc/stat`, proc(5)), in ticks.
pub struct Processors {
    all: u64,
    stolen: u64,
}

impl Processors {
    pub fn now() -> Self {
        Processors::read(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The first line has the sums of all processors: user, nice, system, idle, iowait, irq, softirq, steal, and guests'
    /// times, which are in user and nice already.
    fn read(stat: &str) -> Self {
        let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
        let times: Vec<u64> = times.map_while(|time| time.parse().ok()).collect();
        Processors { all: times.iter().sum(), stolen: times.get(7).copied().unwrap_or(0) }
    }

    /// Returns the share of the time since then that was stolen, from 0 to 1.
    pub fn stolen(&self) -> f64 {
        self.until(&Processors::now())
    }

    fn until(&self, later: &Processors) -> f64 {
        let all = (later.all - self.all).max(1);
        (later.stolen - self.stolen) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_of_all_times_but_those_of_guests() {
        let before = Processors::read("cpu  100 0 50 800 0 0 0 50 70 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n");
        let after = Processors::read("cpu  150 0 75 800 0 0 0 75 90 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n");
        assert!((before.until(&after) - 0.25).abs() < 1e-9);
        assert!(Processors::read("").until(&Processors::read("")).abs() < 1e-9);
    }
}
