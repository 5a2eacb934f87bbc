//! How requests reach the service, and how the process ends.

pub mod http;
pub mod lambda;
