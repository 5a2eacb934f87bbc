//! Cuts a stream into equal parts and computes their CRC64NVME checksums in the same pass.

use bytes::Bytes;
use crc_fast::Digest;
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::{Buffer, Peek};
use super::digest::StreamDigest;
use crate::crc64;
use crate::error::{Error, Result};
use crate::ingest::PrefixBuffer;
use crate::store::{Content, ObjectDigest, Payload};

/// Fills one part after another.
///
/// A part is cut only when a byte beyond it has arrived. So all parts except the last have the same size, and the last
/// one is empty only if the stream is empty.
#[derive(Debug)]
pub struct PartCutter {
    /// `None` after a part was cut, until [`PartCutter::refill`] provides the next buffer.
    filling: Option<Buffer>,
    crc: Digest,
}

impl PartCutter {
    pub fn new(first: Buffer) -> Self {
        PartCutter { filling: Some(first), crc: crc64::digest() }
    }

    /// Whether the part is full: the next byte requires [`PartCutter::cut`] and [`PartCutter::refill`] first.
    pub fn is_full(&self) -> bool {
        self.filling.as_ref().is_none_or(|filling| filling.remaining() == 0)
    }

    /// Returns the number of bytes in the part that is being filled.
    pub fn len(&self) -> usize {
        self.filling.as_ref().map_or(0, Buffer::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the CRC64NVME of the bytes in the part that is being filled.
    pub fn crc64(&self) -> u64 {
        self.crc.finalize()
    }

    /// Moves as many bytes from the front of `chunk` into the part as fit.
    ///
    /// # Errors
    /// Returns [`Error::OverCapacity`] (503 `over_capacity`) if the part is in a file that cannot be written.
    pub async fn fill(&mut self, chunk: &mut Bytes) -> Result<()> {
        let Some(filling) = &mut self.filling else { return Ok(()) };
        let fits = chunk.split_to(chunk.len().min(filling.remaining()));
        filling.append(fits.clone()).await.map_err(over_capacity)?;
        // Not before: what was not written does not belong to the part, which may be kept nevertheless.
        self.crc.update(&fits);
        Ok(())
    }

    /// Moves the part to a file if its client is slow and memory is scarce. To be called repeatedly while the client is
    /// waited for ([`memory_checks`](super::budget::memory_checks)).
    ///
    /// # Errors
    /// Returns [`Error::OverCapacity`] (503 `over_capacity`) if the part was lost.
    pub async fn leave_scarce_memory(&mut self) -> Result<()> {
        match &mut self.filling {
            Some(filling) => filling.leave_scarce_memory().await.map_err(over_capacity),
            None => Ok(()),
        }
    }

    /// Returns the part that was filled.
    pub fn cut(&mut self) -> Payload {
        let crc64 = std::mem::replace(&mut self.crc, crc64::digest()).finalize();
        let len = self.len() as u64;
        let content = self.filling.take().map_or(Content::Memory(Bytes::new()), Buffer::freeze);
        Payload { content, len, crc64 }
    }

    /// Releases the buffer. Of the bytes only their number and checksum are kept.
    pub(super) fn into_digest(self) -> StreamDigest {
        StreamDigest::after(self.len() as u64, self.crc)
    }

    /// Provides the buffer for the next part.
    pub fn refill(&mut self, next: Buffer) {
        self.filling = Some(next);
    }
}

/// The prefix of an image is collected in the buffer of its first part, which is sent once the format is known.
impl PrefixBuffer for PartCutter {
    async fn push(&mut self, chunk: &mut Bytes) -> Result<()> {
        self.fill(chunk).await
    }

    async fn prefix(&self, limit: usize) -> Result<impl AsRef<[u8]> + Send> {
        match &self.filling {
            Some(filling) => filling.peek(limit).await.map_err(over_capacity),
            None => Ok(Peek::default()),
        }
    }
}

/// Waits for the turn of a part in a file, which needs disk space while it waits, and a connection and its buffers while it
/// is sent. A part in memory is sent immediately.
pub async fn file_turn(files: &Arc<Semaphore>, part: &Payload) -> Option<OwnedSemaphorePermit> {
    match part.content {
        Content::Memory(_) => None,
        Content::File(_) => Arc::clone(files).acquire_owned().await.ok(),
    }
}

/// Returns bytes in memory as the payload of one object or part.
pub fn payload(bytes: Bytes) -> Payload {
    Payload { crc64: crc64::checksum(&bytes), len: bytes.len() as u64, content: Content::Memory(bytes) }
}

fn over_capacity(error: io::Error) -> Error {
    Error::OverCapacity(Some(error))
}

/// Returns the digest of the object that consists of these parts, given in order as (bytes, CRC64NVME).
pub fn join(parts: impl IntoIterator<Item = (u64, u64)>) -> ObjectDigest {
    let mut shift = Shift::default();
    let (size, crc) =
        parts.into_iter().fold(
            (0, 0),
            |(size, crc), (len, next)| {
                if size == 0 { (len, next) } else { (size + len, shift.by(len, crc) ^ next) }
            },
        );
    ObjectDigest { size, crc64: Some(crc) }
}

/// The polynomial of CRC64NVME with its bits reversed: the highest bit is x^0.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
const ONE: u64 = 1 << 63;

/// Shifts a checksum by the bytes that follow it: multiplies it by x^(8 × bytes), modulo the polynomial.
///
/// All parts except the last have the same size, so the power is cached. [`crc64::combine`] computes it again
/// for each part, which took 2 % of an upload.
#[derive(Default)]
struct Shift {
    bytes: u64,
    power: u64,
}

impl Shift {
    fn by(&mut self, bytes: u64, crc: u64) -> u64 {
        if bytes != self.bytes {
            *self = Shift { bytes, power: power(bytes) };
        }
        multiply(crc, self.power)
    }
}

/// Computes x^(8 × bytes) by squaring.
fn power(mut bytes: u64) -> u64 {
    let (mut power, mut square) = (ONE, ONE >> 8);
    while bytes > 0 {
        if bytes & 1 == 1 {
            power = multiply(power, square);
        }
        square = multiply(square, square);
        bytes >>= 1;
    }
    power
}

fn multiply(one: u64, mut other: u64) -> u64 {
    let mut product = 0;
    for bit in (0..64).rev() {
        if one >> bit & 1 == 1 {
            product ^= other;
        }
        other = (other >> 1) ^ (POLYNOMIAL * (other & 1));
    }
    product
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    const PART: usize = 64;

    fn cut(chunks: &[&[u8]], expected: Option<u64>) -> Vec<Payload> {
        let budget = Budget::new(1 << 20, None, PART, 100);
        let mut reservation = budget.admit(expected).now_or_never().unwrap().unwrap().unwrap();
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let mut next = || clock.block_on(reservation.next());
        let mut cutter = PartCutter::new(next());
        let mut parts = Vec::new();
        for chunk in chunks {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while !chunk.is_empty() {
                if cutter.is_full() {
                    parts.push(cutter.cut());
                    cutter.refill(next());
                }
                cutter.fill(&mut chunk).now_or_never().unwrap().unwrap();
            }
        }
        parts.push(cutter.cut());
        parts
    }

    fn bytes(part: &Payload) -> &[u8] {
        match &part.content {
            Content::Memory(bytes) => bytes,
            Content::File(_) => panic!("there is no spill folder in this test"),
        }
    }

    fn lens(total: usize) -> Vec<u64> {
        cut(&[&vec![7; total]], None).iter().map(|part| part.len).collect()
    }

    #[test]
    fn part_is_cut_only_if_more_bytes_follow() {
        assert_eq!(lens(0), [0]);
        assert_eq!(lens(PART - 1), [63]);
        assert_eq!(lens(PART), [64]);
        assert_eq!(lens(PART + 1), [64, 1]);
        assert_eq!(lens(2 * PART), [64, 64]);
        assert_eq!(lens(2 * PART + 1), [64, 64, 1]);
    }

    #[test]
    fn joined_checksum_equals_checksum_combine() {
        for bytes in [1, 2, 255, 1 << 20, 5 << 20, (5 << 20) + 1, 5_000_000_000, 1 << 40] {
            let (one, other) = (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
            let joined = join([(1, one), (bytes, other)]).crc64;
            assert_eq!(joined, Some(crc64::combine(one, other, bytes)), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn parts_do_not_depend_on_chunk_sizes(
            data in prop::collection::vec(any::<u8>(), 0..1000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            expected in prop::option::of(0..2000_u64),
        ) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
            at.extend([0, data.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect();
            let parts = cut(&chunks, expected);

            let joined: Vec<u8> = parts.iter().flat_map(|part| bytes(part).to_vec()).collect();
            prop_assert_eq!(&joined, &data);
            let (_, all_but_last) = parts.split_last().unwrap();
            prop_assert!(all_but_last.iter().all(|part| part.len == PART as u64));
            for part in &parts {
                prop_assert_eq!(part.crc64, crc64::checksum(bytes(part)));
            }
            let whole = join(parts.iter().map(|part| (part.len, part.crc64)));
            prop_assert_eq!(whole, ObjectDigest { size: data.len() as u64, crc64: Some(crc64::checksum(&data)) });
        }
    }
}
