//! Converts between the service's types and the S3 API's types.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::CompletedPart;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::collections::HashMap;
use std::time::SystemTime;
use uuid::Uuid;

use super::marker::ORIGIN;
use crate::crc64;
use crate::store::{CustomMetadata, Metadata, ObjectInfo, Part};

/// The names of the user metadata, after `x-amz-meta-`.
const WIDTH: &str = "width";
const HEIGHT: &str = "height";
const CRC64: &str = "crc64nvme";
/// The custom metadata: the base64url of its JSON, because a header's value is ASCII and its name without case.
const CUSTOM: &str = "image-store";
const MAY_BE_PLANNED: &str = "may-be-planned";
/// Of a tail: the CRC64NVME of all bytes before it.
const CRC64_BEFORE: &str = "crc64nvme-before";

pub(super) fn sha256_to_base64(sha256: &[u8; 32]) -> String {
    STANDARD.encode(sha256)
}

/// Decodes the SHA-256 of an object. A checksum of checksums (`<base64>-<parts>`) does not cover the object's bytes,
/// and returns `None`.
fn sha256_from_base64(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// `crc64` is the whole object's, where it is known beforehand.
pub(super) fn user_metadata(metadata: &Metadata, crc64: Option<u64>) -> HashMap<String, String> {
    let dimensions =
        metadata.dimensions.map(|(width, height)| [(WIDTH, width.to_string()), (HEIGHT, height.to_string())]);
    let crc64 = crc64.map(|crc64| (CRC64, crc64::to_base64(crc64)));
    let may_be_planned = metadata.may_be_planned.then(|| (MAY_BE_PLANNED, "true".to_owned()));
    let named = dimensions.into_iter().flatten().chain(crc64).chain(may_be_planned);
    let named = named.map(|(name, value)| (name.to_owned(), value));
    named.chain(unverified_metadata(&metadata.custom, metadata.origin)).collect()
}

/// The metadata that an object has before it is verified: those that the conditions of a presigned PUT contain.
pub(super) fn unverified_metadata(custom: &CustomMetadata, origin: Option<Uuid>) -> HashMap<String, String> {
    let origin = origin.map(|id| (ORIGIN.to_owned(), id.to_string()));
    custom_metadata(custom).into_iter().chain(origin).collect()
}

/// The metadata of what a resumable upload keeps apart from its parts.
pub(super) fn kept_metadata(crc64: u64, crc64_before: Option<u64>) -> HashMap<String, String> {
    let named = [(CRC64, Some(crc64)), (CRC64_BEFORE, crc64_before)];
    named.into_iter().filter_map(|(name, crc64)| Some((name.to_owned(), crc64::to_base64(crc64?)))).collect()
}

/// Returns the CRC64NVME of such an object, and that of all bytes before it.
pub(super) fn kept_crc64(metadata: Option<&HashMap<String, String>>) -> (Option<u64>, Option<u64>) {
    let value = |name| metadata.and_then(|metadata| crc64::from_base64(metadata.get(name)?));
    (value(CRC64), value(CRC64_BEFORE))
}

/// The one header of the custom metadata, if there is any.
fn custom_metadata(custom: &CustomMetadata) -> Option<(String, String)> {
    let json = serde_json::json!(custom).to_string();
    (!custom.is_empty()).then(|| (CUSTOM.to_owned(), URL_SAFE_NO_PAD.encode(json)))
}

/// What is not as this service writes it is none.
fn custom_from(metadata: Option<&HashMap<String, String>>) -> CustomMetadata {
    let json = metadata.and_then(|metadata| URL_SAFE_NO_PAD.decode(metadata.get(CUSTOM)?).ok());
    json.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
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
        crc64: head.checksum_crc64_nvme().and_then(crc64::from_base64),
        noted_crc64: head.metadata().and_then(|metadata| crc64::from_base64(metadata.get(CRC64)?)),
        sha256: head.checksum_sha256().and_then(sha256_from_base64),
        last_modified: head.last_modified().and_then(|at| SystemTime::try_from(*at).ok()),
        custom: custom_from(head.metadata()),
        may_be_planned: head.metadata().is_some_and(|metadata| metadata.contains_key(MAY_BE_PLANNED)),
        origin: head.metadata().and_then(|metadata| Uuid::try_parse(metadata.get(ORIGIN)?).ok()),
        marker: super::marker::marker(head.content_type(), head.metadata()),
    }
}

pub(super) fn listed_part(part: &aws_sdk_s3::types::Part) -> Part {
    Part {
        number: part.part_number().and_then(|number| u32::try_from(number).ok()).unwrap_or_default(),
        size: size(part.size()),
        etag: part.e_tag().map(str::to_owned),
        crc64: part.checksum_crc64_nvme().and_then(crc64::from_base64),
    }
}

/// Returns a part for CompleteMultipartUpload. `with_checksum` must be true only if the upload was created with a
/// checksum.
pub(super) fn completed_part(part: &Part, with_checksum: bool) -> CompletedPart {
    CompletedPart::builder()
        .part_number(part_number(part.number))
        .set_e_tag(part.etag.clone())
        .set_checksum_crc64_nvme(part.crc64.filter(|_| with_checksum).map(crc64::to_base64))
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
    fn dimensions_require_width_and_height() {
        let unverified = Metadata::unverified("image/png", CustomMetadata::new());
        assert!(user_metadata(&unverified, None).is_empty());
        let mut map = user_metadata(&Metadata { dimensions: Some((3, 2)), ..unverified }, None);
        assert_eq!(dimensions(Some(&map)), Some((3, 2)));
        map.insert("height".to_owned(), "-2".to_owned());
        assert_eq!(dimensions(Some(&map)), None);
        assert_eq!(dimensions(None), None);
    }

    #[test]
    fn origin_and_checksums_of_kept_bytes_round_trip() {
        let id = Uuid::new_v4();
        let metadata = Metadata { origin: Some(id), ..Metadata::unverified("image/png", CustomMetadata::new()) };
        let head = HeadObjectOutput::builder().set_metadata(Some(user_metadata(&metadata, None))).build();
        assert_eq!(object_info(&head).origin, Some(id));
        assert_eq!(object_info(&HeadObjectOutput::builder().build()).origin, None);
        for before in [None, Some(0), Some(u64::MAX)] {
            assert_eq!(kept_crc64(Some(&kept_metadata(7, before))), (Some(7), before));
        }
        assert_eq!(kept_crc64(None), (None, None));
    }

    #[test]
    fn custom_metadata_survives_any_characters() {
        let custom = CustomMetadata::from([
            ("Owner \u{fc}\n".to_owned(), "\u{1f4f7}\0\"".to_owned()),
            (String::new(), String::new()),
        ]);
        let map = user_metadata(&Metadata::unverified("image/png", custom.clone()), Some(1));
        assert_eq!(map.len(), 2);
        assert!(
            map["image-store"].bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "{map:?}"
        );
        assert_eq!(custom_from(Some(&map)), custom);
        for foreign in ["", "!", "bnVsbA", "eyJhIjoxfQ"] {
            let map = HashMap::from([("image-store".to_owned(), foreign.to_owned())]);
            assert!(custom_from(Some(&map)).is_empty(), "{foreign}");
        }
        assert!(custom_from(None).is_empty());
    }

    #[test]
    fn composite_sha256_is_ignored() {
        assert_eq!(sha256_from_base64(&sha256_to_base64(&[1; 32])), Some([1; 32]));
        assert_eq!(sha256_from_base64(&format!("{}-3", sha256_to_base64(&[1; 32]))), None);
    }
}
