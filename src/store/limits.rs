//! The limits of S3.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>

/// Maximum number of parts of one upload.
pub const MAX_PARTS: u32 = 10_000;
/// Minimum size in bytes of a part, except of the last one.
pub const MIN_PART_SIZE: u64 = 5 << 20;
/// Maximum size in bytes of a part.
pub const MAX_PART_SIZE: u64 = 5 << 30;
/// Maximum size in bytes of one PutObject and of one UploadPartCopy (5 GB in S3's documentation). A direct upload is promoted
/// by one copy.
pub const MAX_OBJECT_SIZE: u64 = 5_000_000_000;
