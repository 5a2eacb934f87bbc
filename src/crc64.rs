//! CRC64NVME, the checksum of whole objects in S3, and its texts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, Digest};

const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;
const LABEL: &str = "crc64nvme:";

/// Starts the checksum of bytes that arrive in pieces.
pub fn digest() -> Digest {
    Digest::new(ALGORITHM)
}

pub fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(ALGORITHM, bytes)
}

/// Returns the checksum of some bytes followed by `len` others, from the checksums of both.
pub fn combine(first: u64, second: u64, len: u64) -> u64 {
    crc_fast::checksum_combine(ALGORITHM, first, second, len)
}

/// Encodes a checksum as S3 does: its eight bytes in big-endian order, in base64.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>
pub fn to_base64(crc64: u64) -> String {
    STANDARD.encode(crc64.to_be_bytes())
}

pub fn from_base64(text: &str) -> Option<u64> {
    Some(u64::from_be_bytes(STANDARD.decode(text).ok()?.try_into().ok()?))
}

/// Returns the text of a checksum in the service's answers: `crc64nvme:` and its base64.
pub fn labelled(crc64: u64) -> String {
    format!("{LABEL}{}", to_base64(crc64))
}

/// Returns the checksum in such a text.
pub fn from_labelled(text: &str) -> Option<u64> {
    from_base64(text.strip_prefix(LABEL)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_round_trips_through_base64() {
        // The CRC catalogue's check value of "123456789".
        assert_eq!(to_base64(0xae8b_1486_0a79_9888), "rosUhgp5mIg=");
        assert_eq!(from_base64("rosUhgp5mIg="), Some(0xae8b_1486_0a79_9888));
        assert_eq!(from_labelled(&labelled(7)), Some(7));
        assert_eq!(from_labelled("rosUhgp5mIg="), None);
        for wrong in ["", "rosUhgp5mIg", "rosUhgp5mIg=-2", "AAAA"] {
            assert_eq!(from_base64(wrong), None, "{wrong}");
        }
    }
}
