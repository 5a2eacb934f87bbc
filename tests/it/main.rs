//! The integration tests, one binary: the real SDK over real sockets against several S3s.

mod auth;
mod authority;
mod cli;
#[cfg(feature = "client")]
mod cli_upload;
mod clients;
mod companion;
mod contract;
mod description;
mod direct;
mod docs;
#[cfg(feature = "doctor")]
mod doctor;
mod documents;
mod early_create;
mod embedded;
mod environment;
mod examples;
mod files;
mod grants;
mod hardening;
mod idempotency;
mod imports;
mod keyed_grants;
mod lambda;
mod lost_answers;
mod metrics;
mod page;
mod probe;
mod process;
mod service_faults;
mod slow_clients;
mod snapshots;
mod store_faults;
mod support;
mod sweep;
mod trace;
mod uploads;
