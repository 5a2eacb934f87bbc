//! Uploads a stream of bytes as one object: it is cut into equal parts, a few of them are in flight at once, and they
//! are reviewed before the object becomes visible.
//!
//! [`budget`] and [`spill`] limit what an upload may hold. [`parts`] cuts the parts and computes the checksums.
//! [`writer`] is the request's half of an upload, `task` the store's half. [`fixed`] handles keys that are known before the
//! bytes. None of these modules depends on the source of the bytes.

pub mod budget;
mod digest;
pub mod fixed;
pub mod idempotency;
pub mod manager;
pub mod parts;
pub mod spill;
mod task;
pub mod timer;
pub mod turns;
pub mod undo;
pub mod writer;

pub use digest::{Stored, StreamDigest};
pub use manager::UploadManager;
pub use task::DurableUpload;
pub use writer::UploadWriter;
