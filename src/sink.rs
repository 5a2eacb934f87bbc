//! From a stream of bytes to one object: equal parts, a few in flight, reviewed before they become visible.
//!
//! [`parts`] is the arithmetic, [`uploader`] the I/O. Neither knows where the bytes come from.

pub mod buffers;
pub mod parts;
pub mod uploader;

pub use uploader::{Stored, Uploader, Uploads};
