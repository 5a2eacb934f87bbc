//! Reads the type and dimensions of an image from its header. No image is decoded.
//!
//! The `imagesize` crate is used only to name image formats that are not supported. The headers of the supported
//! formats are parsed here because of these limits of `imagesize`: its marks are weak ("BM", "GIF8"), its JPEG parser
//! stops at stray bytes, and it requires a TIFF directory near the beginning. Of a HEIF file it returns the largest
//! extents, uncropped, and if the bytes are truncated the largest ones so far.

use std::ops::Range;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result, ScanLimit};
use crate::format::{Format, ImageInfo};
use crate::policy::Policy;

mod foreign;
mod header;
mod heif;
mod known;
mod search;
#[cfg(test)]
pub(crate) mod tests;
mod tiff;

pub use known::Known;
pub use search::Search;

/// Number of bytes that are sufficient to recognise the leading mark of every known format.
const MARK: usize = 32;

/// Number of bytes that are sufficient to decide that a file is not an image.
pub const TELLING: usize = foreign::WINDOW;

/// Limits the KiB of long prefixes that all uploads together may read into memory for sniffing.
static LONG_LOOKS: Semaphore = Semaphore::const_new(LONG_LOOKS_KIB as usize);
const LONG_LOOKS_KIB: u32 = 16 << 10;

/// Waits until `bytes` bytes of an image may be read into memory outside the budget. The bytes must be dropped before
/// the permit.
pub async fn long_look(bytes: u64) -> Option<SemaphorePermit<'static>> {
    let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, LONG_LOOKS_KIB);
    // The semaphore is never closed, so this never fails.
    LONG_LOOKS.acquire_many(kib).await.ok()
}

/// The result of inspecting the bytes that have been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// More of the first bytes are needed.
    NeedMore,
    /// The dimensions are in this range, which has not been read. More of the first bytes will include it too.
    NeedRange(Range<u64>),
    Image(ImageInfo),
    NotAnImage {
        /// The file type that was detected, if any.
        detected: Option<&'static str>,
    },
}

/// The reason why the dimensions could not be read from a header.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Flaw {
    /// The header continues after the bytes that have been read.
    Short,
    /// The header continues in this range, which has not been read.
    Elsewhere(Range<u64>),
    /// The header is invalid. More bytes would not help.
    Wrong,
}

/// Width and height, in pixels.
type Dimensions = Result<(u32, u32), Flaw>;

/// Reads the type and the dimensions of an image.
///
/// For a whole image the result is never [`Sniff::NeedMore`] or [`Sniff::NeedRange`]. Any other result stays the same
/// if more bytes are added.
pub fn inspect(known: Known) -> Sniff {
    let (head, whole) = (known.head, known.is_whole());
    if !whole && head.len() < MARK {
        return Sniff::NeedMore;
    }
    let format = match mark(head) {
        Ok(format) => format,
        Err(Flaw::Short) if !whole => return Sniff::NeedMore,
        Err(_) if !whole && head.len() < foreign::WINDOW => return Sniff::NeedMore,
        Err(_) => return Sniff::NotAnImage { detected: foreign::name(head) },
    };
    match dimensions(format, known) {
        Err(Flaw::Short) if !whole => Sniff::NeedMore,
        Err(Flaw::Elsewhere(range)) => Sniff::NeedRange(range),
        Ok((width, height)) if width > 0 && height > 0 => Sniff::Image(ImageInfo { format, width, height }),
        _ => Sniff::NotAnImage { detected: Some(format.name()) },
    }
}

/// Checks the leading bytes of an image that streams in against the policy.
///
/// Returns `None` if more bytes are needed. `whole` means that `head` is the whole image.
///
/// # Errors
/// Returns [`Error::NoFile`] if the image is empty. Returns [`Error::InvalidFileType`] if it is not an image of an
/// allowed format, or if its dimensions are not within the first [`Policy::header_scan_limit`] bytes.
pub fn check(head: &[u8], whole: bool, policy: &Policy) -> Result<Option<ImageInfo>> {
    if whole && head.is_empty() {
        return Err(Error::NoFile { fields: None });
    }
    let limit = policy.header_scan_limit;
    let (within, rest) = head.split_at(head.len().min(limit));
    let known = if whole && rest.is_empty() { Known::whole(within) } else { Known::beginning(within) };
    let beyond_limit = |range: &Range<u64>| range.start >= limit as u64;
    match inspect(known) {
        Sniff::Image(info) => policy.check_image(info).map(Some),
        Sniff::NotAnImage { detected } => Err(policy.invalid_type(detected)),
        Sniff::NeedRange(range) if beyond_limit(&range) || within.len() == limit => {
            Err(out_of_reach(within, policy, true))
        }
        Sniff::NeedMore if within.len() == limit => Err(out_of_reach(within, policy, false)),
        Sniff::NeedMore | Sniff::NeedRange(_) => reject_early(within, policy).map(|()| None),
    }
}

/// Returns the error for an image whose dimensions are beyond [`Policy::header_scan_limit`] bytes.
///
/// `elsewhere` means that the header is at a known offset. Such an image can be checked if it can be read at any
/// offset, as it can after a direct upload.
fn out_of_reach(head: &[u8], policy: &Policy, elsewhere: bool) -> Error {
    let format = mark(head).ok();
    let detected = format.map(Format::name);
    if let Err(rejected) = reject_early(head, policy) {
        return rejected;
    }
    let limit = ScanLimit { bytes: policy.header_scan_limit as u64, format: format.filter(|_| elsewhere) };
    policy.invalid_type_within(detected, limit)
}

/// Rejects an image of a disallowed format before its dimensions are known.
pub(super) fn reject_early(head: &[u8], policy: &Policy) -> Result<()> {
    match mark(head) {
        Ok(format) if head.len() >= MARK && !policy.allows_bytes(format) => {
            Err(policy.invalid_type(Some(format.name())))
        }
        _ => Ok(()),
    }
}

/// Returns the format whose mark `head` starts with.
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

fn dimensions(format: Format, known: Known) -> Dimensions {
    let head = known.head;
    match format {
        Format::Jpeg => header::jpeg(head),
        Format::Png => header::png(head),
        Format::Gif => header::gif(head),
        Format::Bmp => header::bmp(head),
        Format::Webp => header::webp(head),
        Format::Avif | Format::Heic => heif::heif(&known),
        Format::Tiff => tiff::tiff(&known),
    }
}

/// Returns `N` bytes at `at`, or [`Flaw::Short`].
fn bytes<const N: usize>(head: &[u8], at: usize) -> Result<[u8; N], Flaw> {
    let rest = head.get(at..).ok_or(Flaw::Short)?;
    rest.first_chunk().copied().ok_or(Flaw::Short)
}
