//! Cutting a stream into equal parts, with one CRC64NVME pass over it.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use std::io;

use super::budget::{Buffer, Peek};
use super::digest::StreamDigest;
use crate::error::{Error, Result};
use crate::ingest::PrefixBuffer;
use crate::store::{Content, ObjectDigest, Payload};

const CRC: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

/// Fills one part after another. A part is cut only when a byte beyond it has come, so all are of one size but for the
/// last, and that is never empty unless the stream is.
#[derive(Debug)]
pub struct PartCutter {
    /// None between a part that was cut and the next one's buffer.
    filling: Option<Buffer>,
    crc: Digest,
}

impl PartCutter {
    pub fn new(first: Buffer) -> Self {
        PartCutter { filling: Some(first), crc: Digest::new(CRC) }
    }

    /// No byte fits before [`PartCutter::cut`] and [`PartCutter::refill`].
    pub fn is_full(&self) -> bool {
        self.filling.as_ref().is_none_or(|filling| filling.room() == 0)
    }

    /// Takes as many bytes off the front of `chunk` as fit.
    ///
    /// # Errors
    /// 503 `over_capacity` where the part is in a file that cannot be written.
    pub async fn fill(&mut self, chunk: &mut Bytes) -> Result<()> {
        let Some(filling) = &mut self.filling else { return Ok(()) };
        let fits = chunk.split_to(chunk.len().min(filling.room()));
        self.crc.update(&fits);
        filling.append(fits).await.map_err(full)
    }

    /// The part that was filled.
    pub fn cut(&mut self) -> Payload {
        let crc64 = std::mem::replace(&mut self.crc, Digest::new(CRC)).finalize();
        let len = self.filling.as_ref().map_or(0, |filling| filling.len() as u64);
        let content = self.filling.take().map_or(Content::Memory(Bytes::new()), Buffer::freeze);
        Payload { content, len, crc64 }
    }

    /// Gives the buffer back: of the bytes only their number and checksum are kept from now on.
    pub(super) fn into_digest(self) -> StreamDigest {
        let size = self.filling.as_ref().map_or(0, |filling| filling.len() as u64);
        StreamDigest::after(size, self.crc)
    }

    /// Where the next part goes.
    pub fn refill(&mut self, next: Buffer) {
        self.filling = Some(next);
    }
}

/// A first part is kept where it will be sent from while nobody knows yet what image it is.
impl PrefixBuffer for PartCutter {
    async fn push(&mut self, chunk: &mut Bytes) -> Result<()> {
        self.fill(chunk).await
    }

    async fn prefix(&self, limit: usize) -> Result<impl AsRef<[u8]> + Send> {
        match &self.filling {
            Some(filling) => filling.peek(limit).await.map_err(full),
            None => Ok(Peek::default()),
        }
    }
}

/// Bytes that are there already, as one object or part.
pub fn payload(bytes: Bytes) -> Payload {
    Payload { crc64: crc_fast::checksum(CRC, &bytes), len: bytes.len() as u64, content: Content::Memory(bytes) }
}

fn full(error: io::Error) -> Error {
    Error::OverCapacity(Some(error))
}

/// The whole made of parts, given in order as (bytes, CRC64NVME).
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

/// CRC64NVME's polynomial, bits reversed: the highest bit is x^0.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
const ONE: u64 = 1 << 63;

/// What a checksum becomes by bytes that follow it: it is multiplied by x^(8 × bytes), modulo the polynomial.
///
/// All parts but the last are equal, so the power is kept. `crc_fast::checksum_combine` finds it anew for each part, which
/// took 2 % of an upload.
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

/// x^(8 × bytes), by squaring.
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
        let mut share = budget.admit(expected).now_or_never().unwrap().unwrap().unwrap();
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let mut next = || clock.block_on(share.next());
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
            Content::File(_) => panic!("nothing spills here"),
        }
    }

    fn lens(total: usize) -> Vec<u64> {
        cut(&[&vec![7; total]], None).iter().map(|part| part.len).collect()
    }

    #[test]
    fn a_part_is_cut_only_when_more_follows() {
        assert_eq!(lens(0), [0]);
        assert_eq!(lens(PART - 1), [63]);
        assert_eq!(lens(PART), [64]);
        assert_eq!(lens(PART + 1), [64, 1]);
        assert_eq!(lens(2 * PART), [64, 64]);
        assert_eq!(lens(2 * PART + 1), [64, 64, 1]);
    }

    #[test]
    fn a_checksum_is_shifted_by_any_length() {
        for bytes in [1, 2, 255, 1 << 20, 5 << 20, (5 << 20) + 1, 5_000_000_000, 1 << 40] {
            let (one, other) = (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
            let joined = join([(1, one), (bytes, other)]).crc64;
            assert_eq!(joined, Some(crc_fast::checksum_combine(CRC, one, other, bytes)), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn however_it_arrives_the_parts_are_the_same(
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
                prop_assert_eq!(part.crc64, crc_fast::checksum(CRC, bytes(part)));
            }
            let whole = join(parts.iter().map(|part| (part.len, part.crc64)));
            prop_assert_eq!(whole, ObjectDigest { size: data.len() as u64, crc64: Some(crc_fast::checksum(CRC, &data)) });
        }
    }
}
