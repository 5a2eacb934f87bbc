//! Metrics about the process, which are read from the kernel when they are scraped.
//!
//! The recorder keeps counters as whole numbers, but the processor time has fractions. So these metrics are written
//! without it.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::Write;
use std::fs;

use super::defs::{self, Metric};

/// Returns the metrics in Prometheus' text format. A value that the kernel does not report is omitted.
pub fn render() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let values: [(&Metric, Option<f64>); 6] = [
        (&defs::PROCESS_CPU, Some(cpu_seconds())),
        (&defs::PROCESS_RESIDENT, number(&status, "VmRSS:").map(|kib| kib * 1024.0)),
        (&defs::PROCESS_VIRTUAL, number(&status, "VmSize:").map(|kib| kib * 1024.0)),
        (&defs::PROCESS_THREADS, number(&status, "Threads:")),
        (&defs::PROCESS_OPEN_FDS, open_descriptors()),
        (&defs::PROCESS_MAX_FDS, getrlimit(Resource::Nofile).current.map(|limit| limit as f64)),
    ];
    let mut text = String::new();
    for (Metric { name, kind, help, .. }, value) in values {
        if let Some(value) = value {
            let kind = kind.name();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
    text
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Returns the number in a line of `/proc/self/status`. Sizes are in KiB, although their unit is shown as kB.
fn number(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_descriptors() -> Option<f64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    // One of them is the folder that is being read.
    Some(entries.count().saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_found_by_its_name() {
        let status = "Name:\tVmRSS: 1\nVmSize:\t  204800 kB\nVmRSS:\t   1024 kB\nThreads:\t7\n";
        assert_eq!(number(status, "VmRSS:"), Some(1024.0));
        assert_eq!(number(status, "Threads:"), Some(7.0));
        assert_eq!(number(status, "VmSwap:"), None);
    }
}
