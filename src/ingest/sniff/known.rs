//! What is at hand of an image.

use std::ops::Range;

use super::Flaw;

/// How much is asked for at least where a range behind the beginning is wanted: nearly every TIFF directory and every
/// HEIF's properties fit it.
const LOOKAHEAD: u64 = 16 << 10;

/// An image's first bytes and, where it can be read at any place, one range further on.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub(super) head: &'a [u8],
    /// Where `later` begins, behind `head`.
    later_at: u64,
    later: &'a [u8],
    /// Bytes of the whole image. None while that is not known.
    size: Option<u64>,
}

impl<'a> Known<'a> {
    /// The first bytes of an image that is still arriving.
    pub fn beginning(head: &'a [u8]) -> Self {
        Known { head, later_at: 0, later: &[], size: None }
    }

    /// All bytes of an image.
    pub fn whole(head: &'a [u8]) -> Self {
        Known { size: Some(head.len() as u64), ..Known::beginning(head) }
    }

    /// The first bytes of an image of `size` bytes, and those from `later_at` on.
    pub(super) fn of(size: u64, head: &'a [u8], later_at: u64, later: &'a [u8]) -> Self {
        Known { head, later_at, later, size: Some(size) }
    }

    /// Whether no more bytes can follow `head`.
    pub(super) fn is_whole(&self) -> bool {
        self.size.is_some_and(|size| self.head.len() as u64 >= size)
    }

    /// `len` bytes from `at` on.
    ///
    /// # Errors
    /// [`Flaw::Elsewhere`] if they are not at hand, [`Flaw::Wrong`] if the image ends before them.
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

    /// `N` bytes at `at`.
    ///
    /// # Errors
    /// As [`Known::get`].
    pub(super) fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], Flaw> {
        self.get(at, N as u64)?.first_chunk().copied().ok_or(Flaw::Wrong)
    }

    /// The range to ask for: what follows is likely to be wanted next.
    fn widened(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.max(range.start.saturating_add(LOOKAHEAD));
        range.start..self.size.map_or(end, |size| end.min(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_beginning_and_of_a_range() {
        let known = Known::of(100, b"0123", 50, b"abcd");
        assert_eq!(known.get(1, 2), Ok(&b"12"[..]));
        assert_eq!(known.get(51, 3), Ok(&b"bcd"[..]));
        assert_eq!(known.array::<4>(50), Ok(*b"abcd"));
        assert_eq!(known.get(90, 11), Err(Flaw::Wrong));
        assert_eq!(known.get(u64::MAX, 2), Err(Flaw::Wrong));
        // Up to the end, which is less than is usually asked for.
        assert_eq!(known.get(3, 2), Err(Flaw::Elsewhere(3..100)));
        assert_eq!(known.get(53, 2), Err(Flaw::Elsewhere(53..100)));
    }

    #[test]
    fn while_an_image_arrives_nothing_lies_behind_its_end() {
        let known = Known::beginning(b"0123");
        assert_eq!(known.get(9, 2), Err(Flaw::Elsewhere(9..9 + LOOKAHEAD)));
        assert!(!known.is_whole());
        assert_eq!(Known::whole(b"0123").get(3, 2), Err(Flaw::Wrong));
        assert!(Known::whole(b"0123").is_whole());
    }
}
