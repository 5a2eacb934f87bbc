//! Where s3s-fs keeps things, and how a finished object gets from the staging bucket, which nobody sees, to its key.
//!
//! s3s-fs keeps an object at `<root>/<bucket>/<key>` and two side files at the root: `….metadata.json` (content type, user
//! metadata) and `….internal.json` (ETag, checksums). An unfinished upload is `.upload-<id>.json`, one more
//! `….metadata.json` and a `.upload_id-<id>.part-<n>` a part. What this adds is `<uploads>/<id>/`: the upload's own record
//! and one file a part with its ETag and checksum.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The one bucket clients see.
pub(super) const BUCKET: &str = "images";
/// Where objects are written before they are published.
pub(super) const STAGING: &str = "staging";

/// The folders below `DATA_DIR`.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// What s3s-fs takes for its root.
    pub(super) root: PathBuf,
    pub(super) uploads: PathBuf,
}

/// An object's three files.
struct Files {
    object: PathBuf,
    metadata: PathBuf,
    internal: PathBuf,
}

impl Files {
    fn remove(&self) -> io::Result<()> {
        [&self.object, &self.metadata, &self.internal].into_iter().try_for_each(|path| remove_file(path))
    }
}

impl Disk {
    /// Makes the folders, and clears what a killed process left of work that had not been answered.
    pub(super) fn open(data_dir: &Path) -> io::Result<Disk> {
        let disk = Disk { root: data_dir.join("s3"), uploads: data_dir.join("uploads") };
        remove_dir(&disk.root.join(STAGING))?;
        for folder in [&disk.root.join(BUCKET), &disk.root.join(STAGING), &disk.uploads] {
            fs::create_dir_all(folder)?;
        }
        disk.clear_uploads()?;
        disk.clear_root()?;
        Ok(disk)
    }

    pub(super) fn object(&self, key: &str) -> PathBuf {
        self.root.join(BUCKET).join(key)
    }

    /// An upload's part, where s3s-fs looks for it.
    pub(super) fn part(&self, upload_id: &str, number: i32) -> PathBuf {
        self.root.join(format!(".upload_id-{upload_id}.part-{number}"))
    }

    fn files(&self, bucket: &str, key: &str) -> Files {
        let side = format!(".bucket-{}.object-{}", URL_SAFE_NO_PAD.encode(bucket), URL_SAFE_NO_PAD.encode(key));
        Files {
            object: self.root.join(bucket).join(key),
            metadata: self.root.join(format!("{side}.metadata.json")),
            internal: self.root.join(format!("{side}.internal.json")),
        }
    }

    /// Makes a staged object the one at `key`, by rename, the object itself last.
    pub(super) fn publish(&self, staged: &Staged, key: &str) -> io::Result<()> {
        let (from, to) = (self.files(STAGING, &staged.key), self.files(BUCKET, key));
        if let Some(folder) = to.object.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(from.metadata, to.metadata)?;
        fs::rename(from.internal, to.internal)?;
        fs::rename(from.object, to.object)
    }

    /// Makes a staged object a part of an upload, whose record says what the part's checksum is.
    pub(super) fn adopt_part(&self, staged: &Staged, upload_id: &str, number: i32) -> io::Result<()> {
        let from = self.files(STAGING, &staged.key);
        fs::rename(from.internal, self.uploads.join(upload_id).join(format!("{number}.json")))?;
        fs::rename(from.object, self.part(upload_id, number))
    }

    pub(super) fn remove_object(&self, key: &str) -> io::Result<()> {
        self.files(BUCKET, key).remove()
    }

    /// Adds the whole object's CRC64NVME to what s3s-fs remembers of a staged object.
    pub(super) fn note_crc64(&self, staged: &Staged, crc64: u64) -> io::Result<()> {
        let path = self.files(STAGING, &staged.key).internal;
        let mut internal: Map<String, Value> = serde_json::from_slice(&fs::read(&path)?)?;
        internal.insert("checksum_crc64nvme".to_owned(), Value::String(super::uploads::to_base64(crc64)));
        fs::write(path, serde_json::to_vec(&internal)?)
    }

    /// Uploads that s3s-fs does not know, or that were never answered.
    fn clear_uploads(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.uploads)? {
            let entry = entry?;
            let id = entry.file_name().to_string_lossy().into_owned();
            let known = self.root.join(format!(".upload-{id}.json")).exists();
            if !known || !entry.path().join(super::uploads::RECORD).exists() {
                remove_dir(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Side files of objects and uploads that are not there.
    fn clear_root(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && self.is_orphan(&name) {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }

    fn is_orphan(&self, name: &str) -> bool {
        if let Some(id) = upload_id_in(name) {
            return !self.uploads.join(id).exists();
        }
        let object = name.strip_prefix(".bucket-").and_then(|rest| rest.split_once(".object-"));
        let Some((bucket, rest)) = object else { return false };
        let key = rest.split('.').next().unwrap_or_default();
        match (decode(bucket), decode(key)) {
            (Some(bucket), Some(key)) => !self.root.join(bucket).join(key).is_file(),
            _ => false,
        }
    }
}

/// The upload a file at the root belongs to.
fn upload_id_in(name: &str) -> Option<&str> {
    let after = |marker: &str| name.split_once(marker).map(|(_, rest)| rest);
    let rest = after(".upload_id-").or_else(|| after(".upload-"))?;
    rest.split('.').next()
}

fn decode(text: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// A key in the staging bucket. What is still there when this is dropped is removed.
#[derive(Debug)]
pub(super) struct Staged {
    disk: Disk,
    pub(super) key: String,
}

impl Staged {
    pub(super) fn fresh(disk: &Disk) -> Staged {
        Staged::at(disk, Uuid::new_v4().to_string())
    }

    pub(super) fn at(disk: &Disk, key: String) -> Staged {
        Staged { disk: disk.clone(), key }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = self.disk.files(STAGING, &self.key).remove() {
            tracing::warn!(%error, "a staged object could not be removed; the next start will");
        }
    }
}

/// A file that is not there is as good as removed.
fn remove_file(path: &Path) -> io::Result<()> {
    gone(fs::remove_file(path))
}

pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    gone(fs::remove_dir_all(path))
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
