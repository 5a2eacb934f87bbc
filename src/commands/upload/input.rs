//! The inputs of the client: files that the user named, and the standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::format::Format;
use crate::ingest::sniff::{Known, Sniff, inspect};
use crate::store::limits::MAX_OBJECT_SIZE;

/// The argument that stands for the standard input.
pub const STDIN: &str = "-";
/// Bytes that are read to detect the type of a file without a known extension.
const HEAD: u64 = 64 << 10;
/// A folder on a disk. `/tmp` may be in memory.
const SPOOL_DIR: &str = "/var/tmp";

/// A file that can be opened and read several times.
pub struct Input {
    pub path: PathBuf,
    /// The argument, for messages.
    pub name: String,
    /// The file name for the service, without folders.
    pub file_name: String,
    /// The copy of the standard input, which exists until it is closed. `path` leads to it.
    _copy: Option<File>,
}

impl Input {
    /// Returns the input of an argument. The standard input is first read to its end into a file without a name: its
    /// size must be known, and it may have to be sent more than once.
    ///
    /// # Errors
    /// Returns an error if the standard input cannot be copied.
    pub async fn open(argument: &Path) -> io::Result<Input> {
        if argument == Path::new(STDIN) {
            return tokio::task::spawn_blocking(Input::stdin).await.map_err(io::Error::other)?;
        }
        let file_name = argument.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Input { path: argument.to_owned(), name: argument.display().to_string(), file_name, _copy: None })
    }

    fn stdin() -> io::Result<Input> {
        let stdin = io::stdin().lock();
        if stdin.is_terminal() {
            return Err(io::Error::other("the standard input is a terminal; redirect a file or a pipe to it"));
        }
        let folder = std::env::var_os("TMPDIR").unwrap_or_else(|| SPOOL_DIR.into());
        let mut copy = tempfile::tempfile_in(folder)?;
        // The service would reject a larger image.
        io::copy(&mut stdin.take(MAX_OBJECT_SIZE + 1), &mut copy)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
        let extension = detect(&path)?.and_then(|format| format.extensions().first());
        let file_name = extension.map_or_else(|| "stdin".to_owned(), |extension| format!("stdin.{extension}"));
        Ok(Input { path, name: STDIN.to_owned(), file_name, _copy: Some(copy) })
    }
}

/// Returns the format of an image by its first bytes.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn detect(path: &Path) -> io::Result<Option<Format>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    let sniffed = inspect(Known::whole(&head));
    Ok(if let Sniff::Image(info) = sniffed { Some(info.format) } else { None })
}
