//! Sample bytes and names.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use image_store::store::{
    Content, CustomMetadata, ImageKey, Metadata, ObjectDigest, ObjectName, Payload, PresignOptions,
};
use std::time::Duration;

/// The minimum size of a part in S3, except for the last.
pub const PART: usize = 5 * 1024 * 1024;

/// Returns `len` bytes that differ for each `seed`.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let words = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()
    });
    words.flatten().take(len).collect()
}

pub fn crc64(bytes: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// Returns the payload as the service creates it.
pub fn payload(bytes: &Bytes) -> Payload {
    Payload { content: Content::Memory(bytes.clone()), len: bytes.len() as u64, crc64: crc64(bytes) }
}

pub fn whole(bytes: &[u8]) -> ObjectDigest {
    ObjectDigest { size: bytes.len() as u64, crc64: Some(crc64(bytes)) }
}

pub fn image() -> ObjectName {
    ObjectName::Image(ImageKey::random("png"))
}

pub fn incoming() -> ObjectName {
    ObjectName::Incoming(ImageKey::random("png"))
}

pub fn png() -> Metadata {
    Metadata { dimensions: Some((640, 480)), ..Metadata::unverified("image/png", CustomMetadata::new()) }
}

pub fn for_a_minute() -> PresignOptions {
    PresignOptions { ttl: Duration::from_secs(60), base: None }
}
