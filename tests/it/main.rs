//! The integration tests, one binary: the real SDK over real sockets against several S3s.

mod clients;
mod contract;
mod embedded;
mod faulty;
mod lambda;
mod process;
mod support;
mod uploads;
