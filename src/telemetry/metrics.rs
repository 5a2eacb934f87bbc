//! Metrics for Prometheus. Each service has its own recorder instead of a global one, so that tests can check the
//! values.
//!
//! Values that are expensive to compute are computed when they are scraped. Code that runs for each chunk of data uses
//! handles that were created in advance.

use metrics::{Counter, Gauge, Histogram, Key, Label, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

pub mod defs;
mod process;

pub use defs::{Kind, METRICS, Metric};

/// The interval at which [`Metrics::upkeep`] must run.
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
        metrics.gauge(&defs::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), env!("IMAGE_STORE_COMMIT")]).set(1);
        let started = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        metrics.gauge(&defs::START_TIME, &[]).set(started.as_secs_f64());
        metrics
    }

    /// Returns the series of a counter with these label values, in the order of the labels in the definition.
    pub fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        self.0.recorder.register_counter(&key(metric, values), &METADATA)
    }

    /// Returns a series like [`Metrics::counter`].
    pub fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        self.0.recorder.register_gauge(&key(metric, values), &METADATA)
    }

    /// Returns a series like [`Metrics::counter`].
    pub fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        self.0.recorder.register_histogram(&key(metric, values), &METADATA)
    }

    /// Returns a counter for the bytes of one body.
    pub fn received(&self) -> Received {
        Received { counter: self.0.received.clone(), bytes: 0, total: ReceivedBytes::default() }
    }

    /// Returns a guard that counts an open connection until it is dropped.
    pub fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(self.0.connections.clone())
    }

    /// Marks the end of the process: requests that are dropped from now on count as cut off, not as aborted by the
    /// client.
    pub fn start_cutting_off(&self) {
        self.0.cutting_off.store(true, Ordering::Relaxed);
    }

    pub fn is_cutting_off(&self) -> bool {
        self.0.cutting_off.load(Ordering::Relaxed)
    }

    /// Moves samples from memory into their buckets. This must also run if the metrics are never scraped.
    pub fn upkeep(&self) {
        self.0.handle.run_upkeep();
    }

    /// Returns all metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.upkeep();
        self.0.handle.render() + &process::render()
    }
}

fn with_buckets(builder: PrometheusBuilder, metric: &Metric) -> PrometheusBuilder {
    match metric.kind {
        Kind::Histogram(bounds) => builder
            .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)
            .expect("a histogram has buckets"),
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

/// Increments a gauge until it is dropped.
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

/// Counts the bytes of one body. It updates the metric in steps and not for every chunk, and adds the rest when it is
/// dropped.
pub struct Received {
    counter: Counter,
    bytes: u64,
    total: ReceivedBytes,
}

/// The number of bytes of one body that have been received. It remains readable after the body was moved.
#[derive(Clone, Debug, Default)]
pub struct ReceivedBytes(Arc<AtomicU64>);

impl ReceivedBytes {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Received {
    /// Bytes per update, so that a long upload is visible while it runs.
    const STEP: u64 = 1 << 20;

    pub fn total(&self) -> ReceivedBytes {
        self.total.clone()
    }

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.total.0.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.bytes >= Self::STEP {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.counter.increment(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_use_the_defined_buckets() {
        let metrics = Metrics::new();
        metrics.histogram(&defs::UPLOAD_SIZE, &["raw"]).record(20_000);
        let text = metrics.render();
        for line in [
            "# TYPE image_store_upload_size_bytes histogram",
            "image_store_upload_size_bytes_bucket{method=\"raw\",le=\"16384\"} 0",
            "image_store_upload_size_bytes_bucket{method=\"raw\",le=\"65536\"} 1",
            "image_store_upload_size_bytes_sum{method=\"raw\"} 20000",
            "# TYPE image_store_http_received_bytes_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.contains("# HELP image_store_upload_size_bytes Size of stored images"), "{text}");
    }

    #[test]
    fn process_metrics_are_of_this_process() {
        let text = Metrics::new().render();
        let value = |metric: &Metric| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(metric.name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {} in {text}", metric.name)).parse().unwrap()
        };
        assert!(value(&defs::PROCESS_CPU) > 0.0 && value(&defs::PROCESS_THREADS) >= 1.0);
        let resident = value(&defs::PROCESS_RESIDENT);
        assert!((1e6..value(&defs::PROCESS_VIRTUAL)).contains(&resident), "{resident}");
        assert!((3.0..=value(&defs::PROCESS_MAX_FDS)).contains(&value(&defs::PROCESS_OPEN_FDS)), "{text}");
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    }

    #[test]
    fn received_bytes_are_counted_in_steps_and_on_drop() {
        let metrics = Metrics::new();
        let shows = |bytes: u64| metrics.render().contains(&format!("image_store_http_received_bytes_total {bytes}\n"));
        let mut received = metrics.received();
        let total = received.total();
        received.add(1000);
        assert!(shows(0), "{}", metrics.render());
        received.add(1 << 20);
        assert!(shows((1 << 20) + 1000));
        received.add(1);
        drop(received);
        assert!(shows((1 << 20) + 1001));
        assert_eq!(total.get(), (1 << 20) + 1001);
    }
}
