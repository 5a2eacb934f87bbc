//! TIFF 6.0 and BigTIFF.

use super::known::Known;
use super::{Dimensions, Flaw};

const IMAGE_WIDTH: u16 = 256;
const IMAGE_LENGTH: u16 = 257;

/// Maximum number of entries in a directory: the maximum count of a TIFF 6.0 directory.
const MAX_ENTRIES: u64 = 65_535;

/// Returns ImageWidth and ImageLength of the first directory (TIFF 6.0, section 2).
///
/// The directory may be anywhere in the file. libtiff and ImageMagick write it at the end.
pub(super) fn tiff(known: &Known) -> Dimensions {
    let file = File { known, layout: Layout::of(known)? };
    let (directory, count_size) = file.directory()?;
    let count = file.number(directory, count_size)?;
    if count > MAX_ENTRIES {
        return Err(Flaw::Wrong);
    }
    let (mut width, mut length) = (None, None);
    let first = directory.checked_add(count_size).ok_or(Flaw::Wrong)?;
    for index in 0..count {
        let at = first.checked_add(index * file.layout.entry).ok_or(Flaw::Wrong)?;
        match file.number(at, 2)? as u16 {
            IMAGE_WIDTH => width = Some(file.value(at)?),
            IMAGE_LENGTH => length = Some(file.value(at)?),
            _ => {}
        }
        if let (Some(width), Some(length)) = (width, length) {
            return Ok((width, length));
        }
    }
    Err(Flaw::Wrong)
}

/// The byte order and the field sizes of a file.
#[derive(Clone, Copy)]
struct Layout {
    big_endian: bool,
    big: bool,
    /// Size of a directory entry in bytes.
    entry: u64,
}

impl Layout {
    fn of(known: &Known) -> Result<Self, Flaw> {
        let [order, _, one, other] = known.array(0)?;
        let big = [one, other].contains(&43);
        Ok(Layout { big_endian: order == b'M', big, entry: if big { 20 } else { 12 } })
    }
}

struct File<'a> {
    known: &'a Known<'a>,
    layout: Layout,
}

impl File<'_> {
    /// Returns the offset of the first directory, and the size of its count in bytes.
    fn directory(&self) -> Result<(u64, u64), Flaw> {
        if self.layout.big { Ok((self.number(8, 8)?, 8)) } else { Ok((self.number(4, 4)?, 2)) }
    }

    /// Returns the single value of the entry at `at`. A tag, a type and a count precede it.
    fn value(&self, at: u64) -> Result<u32, Flaw> {
        // BYTE, SHORT, LONG, LONG8.
        let size = match self.number(at + 2, 2)? {
            1 => 1,
            3 => 2,
            4 => 4,
            16 if self.layout.big => 8,
            _ => return Err(Flaw::Wrong),
        };
        let value = self.number(at + if self.layout.big { 12 } else { 8 }, size)?;
        u32::try_from(value).map_err(|_| Flaw::Wrong)
    }

    /// Reads a number of `size` bytes at `at` in the file's byte order.
    fn number(&self, at: u64, size: u64) -> Result<u64, Flaw> {
        let field = self.known.get(at, size)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Ok(if self.layout.big_endian { field.iter().fold(0, add) } else { field.iter().rev().fold(0, add) })
    }
}
