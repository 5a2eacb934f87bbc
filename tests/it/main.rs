//! The integration tests, one binary: the real SDK over real sockets against several S3s.

#[cfg(feature = "client")]
mod client;
mod clients;
mod contract;
mod embedded;
mod faulty;
mod process;
mod support;
mod uploads;
