//! Uploads a stream of bytes as one object: it is cut into equal parts, a few of them are in flight at once, and they
//! are reviewed before the object becomes visible.
//!
//! [`budget`] and [`spill`] limit what an upload may hold. [`parts`] cuts the parts and computes the checksums.
//! [`writer`] is the request's half of an upload, `task` the store's half. None of these modules depends on the source
//! of the bytes.

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
