//! The integration tests, one binary: the real SDK over real sockets against several S3s.

mod auth;
#[cfg(feature = "client")]
mod client;
mod clients;
mod contract;
mod description;
mod direct;
mod docs;
mod embedded;
mod failing_store;
mod faulty;
mod lambda;
mod page;
mod process;
mod support;
mod sweep;
mod uploads;
