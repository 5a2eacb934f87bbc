//! Takes images from clients and keeps them in S3, as a stream.
//!
//! ```text
//! hyper connection ─┐                          ┌─ sniff (type, dimensions)
//! Lambda HTTP event ┴→ app (axum Router) → ingest (multer: one form, one file) → sink (parts) → store (S3)
//! a client that is done, or S3's event ─→ direct (verify, promote) ──────────────────────────→ store (S3)
//! ```
//!
//! `ingest` never sees S3, `sink` never sees HTTP, and `store/s3` is the only place that knows the SDK.

pub mod backend;
pub mod config;
pub mod error;
pub mod telemetry;

pub mod app;
pub mod auth;
pub mod direct;
pub mod healthcheck;
pub mod ingest;
pub mod probe;
pub mod routes;
pub mod sink;
pub mod store;
pub mod sweep;
pub mod transport;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "doctor")]
pub mod doctor;

pub mod format;
pub mod policy;
pub mod tasks;
