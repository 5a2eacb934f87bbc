//! Middleware: what applies to requests regardless of their route.

pub mod access_log;
pub mod authority;
pub mod cors;
pub mod deadline;
pub mod error_form;
pub mod headers;
pub mod path_grant;
pub mod shared;
