//! Checks that a file is still the one that an earlier run sent, by its content in the store and not by its
//! modification time.

use hex::FromHex;
use md5::{Digest, Md5};
use std::io::{self, SeekFrom};
use std::path::Path;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::api::{Image, Part};
use super::error::RequestError;
use super::job::Job;
use super::report::Failure;
use crate::crc64;

/// Bytes per read.
const CHUNK: usize = 256 << 10;

/// Compares the parts that have arrived with the file. Parts whose ETag does not look like an MD5 cannot be compared.
///
/// # Errors
/// Returns an error if a part differs from the file.
pub async fn parts(job: &Job<'_>, parts: &[Part]) -> Result<(), Failure> {
    let mut sorted: Vec<&Part> = parts.iter().collect();
    sorted.sort_unstable_by_key(|part| part.part_number);
    let mut offset = 0;
    for part in sorted {
        if let Some(stored) = part.etag.as_deref().and_then(md5_of)
            && stored != md5(job.path, offset, part.size).await.map_err(RequestError::File)?
        {
            return Err(other_file(&format!("part {} in the store differs from this file", part.part_number)));
        }
        offset += part.size;
    }
    Ok(())
}

/// Compares the stored image with the file, if the store keeps a checksum.
///
/// # Errors
/// Returns an error if the image differs from the file.
pub async fn image(job: &Job<'_>, image: &Image) -> Result<(), Failure> {
    let Some(stored) = image.get("checksum").and_then(|checksum| checksum.as_str()) else { return Ok(()) };
    if stored == checksum(job.path, job.size).await.map_err(RequestError::File)? {
        return Ok(());
    }
    let key = image.get("s3_key").and_then(|key| key.as_str()).unwrap_or_default();
    Err(other_file(&format!("the image that this upload stored ({key}) differs from this file")))
}

fn other_file(what: &str) -> Failure {
    let advice = "the file was changed, or --resume has the status_url of another file; upload it without --resume";
    Failure::new("other_file", format!("{what}: {advice}"))
}

/// Returns the MD5 in an ETag. Only with KMS encryption can an ETag look like an MD5 without being one.
fn md5_of(etag: &str) -> Option<[u8; 16]> {
    <[u8; 16]>::from_hex(etag.trim_matches('"')).ok()
}

async fn md5(path: &Path, offset: u64, size: u64) -> io::Result<[u8; 16]> {
    let mut md5 = Md5::new();
    read(path, offset, size, |bytes| md5.update(bytes)).await?;
    Ok(md5.finalize().into())
}

/// Returns the checksum as the service formats it.
async fn checksum(path: &Path, size: u64) -> io::Result<String> {
    let mut crc = crc64::digest();
    read(path, 0, size, |bytes| crc.update(bytes)).await?;
    Ok(crc64::labelled(crc.finalize()))
}

async fn read(path: &Path, offset: u64, size: u64, mut use_bytes: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut rest = file.take(size);
    let mut buffer = vec![0; CHUNK];
    loop {
        match rest.read(&mut buffer).await? {
            0 => return Ok(()),
            count => use_bytes(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn md5_is_parsed_from_etag() {
        let md5 = Some(0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e_u128.to_be_bytes());
        assert_eq!(md5_of("\"d41d8cd98f00b204e9800998ecf8427e\""), md5);
        assert_eq!(md5_of("D41D8CD98F00B204E9800998ECF8427E"), md5);
        for other in ["\"d41d8cd98f00b204e9800998ecf8427e-2\"", "", "\"+41d8cd98f00b204e9800998ecf8427e\"", "\"etag\""]
        {
            assert_eq!(md5_of(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn digests_cover_the_requested_range() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'x'; CHUNK + 10]).unwrap();
        file.write_all(b"abc").unwrap();
        let found = md5(file.path(), CHUNK as u64 + 10, 3).await.unwrap();
        assert_eq!(u128::from_be_bytes(found), 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72);
        let text = checksum(file.path(), CHUNK as u64 + 10).await.unwrap();
        assert_eq!(text, crc64::labelled(crc64::checksum(&[b'x'; CHUNK + 10])));
    }
}
