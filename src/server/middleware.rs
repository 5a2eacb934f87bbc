//! Middleware: what applies to requests regardless of their route.

pub mod access_log;
pub mod authority;
pub mod cors;
pub mod deadline;
pub mod headers;
pub mod path_grant;
