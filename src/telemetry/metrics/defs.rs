//! The definitions of all metrics. A test checks that the table in docs/metrics.md matches them.

/// Seconds.
const UPLOAD_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Seconds.
const CALL_SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Bytes: powers of 4 from 16 KiB up to the maximum size of an image.
const UPLOAD_BYTES: &[f64] = &[
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    5_000_000_000.0,
];

/// The definition of a metric.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// The names of the labels. Each series has a value for every label, in this order.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(
    name: &'static str,
    buckets: &'static [f64],
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(buckets), labels, help }
}

pub const REQUESTS: Metric = counter(
    "image_store_http_requests_total",
    &["route", "method", "status"],
    "Requests by route template (`-`: no such route); status `499`: the client disconnected before the answer; `503` \
     includes requests that were cut off at shutdown",
);
pub const REQUEST_DURATION: Metric = histogram(
    "image_store_http_request_duration_seconds",
    UPLOAD_SECONDS,
    &["route", "method", "status_class"],
    "Duration of requests, from the request head to the response head; `status_class`: `2xx`, `3xx`, `4xx` (also if the \
     client disconnected) or `5xx`",
);
pub const RECEIVED: Metric = counter(
    "image_store_http_received_bytes_total",
    &[],
    "Bytes of request bodies received, including discarded bytes of rejected requests",
);
pub const REFUSALS: Metric = counter(
    "image_store_refusals_total",
    &["code", "detected"],
    "Error answers by `code`; `detected`: the detected type of an `invalid_file_type` (otherwise `-`)",
);
pub const GRANTS: Metric = counter(
    "image_store_grants_total",
    &["outcome"],
    "Requests with a grant: `used`, or the reason for the rejection: `malformed`, `signature`, `key` (removed, or without the \
     scope `upload`), `expired`, `not_yet`, `lifetime` (over 24 h), `claims`, `route` (not for uploads)",
);
pub const CONNECTIONS: Metric = gauge("image_store_connections_open", &[], "Open connections (0 on Lambda)");

pub const UPLOAD_DURATION: Metric = histogram(
    "image_store_upload_duration_seconds",
    UPLOAD_SECONDS,
    &["method"],
    "Duration of successful uploads, from the request head to the stored image; `method`: `form`, `raw`, `direct` \
     or `companion` (Uppy's parts), of these two only verifying and promoting, or `resumable` (from the creation of the \
     upload)",
);
pub const UPLOAD_SIZE: Metric =
    histogram("image_store_upload_size_bytes", UPLOAD_BYTES, &["method"], "Size of stored images");
pub const UPLOADS_ABORTED: Metric = counter(
    "image_store_uploads_aborted_total",
    &["method", "reason"],
    "Aborted uploads by `reason`: `client_gone`, `client_too_slow`, `refused_late` (rejected after its beginning was \
     accepted), `store_failed`, `deadline`, `shutdown`, `over_capacity` (the disk for spilled parts is full), \
     `internal`; with the methods `direct`, `companion` and `resumable`: `requested` (by DELETE)",
);
pub const UPLOADS_REPEATED: Metric = counter(
    "image_store_uploads_repeated_total",
    &["method"],
    "Uploads under an `Idempotency-Key` or a grant for one key that were answered with an image that was already stored; \
     they are not in the duration and size of uploads",
);
pub const UPLOADS_OPEN: Metric =
    gauge("image_store_uploads_open", &[], "Uploads, completions and aborts in progress, including their clean-up");
pub const PROMOTIONS: Metric = counter(
    "image_store_promotions_total",
    &["trigger", "outcome"],
    "Verifications of direct uploads; `trigger`: `complete` (by the client) or `event` (from S3); `outcome`: \
     `promoted`, `already_there` or an error code",
);

pub const CALL_DURATION: Metric = histogram(
    "image_store_s3_call_duration_seconds",
    CALL_SECONDS,
    &["operation", "outcome"],
    "Duration of calls to S3, including retries; `outcome`: `ok`, `not_found`, `no_such_upload`, `precondition`, \
     `refused` (rejected), `no_answer` (unknown outcome), `differs` (integrity mismatch), `cancelled` (the caller \
     stopped waiting)",
);
pub const PARTS_IN_FLIGHT: Metric =
    gauge("image_store_parts_in_flight", &[], "Parts, and files of a single part, that are being sent to S3");

pub const BUDGET_USED: Metric = gauge(
    "image_store_budget_used_bytes",
    &["budget"],
    "Bytes that parts use or have reserved; `budget`: `memory` or `spill`",
);
pub const BUDGET_LIMIT: Metric = gauge(
    "image_store_budget_limit_bytes",
    &["budget"],
    "Maximum bytes for parts; `budget`: `memory` (`MEMORY_BUDGET` minus the share of connections) or `spill` \
     (`SPILL_BUDGET`)",
);

pub const BUILD_INFO: Metric = gauge(
    "image_store_build_info",
    &["version", "commit"],
    "Always 1, with the running version and its commit as labels",
);
pub const START_TIME: Metric =
    gauge("process_start_time_seconds", &[], "Start time of the service, in seconds since 1970");
pub const PROCESS_CPU: Metric = counter("process_cpu_seconds_total", &[], "Processor time used, by user and system");
pub const PROCESS_RESIDENT: Metric = gauge("process_resident_memory_bytes", &[], "Memory in use (RSS)");
pub const PROCESS_VIRTUAL: Metric = gauge("process_virtual_memory_bytes", &[], "Size of the address space");
pub const PROCESS_THREADS: Metric = gauge("process_threads", &[], "Number of threads");
pub const PROCESS_OPEN_FDS: Metric = gauge("process_open_fds", &[], "Number of open file descriptors");
pub const PROCESS_MAX_FDS: Metric = gauge("process_max_fds", &[], "Limit on open file descriptors");

pub const METRICS: [Metric; 24] = [
    REQUESTS,
    REQUEST_DURATION,
    RECEIVED,
    REFUSALS,
    GRANTS,
    CONNECTIONS,
    UPLOAD_DURATION,
    UPLOAD_SIZE,
    UPLOADS_ABORTED,
    UPLOADS_REPEATED,
    UPLOADS_OPEN,
    PROMOTIONS,
    CALL_DURATION,
    PARTS_IN_FLIGHT,
    BUDGET_USED,
    BUDGET_LIMIT,
    BUILD_INFO,
    START_TIME,
    PROCESS_CPU,
    PROCESS_RESIDENT,
    PROCESS_VIRTUAL,
    PROCESS_THREADS,
    PROCESS_OPEN_FDS,
    PROCESS_MAX_FDS,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: &Metric) -> String {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |", metric.name, metric.kind.name(), labels.join(", "), metric.help)
    }

    #[test]
    fn metrics_page_documents_all_metrics() {
        let page = include_str!("../../../docs/metrics.md");
        let documented: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = METRICS.iter().map(row).collect();
        assert_eq!(documented, expected, "docs/metrics.md, section All metrics:\n{}", expected.join("\n"));
    }

    #[test]
    fn names_follow_prometheus_conventions() {
        for Metric { name, kind, help, .. } in &METRICS {
            let unit = ["_seconds", "_bytes"].iter().any(|unit| name.ends_with(unit));
            match kind {
                Kind::Counter => assert!(name.ends_with("_total"), "{name}"),
                Kind::Gauge => assert!(!name.ends_with("_total"), "{name}"),
                Kind::Histogram(buckets) => assert!(unit && buckets.is_sorted(), "{name}"),
            }
            assert!(!help.is_empty() && !help.contains(['|', '\n']), "{name}");
        }
        let mut names = METRICS.map(|metric| metric.name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
