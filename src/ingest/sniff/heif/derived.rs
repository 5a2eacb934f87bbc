//! Derived images: the size in the data of a grid or an overlay (ISO/IEC 23008-12, 6.6.2).

use super::{FULL, child, children, u16_at, u32_at};

/// Returns the width and height of `item` if it is a grid or an overlay whose data is in the `meta` box. Encoders store
/// such short data there.
pub(super) fn size(item: u32, meta: &[u8]) -> Option<(u32, u32)> {
    // The size follows the version, the flags and the fields that are specific to the kind.
    let at = match &kind_of(item, child(meta, FULL, b"iinf")?)? {
        b"grid" => 4,
        b"iovl" => 2 + 4 * 2,
        _ => return None,
    };
    let data = child(meta, FULL, b"idat")?.get(offset_of(item, child(meta, FULL, b"iloc")?)?..)?;
    if data.get(1)? & 1 == 1 {
        Some((u32_at(data, at)?, u32_at(data, at + 4)?))
    } else {
        Some((u16_at(data, at)?.into(), u16_at(data, at + 2)?.into()))
    }
}

/// Returns an item's type from the ItemInfoBox (ISO/IEC 14496-12, 8.11.6).
fn kind_of(item: u32, iinf: &[u8]) -> Option<[u8; 4]> {
    let count = if iinf.first()? == &0 { 2 } else { 4 };
    children(iinf, FULL + count).find_map(|(_, infe)| {
        // Version 2 has 16-bit item numbers, version 3 has 32-bit ones. The protection index precedes the type.
        let (found, after) = match infe.first()? {
            2 => (u16_at(infe, 4)?.into(), 6),
            3 => (u32_at(infe, 4)?, 8),
            _ => return None,
        };
        let kind = infe.get(after + 2..)?.first_chunk().copied()?;
        (found == item).then_some(kind)
    })
}

/// Returns the offset of an item's data in `idat` from the ItemLocationBox (ISO/IEC 14496-12, 8.11.3).
fn offset_of(item: u32, iloc: &[u8]) -> Option<usize> {
    let version = *iloc.first()?;
    let [offset_size, length_size] = nibbles(*iloc.get(4)?);
    let [base_size, index_size] = nibbles(*iloc.get(5)?);
    let wide = version >= 2;
    let count = if wide { u32_at(iloc, 6)? } else { u16_at(iloc, 6)?.into() };
    let mut fields = Fields { bytes: iloc, at: if wide { 10 } else { 8 } };
    for _ in 0..count {
        let found = fields.next(if wide { 4 } else { 2 })?;
        // Method 1 means an offset in `idat`. Version 0 has file offsets only.
        let method = if version == 0 { 0 } else { fields.next(2)? & 0xf };
        let _reference = fields.next(2)?;
        let base = fields.next(base_size)?;
        let extents = usize::try_from(fields.next(2)?).ok()?;
        let index_size = if version == 0 { 0 } else { index_size };
        if found == u64::from(item) {
            if extents == 0 {
                return None;
            }
            fields.next(index_size)?;
            let offset = base.checked_add(fields.next(offset_size)?)?;
            return (method == 1).then(|| usize::try_from(offset).ok()).flatten();
        }
        // Skipped in one step, not in a loop: if all sizes are 0, a few bytes can declare any number of empty extents.
        fields.skip(extents * (index_size + offset_size + length_size))?;
    }
    None
}

fn nibbles(byte: u8) -> [usize; 2] {
    [usize::from(byte >> 4), usize::from(byte & 0xf)]
}

/// Reads consecutive big-endian numbers of given sizes.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn skip(&mut self, size: usize) -> Option<()> {
        self.at += size;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn next(&mut self, size: usize) -> Option<u64> {
        let field = self.bytes.get(self.at..self.at + size)?;
        self.at += size;
        Some(field.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an ItemLocationBox of version 2 whose `items` each declare 65,535 empty extents.
    fn empty_extents(items: u32) -> Vec<u8> {
        let mut iloc = vec![2, 0, 0, 0, 0, 0];
        iloc.extend(items.to_be_bytes());
        for item in 0..items {
            iloc.extend(item.to_be_bytes());
            iloc.extend([0, 1, 0, 0, 0xff, 0xff]);
        }
        iloc
    }

    #[test]
    fn empty_extents_are_skipped_in_one_step() {
        // One step for each extent would be more than four thousand million steps.
        let iloc = empty_extents(65_536);
        assert_eq!(offset_of(u32::MAX, &iloc), None);
        assert_eq!(offset_of(65_535, &iloc), Some(0));
    }
}
