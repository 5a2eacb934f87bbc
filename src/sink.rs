//! From a stream of bytes to one object: equal parts, a few in flight, reviewed before they become visible.
//!
//! [`memory`] says what an upload may hold, [`parts`] is the arithmetic, [`uploader`] the I/O. None of them knows where the bytes come from.

pub mod memory;
pub mod parts;
pub mod spill;
pub mod uploader;

pub use uploader::{Stored, Uploader, Uploads};
