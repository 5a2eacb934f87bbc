//! The integration tests, one binary: the real SDK over real sockets against several S3s.

mod auth;
#[cfg(feature = "client")]
mod client;
mod clients;
mod contract;
mod direct;
mod embedded;
mod failing_store;
mod faulty;
mod hardening;
mod lambda;
mod page;
mod process;
mod support;
mod sweep;
mod uploads;
