//! The folders, and the renames that change the contents of the store.
//!
//! - `objects/<encoded key>`: an object.
//! - `uploads/<id>/upload`: an unfinished upload, a file without content; `uploads/<id>/<number>`: a part of it.
//! - `tmp/`: files that are being written. Emptied at start-up. [`Disk::sweep`] removes old files.
//!
//! Complete replaces `uploads/<id>/upload` with a file with the joined content and then renames that file to the
//! object. So one rename creates the object and ends the upload. If the process is killed before it, the upload and all
//! its parts remain. If it is killed after it, a folder without an upload remains, which the next start or sweep
//! removes.
//!
//! All functions block. Nothing is synced to the disk: acknowledged changes survive a crash of the process, but not of
//! the machine.

use parking_lot::{Mutex, MutexGuard};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::{S3Error, S3Result, s3_error};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::NamedTempFile;
use uuid::Uuid;

use super::file::{Content, Meta, StoredFile};

/// Maximum length in bytes of a file name on all usual file systems.
const MAX_FILE_NAME: usize = 255;
/// Characters that are encoded in a file name: the slash, and characters that other operating systems forbid.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'=').remove(b'+');
/// An upload's own file in its folder.
const UPLOAD: &str = "upload";
/// The folder in which an earlier version stored its objects, with another layout.
const FORMER_FOLDER: &str = "s3";

/// The contents of the store. Only one process at a time can open it.
#[derive(Debug)]
pub(super) struct Disk {
    objects: PathBuf,
    uploads: PathBuf,
    tmp: PathBuf,
    /// Held from checking the current state until it is changed.
    change: Mutex<()>,
    /// Keeps other processes from using the folder as long as this process can write to it.
    _lock: File,
}

/// A part that was received completely.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) number: i32,
    /// Bytes.
    pub(super) size: u64,
    pub(super) meta: Meta,
}

/// Checks whether the existing object, if there is one, may be replaced or removed.
pub(super) type Condition<'a> = &'a dyn Fn(Option<&Meta>) -> S3Result<()>;

impl Disk {
    /// Creates the folders, and removes the files of requests that a killed process had not completed.
    ///
    /// # Errors
    /// Returns `WouldBlock` if another process uses the folder.
    pub(super) fn open(data_dir: &Path) -> io::Result<Disk> {
        fs::create_dir_all(data_dir)?;
        let folder = |name| data_dir.join(name);
        let disk = Disk {
            _lock: lock(data_dir)?,
            objects: folder("objects"),
            uploads: folder("uploads"),
            tmp: folder("tmp"),
            change: Mutex::default(),
        };
        let former = folder(FORMER_FOLDER);
        if former.is_dir() {
            tracing::warn!(
                folder = %former.display(),
                "the embedded store of an earlier version stored its objects here; they are not served; upload them \
                 again, or remove the folder"
            );
        }
        or_absent(fs::remove_dir_all(&disk.tmp))?;
        for folder in [&disk.objects, &disk.uploads, &disk.tmp] {
            fs::create_dir_all(folder)?;
        }
        disk.remove_ended_uploads(None)?;
        Ok(disk)
    }

    /// Removes the files of failed requests that were not modified for `age`: files that were never published, and
    /// folders whose uploads have ended.
    pub(super) fn sweep(&self, age: Duration) -> io::Result<()> {
        let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        for entry in fs::read_dir(&self.tmp)? {
            let path = entry?.path();
            if is_older(&path, before)? {
                or_absent(fs::remove_file(path))?;
            }
        }
        self.remove_ended_uploads(Some(before))
    }

    /// Removes the folders of ended uploads that were last modified before `before`. A new upload may have no file yet,
    /// because its folder is created first.
    fn remove_ended_uploads(&self, before: Option<SystemTime>) -> io::Result<()> {
        for entry in fs::read_dir(&self.uploads)? {
            let folder = entry?.path();
            let is_old = before.map_or(Ok(true), |before| is_older(&folder, before))?;
            if is_old && !folder.join(UPLOAD).exists() {
                or_absent(fs::remove_dir_all(folder))?;
            }
        }
        Ok(())
    }

    /// Returns the folder for files that are not yet published.
    pub(super) fn tmp(&self) -> &Path {
        &self.tmp
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.change.lock()
    }

    pub(super) fn object(&self, key: &str) -> S3Result<Option<StoredFile>> {
        open(&self.object_path(key)?)
    }

    fn object_path(&self, key: &str) -> S3Result<PathBuf> {
        let name = file_name(key);
        if name.len() > MAX_FILE_NAME {
            return Err(s3_error!(KeyTooLongError));
        }
        Ok(self.objects.join(name))
    }

    fn check(&self, path: &Path, condition: Condition<'_>) -> S3Result<()> {
        condition(open(path)?.map(|existing| existing.meta).as_ref())
    }

    /// Publishes `file` as the object `key`.
    pub(super) fn put(&self, key: &str, file: NamedTempFile, condition: Condition<'_>) -> S3Result<()> {
        let path = self.object_path(key)?;
        let _changing = self.changing();
        self.check(&path, condition)?;
        file.persist(path).map(drop).map_err(|error| failed(error.error))
    }

    /// Removes an object. Succeeds if it does not exist.
    pub(super) fn remove(&self, key: &str, condition: Condition<'_>) -> S3Result<()> {
        let path = self.object_path(key)?;
        let _changing = self.changing();
        self.check(&path, condition)?;
        or_absent(fs::remove_file(path)).map_err(failed)
    }

    /// Creates an upload with the metadata in `file`, and returns its ID.
    pub(super) fn create_upload(&self, file: NamedTempFile) -> S3Result<String> {
        let id = Uuid::new_v4().simple().to_string();
        let folder = self.uploads.join(&id);
        fs::create_dir(&folder).map_err(failed)?;
        file.persist(folder.join(UPLOAD)).map_err(|error| failed(error.error))?;
        Ok(id)
    }

    /// Returns the unfinished upload `id` of `key`.
    ///
    /// # Errors
    /// Returns `NoSuchUpload` if there is none, and also for an ID that this store cannot have created, such as a path.
    pub(super) fn upload(&self, id: &str, key: &str) -> S3Result<Meta> {
        let is_valid = Uuid::try_parse(id).is_ok_and(|uuid| uuid.simple().to_string() == id);
        let found = if is_valid { open(&self.uploads.join(id).join(UPLOAD))? } else { None };
        let found = found.map(|stored| stored.meta).filter(|upload| upload.key == key);
        found.ok_or_else(|| s3_error!(NoSuchUpload))
    }

    /// Adds `file` to an upload as a part, unless the upload has ended in the meantime.
    pub(super) fn put_part(&self, id: &str, key: &str, number: i32, file: NamedTempFile) -> S3Result<()> {
        let _changing = self.changing();
        self.upload(id, key)?;
        let path = self.uploads.join(id).join(number.to_string());
        file.persist(path).map(drop).map_err(|error| failed(error.error))
    }

    /// Returns the parts of an upload that were received, in order of their numbers.
    pub(super) fn parts(&self, id: &str) -> S3Result<Vec<Part>> {
        let mut parts = Vec::new();
        for path in entries(&self.uploads.join(id))? {
            let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            if let Some(number) = number {
                parts.extend(open(&path)?.map(|StoredFile { size, meta, .. }| Part { number, size, meta }));
            }
        }
        parts.sort_by_key(|part| part.number);
        Ok(parts)
    }

    /// Joins the contents of parts. Opens one file at a time, because there may be thousands.
    ///
    /// # Errors
    /// Returns `InvalidPart` if a part was replaced or removed in the meantime.
    pub(super) fn join(&self, id: &str, parts: &[Part]) -> S3Result<Content> {
        let mut joined = Content::empty(&self.tmp).map_err(failed)?;
        for part in parts {
            let stored = open(&self.uploads.join(id).join(part.number.to_string()))?;
            let same = stored.filter(|stored| stored.meta == part.meta && stored.size == part.size);
            joined.append(&same.ok_or_else(|| s3_error!(InvalidPart))?).map_err(failed)?;
        }
        Ok(joined)
    }

    /// Publishes `joined` as the object and ends the upload, unless the upload has ended in the meantime.
    pub(super) fn complete(
        &self,
        id: &str,
        key: &str,
        joined: NamedTempFile,
        condition: Condition<'_>,
    ) -> S3Result<()> {
        let (path, upload) = (self.object_path(key)?, self.uploads.join(id).join(UPLOAD));
        {
            let _changing = self.changing();
            self.upload(id, key)?;
            self.check(&path, condition)?;
            joined.persist(&upload).map_err(|error| failed(error.error))?;
            fs::rename(upload, path).map_err(failed)?;
        }
        self.remove_folder(id);
        Ok(())
    }

    pub(super) fn abort(&self, id: &str, key: &str) -> S3Result<()> {
        {
            let _changing = self.changing();
            self.upload(id, key)?;
            fs::remove_file(self.uploads.join(id).join(UPLOAD)).map_err(failed)?;
        }
        self.remove_folder(id);
        Ok(())
    }

    /// Removes the folder of an upload that has ended.
    fn remove_folder(&self, id: &str) {
        if let Err(error) = fs::remove_dir_all(self.uploads.join(id)) {
            tracing::warn!(%error, "the parts of an ended upload were not removed; a sweep or restart removes them");
        }
    }

    /// Returns the keys of all objects that begin with `prefix`, in order.
    pub(super) fn keys(&self, prefix: &str) -> S3Result<Vec<String>> {
        let paths = entries(&self.objects)?.into_iter();
        let mut keys: Vec<String> = paths.filter_map(|path| key(path.file_name()?.to_str()?)).collect();
        keys.retain(|key| key.starts_with(prefix));
        keys.sort();
        Ok(keys)
    }

    /// Returns all unfinished uploads of keys that begin with `prefix`, with their IDs, sorted by key and then by ID.
    pub(super) fn unfinished(&self, prefix: &str) -> S3Result<Vec<(Meta, String)>> {
        let mut found = Vec::new();
        for folder in entries(&self.uploads)? {
            let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.extend(open(&folder.join(UPLOAD))?.map(|stored| (stored.meta, id)));
        }
        found.retain(|(upload, _)| upload.key.starts_with(prefix));
        found.sort_by(|(one, one_id), (other, other_id)| (&one.key, one_id).cmp(&(&other.key, other_id)));
        Ok(found)
    }
}

/// Locks the folder. The lock is held as long as the file is open, and the system releases it when the process ends.
fn lock(data_dir: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(data_dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let text = format!("another process is using the data directory '{}'", data_dir.display());
            Err(io::Error::new(ErrorKind::WouldBlock, text))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Returns the file name of an object. It never leads out of the folder, and the file is never hidden.
fn file_name(key: &str) -> String {
    let name = utf8_percent_encode(key, ENCODED).to_string();
    match name.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => name,
    }
}

/// Returns the key of an object's file. `None` if the file was not created by this store.
fn key(name: &str) -> Option<String> {
    let key = percent_decode_str(name).decode_utf8().ok()?.into_owned();
    (file_name(&key) == name).then_some(key)
}

/// Opens a file. Returns `None` if it does not exist or is not a file of this store: another program wrote it, or the
/// machine crashed.
fn open(path: &Path) -> S3Result<Option<StoredFile>> {
    match or_absent(StoredFile::open(path).map(Some)) {
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            tracing::warn!(file = %path.display(), %error, "the embedded store ignored an invalid file");
            Ok(None)
        }
        opened => opened.map_err(failed),
    }
}

fn entries(folder: &Path) -> S3Result<Vec<PathBuf>> {
    let listed = or_absent(fs::read_dir(folder).map(Some)).map_err(failed)?;
    listed.into_iter().flatten().map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(failed)
}

/// Whether the file was last modified before `before`. Returns `false` if it does not exist.
fn is_older(path: &Path, before: SystemTime) -> io::Result<bool> {
    let written = or_absent(fs::metadata(path).and_then(|metadata| metadata.modified()).map(Some))?;
    Ok(written.is_some_and(|written| written <= before))
}

/// Returns the default value if the file does not exist.
fn or_absent<T: Default>(done: io::Result<T>) -> io::Result<T> {
    done.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(T::default()) } else { Err(error) })
}

/// Logs an I/O error for the operator and returns an internal error, for example if the disk is full.
pub(super) fn failed(error: io::Error) -> S3Error {
    tracing::error!(%error, "the embedded store failed to access its folder");
    S3Error::internal_error(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Condition<'static> = &|_| Ok(());

    fn disk() -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        (folder, disk)
    }

    fn file(disk: &Disk, meta: &Meta) -> NamedTempFile {
        Content::empty(disk.tmp()).unwrap().seal(meta).unwrap()
    }

    #[test]
    fn every_key_has_its_own_file() {
        let (folder, disk) = disk();
        let keys = ["a", "a/b", "a%2Fb", "..", ".", "../../x", "a//b", "/a", "a/", "\\", "\u{fc} \0?", "%2E"];
        for key in keys {
            disk.put(key, file(&disk, &Meta::new(key)), ANY).unwrap();
        }
        for key in keys {
            assert_eq!(disk.object(key).unwrap().unwrap().meta.key, key);
        }
        let mut sorted = keys.map(str::to_owned);
        sorted.sort();
        assert_eq!(disk.keys("").unwrap(), sorted);
        assert_eq!(disk.keys("a/").unwrap(), ["a/", "a//b", "a/b"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "three folders and the lock");
        for key in keys {
            disk.remove(key, ANY).unwrap();
        }
        assert_eq!(disk.keys("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn sweep_removes_old_files_that_are_not_in_use() {
        let (_folder, disk) = disk();
        let (meta, hour) = (Meta::new("k"), Duration::from_secs(3600));
        let (_, unpublished) = file(&disk, &meta).keep().unwrap();
        let (open, ended) = (disk.create_upload(file(&disk, &meta)).unwrap(), disk.uploads.join("ended"));
        fs::create_dir(&ended).unwrap();
        fs::write(ended.join("1"), "x").unwrap();
        disk.sweep(hour).unwrap();
        assert!(unpublished.exists() && ended.exists(), "new files may be in use");
        disk.sweep(Duration::ZERO).unwrap();
        assert!(!unpublished.exists() && !ended.exists());
        assert_eq!(disk.unfinished("").unwrap().len(), 1, "{open}");
    }

    #[test]
    fn keys_of_up_to_255_bytes_fit() {
        let (_folder, disk) = disk();
        disk.put(&"k".repeat(255), file(&disk, &Meta::new("k")), ANY).unwrap();
        for long in ["k".repeat(256), "/".repeat(86)] {
            let rejected = disk.put(&long, file(&disk, &Meta::new("k")), ANY).unwrap_err();
            assert_eq!(rejected.code(), &s3s::S3ErrorCode::KeyTooLongError);
        }
    }

    #[test]
    fn files_of_other_programs_are_not_objects() {
        let (folder, disk) = disk();
        for name in ["a photo.jpg", "photo.jpg"] {
            fs::write(folder.path().join("objects").join(name), "x").unwrap();
            assert!(disk.object(name).unwrap().is_none());
        }
        assert_eq!(disk.keys("").unwrap(), ["photo.jpg"], "its content is only checked when it is opened");
    }

    /// Tests the states in which a killed process can leave Complete and Abort.
    #[test]
    fn killed_complete_or_abort_leaves_a_consistent_state() {
        let (folder, disk) = disk();
        let meta = Meta::new("k");
        let id = disk.create_upload(file(&disk, &meta)).unwrap();
        disk.put_part(&id, "k", 1, file(&disk, &meta)).unwrap();
        let upload = folder.path().join("uploads").join(&id);

        // The joined file has replaced the upload's file, and is not yet the object.
        let joined = Meta { etag: "joined".to_owned(), ..meta.clone() };
        file(&disk, &joined).persist(upload.join(UPLOAD)).unwrap();
        drop(disk);
        let disk = Disk::open(folder.path()).unwrap();
        assert!(disk.object("k").unwrap().is_none());
        assert_eq!(disk.unfinished("").unwrap().len(), 1);
        assert_eq!(disk.parts(&id).unwrap().len(), 1);
        disk.complete(&id, "k", file(&disk, &joined), ANY).unwrap();
        assert_eq!(disk.object("k").unwrap().unwrap().meta, joined);
        assert!(!upload.exists());

        // The object exists or the upload is aborted, and the parts are not yet removed.
        fs::create_dir(&upload).unwrap();
        file(&disk, &meta).persist(upload.join("1")).unwrap();
        assert_eq!(disk.abort(&id, "k").unwrap_err().code(), &s3s::S3ErrorCode::NoSuchUpload);
        assert_eq!(disk.unfinished("").unwrap(), vec![]);
        drop(disk);
        Disk::open(folder.path()).unwrap();
        assert!(!upload.exists());
    }
}
