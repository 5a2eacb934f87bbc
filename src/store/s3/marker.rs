//! Markers: empty objects that close an address under `incoming/`.

use aws_sdk_s3::primitives::ByteStream;
use std::collections::HashMap;

use super::errors::classify;
use super::{S3Store, Sse};
use crate::store::{MARKER_TYPE, Marker, ObjectName, Result};

/// The user metadata that says why, and of a rejected upload the error's code.
const REASON: &str = "reason";
const CODE: &str = "code";
/// The CRC64NVME of no bytes.
const EMPTY_CRC64: u64 = 0;

pub(super) fn metadata(marker: &Marker) -> HashMap<String, String> {
    let (reason, code) = match marker {
        Marker::Spent => ("spent", None),
        Marker::Withdrawn => ("withdrawn", None),
        Marker::Rejected(code) => ("rejected", Some((CODE.to_owned(), code.clone()))),
    };
    HashMap::from_iter([(REASON.to_owned(), reason.to_owned())].into_iter().chain(code))
}

/// The marker that an object is, by its media type; the reason may be missing.
pub(super) fn marker(content_type: Option<&str>, metadata: Option<&HashMap<String, String>>) -> Option<Marker> {
    let value = |name| metadata?.get(name).map(String::as_str);
    (content_type == Some(MARKER_TYPE)).then(|| match value(REASON) {
        Some("spent") => Marker::Spent,
        Some("rejected") => Marker::Rejected(value(CODE).unwrap_or("rejected").to_owned()),
        _ => Marker::Withdrawn,
    })
}

impl S3Store {
    pub(super) async fn close_address(&self, name: &ObjectName, marker: &Marker, replaces: Option<&str>) -> Result<()> {
        match self.send_marker(name, marker, replaces).await {
            // A store without the condition is one on which it does not hold either.
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
    fn a_marker_reads_as_it_was_written() {
        for written in [Marker::Spent, Marker::Withdrawn, Marker::Rejected("too_many_pixels".to_owned())] {
            assert_eq!(marker(Some(MARKER_TYPE), Some(&metadata(&written))), Some(written));
        }
        assert_eq!(marker(Some(MARKER_TYPE), None), Some(Marker::Withdrawn), "nothing is decided by its metadata");
        assert_eq!(marker(Some("image/png"), Some(&metadata(&Marker::Spent))), None);
    }
}
