//! From a stream of bytes to one object: equal parts, a few in flight, reviewed before they become visible.
//!
//! [`memory`] and [`spill`] say what an upload may hold, [`parts`] is the arithmetic, [`uploader`] the request's half of the
//! I/O and `task` the store's. None of them knows where the bytes come from.

pub mod memory;
pub mod parts;
pub mod spill;
mod task;
pub mod undo;
pub mod uploader;

pub use uploader::{Stored, Uploader, Uploads};
