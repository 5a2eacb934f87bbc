//! Logs, metrics and trace context.
//!
//! Each request is logged as one structured line with its id. The internal source of an error appears only in the log.
//! Lines contain the route template and the key, but never a query, a presigned URL, an upload id or a credential.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub mod metrics;
pub mod trace;

pub use metrics::Metrics;

/// These crates log whole requests, including presigned queries and upload ids.
const SILENT: [&str; 5] = [
    "s3s=off",
    // Logs the access key.
    "aws_config=warn",
    "aws_smithy_runtime=warn",
    "aws_runtime=warn",
    "aws_sigv4=warn",
];

/// Returns the log filter of `RUST_LOG`, or `info` if it is unset or empty.
///
/// # Errors
/// Returns the text of an error, without the setting's name, if the value is invalid.
pub fn filter() -> Result<EnvFilter, String> {
    let text = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.trim().is_empty());
    let text = text.as_deref().unwrap_or(DEFAULT_FILTER);
    text.parse().map_err(|error| format!("'{text}' is not a filter like info or image_store=debug ({error})"))
}

const DEFAULT_FILTER: &str = "info";

/// Logs to standard error, filtered by `RUST_LOG`.
pub fn init(json: bool) {
    let filter = filter().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let filter = SILENT.iter().filter_map(|directive| directive.parse().ok()).fold(filter, EnvFilter::add_directive);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    if json {
        registry.with(layer.json().flatten_event(true).with_span_list(false)).init();
    } else {
        use std::io::IsTerminal;
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init();
    }
}
