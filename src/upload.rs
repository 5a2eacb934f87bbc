//! From a stream of bytes to one object: equal parts, a few in flight, reviewed before they become visible.
//!
//! [`budget`] and [`spill`] say what an upload may hold, [`parts`] is the arithmetic, [`writer`] the request's half of the
//! I/O and `task` the store's. None of them knows where the bytes come from.

pub mod budget;
pub mod manager;
pub mod parts;
pub mod spill;
mod task;
pub mod timer;
pub mod undo;
pub mod writer;

pub use manager::UploadManager;
pub use task::Stored;
pub use writer::UploadWriter;
