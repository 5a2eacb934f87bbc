//! What holds for requests whatever their route.

pub mod access_log;
pub mod authority;
pub mod cors;
pub mod deadline;
pub mod headers;
pub mod path_grant;
