//! The definitions of all metrics. A test checks that the table in the README matches them.

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
    "Duration of successful uploads, from the request head to the stored image; `method`: `form`, `raw`, `direct` (only \
     verifying and promoting) or `resumable` (from the creation of the upload)",
);
pub const UPLOAD_SIZE: Metric =
    histogram("image_store_upload_size_bytes", UPLOAD_BYTES, &["method"], "Size of stored images");
pub const UPLOADS_ABORTED: Metric = counter(
    "image_store_uploads_aborted_total",
    &["method", "reason"],
    "Aborted uploads by `reason`: `client_gone`, `client_too_slow`, `refused_late` (rejected after its beginning was \
     accepted), `store_failed`, `deadline`, `shutdown`, `over_capacity` (the disk for spilled parts is full), \
     `internal`; with methods `direct` and `resumable`: `requested` (by DELETE)",
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

pub const BUILD_INFO: Metric =
    gauge("image_store_build_info", &["version"], "Always 1, with the running version as label");
pub const START_TIME: Metric =
    gauge("process_start_time_seconds", &[], "Start time of the service, in seconds since 1970");

pub const METRICS: [Metric; 16] = [
    REQUESTS,
    RECEIVED,
    REFUSALS,
    GRANTS,
    CONNECTIONS,
    UPLOAD_DURATION,
    UPLOAD_SIZE,
    UPLOADS_ABORTED,
    UPLOADS_OPEN,
    PROMOTIONS,
    CALL_DURATION,
    PARTS_IN_FLIGHT,
    BUDGET_USED,
    BUDGET_LIMIT,
    BUILD_INFO,
    START_TIME,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: &Metric) -> String {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |", metric.name, metric.kind.name(), labels.join(", "), metric.help)
    }

    #[test]
    fn readme_documents_all_metrics() {
        let readme = include_str!("../../../README.md");
        let rows = readme.lines().skip_while(|line| *line != "### Metrics").filter(|line| line.starts_with("| `"));
        let documented: Vec<&str> =
            rows.take_while(|row| row.matches('|').count() == 5).take(METRICS.len() + 1).collect();
        let expected: Vec<String> = METRICS.iter().map(row).collect();
        assert_eq!(documented, expected, "README, section Metrics:\n{}", expected.join("\n"));
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
