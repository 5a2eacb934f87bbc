//! Direct uploads: the client requests a plan, sends the bytes to S3 itself, and then completes the upload.
//!
//! The bytes are stored under `incoming/`, from which no route reads. [`verify`] checks them by the same rules as every
//! other upload, and [`promote`] copies them to the final key. Only then does the image exist. The service keeps no
//! state between requests: [`plan`] puts the state of an upload into the signed links of its plan, and the rest is read
//! from S3.

pub mod companion;
pub mod create;
mod digests;
pub mod identity;
pub mod layout;
pub mod plan;
pub mod presign;
pub mod promote;
pub mod promotions;
#[cfg(test)]
mod tests;
pub mod verify;
pub mod withdraw;

pub use plan::{Plan, UploadMethod};
pub use promotions::Promotions;
