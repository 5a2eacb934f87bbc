//! What is known of a stream besides its bytes: how many they are, and their CRC64NVME.

use crc_fast::{CrcAlgorithm, Digest};

/// What became of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// CRC64NVME of the whole object.
    pub crc64: u64,
}

/// Size and CRC64NVME of a stream whose bytes are not kept.
#[derive(Debug)]
pub struct StreamDigest {
    size: u64,
    crc: Digest,
}

impl Default for StreamDigest {
    fn default() -> Self {
        StreamDigest::after(0, Digest::new(CrcAlgorithm::Crc64Nvme))
    }
}

impl StreamDigest {
    /// Goes on after `size` bytes that are in `crc` already.
    pub(super) fn after(size: u64, crc: Digest) -> Self {
        StreamDigest { size, crc }
    }

    pub fn update(&mut self, chunk: &[u8]) {
        self.size += chunk.len() as u64;
        self.crc.update(chunk);
    }

    pub fn finish(self) -> Stored {
        Stored { size: self.size, crc64: self.crc.finalize() }
    }
}
