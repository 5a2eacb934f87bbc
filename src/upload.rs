//! From a stream of bytes to one object: equal parts, a few in flight, reviewed before they become visible.
//!
//! [`budget`] and [`spill`] say what an upload may hold, [`parts`] is the arithmetic, [`writer`] the request's half of the
//! I/O and `task` the store's. [`fixed`] is about keys that are known before the bytes. None of them knows where the bytes come
//! from.

pub mod budget;
mod digest;
pub mod fixed;
pub mod idempotency;
pub mod manager;
pub mod parts;
pub mod spill;
mod task;
pub mod timer;
mod turns;
pub mod undo;
pub mod writer;

pub use digest::{Stored, StreamDigest};
pub use manager::UploadManager;
pub use writer::UploadWriter;
