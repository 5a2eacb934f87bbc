//! Writes request bodies to the disk and verifies their checksums.

use futures::StreamExt;
use http::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Sha1, Sha256};
use s3s::dto::{Checksum, ChecksumAlgorithm, PutObjectInput, StreamingBlob};
use s3s::{S3Error, S3Result, StdError, TrailingHeaders, s3_error};
use std::sync::Arc;

use super::disk::{Disk, failed};
use super::file::{Content, Digests, Draft};
use crate::error::Error;

const TRAILER: &str = "x-amz-trailer";
const ALGORITHMS: [&str; 5] = [
    ChecksumAlgorithm::CRC32,
    ChecksumAlgorithm::CRC32C,
    ChecksumAlgorithm::CRC64NVME,
    ChecksumAlgorithm::SHA1,
    ChecksumAlgorithm::SHA256,
];

/// The length and the checksums that a request declares for its body.
pub(super) struct Declared {
    /// Bytes.
    length: Option<i64>,
    md5: Option<String>,
    algorithm: Option<ChecksumAlgorithm>,
    checksums: Checksum,
    /// Names of the headers that follow the body.
    trailer: String,
    trailing: Option<TrailingHeaders>,
}

impl Declared {
    pub(super) fn new(input: &mut PutObjectInput, headers: &HeaderMap, trailing: Option<TrailingHeaders>) -> Declared {
        Declared {
            length: input.content_length,
            md5: input.content_md5.take(),
            algorithm: input.checksum_algorithm.take(),
            checksums: Checksum {
                checksum_crc32: input.checksum_crc32.take(),
                checksum_crc32c: input.checksum_crc32c.take(),
                checksum_crc64nvme: input.checksum_crc64nvme.take(),
                checksum_sha1: input.checksum_sha1.take(),
                checksum_sha256: input.checksum_sha256.take(),
                ..Default::default()
            },
            trailer: trailer(headers),
            trailing,
        }
    }

    fn names(&self, algorithm: &str) -> bool {
        let named = self.algorithm.as_ref().is_some_and(|named| named.as_str() == algorithm);
        let header = header(algorithm);
        let trails = self.trailer.split(',').any(|name| name.trim().eq_ignore_ascii_case(&header));
        named || trails || value(&self.checksums, algorithm).is_some()
    }

    /// Checks that a part has no checksum, or one of the algorithm with which its upload was created.
    ///
    /// # Errors
    /// Returns `InvalidRequest` if the algorithm differs.
    pub(super) fn check_algorithm(&self, of_upload: Option<&str>) -> S3Result<()> {
        if ALGORITHMS.iter().any(|algorithm| Some(*algorithm) != of_upload && self.names(algorithm)) {
            return Err(s3_error!(InvalidRequest, "The upload was created with another checksum algorithm"));
        }
        Ok(())
    }

    /// Returns a hasher for the algorithms whose checksums are in the headers or will follow the body. CRC64NVME is
    /// always computed elsewhere.
    fn hasher(&self) -> ChecksumHasher {
        ChecksumHasher {
            crc32: self.names(ChecksumAlgorithm::CRC32).then(Crc32::new),
            crc32c: self.names(ChecksumAlgorithm::CRC32C).then(Crc32c::new),
            sha1: self.names(ChecksumAlgorithm::SHA1).then(Sha1::new),
            sha256: self.names(ChecksumAlgorithm::SHA256).then(Sha256::new),
            crc64nvme: None,
        }
    }

    /// Compares the body that was received with the declared length and checksums.
    ///
    /// # Errors
    /// Returns `IncompleteBody` or `BadDigest`.
    fn check(&self, digests: &Digests) -> S3Result<()> {
        if self.length.is_some_and(|length| u64::try_from(length) != Ok(digests.size)) {
            return Err(s3_error!(IncompleteBody));
        }
        if self.md5.as_ref().is_some_and(|md5| *md5 != digests.md5_base64()) {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received"));
        }
        let trailing = self.trailing.as_ref().and_then(TrailingHeaders::take).unwrap_or_default();
        for algorithm in ALGORITHMS {
            let trailer = trailing.get(header(algorithm)).and_then(|value| value.to_str().ok());
            let sent = value(&self.checksums, algorithm).or(trailer);
            if sent.is_some() && sent != value(&digests.checksums, algorithm) {
                return Err(s3_error!(BadDigest, "The {algorithm} you specified did not match what we received"));
            }
        }
        Ok(())
    }
}

fn header(algorithm: &str) -> String {
    format!("x-amz-checksum-{}", algorithm.to_ascii_lowercase())
}

fn value<'a>(checksums: &'a Checksum, algorithm: &str) -> Option<&'a str> {
    let checksum = match algorithm {
        ChecksumAlgorithm::CRC32 => &checksums.checksum_crc32,
        ChecksumAlgorithm::CRC32C => &checksums.checksum_crc32c,
        ChecksumAlgorithm::CRC64NVME => &checksums.checksum_crc64nvme,
        ChecksumAlgorithm::SHA1 => &checksums.checksum_sha1,
        ChecksumAlgorithm::SHA256 => &checksums.checksum_sha256,
        _ => &None,
    };
    checksum.as_deref()
}

fn trailer(headers: &HeaderMap) -> String {
    headers.get(TRAILER).and_then(|names| names.to_str().ok()).unwrap_or_default().to_owned()
}

/// Runs blocking work on a thread for blocking work. It runs to its end even if its request is dropped.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> S3Result<T> + Send + 'static) -> S3Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(S3Error::internal_error)?
}

/// Writes a body to a temporary file and checks it. If the request is dropped before the end, the file is removed.
pub(super) async fn receive(
    disk: &Arc<Disk>,
    body: Option<StreamingBlob>,
    declared: Declared,
) -> S3Result<(Digests, Content)> {
    let (disk, hasher) = (Arc::clone(disk), declared.hasher());
    let mut draft = blocking(move || Draft::new(disk.tmp(), hasher).map_err(failed)).await?;
    if let Some(mut body) = body {
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(body_error)?;
            draft = blocking(move || draft.write(&chunk).map(|()| draft).map_err(failed)).await?;
        }
    }
    let (digests, content) = draft.end();
    declared.check(&digests)?;
    Ok((digests, content))
}

/// Returns the S3 error for a body that could not be read to its end.
fn body_error(error: StdError) -> S3Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = source {
        if matches!(error.downcast_ref(), Some(Error::ClientTooSlow { .. } | Error::BelowMinRate { .. })) {
            return s3_error!(RequestTimeout);
        }
        source = error.source();
    }
    S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error)
}
