//! Takes images from clients and stores them in S3, as a stream.
//!
//! ```text
//! HTTP/1.1 connection ─┐                                 ┌─ sniff (type, dimensions)
//! Lambda HTTP event ───┴→ router → ingest (one form, one file) ─┴→ upload (parts) → store (S3)
//! S3 event, complete ───→ direct (verify, promote) ─────────────────────────────→ store (S3)
//! ```
//!
//! The modules below are in layers: each one imports only from those after it. `ingest` never sees S3, `upload` never sees
//! HTTP, and `store::s3` is the only place that knows the SDK. `docs/architecture.md` follows one upload of each kind through
//! the files and has a glossary.

#![forbid(unsafe_code)]

pub mod cli;

pub mod commands;

pub mod transport;

pub mod server;

pub mod direct;

pub mod upload;

pub mod ingest;

pub mod config;

pub mod store;

pub mod auth;

pub mod policy;

pub mod error;

pub mod format;

pub mod telemetry;

pub mod tasks;
