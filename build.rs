//! Extracts the two files of Swagger UI that `/docs` needs from the vendored archive, without decompressing them, and
//! determines the commit that `--version` shows.

use std::error::Error;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::Command;
use std::{env, fs};
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::{CompressionMethod, ZipArchive};

const FILES: [&str; 2] = ["swagger-ui-bundle.js", "swagger-ui.css"];
/// The header of a gzip file (RFC 1952): deflate, no file name, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=IMAGE_STORE_COMMIT={}", commit().as_deref().unwrap_or("unknown"));
    let out = env::var("OUT_DIR")?;
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    for name in FILES {
        fs::write(Path::new(&out).join(format!("{name}.gz")), gzipped(&mut archive, name)?)?;
    }
    Ok(())
}

/// Returns the commit that is built, abbreviated: the environment's `IMAGE_STORE_COMMIT`, otherwise git's.
///
/// Only release builds look for git's. Otherwise each commit would compile the package and all of its tests again.
fn commit() -> Option<String> {
    println!("cargo:rerun-if-env-changed=IMAGE_STORE_COMMIT");
    let given = env::var("IMAGE_STORE_COMMIT").ok().filter(|commit| !commit.is_empty());
    given.or_else(|| if env::var("PROFILE").is_ok_and(|profile| profile == "release") { git_commit() } else { None })
}

/// Returns the commit of the repository whose root is this package. A copy of the sources inside another repository
/// has none.
fn git_commit() -> Option<String> {
    let found = git(&["rev-parse", "--git-path", "logs/HEAD", "--show-prefix", "--short=12", "HEAD"])?;
    let [log, "", commit] = found.lines().collect::<Vec<_>>()[..] else { return None };
    // git appends to this file at every commit and checkout. cargo would always run this program if it did not exist.
    if Path::new(log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    Some(commit.to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(env::var_os("CARGO_MANIFEST_DIR")?).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}

/// Returns a file's DEFLATE stream as a gzip file, which browsers accept as `Content-Encoding: gzip`.
fn gzipped(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let path = archive.file_names().flatten().find(|path| path.ends_with(&format!("/dist/{name}")));
    let path = path.ok_or("the archive does not contain the file")?.into_owned();
    let mut file = archive.by_name_raw(path.as_bytes())?;
    assert_eq!(file.compression(), CompressionMethod::DEFLATE, "{name}");
    let mut gzip = GZIP_HEADER.to_vec();
    file.read_to_end(&mut gzip)?;
    gzip.extend(file.crc32().to_le_bytes());
    gzip.extend(u32::try_from(file.size())?.to_le_bytes());
    Ok(gzip)
}
