//! Logs, metrics and trace context.
//!
//! Each request is logged as one structured line with its id. The internal source of an error appears only in the log.
//! Lines contain the route template and the key, but never a query, a presigned URL, an upload id or a credential.

pub mod log;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod span;
pub mod trace;

pub use metrics::Metrics;
