//! Parts on disk, for slow uploads when half of the memory budget is used, and for all when it is used up. Many slow
//! clients then use disk space instead of memory.

use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::Reading;

/// `f_type` of tmpfs, a file system in memory (statfs(2)).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// A folder for spilled parts. Its files have no name, so they disappear with the process, however it ends.
#[derive(Clone, Debug)]
pub struct Spill {
    folder: PathBuf,
    /// Limits the number of files that exist at once.
    files: Arc<Semaphore>,
    max_files: usize,
    disk: Disk,
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
        let max_files = Semaphore::MAX_PERMITS;
        let files = Arc::new(Semaphore::new(max_files));
        Ok(Spill { folder: folder.to_owned(), files, max_files, disk: Disk::default() })
    }

    /// Limits the number of files that exist at once to `files`.
    pub fn limited_to(self, files: usize) -> Spill {
        let max_files = files.min(Semaphore::MAX_PERMITS);
        Spill { files: Arc::new(Semaphore::new(max_files)), max_files, ..self }
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

    /// Whether more than half of the files exist.
    pub(super) fn is_scarce(&self) -> bool {
        self.files.available_permits() < self.max_files.div_ceil(2)
    }

    /// Creates a file with `size` bytes allocated. `charged` is released when it is closed. Returns `None` if the limit of
    /// files is reached.
    pub(super) async fn create(&self, size: usize, charged: OwnedSemaphorePermit) -> io::Result<Option<SpillFile>> {
        let Ok(permit) = Arc::clone(&self.files).try_acquire_owned() else { return Ok(None) };
        let folder = self.folder.clone();
        let file = self.disk.run(move || create_file(&folder, size)).await??;
        let open = Arc::new(OpenFile { file, _permits: [permit, charged] });
        Ok(Some(SpillFile { open, disk: self.disk.clone() }))
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

/// Limits the work on files to as many threads as there are processors. If hundreds of slow uploads begin their next part at
/// the same time, more threads would take the processors from the uploads that are in memory.
#[derive(Clone, Debug)]
struct Disk(Arc<Semaphore>);

impl Default for Disk {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Disk(Arc::new(Semaphore::new(threads)))
    }
}

impl Disk {
    /// Runs `work`, which blocks. Waits only for other work on files, never for a client or the store.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let turns = Arc::clone(&self.0);
        // In a task of its own, because the caller may not be polled for long, and would keep its turn meanwhile.
        let turn = tokio::spawn(async move {
            let _turn = turns.acquire_owned().await.map_err(io::Error::other)?;
            tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
        });
        turn.await.map_err(io::Error::other)?
    }
}

/// A file for one part.
#[derive(Debug)]
pub(super) struct SpillFile {
    open: Arc<OpenFile>,
    disk: Disk,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Of the number of files and of their bytes. Declared last, so that they are released after the file is closed.
    _permits: [OwnedSemaphorePermit; 2],
}

impl SpillFile {
    /// Returns a file on a full disk.
    #[cfg(test)]
    pub(super) fn full(spill: &Spill) -> Self {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let permits = [(); 2].map(|()| Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap());
        SpillFile { open: Arc::new(OpenFile { file, _permits: permits }), disk: spill.disk.clone() }
    }

    /// Returns `len` bytes of the file from `offset` on, followed by `rest`.
    pub(super) fn read(&self, offset: u64, len: usize, rest: &[u8]) -> Reading {
        let (open, disk, rest) = (Arc::clone(&self.open), self.disk.clone(), rest.to_vec());
        Box::pin(async move {
            let read = move || {
                let mut bytes = BytesMut::zeroed(len + rest.len());
                bytes[len..].copy_from_slice(&rest);
                open.file.read_exact_at(&mut bytes[..len], offset).map(|()| bytes.freeze())
            };
            disk.run(read).await?
        })
    }

    pub(super) async fn write(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        self.write_and_return(offset, bytes).await?.1
    }

    /// Writes `bytes` and returns them together with the result. The outer error means that they are lost.
    pub(super) async fn write_and_return<T: AsRef<[u8]> + Send + 'static>(
        &self,
        offset: u64,
        bytes: T,
    ) -> io::Result<(T, io::Result<()>)> {
        let open = Arc::clone(&self.open);
        let write = move || {
            let written = open.file.write_all_at(bytes.as_ref(), offset);
            (bytes, written)
        };
        self.disk.run(write).await
    }
}

/// Closes the file on another thread: it has no name, so its space becomes free, which can wait for the file system.
impl Drop for SpillFile {
    fn drop(&mut self) {
        let (open, disk) = (Arc::clone(&self.open), self.disk.clone());
        // Without a runtime the process ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { disk.run(move || drop(open)).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn create(spill: &Spill, size: usize) -> io::Result<Option<SpillFile>> {
        let charged = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        spill.create(size, charged).await
    }

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
        assert!(create(&spill, 1 << 50).await.is_err());
    }

    #[tokio::test]
    async fn bytes_of_a_file_are_read_with_those_that_follow() {
        let folder = tempfile::tempdir().unwrap();
        let file = create(&Spill::open(folder.path()).unwrap(), 100).await.unwrap().unwrap();
        file.write(0, Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(file.read(1, 3, b"de").await.unwrap().as_ref(), b"bc\0de");
        assert!(file.read(98, 3, b"").await.is_err());
    }

    #[tokio::test]
    async fn number_of_files_is_limited() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::open(folder.path()).unwrap().limited_to(2);
        let mut files = vec![create(&spill, 1).await.unwrap().unwrap(), create(&spill, 1).await.unwrap().unwrap()];
        assert!(!spill.can_create() && create(&spill, 1).await.unwrap().is_none());
        files.pop();
        while !spill.can_create() {
            tokio::task::yield_now().await;
        }
        assert!(create(&spill, 1).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn caller_that_is_not_polled_keeps_no_turn() {
        let disk = Disk(Arc::new(Semaphore::new(1)));
        let (end, ended) = std::sync::mpsc::channel();
        let mut first = Box::pin(disk.run(move || ended.recv()));
        let mut second = Box::pin(disk.run(|| ()));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        end.send(()).unwrap();
        first.await.unwrap().unwrap();
        let third = tokio::time::timeout(std::time::Duration::from_secs(60), disk.run(|| ()));
        third.await.expect("it does not wait for the second caller").unwrap();
        second.await.unwrap();
    }

    #[test]
    fn dev_shm_is_detected_as_memory() {
        let shm = Path::new("/dev/shm");
        if shm.exists() {
            assert!(Spill::open(shm).unwrap().is_memory());
        }
    }
}
