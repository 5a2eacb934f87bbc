//! Parts on disk, for uploads that find no memory: slow crowds cost disk space and not memory.

use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// `f_type` of a file system that is memory (statfs(2)).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// A folder for spilled parts. Its files have no name: they are gone with the process, however it ends.
#[derive(Clone, Debug)]
pub struct Spill {
    folder: PathBuf,
    /// Files there may be at once.
    files: Arc<Semaphore>,
}

/// `SPILL_DIR` is no folder for parts.
#[derive(Debug, thiserror::Error)]
#[error("SPILL_DIR: {why}; {fix}", fix = Unusable::FIX)]
pub struct Unusable {
    pub why: String,
}

impl Unusable {
    pub const FIX: &str = "name a folder on a disk, or set SPILL_BUDGET=0";
}

impl Spill {
    /// Checks that `folder` can be used, and makes it where it does not exist.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn open(folder: &Path) -> io::Result<Spill> {
        std::fs::create_dir_all(folder)?;
        make(folder, 1)?;
        Ok(Spill { folder: folder.to_owned(), files: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) })
    }

    /// The same with at most `files` files at once.
    pub fn limited_to(self, files: usize) -> Spill {
        Spill { files: Arc::new(Semaphore::new(files.min(Semaphore::MAX_PERMITS))), ..self }
    }

    /// What `SPILL_BUDGET` and `SPILL_DIR` come to: none where nothing may spill.
    ///
    /// # Errors
    /// Where the folder cannot be used.
    pub fn configured(budget: u64, folder: &Path) -> Result<Option<Spill>, Unusable> {
        if budget == 0 {
            return Ok(None);
        }
        let unusable = |why: &str| Unusable { why: format!("{} {why}", folder.display()) };
        let spill = Spill::open(folder).map_err(|error| unusable(&format!("cannot be written ({error})")))?;
        if spill.is_memory() { Err(unusable("is a tmpfs, which is memory")) } else { Ok(Some(spill)) }
    }

    /// Bytes that are free where the folder is, where the system tells.
    pub fn free(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.folder).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// Whether the folder is memory after all, so that spilling to it would save none.
    pub fn is_memory(&self) -> bool {
        rustix::fs::statfs(&self.folder).is_ok_and(|stat| stat.f_type == TMPFS)
    }

    /// Whether one more file may be made now.
    pub(super) fn may_make(&self) -> bool {
        self.files.available_permits() > 0
    }

    /// A file that holds `size` bytes. `None` if there are as many files as there may be.
    pub(super) async fn make(&self, size: usize) -> io::Result<Option<SpillFile>> {
        let Ok(permit) = Arc::clone(&self.files).try_acquire_owned() else { return Ok(None) };
        let folder = self.folder.clone();
        let made = tokio::task::spawn_blocking(move || make(&folder, size)).await.map_err(io::Error::other)?;
        made.map(|file| Some(SpillFile { file, _permit: permit }))
    }
}

fn make(folder: &Path, size: usize) -> io::Result<File> {
    let file = tempfile::tempfile_in(folder)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size as u64) {
        // Some network file systems cannot promise room; writing there may fail later.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(file),
        Err(full) => Err(full.into()),
    }
}

/// A file for one part.
#[derive(Debug)]
pub(super) struct SpillFile {
    file: File,
    /// Given back after the file is closed.
    _permit: OwnedSemaphorePermit,
}

impl SpillFile {
    pub(super) async fn write(self: &Arc<Self>, offset: u64, bytes: Bytes) -> io::Result<()> {
        let file = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || file.file.write_all_at(&bytes, offset));
        written.await.map_err(io::Error::other)?
    }

    /// Blocks.
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
    fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Spill::open(&file.join("below")).is_err());
        assert!(Spill::open(&folder.path().join("new")).is_ok());
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 0, "files have no name");
    }

    #[tokio::test]
    async fn more_than_the_disk_has_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::open(folder.path()).unwrap();
        assert!(spill.make(1 << 50).await.is_err());
    }

    #[tokio::test]
    async fn there_are_no_more_files_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::open(folder.path()).unwrap().limited_to(2);
        let mut files = vec![spill.make(1).await.unwrap().unwrap(), spill.make(1).await.unwrap().unwrap()];
        assert!(!spill.may_make() && spill.make(1).await.unwrap().is_none());
        files.pop();
        assert!(spill.may_make() && spill.make(1).await.unwrap().is_some());
    }

    #[test]
    fn shared_memory_is_memory() {
        let shm = Path::new("/dev/shm");
        if shm.exists() {
            assert!(Spill::open(shm).unwrap().is_memory());
        }
    }
}
