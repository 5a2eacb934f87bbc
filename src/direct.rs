//! Uploads that go past this process: the client is given a plan, sends the bytes to S3 itself, and says it is done.
//!
//! What arrives lies under `incoming/`, where no route reads it. [`verify`] checks it by the rules of every other way in, and
//! [`promote`] copies it to its final key; only then does the image exist. Nothing is remembered between requests: [`plan`]
//! puts all there is to know into the plan's links, signed, and S3 knows the rest.

pub mod create;
pub mod plan;
pub mod presign;
pub mod promote;
pub mod promotions;
#[cfg(test)]
mod tests;
pub mod verify;

pub use plan::{Plan, UploadMethod};
pub use promotions::Promotions;
