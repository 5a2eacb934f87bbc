//! Converts between the service's types and the S3 API's types.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::CompletedPart;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;
use std::time::SystemTime;

use crate::store::{Metadata, ObjectInfo, Part};

const WIDTH: &str = "width";
const HEIGHT: &str = "height";

/// Encodes a CRC64NVME as S3 does: its eight bytes in big-endian order, in base64.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>
pub(in crate::store) fn crc64_to_base64(crc64: u64) -> String {
    STANDARD.encode(crc64.to_be_bytes())
}

pub(in crate::store) fn crc64_from_base64(text: &str) -> Option<u64> {
    Some(u64::from_be_bytes(STANDARD.decode(text).ok()?.try_into().ok()?))
}

pub(super) fn sha256_to_base64(sha256: &[u8; 32]) -> String {
    STANDARD.encode(sha256)
}

/// Decodes the SHA-256 of an object. A checksum of checksums (`<base64>-<parts>`) does not cover the object's bytes,
/// and returns `None`.
fn sha256_from_base64(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

pub(super) fn user_metadata(metadata: &Metadata) -> Option<HashMap<String, String>> {
    let (width, height) = metadata.dimensions?;
    Some(HashMap::from([(WIDTH.to_owned(), width.to_string()), (HEIGHT.to_owned(), height.to_string())]))
}

fn dimensions(metadata: Option<&HashMap<String, String>>) -> Option<(u32, u32)> {
    let side = |name| metadata?.get(name)?.parse().ok();
    Some((side(WIDTH)?, side(HEIGHT)?))
}

pub(super) fn object_info(head: &HeadObjectOutput) -> ObjectInfo {
    ObjectInfo {
        size: size(head.content_length()),
        etag: head.e_tag().map(str::to_owned),
        content_type: head.content_type().map(str::to_owned),
        dimensions: dimensions(head.metadata()),
        crc64: head.checksum_crc64_nvme().and_then(crc64_from_base64),
        sha256: head.checksum_sha256().and_then(sha256_from_base64),
        last_modified: head.last_modified().and_then(|at| SystemTime::try_from(*at).ok()),
        marker: super::marker::marker(head.content_type(), head.metadata()),
    }
}

pub(super) fn listed_part(part: &aws_sdk_s3::types::Part) -> Part {
    Part {
        number: part.part_number().and_then(|number| u32::try_from(number).ok()).unwrap_or_default(),
        size: size(part.size()),
        etag: part.e_tag().map(str::to_owned),
        crc64: part.checksum_crc64_nvme().and_then(crc64_from_base64),
    }
}

/// Returns a part for CompleteMultipartUpload. `with_checksum` must be true only if the upload was created with a
/// checksum.
pub(super) fn completed_part(part: &Part, with_checksum: bool) -> CompletedPart {
    CompletedPart::builder()
        .part_number(part_number(part.number))
        .set_e_tag(part.etag.clone())
        .set_checksum_crc64_nvme(part.crc64.filter(|_| with_checksum).map(crc64_to_base64))
        .build()
}

/// Converts a part number. S3 rejects numbers above 10,000.
pub(super) fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Converts a size to the signed type of the S3 API. No size is near the limit.
pub(super) fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(super) fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_round_trips_through_base64() {
        // The CRC catalogue's check value of "123456789".
        assert_eq!(crc64_to_base64(0xae8b_1486_0a79_9888), "rosUhgp5mIg=");
        assert_eq!(crc64_from_base64("rosUhgp5mIg="), Some(0xae8b_1486_0a79_9888));
        for wrong in ["", "rosUhgp5mIg", "rosUhgp5mIg=-2", "AAAA"] {
            assert_eq!(crc64_from_base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn dimensions_require_width_and_height() {
        let metadata = Metadata { content_type: "image/png".to_owned(), dimensions: Some((3, 2)) };
        let mut map = user_metadata(&metadata).unwrap();
        assert_eq!(dimensions(Some(&map)), Some((3, 2)));
        map.insert("height".to_owned(), "-2".to_owned());
        assert_eq!(dimensions(Some(&map)), None);
        assert_eq!(dimensions(None), None);
    }

    #[test]
    fn composite_sha256_is_ignored() {
        assert_eq!(sha256_from_base64(&sha256_to_base64(&[1; 32])), Some([1; 32]));
        assert_eq!(sha256_from_base64(&format!("{}-3", sha256_to_base64(&[1; 32]))), None);
    }
}
