//! The size and the CRC64NVME of a stream.

use crc_fast::Digest;

use crate::crc64;

/// A stored upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Size in bytes.
    pub size: u64,
    /// CRC64NVME of the whole object.
    pub crc64: u64,
}

/// Computes the size and the CRC64NVME of a stream whose bytes are not stored.
#[derive(Debug)]
pub struct StreamDigest {
    size: u64,
    crc: Digest,
}

impl Default for StreamDigest {
    fn default() -> Self {
        StreamDigest::after(0, crc64::digest())
    }
}

impl StreamDigest {
    /// Continues after `size` bytes that `crc` already includes.
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
