//! Finds the end of a part's data: CRLF, two hyphens and the boundary (RFC 2046, 5.1.1).

use bytes::{Buf, Bytes};
use memchr::memmem::Finder;

/// Searches data that arrives in chunks for the delimiter after it.
///
/// CR is the first byte of the delimiter and occurs nowhere else in it, because a boundary cannot contain CR. So only
/// the last CR of a chunk can begin an incomplete delimiter. If it turns out not to, no other delimiter began in that
/// chunk.
pub(super) struct Delimiter {
    bytes: Bytes,
    finder: Finder<'static>,
    /// Number of the delimiter's bytes with which the input so far ends.
    matched: usize,
    /// Number of these bytes that precede the data. They are not data even if they turn out not to begin a delimiter.
    before: usize,
}

pub(super) const LINE_END: &str = "\r\n";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes before the delimiter, never empty.
    Data(Bytes),
    /// The delimiter itself.
    End,
}

impl Delimiter {
    pub(super) fn new(boundary: &str) -> Self {
        let bytes = Bytes::from(format!("{LINE_END}--{boundary}"));
        Delimiter { finder: Finder::new(&bytes).into_owned(), bytes, matched: 0, before: 0 }
    }

    /// Marks the beginning of a part's data, after the empty line that ends its headers.
    ///
    /// In a part without data, the CRLF of that line is the beginning of the delimiter (RFC 2046, 5.1.1, `body-part`).
    pub(super) fn start(&mut self) {
        self.matched = LINE_END.len();
        self.before = LINE_END.len();
    }

    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Returns the delimiter without its CRLF: the two hyphens and the boundary.
    pub(super) fn boundary_line(&self) -> Bytes {
        self.bytes.slice(LINE_END.len()..)
    }

    /// Removes the next piece from the front of `chunk`. Returns `None` if the chunk is used up and another one is
    /// needed.
    pub(super) fn split(&mut self, chunk: &mut Bytes) -> Option<Piece> {
        if self.matched > 0
            && let Some(result) = self.continue_match(chunk)
        {
            return result;
        }
        let data = match self.finder.find(chunk) {
            Some(0) => {
                chunk.advance(self.bytes.len());
                return Some(Piece::End);
            }
            Some(at) => chunk.split_to(at),
            None => self.hold_back(chunk),
        };
        (!data.is_empty()).then_some(Piece::Data(data))
    }

    /// Returns the chunk without the bytes at its end that may begin a delimiter.
    fn hold_back(&mut self, chunk: &mut Bytes) -> Bytes {
        let mut data = std::mem::take(chunk);
        let longest = data.len().saturating_sub(self.bytes.len() - 1);
        if let Some(last) = memchr::memrchr(b'\r', &data[longest..])
            && self.bytes.starts_with(&data[longest + last..])
        {
            self.matched = data.split_off(longest + last).len();
        }
        data
    }

    /// Continues an incomplete match. Returns `None` if it was no delimiter and the matched bytes are not data.
    fn continue_match(&mut self, chunk: &mut Bytes) -> Option<Option<Piece>> {
        let missing = &self.bytes[self.matched..];
        let same = missing.iter().zip(chunk.iter()).take_while(|(one, other)| one == other).count();
        let is_whole = same == missing.len();
        if !is_whole && same == chunk.len() {
            chunk.clear();
            self.matched += same;
            return Some(None);
        }
        let held = std::mem::take(&mut self.before)..std::mem::take(&mut self.matched);
        if is_whole {
            chunk.advance(same);
            return Some(Some(Piece::End));
        }
        (!held.is_empty()).then(|| Some(Piece::Data(self.bytes.slice(held))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the data before the first delimiter and the bytes after it, searched chunk by chunk.
    fn searched(chunks: impl Iterator<Item = Bytes>) -> (Vec<u8>, Option<Vec<u8>>) {
        search(Delimiter::new("XX"), chunks)
    }

    fn search(mut delimiter: Delimiter, chunks: impl Iterator<Item = Bytes>) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut data, mut after) = (Vec::new(), None::<Vec<u8>>);
        for mut chunk in chunks {
            while after.is_none() {
                match delimiter.split(&mut chunk) {
                    Some(Piece::Data(piece)) => {
                        assert!(!piece.is_empty());
                        data.extend_from_slice(&piece);
                    }
                    Some(Piece::End) => after = Some(Vec::new()),
                    None => break,
                }
            }
            after.iter_mut().for_each(|after| after.extend_from_slice(&chunk));
        }
        (data, after)
    }

    #[test]
    fn data_is_neither_copied_nor_cut_without_a_delimiter() {
        let chunk = Bytes::from_static(b"data\r\n--X and more\r\n");
        let mut rest = chunk.clone();
        let Some(Piece::Data(data)) = Delimiter::new("XX").split(&mut rest) else { panic!("no data") };
        assert_eq!((data.as_ptr(), data.len()), (chunk.as_ptr(), chunk.len() - 2));
        assert!(rest.is_empty());
    }

    #[test]
    fn incomplete_delimiter_is_data() {
        for text in ["\r\r\n--XX-", "\r\n--X\r\n--XX-", "a\r\n\r\n--\r\r\n--XX-", "\r\n--XX-"] {
            let (end, after) = (text.len() - 7, Some(b"-".to_vec()));
            for size in 1..=text.len() {
                let chunks = text.as_bytes().chunks(size).map(Bytes::copy_from_slice);
                assert_eq!(searched(chunks), (text.as_bytes()[..end].to_vec(), after.clone()), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn delimiter_may_begin_with_the_line_end_before_the_data() {
        for (text, data, after) in [
            ("--XX-", "", Some("-")),
            ("--X-\r\n--XX", "--X-", Some("")),
            ("-\r\n--XX", "-", Some("")),
            ("\r\n--XX", "", Some("")),
            ("a--XX", "a--XX", None),
            ("\n--XX", "\n--XX", None),
            ("----XX\r\n--XX.", "----XX", Some(".")),
        ] {
            for size in 1..=text.len() {
                let mut delimiter = Delimiter::new("XX");
                delimiter.start();
                let found = search(delimiter, text.as_bytes().chunks(size).map(Bytes::copy_from_slice));
                let expected = (data.as_bytes().to_vec(), after.map(|text| text.as_bytes().to_vec()));
                assert_eq!(found, expected, "{text:?} by {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn first_delimiter_is_found_for_any_chunk_sizes(
            text in prop::collection::vec(prop::sample::select(&["\r", "\n", "-", "X", "\r\n--X", "a"]), 0..60),
            sizes in prop::collection::vec(1..9_usize, 1..9),
        ) {
            let whole = Bytes::from(text.concat());
            let (mut rest, mut sizes) = (whole.clone(), sizes.into_iter().cycle());
            let chunks = std::iter::from_fn(|| {
                let size = sizes.next()?.min(rest.len());
                (size > 0).then(|| rest.split_to(size))
            });
            let (data, after) = searched(chunks);
            match whole.windows(6).position(|window| window == b"\r\n--XX") {
                Some(at) => {
                    prop_assert_eq!(&data, &whole[..at]);
                    prop_assert_eq!(after.as_deref(), Some(&whole[at + 6..]));
                }
                // Bytes that may begin a delimiter are held back.
                None => {
                    prop_assert!(after.is_none() && whole.starts_with(&data));
                    prop_assert!(b"\r\n--X".starts_with(&whole[data.len()..]));
                }
            }
        }
    }
}
