//! Cutting a stream into equal parts, with one CRC64NVME pass over it. Pure: no I/O.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use std::sync::Arc;

use super::buffers::{Buffer, Buffers};
use crate::store::{Payload, Whole};

const CRC: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;

/// Fills one part after another. All are of the pool's size but for the last, which is never empty unless the stream is:
/// a part is handed out only when a byte beyond it has come.
#[derive(Debug)]
pub struct PartCutter {
    buffers: Arc<Buffers>,
    filling: Buffer,
    crc: Digest,
    left: Option<u64>,
}

impl PartCutter {
    /// `expected` is an upper bound of the stream's length in bytes, where one is known.
    pub fn new(buffers: Arc<Buffers>, expected: Option<u64>) -> Self {
        let filling = buffers.take(expected);
        PartCutter { buffers, filling, crc: Digest::new(CRC), left: expected }
    }

    /// Takes bytes off the front of `chunk`; a full part where `chunk` goes on beyond it. Call until `chunk` is empty.
    pub fn push(&mut self, chunk: &mut Bytes) -> Option<Payload> {
        let full = if self.filling.room() == 0 && !chunk.is_empty() { Some(self.cut()) } else { None };
        let fits = chunk.split_to(chunk.len().min(self.filling.room()));
        self.crc.update(&fits);
        self.filling.extend(&fits);
        full
    }

    /// The last part: what no full part has taken.
    pub fn finish(mut self) -> Payload {
        let filling = std::mem::replace(&mut self.filling, self.buffers.take(Some(0)));
        seal(filling, &self.crc)
    }

    fn cut(&mut self) -> Payload {
        self.left = self.left.map(|left| left.saturating_sub(self.filling.len() as u64));
        let full = std::mem::replace(&mut self.filling, self.buffers.take(self.left));
        let crc = std::mem::replace(&mut self.crc, Digest::new(CRC));
        seal(full, &crc)
    }
}

fn seal(buffer: Buffer, crc: &Digest) -> Payload {
    let len = buffer.len() as u64;
    Payload { segments: vec![buffer.freeze()], len, crc64: crc.finalize() }
}

/// The whole made of parts, given in order as (bytes, CRC64NVME).
pub fn join(parts: impl IntoIterator<Item = (u64, u64)>) -> Whole {
    let (size, crc) = parts.into_iter().fold((0, 0), |(size, crc), (len, next)| {
        if size == 0 { (len, next) } else { (size + len, crc_fast::checksum_combine(CRC, crc, next, len)) }
    });
    Whole { size, crc64: Some(crc) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PART: usize = 64;

    fn cut(chunks: &[&[u8]], expected: Option<u64>) -> Vec<Payload> {
        let mut cutter = PartCutter::new(Buffers::new(PART, 4), expected);
        let mut parts = Vec::new();
        for chunk in chunks {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while !chunk.is_empty() {
                parts.extend(cutter.push(&mut chunk));
            }
        }
        parts.push(cutter.finish());
        parts
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

            let joined: Vec<u8> = parts.iter().flat_map(|part| part.segments.iter().flatten().copied()).collect();
            prop_assert_eq!(&joined, &data);
            let (_, all_but_last) = parts.split_last().unwrap();
            prop_assert!(all_but_last.iter().all(|part| part.len == PART as u64));
            for part in &parts {
                prop_assert_eq!(part.crc64, crc_fast::checksum(CRC, &part.segments.concat()));
            }
            let whole = join(parts.iter().map(|part| (part.len, part.crc64)));
            prop_assert_eq!(whole, Whole { size: data.len() as u64, crc64: Some(crc_fast::checksum(CRC, &data)) });
        }
    }
}
