//! Parts on disk, for uploads that arrive when the memory budget is used up. Many slow clients then use disk space
//! instead of memory.

use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// `f_type` of tmpfs, a file system in memory (statfs(2)).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// A folder for spilled parts. Its files have no name, so they disappear with the process, however it ends.
#[derive(Clone, Debug)]
pub struct Spill {
    folder: PathBuf,
    /// Limits the number of files that exist at once.
    files: Arc<Semaphore>,
}

/// The error for a `SPILL_DIR` that cannot hold parts.
#[derive(Debug, thiserror::Error)]
#[error("SPILL_DIR: {why}; {fix}", fix = Unusable::FIX)]
pub struct Unusable {
    pub why: String,
}

impl Unusable {
    pub const FIX: &str = "set it to a folder on a disk, or set SPILL_BUDGET=0";
}

impl Spill {
    /// Creates `folder` if it does not exist, and checks that files can be created in it.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be written.
    pub fn open(folder: &Path) -> io::Result<Spill> {
        std::fs::create_dir_all(folder)?;
        create_file(folder, 1)?;
        Ok(Spill { folder: folder.to_owned(), files: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) })
    }

    /// Limits the number of files that exist at once to `files`.
    pub fn limited_to(self, files: usize) -> Spill {
        Spill { files: Arc::new(Semaphore::new(files.min(Semaphore::MAX_PERMITS))), ..self }
    }

    /// Opens the folder that `SPILL_BUDGET` and `SPILL_DIR` configure. Returns `None` if the budget is 0.
    ///
    /// # Errors
    /// Returns [`Unusable`] if the folder cannot be written or is a tmpfs.
    pub fn configured(budget: u64, folder: &Path) -> Result<Option<Spill>, Unusable> {
        if budget == 0 {
            return Ok(None);
        }
        let unusable = |why: &str| Unusable { why: format!("{} {why}", folder.display()) };
        let spill = Spill::open(folder).map_err(|error| unusable(&format!("cannot be written ({error})")))?;
        if spill.is_memory() { Err(unusable("is a tmpfs, which uses memory")) } else { Ok(Some(spill)) }
    }

    /// Returns the free bytes of the folder's file system. `None` if the system does not report them.
    pub fn free(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.folder).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// Whether the folder is a tmpfs, so that spilling to it would save no memory.
    pub fn is_memory(&self) -> bool {
        rustix::fs::statfs(&self.folder).is_ok_and(|stat| stat.f_type == TMPFS)
    }

    /// Whether the limit permits one more file now.
    pub(super) fn can_create(&self) -> bool {
        self.files.available_permits() > 0
    }

    /// Creates a file with `size` bytes allocated. Returns `None` if the limit of files is reached.
    pub(super) async fn create(&self, size: usize) -> io::Result<Option<SpillFile>> {
        let Ok(permit) = Arc::clone(&self.files).try_acquire_owned() else { return Ok(None) };
        let folder = self.folder.clone();
        let file = tokio::task::spawn_blocking(move || create_file(&folder, size)).await.map_err(io::Error::other)?;
        file.map(|file| Some(SpillFile { file, _permit: permit }))
    }
}

fn create_file(folder: &Path, size: usize) -> io::Result<File> {
    let file = tempfile::tempfile_in(folder)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size as u64) {
        // Some network file systems cannot allocate space in advance. A later write may fail there.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(file),
        Err(full) => Err(full.into()),
    }
}

/// A file for one part.
#[derive(Debug)]
pub(super) struct SpillFile {
    file: File,
    /// Declared last, so that it is released after the file is closed.
    _permit: OwnedSemaphorePermit,
}

impl SpillFile {
    pub(super) async fn write(self: &Arc<Self>, offset: u64, bytes: Bytes) -> io::Result<()> {
        self.write_and_return(offset, bytes).await?.1
    }

    /// Writes `bytes` and returns them together with the result. The outer error means that they are lost.
    pub(super) async fn write_and_return<T: AsRef<[u8]> + Send + 'static>(
        self: &Arc<Self>,
        offset: u64,
        bytes: T,
    ) -> io::Result<(T, io::Result<()>)> {
        let file = Arc::clone(self);
        let write = move || {
            let written = file.file.write_all_at(bytes.as_ref(), offset);
            (bytes, written)
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)
    }

    /// Reads `len` bytes. Blocks the thread.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = BytesMut::zeroed(len);
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Spill::open(&file.join("below")).is_err());
        assert!(Spill::open(&folder.path().join("new")).is_ok());
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 0, "files have no name");
    }

    #[tokio::test]
    async fn file_larger_than_the_disk_is_rejected_at_creation() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::open(folder.path()).unwrap();
        assert!(spill.create(1 << 50).await.is_err());
    }

    #[tokio::test]
    async fn number_of_files_is_limited() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::open(folder.path()).unwrap().limited_to(2);
        let mut files = vec![spill.create(1).await.unwrap().unwrap(), spill.create(1).await.unwrap().unwrap()];
        assert!(!spill.can_create() && spill.create(1).await.unwrap().is_none());
        files.pop();
        assert!(spill.can_create() && spill.create(1).await.unwrap().is_some());
    }

    #[test]
    fn dev_shm_is_detected_as_memory() {
        let shm = Path::new("/dev/shm");
        if shm.exists() {
            assert!(Spill::open(shm).unwrap().is_memory());
        }
    }
}
