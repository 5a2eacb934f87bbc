//! Accepts images from clients and streams them to S3.
//!
//! ```text
//! HTTP/1.1 connection ─┐                                 ┌─ sniff (type, dimensions)
//! Lambda HTTP event ───┴→ router → ingest (one form, one file) ─┴→ upload (parts) → store (S3)
//! S3 event, complete ───→ direct (verify, promote) ─────────────────────────────→ store (S3)
//! ```
//!
//! The modules below are layers: each one imports only from those after it. `ingest` does not use S3, `upload` does not
//! use HTTP, and only `store::s3` uses the AWS SDK. `docs/architecture.md` follows one upload of each kind through the
//! files and has a glossary.

#![forbid(unsafe_code)]

pub mod cli;

pub mod commands;

pub mod transport;

pub mod server;

pub mod direct;

pub mod resumable;

pub mod upload;

pub mod ingest;

pub mod config;

pub mod store;

pub mod auth;

pub mod policy;

pub mod error;

pub mod format;

pub mod crc64;

pub mod telemetry;

pub mod tasks;
