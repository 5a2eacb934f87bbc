//! The format of every file in the store: the content, followed by its metadata.
//!
//! `content ‖ JSON ‖ length of the JSON (8 bytes, little endian) ‖ MAGIC`
//!
//! A file is written under a temporary name and becomes visible by one rename. So content and metadata appear together
//! or not at all, even if the process is killed. Image viewers ignore the bytes after the end of an image.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc64Nvme, Md5};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::NamedTempFile;

const MAGIC: &[u8; 8] = b"imgstor1";
/// Size in bytes of the JSON's length and the magic.
const FOOTER: u64 = 16;
/// Number of bytes of a copied file that are in memory at once.
const COPY_SIZE: usize = 256 << 10;

/// The metadata of an object, a part, or an unfinished upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) key: String,
    /// When the object was written or its upload was created, in seconds since 1970.
    pub(super) created_secs: u64,
    #[serde(default)]
    pub(super) content_type: Option<String>,
    /// The user metadata, without `x-amz-meta-`.
    #[serde(default)]
    pub(super) metadata: HashMap<String, String>,
    /// Without quotes. Empty for an unfinished upload.
    #[serde(default)]
    pub(super) etag: String,
    /// Checksum of the whole content, in base64.
    #[serde(default)]
    pub(super) crc64nvme: Option<String>,
    /// Checksum of the whole content, in base64. Only if the client sent one.
    #[serde(default)]
    pub(super) sha256: Option<String>,
    /// The checksum algorithm of the parts. Only for an unfinished upload.
    #[serde(default)]
    pub(super) part_checksum: Option<String>,
}

impl Meta {
    pub(super) fn new(key: &str) -> Meta {
        Meta {
            key: key.to_owned(),
            created_secs: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
            content_type: None,
            metadata: HashMap::new(),
            etag: String::new(),
            crc64nvme: None,
            sha256: None,
            part_checksum: None,
        }
    }

    pub(super) fn created(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.created_secs)
    }
}

/// An open file of the store. It stays readable after it was replaced or removed.
#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) file: File,
    /// Size of the content in bytes.
    pub(super) size: u64,
    pub(super) meta: Meta,
}

impl StoredFile {
    /// Opens a file and reads its metadata.
    ///
    /// # Errors
    /// Returns `NotFound`, or `InvalidData` if it is not a file of this store.
    pub(super) fn open(path: &Path) -> io::Result<StoredFile> {
        let file = File::open(path)?;
        let json_end = file.metadata()?.len().checked_sub(FOOTER).ok_or_else(invalid_file)?;
        let mut footer = [0; FOOTER as usize];
        file.read_exact_at(&mut footer, json_end)?;
        let (length, magic) = footer.split_at(8);
        let length = u64::from_le_bytes(length.try_into().map_err(|_| invalid_file())?);
        let size = json_end.checked_sub(length).filter(|_| magic == MAGIC).ok_or_else(invalid_file)?;
        let mut json = vec![0; usize::try_from(length).map_err(|_| invalid_file())?];
        file.read_exact_at(&mut json, size)?;
        Ok(StoredFile { meta: serde_json::from_slice(&json)?, file, size })
    }
}

fn invalid_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a valid file of the embedded store")
}

/// The size and the digests that were computed while a file's content was written.
pub(super) struct Digests {
    /// Bytes.
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
    /// The requested checksums, in base64.
    pub(super) checksums: s3s::dto::Checksum,
}

impl Digests {
    /// Returns the ETag, without quotes.
    pub(super) fn etag(&self) -> String {
        hex::encode(self.md5)
    }

    pub(super) fn md5_base64(&self) -> String {
        STANDARD.encode(self.md5)
    }
}

/// A temporary file that is being written. It is removed if it is dropped before it is published.
pub(super) struct Draft {
    file: NamedTempFile,
    size: u64,
    md5: Md5,
    checksums: ChecksumHasher,
}

impl Draft {
    /// Creates a draft. CRC64NVME is always computed, as on AWS, in addition to `checksums`.
    pub(super) fn new(folder: &Path, checksums: ChecksumHasher) -> io::Result<Draft> {
        let checksums = ChecksumHasher { crc64nvme: Some(Crc64Nvme::new()), ..checksums };
        Ok(Draft { file: NamedTempFile::new_in(folder)?, size: 0, md5: Md5::new(), checksums })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.md5.update(bytes);
        self.checksums.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Writes `len` bytes of `source`, beginning at `start`.
    pub(super) fn copy(&mut self, source: &File, start: u64, len: u64) -> io::Result<()> {
        let (mut buffer, end) = (vec![0; COPY_SIZE], start + len);
        let mut at = start;
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(usize::MAX).min(COPY_SIZE);
            source.read_exact_at(&mut buffer[..piece], at)?;
            self.write(&buffer[..piece])?;
            at += piece as u64;
        }
        Ok(())
    }

    /// Ends the content. The metadata is still missing.
    pub(super) fn end(self) -> (Digests, Content) {
        let Draft { file, size, md5, checksums } = self;
        (Digests { size, md5: md5.finalize(), checksums: checksums.finalize() }, Content { file, size })
    }
}

/// A temporary file with its whole content, and without metadata.
pub(super) struct Content {
    file: NamedTempFile,
    size: u64,
}

impl Content {
    pub(super) fn empty(folder: &Path) -> io::Result<Content> {
        Ok(Content { file: NamedTempFile::new_in(folder)?, size: 0 })
    }

    /// Appends the content of a stored file. The kernel copies it, or shares its blocks if the file system supports
    /// that.
    pub(super) fn append(&mut self, stored: &StoredFile) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        (&stored.file).seek(SeekFrom::Start(0))?;
        let copied = io::copy(&mut (&stored.file).take(stored.size), self.file.as_file_mut())?;
        if copied != stored.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.size += copied;
        Ok(())
    }

    /// Adds the metadata. The returned file can be published by a rename.
    pub(super) fn seal(mut self, meta: &Meta) -> io::Result<NamedTempFile> {
        let mut tail = serde_json::to_vec(meta)?;
        tail.extend_from_slice(&(tail.len() as u64).to_le_bytes());
        tail.extend_from_slice(MAGIC);
        self.file.as_file().write_all_at(&tail, self.size)?;
        self.file.flush()?;
        Ok(self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn content_and_metadata_survive_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["", "123456789"] {
            let mut draft = Draft::new(folder.path(), ChecksumHasher::default()).unwrap();
            draft.write(content.as_bytes()).unwrap();
            let (digests, file) = draft.end();
            let meta = Meta {
                content_type: Some("image/png".to_owned()),
                metadata: [("width".to_owned(), "3".to_owned())].into(),
                etag: digests.etag(),
                crc64nvme: digests.checksums.checksum_crc64nvme.clone(),
                ..Meta::new("a/b.png")
            };
            let path = folder.path().join("file");
            file.seal(&meta).unwrap().persist(&path).unwrap();
            let stored = StoredFile::open(&path).unwrap();
            assert_eq!((stored.size, &stored.meta), (content.len() as u64, &meta));
            assert!(fs::read(&path).unwrap().starts_with(content.as_bytes()));
        }
        let stored = StoredFile::open(&folder.path().join("file")).unwrap();
        // The check value of CRC64NVME in the CRC catalogue, and the MD5 of the same text.
        assert_eq!(stored.meta.crc64nvme.as_deref(), Some("rosUhgp5mIg="));
        assert_eq!(stored.meta.etag, "25f9e794323b453885f5181f1b624d0b");
    }

    #[test]
    fn joined_files_contain_the_contents_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut joined = Content::empty(folder.path()).unwrap();
        for (name, content) in [("one", "12345"), ("two", ""), ("three", "6789")] {
            let mut draft = Draft::new(folder.path(), ChecksumHasher::default()).unwrap();
            draft.write(content.as_bytes()).unwrap();
            let path = folder.path().join(name);
            draft.end().1.seal(&Meta::new("k")).unwrap().persist(&path).unwrap();
            joined.append(&StoredFile::open(&path).unwrap()).unwrap();
        }
        let path = folder.path().join("joined");
        joined.seal(&Meta::new("k")).unwrap().persist(&path).unwrap();
        let mut copy = Draft::new(folder.path(), ChecksumHasher::default()).unwrap();
        let stored = StoredFile::open(&path).unwrap();
        copy.copy(&stored.file, 2, stored.size - 2).unwrap();
        let (digests, _) = copy.end();
        assert_eq!((stored.size, digests.size), (9, 7));
        assert_eq!(digests.etag(), hex::encode(Md5::checksum(b"3456789")));
    }

    #[test]
    fn other_files_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut too_long = b"{}".to_vec();
        too_long.extend_from_slice(&3_u64.to_le_bytes());
        too_long.extend_from_slice(MAGIC);
        for content in [&b""[..], b"a photo of 16 bytes and more", &too_long] {
            fs::write(&path, content).unwrap();
            assert_eq!(StoredFile::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData, "{content:?}");
        }
    }
}
