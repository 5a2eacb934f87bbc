//! Extracts the two files of Swagger UI that `/docs` needs from the vendored archive, without decompressing them.

use std::error::Error;
use std::io::{Cursor, Read};
use std::path::Path;
use std::{env, fs};
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::{CompressionMethod, ZipArchive};

const FILES: [&str; 2] = ["swagger-ui-bundle.js", "swagger-ui.css"];
/// The header of a gzip file (RFC 1952): deflate, no file name, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR")?;
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    for name in FILES {
        fs::write(Path::new(&out).join(format!("{name}.gz")), gzipped(&mut archive, name)?)?;
    }
    Ok(())
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
