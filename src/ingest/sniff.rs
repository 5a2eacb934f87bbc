//! Type and dimensions from an image's leading bytes. Nothing is decoded.
//!
//! The `imagesize` crate reads TIFF directories and names foreign images. The other headers are read here: its marks are
//! weak ("BM", "GIF8"), its JPEG walk stops at fill bytes, and of a HEIF file it takes the largest extents, uncropped, and
//! those it has seen so far where the bytes are cut off.

use crate::error::{Error, Result};
use crate::format::{Format, ImageInfo};
use crate::policy::Policy;

mod foreign;
mod header;
mod heif;
#[cfg(test)]
pub(crate) mod tests;
mod tiff;

/// Bytes after which the leading mark of every known format can be told.
const MARK: usize = 32;

/// What leading bytes show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// Nothing yet: ask again with more bytes.
    NeedMore,
    Image(ImageInfo),
    NotAnImage {
        /// What the bytes look like, where they look like anything.
        detected: Option<&'static str>,
    },
}

/// Why a header has no dimensions to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// It goes on after the bytes at hand.
    Short,
    /// No more bytes would help.
    Wrong,
}

/// Width and height, in pixels.
type Dimensions = Result<(u32, u32), Flaw>;

/// Reads the type and the dimensions of an image that starts with `head`.
///
/// `whole` says that no more bytes come; the answer is then never [`Sniff::NeedMore`]. Once the answer is another, it
/// stays the same however many bytes are added.
pub fn inspect(head: &[u8], whole: bool) -> Sniff {
    if !whole && head.len() < MARK {
        return Sniff::NeedMore;
    }
    let format = match mark(head) {
        Ok(format) => format,
        Err(Flaw::Short) if !whole => return Sniff::NeedMore,
        Err(_) if !whole && head.len() < foreign::WINDOW => return Sniff::NeedMore,
        Err(_) => return Sniff::NotAnImage { detected: foreign::name(head) },
    };
    match dimensions(format, head) {
        Err(Flaw::Short) if !whole => Sniff::NeedMore,
        Ok((width, height)) if width > 0 && height > 0 => Sniff::Image(ImageInfo { format, width, height }),
        _ => Sniff::NotAnImage { detected: Some(format.name()) },
    }
}

/// Checks leading bytes against the policy: the one rule for every door.
///
/// `None` asks for more of them. An object of no bytes is [`Error::NoFile`]; one whose header has not shown its
/// dimensions within [`Policy::header_scan_limit`] bytes is [`Error::InvalidFileType`], whatever follows.
pub fn check(head: &[u8], whole: bool, policy: &Policy) -> Result<Option<ImageInfo>> {
    if whole && head.is_empty() {
        return Err(Error::NoFile);
    }
    let limit = policy.header_scan_limit;
    let last = whole || head.len() >= limit;
    let head = head.get(..limit).unwrap_or(head);
    match inspect(head, last) {
        Sniff::Image(info) => policy.check_image(info).map(Some),
        Sniff::NotAnImage { detected } => Err(Error::InvalidFileType { detected }),
        Sniff::NeedMore => refuse_early(head, policy).map(|()| None),
    }
}

/// A format that is not taken need not show its dimensions first.
fn refuse_early(head: &[u8], policy: &Policy) -> Result<()> {
    match mark(head) {
        Ok(format) if head.len() >= MARK && !policy.allows(format) => {
            Err(Error::InvalidFileType { detected: Some(format.name()) })
        }
        _ => Ok(()),
    }
}

/// The format whose mark `head` starts with.
fn mark(head: &[u8]) -> Result<Format, Flaw> {
    let simple = match head {
        [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Format::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::Webp),
        // 42 is TIFF, 43 BigTIFF.
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Format::Tiff),
        [b'B', b'M', ..] if header::bitmap_header_size(head).is_some() => Some(Format::Bmp),
        _ => None,
    };
    simple.map_or_else(|| heif::brand(head), Ok)
}

fn dimensions(format: Format, head: &[u8]) -> Dimensions {
    match format {
        Format::Jpeg => header::jpeg(head),
        Format::Png => header::png(head),
        Format::Gif => header::gif(head),
        Format::Bmp => header::bmp(head),
        Format::Webp => header::webp(head),
        Format::Avif | Format::Heic => heif::heif(head),
        Format::Tiff => tiff::tiff(head),
    }
}

/// `N` bytes at `at`, or [`Flaw::Short`].
fn bytes<const N: usize>(head: &[u8], at: usize) -> Result<[u8; N], Flaw> {
    let rest = head.get(at..).ok_or(Flaw::Short)?;
    rest.first_chunk().copied().ok_or(Flaw::Short)
}
