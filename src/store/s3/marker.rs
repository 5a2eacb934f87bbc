//! Markers: empty objects under `incoming/` that prevent further uploads to their key.

use aws_sdk_s3::primitives::ByteStream;
use std::collections::HashMap;
use uuid::Uuid;

use super::errors::classify;
use super::{S3Store, Sse};
use crate::store::{MARKER_TYPE, Marker, ObjectName, Result};

/// Name of the user metadata for the ID of the upload that created an object.
pub(super) const ORIGIN: &str = "upload";
/// Names of the user metadata for the reason and, for a rejected upload, the error code.
const REASON: &str = "reason";
const CODE: &str = "code";
/// The CRC64NVME of an empty object.
const EMPTY_CRC64: u64 = 0;

pub(super) fn metadata(marker: &Marker) -> HashMap<String, String> {
    let (reason, more) = match marker {
        Marker::Spent(origin) => ("spent", origin.map(|id| (ORIGIN.to_owned(), id.to_string()))),
        Marker::Withdrawn => ("withdrawn", None),
        Marker::Rejected(code) => ("rejected", Some((CODE.to_owned(), code.clone()))),
    };
    HashMap::from_iter([(REASON.to_owned(), reason.to_owned())].into_iter().chain(more))
}

/// Returns the marker if the object's media type says that it is one. The reason may be missing.
pub(super) fn marker(content_type: Option<&str>, metadata: Option<&HashMap<String, String>>) -> Option<Marker> {
    let value = |name| metadata?.get(name).map(String::as_str);
    (content_type == Some(MARKER_TYPE)).then(|| match value(REASON) {
        Some("spent") => Marker::Spent(value(ORIGIN).and_then(|id| Uuid::try_parse(id).ok())),
        Some("rejected") => Marker::Rejected(value(CODE).unwrap_or("rejected").to_owned()),
        _ => Marker::Withdrawn,
    })
}

impl S3Store {
    pub(super) async fn close_address(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()> {
        match self.send_marker(name, marker, replaces).await {
            // The store does not support the condition, so the marker is written without it.
            Err(error) if replaces.is_some() && error.is_unsupported() => self.send_marker(name, marker, None).await,
            done => done,
        }
    }

    async fn send_marker(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()> {
        let call = self.client.put_object().bucket(&self.bucket).key(self.key(name));
        let call = call
            .content_type(MARKER_TYPE)
            .set_metadata(Some(metadata(marker)))
            .set_server_side_encryption(self.sse.as_ref().map(Sse::algorithm))
            .set_ssekms_key_id(self.sse.as_ref().and_then(Sse::key_id))
            .content_length(0)
            .set_checksum_crc64_nvme(self.crc64(EMPTY_CRC64))
            .set_if_match(replaces.map(str::to_owned))
            .body(ByteStream::from_static(b""));
        let sent = call.customize().disable_payload_signing().send().await;
        sent.map(drop).map_err(|error| classify("PutObject", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_round_trips_through_metadata() {
        let rejected = Marker::Rejected("too_many_pixels".to_owned());
        for written in [Marker::Spent(None), Marker::Spent(Some(Uuid::new_v4())), Marker::Withdrawn, rejected] {
            assert_eq!(marker(Some(MARKER_TYPE), Some(&metadata(&written))), Some(written));
        }
        assert_eq!(marker(Some(MARKER_TYPE), None), Some(Marker::Withdrawn), "the media type is sufficient");
        assert_eq!(marker(Some("image/png"), Some(&metadata(&Marker::Spent(None)))), None);
    }
}
