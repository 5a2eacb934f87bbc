//! TIFF 6.0 and BigTIFF.

use super::{Dimensions, Flaw, bytes};

/// The first directory's ImageWidth and ImageLength (TIFF 6.0, section 2).
///
/// `imagesize` reads them, once the directory is there in full: it calls a cut-off one invalid.
pub(super) fn tiff(head: &[u8]) -> Dimensions {
    let (directory, count, entry) = match number(head, 2, 2)? {
        42 => (number(head, 4, 4)?, 2, 12),
        _ => (number(head, 8, 8)?, 8, 20),
    };
    let entries = number(head, directory, count)?.checked_mul(entry).ok_or(Flaw::Wrong)?;
    let end = directory.checked_add(count).and_then(|start| start.checked_add(entries)).ok_or(Flaw::Wrong)?;
    let size = imagesize::blob_size(head.get(..end).ok_or(Flaw::Short)?).map_err(|_| Flaw::Wrong)?;
    let side = |side| u32::try_from(side).map_err(|_| Flaw::Wrong);
    Ok((side(size.width)?, side(size.height)?))
}

/// `size` bytes at `at` in the file's own order.
fn number(head: &[u8], at: usize, size: usize) -> Result<usize, Flaw> {
    let end = at.checked_add(size).ok_or(Flaw::Wrong)?;
    let field = head.get(at..end).ok_or(Flaw::Short)?;
    let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    let big_endian = bytes(head, 0)? == *b"MM";
    let value = if big_endian { field.iter().fold(0, add) } else { field.iter().rev().fold(0, add) };
    usize::try_from(value).map_err(|_| Flaw::Wrong)
}
