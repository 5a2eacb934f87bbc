//! The integration tests, one binary: the real SDK over real sockets against several S3s.

mod clients;
mod contract;
mod embedded;
mod failing_store;
mod faulty;
mod page;
mod process;
mod support;
mod sweep;
mod uploads;
