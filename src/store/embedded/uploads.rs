//! What s3s-fs does not remember of an unfinished upload: its key, its start, its parts' ETags and checksums.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, checksum_combine};
use s3s::dto::{CompletedPart, ETag};
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::time::SystemTime;
use uuid::Uuid;

use super::disk::{Disk, remove_dir};

/// The record's file name; a part's is its number and `.json`.
pub(super) const RECORD: &str = "upload.json";
/// What S3 wants of every part but the last, in bytes.
const SMALLEST_PART: u64 = 5 * 1024 * 1024;

/// An unfinished upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) initiated: SystemTime,
}

/// A part that has arrived whole. Read from what s3s-fs wrote of it while it was staged.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PartRecord {
    #[serde(skip)]
    pub(super) number: i32,
    #[serde(skip)]
    pub(super) size: u64,
    pub(super) e_tag: String,
    pub(super) checksum_crc64nvme: Option<String>,
}

impl Disk {
    pub(super) fn begin_upload(&self, id: &str, key: &str) -> io::Result<()> {
        let folder = self.uploads.join(id);
        fs::create_dir_all(&folder)?;
        let record = Record { key: key.to_owned(), initiated: SystemTime::now() };
        fs::write(folder.join(RECORD), serde_json::to_vec(&record)?)
    }

    /// The upload `id` of `key`. Ids are UUIDs; anything else, a path above all, is no upload.
    pub(super) fn upload(&self, id: &str, key: &str) -> S3Result<Record> {
        let record = Uuid::try_parse(id).ok().and_then(|_| self.record(id));
        record.filter(|record| record.key == key).ok_or_else(|| s3_error!(NoSuchUpload))
    }

    fn record(&self, id: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.uploads.join(id).join(RECORD)).ok()?).ok()
    }

    pub(super) fn forget_upload(&self, id: &str) -> io::Result<()> {
        remove_dir(&self.uploads.join(id))
    }

    /// Every unfinished upload and its id, by key and then by id.
    pub(super) fn all_uploads(&self) -> io::Result<Vec<(Record, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.uploads)? {
            let id = entry?.file_name().to_string_lossy().into_owned();
            found.extend(self.record(&id).map(|record| (record, id)));
        }
        found.sort_by(|(one, one_id), (other, other_id)| (&one.key, one_id).cmp(&(&other.key, other_id)));
        Ok(found)
    }

    /// The parts that have arrived, in order.
    pub(super) fn parts(&self, id: &str) -> io::Result<Vec<PartRecord>> {
        let mut parts = Vec::new();
        for entry in fs::read_dir(self.uploads.join(id))? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let Some(number) = number {
                let mut part: PartRecord = serde_json::from_slice(&fs::read(&path)?)?;
                (part.number, part.size) = (number, fs::metadata(self.part(id, number))?.len());
                parts.push(part);
            }
        }
        parts.sort_by_key(|part| part.number);
        Ok(parts)
    }
}

/// Picks the parts a Complete names, as AWS checks them: in order, there, unchanged, and large enough.
///
/// s3s-fs finds all of this out only after it has forgotten the upload.
pub(super) fn choose(held: &[PartRecord], named: &[CompletedPart]) -> S3Result<Vec<PartRecord>> {
    let mut chosen: Vec<PartRecord> = Vec::with_capacity(named.len());
    for part in named {
        let number = part.part_number.ok_or_else(|| s3_error!(InvalidPart))?;
        if chosen.last().is_some_and(|before| before.number >= number) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let found = held.iter().find(|held| held.number == number && unchanged(held, part.e_tag.as_ref()));
        chosen.push(found.ok_or_else(|| s3_error!(InvalidPart))?.clone());
    }
    let Some((_, all_but_last)) = chosen.split_last() else {
        return Err(s3_error!(InvalidPart, "You must specify at least one part"));
    };
    if all_but_last.iter().any(|part| part.size < SMALLEST_PART) {
        return Err(s3_error!(EntityTooSmall));
    }
    // AWS takes gaps; s3s-fs joins only what is numbered without any.
    if chosen.iter().zip(1..).any(|(part, number)| part.number != number) {
        return Err(s3_error!(InvalidPart, "This store takes only parts numbered from 1 without gaps"));
    }
    Ok(chosen)
}

fn unchanged(held: &PartRecord, e_tag: Option<&ETag>) -> bool {
    e_tag.is_none_or(|e_tag| e_tag.value() == held.e_tag)
}

/// The whole object's CRC64NVME, from its parts' and without reading them again.
pub(super) fn joined_crc64(parts: &[PartRecord]) -> Option<u64> {
    parts.iter().try_fold(0, |whole, part| {
        let crc64 = from_base64(part.checksum_crc64nvme.as_deref()?)?;
        Some(checksum_combine(CrcAlgorithm::Crc64Nvme, whole, crc64, part.size))
    })
}

pub(super) fn to_base64(crc64: u64) -> String {
    STANDARD.encode(crc64.to_be_bytes())
}

fn from_base64(text: &str) -> Option<u64> {
    Some(u64::from_be_bytes(STANDARD.decode(text).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::S3ErrorCode;

    fn held(number: i32, size: u64) -> PartRecord {
        PartRecord { number, size, e_tag: format!("e{number}"), checksum_crc64nvme: None }
    }

    fn named(number: i32) -> CompletedPart {
        let e_tag = Some(ETag::Strong(format!("e{number}")));
        CompletedPart { part_number: Some(number), e_tag, ..Default::default() }
    }

    fn refusal(parts: &[PartRecord], named: &[CompletedPart]) -> S3ErrorCode {
        choose(parts, named).unwrap_err().code().clone()
    }

    #[test]
    fn all_but_the_last_part_have_the_smallest_size() {
        let parts = [held(1, SMALLEST_PART), held(2, 1)];
        assert_eq!(choose(&parts, &[named(1), named(2)]).unwrap().len(), 2);
        let parts = [held(1, SMALLEST_PART - 1), held(2, 1)];
        assert_eq!(refusal(&parts, &[named(1), named(2)]), S3ErrorCode::EntityTooSmall);
        assert_eq!(choose(&parts, &[named(1)]).unwrap()[0].size, SMALLEST_PART - 1);
    }

    #[test]
    fn parts_are_named_in_order_and_as_they_are() {
        let parts = [held(1, SMALLEST_PART), held(2, SMALLEST_PART), held(3, 1)];
        assert_eq!(refusal(&parts, &[named(2), named(1)]), S3ErrorCode::InvalidPartOrder);
        assert_eq!(refusal(&parts, &[named(1), named(1)]), S3ErrorCode::InvalidPartOrder);
        assert_eq!(refusal(&parts, &[named(1), named(3)]), S3ErrorCode::InvalidPart);
        assert_eq!(refusal(&parts, &[named(1), named(4)]), S3ErrorCode::InvalidPart);
        let other = CompletedPart { e_tag: Some(ETag::Strong("other".to_owned())), ..named(1) };
        assert_eq!(refusal(&parts, &[other]), S3ErrorCode::InvalidPart);
        assert_eq!(refusal(&parts, &[]), S3ErrorCode::InvalidPart);
    }

    #[test]
    fn the_joined_checksum_is_the_whole_s() {
        let crc64 = |bytes: &[u8]| crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes);
        let part = |number, bytes: &[u8]| PartRecord {
            checksum_crc64nvme: Some(to_base64(crc64(bytes))),
            ..held(number, bytes.len() as u64)
        };
        assert_eq!(joined_crc64(&[part(1, b"12345"), part(2, b"6789")]), Some(crc64(b"123456789")));
        assert_eq!(joined_crc64(&[part(1, b"12345"), held(2, 4)]), None);
    }
}
