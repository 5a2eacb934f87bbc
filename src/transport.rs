//! How requests reach the [`crate::app::App`], and how the process ends.

pub mod body;
pub mod server;
