//! ListObjectsV2, ListMultipartUploads and ListParts, page by page.

use s3s::dto::*;
use s3s::{S3Result, s3_error};

use super::super::disk;
use super::{Bucket, check_bucket, signed};

/// Maximum number of entries in a page, as on AWS.
const PAGE: usize = 1_000;

impl Bucket {
    pub(super) async fn objects(&self, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
        check_bucket(&input.bucket)?;
        if input.delimiter.is_some() || input.encoding_type.is_some() {
            return Err(s3_error!(NotImplemented, "This store supports neither delimiter nor encoding-type"));
        }
        let after = input.continuation_token.or(input.start_after);
        let (prefix, limit) = (input.prefix.clone().unwrap_or_default(), page_size(input.max_keys));
        let (contents, next) = self
            .on_disk(move |disk| {
                let mut keys = disk.keys(&prefix)?;
                keys.retain(|key| after.as_ref().is_none_or(|after| key > after));
                let next = cut(&mut keys, limit).cloned();
                let mut contents = Vec::with_capacity(keys.len());
                for key in keys {
                    contents.extend(disk.object(&key)?.map(|stored| Object {
                        size: signed(stored.size),
                        last_modified: Some(stored.meta.created().into()),
                        e_tag: Some(ETag::Strong(stored.meta.etag)),
                        key: Some(key),
                        ..Default::default()
                    }));
                }
                Ok((contents, next))
            })
            .await?;
        Ok(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            key_count: i32::try_from(contents.len()).ok(),
            max_keys: i32::try_from(limit).ok(),
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            contents: Some(contents),
            ..Default::default()
        })
    }

    pub(super) async fn uploads(&self, input: ListMultipartUploadsInput) -> S3Result<ListMultipartUploadsOutput> {
        check_bucket(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let mut found = self.on_disk(move |disk| disk.unfinished(&prefix)).await?;
        let (after, after_id) = (input.key_marker.as_deref(), input.upload_id_marker.as_deref());
        found.retain(|(upload, id)| is_after(after, after_id, &upload.key, id));
        let next = cut(&mut found, page_size(input.max_uploads));
        let (next_key, next_id) = next.map(|(upload, id)| (upload.key.clone(), id.clone())).unzip();
        let listed = found.into_iter().map(|(upload, id)| MultipartUpload {
            initiated: Some(upload.created().into()),
            key: Some(upload.key),
            upload_id: Some(id),
            ..Default::default()
        });
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            is_truncated: Some(next_key.is_some()),
            next_key_marker: next_key,
            next_upload_id_marker: next_id,
            uploads: Some(listed.collect()),
            ..Default::default()
        })
    }

    pub(super) async fn parts(&self, input: ListPartsInput) -> S3Result<ListPartsOutput> {
        check_bucket(&input.bucket)?;
        let (id, key) = (input.upload_id.clone(), input.key.clone());
        let after = input.part_number_marker.unwrap_or_default();
        let listed = self.on_disk(move |disk| disk.upload(&id, &key).and_then(|_| disk.parts(&id)));
        let mut parts = listed.await?;
        parts.retain(|part| part.number > after);
        let next = cut(&mut parts, page_size(input.max_parts)).map(|part| part.number);
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(next.is_some()),
            next_part_number_marker: next,
            parts: Some(parts.into_iter().map(listed_part).collect()),
            ..Default::default()
        })
    }
}

fn listed_part(part: disk::Part) -> Part {
    let meta = part.meta;
    Part {
        part_number: Some(part.number),
        size: signed(part.size),
        last_modified: Some(meta.created().into()),
        e_tag: Some(ETag::Strong(meta.etag)),
        checksum_crc64nvme: meta.crc64nvme,
        checksum_sha256: meta.sha256,
        ..Default::default()
    }
}

fn page_size(requested: Option<i32>) -> usize {
    requested.and_then(|requested| usize::try_from(requested).ok()).unwrap_or(PAGE).clamp(1, PAGE)
}

/// Keeps the first `limit` entries. Returns the last of them if more entries followed.
fn cut<T>(entries: &mut Vec<T>, limit: usize) -> Option<&T> {
    let more = entries.len() > limit;
    entries.truncate(limit);
    entries.last().filter(|_| more)
}

/// Whether an upload is after a page's markers. See
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>.
fn is_after(marker: Option<&str>, id_marker: Option<&str>, key: &str, id: &str) -> bool {
    let Some(marker) = marker else { return true };
    key > marker || (key == marker && id_marker.is_some_and(|marker| id > marker))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_returns_the_start_of_the_next_page() {
        let mut entries = vec![1, 2, 3];
        assert_eq!(cut(&mut entries, 3), None);
        assert_eq!(cut(&mut entries, 2), Some(&2));
        assert_eq!(entries, [1, 2]);
        assert_eq!(cut(&mut Vec::<u8>::new(), 1), None);
        assert_eq!((page_size(None), page_size(Some(0)), page_size(Some(-1)), page_size(Some(7))), (PAGE, 1, PAGE, 7));
    }

    #[test]
    fn uploads_of_one_key_continue_after_the_id_marker() {
        assert!(is_after(None, None, "a", "1"));
        assert!(is_after(Some("a"), None, "b", "1"));
        assert!(!is_after(Some("a"), None, "a", "1"));
        assert!(is_after(Some("a"), Some("1"), "a", "2"));
        assert!(!is_after(Some("a"), Some("2"), "a", "2"));
    }
}
