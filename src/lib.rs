//! Takes images from clients and keeps them in S3, as a stream.
//!
//! ```text
//! hyper connection ─┐                          ┌─ sniff (type, dimensions)
//! Lambda HTTP event ┴→ app (axum Router) → ingest (multer: one form, one file) → sink (parts) → store (S3)
//! ```
//!
//! `ingest` never sees S3, `sink` never sees HTTP, and `store/s3.rs` is the only file that knows the SDK.

pub mod error;
pub mod format;
pub mod ingest;
pub mod policy;
pub mod store;
