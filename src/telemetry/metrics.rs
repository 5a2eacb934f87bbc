//! Numbers for Prometheus. Each service has its own, so nothing is global and tests can count.
//!
//! What costs something to know is asked when it is scraped; what is on a byte's way is a handle that was made before.

use metrics::{Counter, Gauge, Histogram, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

pub mod defs;

pub use defs::{Kind, METRICS, Metric};

/// How often [`Metrics::upkeep`] is wanted.
pub const UPKEEP: Duration = Duration::from_secs(5);

static METADATA: Metadata<'static> = Metadata::new("image_store", metrics::Level::INFO, None);

/// The metrics of one service. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    received: Counter,
    connections: Gauge,
    cutting_off: AtomicBool,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let recorder = METRICS.iter().fold(PrometheusBuilder::new(), with_buckets).build_recorder();
        METRICS.iter().for_each(|metric| describe(&recorder, metric));
        let received = recorder.register_counter(&key(&defs::RECEIVED, &[]), &METADATA);
        let connections = recorder.register_gauge(&key(&defs::CONNECTIONS, &[]), &METADATA);
        let handle = recorder.handle();
        let metrics =
            Metrics(Arc::new(Inner { recorder, handle, received, connections, cutting_off: AtomicBool::new(false) }));
        metrics.gauge(&defs::BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1);
        let started = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        metrics.gauge(&defs::START_TIME, &[]).set(started.as_secs_f64());
        metrics
    }

    /// The series of a counter with these label values, in the table's order.
    pub fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        self.0.recorder.register_counter(&key(metric, values), &METADATA)
    }

    /// As [`Metrics::counter`].
    pub fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        self.0.recorder.register_gauge(&key(metric, values), &METADATA)
    }

    /// As [`Metrics::counter`].
    pub fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        self.0.recorder.register_histogram(&key(metric, values), &METADATA)
    }

    /// Counts a body's bytes.
    pub fn received(&self) -> Received {
        Received { counter: self.0.received.clone(), bytes: 0 }
    }

    /// A connection is open while this lives.
    pub fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(self.0.connections.clone())
    }

    /// From now on what is dropped unanswered was cut off by this process' end, and its client is not to blame.
    pub fn start_cutting_off(&self) {
        self.0.cutting_off.store(true, Ordering::Relaxed);
    }

    pub fn is_cutting_off(&self) -> bool {
        self.0.cutting_off.load(Ordering::Relaxed)
    }

    /// Samples lie in memory until they are put into their buckets, which is to be done also where nobody scrapes.
    pub fn upkeep(&self) {
        self.0.handle.run_upkeep();
    }

    /// All there is, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.upkeep();
        self.0.handle.render()
    }
}

fn with_buckets(builder: PrometheusBuilder, metric: &Metric) -> PrometheusBuilder {
    match metric.kind {
        Kind::Histogram(bounds) => {
            builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds).expect("it has buckets")
        }
        _ => builder,
    }
}

fn describe(recorder: &PrometheusRecorder, metric: &Metric) {
    let (name, help) = (metric.name.into(), metric.help.into());
    match metric.kind {
        Kind::Counter => recorder.describe_counter(name, None, help),
        Kind::Gauge => recorder.describe_gauge(name, None, help),
        Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
    }
}

fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let pairs = metric.labels.iter().zip(values);
    Key::from_parts(metric.name, pairs.map(|(name, value)| Label::new(*name, (*value).to_owned())).collect::<Vec<_>>())
}

/// One of what a gauge counts, for as long as this lives.
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub fn new(gauge: Gauge) -> Self {
        gauge.increment(1);
        GaugeGuard(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// The bytes of one body. They are told now and then and not with every chunk, and the rest at the end.
pub struct Received {
    counter: Counter,
    bytes: u64,
}

impl Received {
    /// Bytes: a long upload shows while it runs.
    const STEP: u64 = 1 << 20;

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= Self::STEP {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.counter.increment(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_land_in_the_table_s_buckets() {
        let metrics = Metrics::new();
        metrics.histogram(&defs::UPLOAD_SIZE, &["raw"]).record(20_000);
        let text = metrics.render();
        for line in [
            "# TYPE image_store_upload_size_bytes histogram",
            "image_store_upload_size_bytes_bucket{door=\"raw\",le=\"16384\"} 0",
            "image_store_upload_size_bytes_bucket{door=\"raw\",le=\"65536\"} 1",
            "image_store_upload_size_bytes_sum{door=\"raw\"} 20000",
            "# TYPE image_store_http_received_bytes_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.contains("# HELP image_store_upload_size_bytes Sizes of the images stored"), "{text}");
    }

    #[test]
    fn a_body_s_bytes_are_told_while_it_lasts_and_at_its_end() {
        let metrics = Metrics::new();
        let told = |bytes: u64| metrics.render().contains(&format!("image_store_http_received_bytes_total {bytes}\n"));
        let mut received = metrics.received();
        received.add(1000);
        assert!(told(0), "{}", metrics.render());
        received.add(1 << 20);
        assert!(told((1 << 20) + 1000));
        received.add(1);
        drop(received);
        assert!(told((1 << 20) + 1001));
    }
}
