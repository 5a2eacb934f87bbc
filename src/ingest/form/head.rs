//! Prepares the bytes before a part's data for multer: a boundary, the rest of its line, and the headers.
//!
//! multer rejects folded headers, which continue in a line that begins with a space or a tab (RFC 5322, 2.2.3). Clients
//! that are based on mail libraries send them. So headers are collected up to the empty line that ends them, and each is
//! unfolded into a single line. The preamble before the first boundary is skipped, because multer would search all of it
//! again whenever more of it arrives.

use bytes::Bytes;
use memchr::memmem;

use super::super::delimiter::LINE_END;
use crate::error::Error;

/// Maximum size of a part's headers, in bytes.
pub(super) const HEADER_LIMIT: usize = 16 * 1024;

/// Maximum number of bytes before multer must have found a part's headers. It includes the boundary line.
pub(in crate::ingest) const HEAD_LIMIT: usize = HEADER_LIMIT + 1024;

const EMPTY_LINE: &str = "\r\n\r\n";

/// Cuts the input into slices for multer. None of them continues after the empty line that ends a part's headers.
pub(super) struct HeadCutter {
    /// Two hyphens and the boundary.
    boundary: Bytes,
    stage: Stage,
    /// The bytes of this stage so far.
    held: Vec<u8>,
}

/// What comes next in the input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The bytes up to the first boundary.
    Preamble,
    /// The line after a boundary. It is passed on as it arrives, because the last one need not end.
    BoundaryLine,
    Headers,
}

impl HeadCutter {
    pub(super) fn new(boundary: Bytes) -> Self {
        HeadCutter { boundary, stage: Stage::Preamble, held: Vec::new() }
    }

    /// Reports that multer gets a boundary from elsewhere.
    pub(super) fn skip_boundary(&mut self) {
        self.enter(Stage::BoundaryLine, "");
    }

    fn enter(&mut self, stage: Stage, held: &str) {
        (self.stage, self.held) = (stage, held.into());
    }

    /// Returns the next slice for multer, which may be empty, and the number of bytes of `input` that are used up.
    pub(super) fn cut(&mut self, input: &[u8]) -> (Bytes, usize) {
        let end = match self.stage {
            Stage::Preamble => hold(&mut self.held, input, &self.boundary),
            Stage::BoundaryLine => hold(&mut self.held, input, LINE_END.as_bytes()),
            Stage::Headers => hold(&mut self.held, input, EMPTY_LINE.as_bytes()),
        };
        let used = end.unwrap_or(input.len());
        let slice = match (self.stage, end) {
            (Stage::BoundaryLine, _) => Bytes::copy_from_slice(&input[..used]),
            (Stage::Preamble, Some(_)) => self.boundary.clone(),
            (Stage::Headers, Some(_)) => unfold(&self.held).into(),
            (_, None) => Bytes::new(),
        };
        match (self.stage, end) {
            (Stage::Preamble, Some(_)) => self.enter(Stage::BoundaryLine, ""),
            (Stage::BoundaryLine, Some(_)) => self.enter(Stage::Headers, LINE_END),
            _ => {}
        }
        (slice, used)
    }

    /// Returns the error for an input in which multer has not found a part's headers within [`HEAD_LIMIT`] bytes.
    pub(super) fn too_long(&self) -> Error {
        Error::MalformedForm(match self.stage {
            Stage::Preamble => format!("{} within its first {HEAD_LIMIT} bytes", self.no_boundary()),
            _ => format!("the headers of a part do not end within {HEADER_LIMIT} bytes"),
        })
    }

    /// Returns the error for a body that ends here and does not contain the boundary. `None` if the body may only have
    /// been cut off.
    pub(super) fn missing_boundary(&self) -> Option<Error> {
        let is_missing = self.stage == Stage::Preamble && !self.boundary.starts_with(&self.held);
        is_missing.then(|| Error::MalformedForm(self.no_boundary()))
    }

    fn no_boundary(&self) -> String {
        let line = String::from_utf8_lossy(&self.boundary);
        format!("the boundary in the Content-Type does not occur in the body ('{line}')")
    }
}

/// Appends `input` to `held`, up to and including the first `pattern` in them. Returns the number of bytes of `input` up
/// to there, or `None` if the pattern has not ended yet.
fn hold(held: &mut Vec<u8>, input: &[u8], pattern: &[u8]) -> Option<usize> {
    let before = held.len();
    held.extend_from_slice(input);
    let start = before.saturating_sub(pattern.len() - 1);
    let end = start + memmem::find(&held[start..], pattern)? + pattern.len();
    held.truncate(end);
    Some(end - before)
}

/// Returns the headers, each in a single line. `lines` begins with the end of the boundary line.
fn unfold(lines: &[u8]) -> Vec<u8> {
    let line_end = LINE_END.as_bytes();
    let mut rest = &lines[line_end.len()..];
    if rest == line_end {
        // There are no headers. multer searches for two line ends after that of the boundary line.
        return lines.to_vec();
    }
    let mut unfolded = Vec::with_capacity(rest.len());
    while let Some(at) = memmem::find(rest, line_end) {
        unfolded.extend_from_slice(&rest[..at]);
        rest = &rest[at + line_end.len()..];
        let header_continues = matches!(rest.first(), Some(b' ' | b'\t'));
        unfolded.extend_from_slice(if header_continues { b"" } else { line_end });
    }
    unfolded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_in_the_preamble_do_not_split_it() {
        let preamble = "\r\n".repeat(8_000);
        let mut head = HeadCutter::new(Bytes::from_static(b"--XX"));
        let input = preamble.clone() + "--XX\r\nContent-Disposition: form-data; name=file\r\n\r\n";
        assert_eq!(head.cut(input.as_bytes()), (Bytes::from_static(b"--XX"), preamble.len() + 4));
    }
}
