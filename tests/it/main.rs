//! The integration tests, one binary: the real SDK over real sockets against several S3s.

mod auth;
#[cfg(feature = "client")]
mod client;
mod clients;
mod contract;
mod description;
mod direct;
mod docs;
#[cfg(feature = "doctor")]
mod doctor;
mod embedded;
mod environment;
mod failing_store;
mod faulty;
mod hardening;
mod imports;
mod lambda;
mod lost_answers;
mod metrics;
mod page;
mod probe;
mod process;
mod support;
mod sweep;
mod trace;
mod uploads;
