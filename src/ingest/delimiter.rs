//! Where a part's data ends: at CRLF, two hyphens and the boundary (RFC 2046, 5.1.1).

use bytes::{Buf, Bytes};
use memchr::memmem::Finder;

/// Searches data that comes in chunks for the delimiter behind it.
///
/// CR is the delimiter's first byte and none of its others: no boundary has one. So of what a chunk ends with only its last
/// CR can begin a delimiter, and where that turns out to be none, no other began in it.
pub(super) struct Delimiter {
    bytes: Bytes,
    finder: Finder<'static>,
    /// How many bytes of it the chunks so far end with, those before them included.
    matched: usize,
    /// How many of these came before the data: they are no data if they turn out to be none of the delimiter's.
    before: usize,
}

pub(super) const LINE_END: &str = "\r\n";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes in front of the delimiter, never none of them.
    Data(Bytes),
    /// The delimiter itself.
    End,
}

impl Delimiter {
    pub(super) fn new(boundary: &str) -> Self {
        let bytes = Bytes::from(format!("{LINE_END}--{boundary}"));
        Delimiter { finder: Finder::new(&bytes).into_owned(), bytes, matched: 0, before: 0 }
    }

    /// A part's data begin here, behind the empty line that ends its headers. A part without data ends with that line: its
    /// end is the delimiter's own (RFC 2046, 5.1.1, `body-part`).
    pub(super) fn start(&mut self) {
        self.matched = LINE_END.len();
        self.before = LINE_END.len();
    }

    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// As it stands at the start of a line: the two hyphens and the boundary.
    pub(super) fn boundary_line(&self) -> &[u8] {
        &self.bytes[LINE_END.len()..]
    }

    /// Takes the next piece off the front of `chunk`; none where all of that was taken and tells no more.
    pub(super) fn split(&mut self, chunk: &mut Bytes) -> Option<Piece> {
        if self.matched > 0
            && let Some(decided) = self.go_on(chunk)
        {
            return decided;
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

    /// The chunk without what may be a delimiter's beginning.
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

    /// Goes on with what is matched already. `None` if it was none of the delimiter's, and no data either.
    fn go_on(&mut self, chunk: &mut Bytes) -> Option<Option<Piece>> {
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

    /// The data in front of the first delimiter and what follows it, searched chunk by chunk.
    fn searched(chunks: impl Iterator<Item = Bytes>) -> (Vec<u8>, Option<Vec<u8>>) {
        search(Delimiter::new("XX"), chunks)
    }

    fn search(mut delimiter: Delimiter, chunks: impl Iterator<Item = Bytes>) -> (Vec<u8>, Option<Vec<u8>>) {
        let (mut data, mut behind) = (Vec::new(), None::<Vec<u8>>);
        for mut chunk in chunks {
            while behind.is_none() {
                match delimiter.split(&mut chunk) {
                    Some(Piece::Data(piece)) => {
                        assert!(!piece.is_empty());
                        data.extend_from_slice(&piece);
                    }
                    Some(Piece::End) => behind = Some(Vec::new()),
                    None => break,
                }
            }
            behind.iter_mut().for_each(|behind| behind.extend_from_slice(&chunk));
        }
        (data, behind)
    }

    #[test]
    fn data_is_not_copied_and_not_cut_where_nothing_ends_it() {
        let chunk = Bytes::from_static(b"data\r\n--X and more\r\n");
        let mut rest = chunk.clone();
        let Some(Piece::Data(data)) = Delimiter::new("XX").split(&mut rest) else { panic!("no data") };
        assert_eq!((data.as_ptr(), data.len()), (chunk.as_ptr(), chunk.len() - 2));
        assert!(rest.is_empty());
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_data() {
        for text in ["\r\r\n--XX-", "\r\n--X\r\n--XX-", "a\r\n\r\n--\r\r\n--XX-", "\r\n--XX-"] {
            let (end, behind) = (text.len() - 7, Some(b"-".to_vec()));
            for size in 1..=text.len() {
                let chunks = text.as_bytes().chunks(size).map(Bytes::copy_from_slice);
                assert_eq!(searched(chunks), (text.as_bytes()[..end].to_vec(), behind.clone()), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn the_line_before_the_data_may_be_its_beginning() {
        for (text, data, behind) in [
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
                let wanted = (data.as_bytes().to_vec(), behind.map(|text| text.as_bytes().to_vec()));
                assert_eq!(found, wanted, "{text:?} by {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_first_one_is_found_however_it_is_cut(
            text in prop::collection::vec(prop::sample::select(&["\r", "\n", "-", "X", "\r\n--X", "a"]), 0..60),
            sizes in prop::collection::vec(1..9_usize, 1..9),
        ) {
            let whole = Bytes::from(text.concat());
            let (mut rest, mut sizes) = (whole.clone(), sizes.into_iter().cycle());
            let chunks = std::iter::from_fn(|| {
                let size = sizes.next()?.min(rest.len());
                (size > 0).then(|| rest.split_to(size))
            });
            let (data, behind) = searched(chunks);
            match whole.windows(6).position(|window| window == b"\r\n--XX") {
                Some(at) => {
                    prop_assert_eq!(&data, &whole[..at]);
                    prop_assert_eq!(behind.as_deref(), Some(&whole[at + 6..]));
                }
                // What could still become one is not handed on.
                None => {
                    prop_assert!(behind.is_none() && whole.starts_with(&data));
                    prop_assert!(b"\r\n--X".starts_with(&whole[data.len()..]));
                }
            }
        }
    }
}
