//! The bytes of an image that have been read so far.

use std::ops::Range;

use super::Flaw;

/// Minimum length of a requested range. Nearly every TIFF directory and the properties of nearly every HEIF file fit
/// into it.
const LOOKAHEAD: u64 = 16 << 10;

/// An image's first bytes and, if the image can be read at any offset, one later range.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub(super) head: &'a [u8],
    /// Offset of `later`, which begins after `head`.
    later_at: u64,
    later: &'a [u8],
    /// Size of the whole image in bytes. `None` while it is not known.
    size: Option<u64>,
}

impl<'a> Known<'a> {
    /// Creates a view of the first bytes of an image that is still arriving.
    pub fn beginning(head: &'a [u8]) -> Self {
        Known { head, later_at: 0, later: &[], size: None }
    }

    /// Creates a view of all bytes of an image.
    pub fn whole(head: &'a [u8]) -> Self {
        Known { size: Some(head.len() as u64), ..Known::beginning(head) }
    }

    /// Creates a view of the first bytes of an image of `size` bytes, and of the bytes from offset `later_at`.
    pub(super) fn of(size: u64, head: &'a [u8], later_at: u64, later: &'a [u8]) -> Self {
        Known { head, later_at, later, size: Some(size) }
    }

    /// Whether no more bytes can follow `head`.
    pub(super) fn is_whole(&self) -> bool {
        self.size.is_some_and(|size| self.head.len() as u64 >= size)
    }

    /// Returns `len` bytes at offset `at`.
    ///
    /// # Errors
    /// Returns [`Flaw::Elsewhere`] if they have not been read, and [`Flaw::Wrong`] if they are beyond the end of the
    /// image.
    pub(super) fn get(&self, at: u64, len: u64) -> Result<&'a [u8], Flaw> {
        let end = at.checked_add(len).ok_or(Flaw::Wrong)?;
        if self.size.is_some_and(|size| end > size) {
            return Err(Flaw::Wrong);
        }
        let inside = |bytes: &'a [u8], from: u64| {
            let from = usize::try_from(at.checked_sub(from)?).ok()?;
            bytes.get(from..from.checked_add(usize::try_from(len).ok()?)?)
        };
        let found = inside(self.head, 0).or_else(|| inside(self.later, self.later_at));
        found.ok_or_else(|| Flaw::Elsewhere(self.widened(at..end)))
    }

    /// Returns `N` bytes at offset `at`.
    ///
    /// # Errors
    /// Returns the same errors as [`Known::get`].
    pub(super) fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], Flaw> {
        self.get(at, N as u64)?.first_chunk().copied().ok_or(Flaw::Wrong)
    }

    /// Returns the range to request. It is longer than needed now, because the following bytes are likely to be needed
    /// next.
    fn widened(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.max(range.start.saturating_add(LOOKAHEAD));
        range.start..self.size.map_or(end, |size| end.min(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_finds_bytes_in_head_and_later_range() {
        let known = Known::of(100, b"0123", 50, b"abcd");
        assert_eq!(known.get(1, 2), Ok(&b"12"[..]));
        assert_eq!(known.get(51, 3), Ok(&b"bcd"[..]));
        assert_eq!(known.array::<4>(50), Ok(*b"abcd"));
        assert_eq!(known.get(90, 11), Err(Flaw::Wrong));
        assert_eq!(known.get(u64::MAX, 2), Err(Flaw::Wrong));
        // The requested range ends at the end of the image, although it is shorter than LOOKAHEAD.
        assert_eq!(known.get(3, 2), Err(Flaw::Elsewhere(3..100)));
        assert_eq!(known.get(53, 2), Err(Flaw::Elsewhere(53..100)));
    }

    #[test]
    fn get_requests_more_while_the_size_is_unknown() {
        let known = Known::beginning(b"0123");
        assert_eq!(known.get(9, 2), Err(Flaw::Elsewhere(9..9 + LOOKAHEAD)));
        assert!(!known.is_whole());
        assert_eq!(Known::whole(b"0123").get(3, 2), Err(Flaw::Wrong));
        assert!(Known::whole(b"0123").is_whole());
    }
}
