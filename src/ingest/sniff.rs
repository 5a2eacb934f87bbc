//! Type and dimensions from an image's own header. Nothing is decoded.
//!
//! The `imagesize` crate names foreign images. The headers are read here: its marks are weak ("BM", "GIF8"), its JPEG walk
//! stops at stray bytes, it wants a TIFF's directory near the beginning, and of a HEIF file it takes the largest extents,
//! uncropped, and those it has seen so far if the bytes are cut off.

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

/// Bytes after which the leading mark of every known format can be told.
const MARK: usize = 32;

/// Bytes after which what is no image shows that it is none.
pub const TELLING: usize = foreign::WINDOW;

/// KiB of long beginnings that may be read into memory at once to be looked at, of all uploads together.
static LONG_LOOKS: Semaphore = Semaphore::const_new(LONG_LOOKS_KIB as usize);
const LONG_LOOKS_KIB: u32 = 16 << 10;

/// Waits until `bytes` bytes of an image may be read into memory beside the budget. They may be kept as long as the permit.
pub(super) async fn long_look(bytes: u64) -> Option<SemaphorePermit<'static>> {
    let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, LONG_LOOKS_KIB);
    // Never closed, so never an error.
    LONG_LOOKS.acquire_many(kib).await.ok()
}

/// What the bytes at hand show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// Nothing yet: ask again with more of the beginning.
    NeedMore,
    /// The dimensions stand in this range, which is not at hand. Reading on brings it as well.
    NeedRange(Range<u64>),
    Image(ImageInfo),
    NotAnImage {
        /// What the bytes look like, if they look like anything.
        detected: Option<&'static str>,
    },
}

/// Why a header has no dimensions to give.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Flaw {
    /// It goes on after the bytes at hand.
    Short,
    /// It goes on in this range, which is not at hand.
    Elsewhere(Range<u64>),
    /// No more bytes would help.
    Wrong,
}

/// Width and height, in pixels.
type Dimensions = Result<(u32, u32), Flaw>;

/// Reads the type and the dimensions of an image.
///
/// Of a whole image the answer is never [`Sniff::NeedMore`] or [`Sniff::NeedRange`]. Once the answer is another, it stays
/// the same however many bytes are added.
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
/// `None` asks for more of them; `whole` says that there are none.
///
/// # Errors
/// [`Error::NoFile`] for no bytes at all; [`Error::InvalidFileType`] for what is no image of an allowed format, and for one
/// whose header has not shown its dimensions within [`Policy::header_scan_limit`] bytes, whatever follows.
pub fn check(head: &[u8], whole: bool, policy: &Policy) -> Result<Option<ImageInfo>> {
    if whole && head.is_empty() {
        return Err(Error::NoFile { fields: None });
    }
    let limit = policy.header_scan_limit;
    let (within, rest) = head.split_at(head.len().min(limit));
    let known = if whole && rest.is_empty() { Known::whole(within) } else { Known::beginning(within) };
    let behind = |range: &Range<u64>| range.start >= limit as u64;
    match inspect(known) {
        Sniff::Image(info) => policy.check_image(info).map(Some),
        Sniff::NotAnImage { detected } => Err(policy.invalid_type(detected)),
        Sniff::NeedRange(range) if behind(&range) || within.len() == limit => Err(out_of_reach(within, policy, true)),
        Sniff::NeedMore if within.len() == limit => Err(out_of_reach(within, policy, false)),
        Sniff::NeedMore | Sniff::NeedRange(_) => refuse_early(within, policy).map(|()| None),
    }
}

/// The error for an image that needs more than [`Policy::header_scan_limit`] bytes of it to be read. One whose header lies
/// at a place that is known can be checked where it can be read at any place.
fn out_of_reach(head: &[u8], policy: &Policy, elsewhere: bool) -> Error {
    let format = mark(head).ok();
    let detected = format.map(Format::name);
    if let Err(refused) = refuse_early(head, policy) {
        return refused;
    }
    let limit = ScanLimit { bytes: policy.header_scan_limit as u64, format: format.filter(|_| elsewhere) };
    policy.invalid_type_within(detected, limit)
}

/// A format that is not allowed need not show its dimensions first.
fn refuse_early(head: &[u8], policy: &Policy) -> Result<()> {
    match mark(head) {
        Ok(format) if head.len() >= MARK && !policy.allows_bytes(format) => {
            Err(policy.invalid_type(Some(format.name())))
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

/// `N` bytes at `at`, or [`Flaw::Short`].
fn bytes<const N: usize>(head: &[u8], at: usize) -> Result<[u8; N], Flaw> {
    let rest = head.get(at..).ok_or(Flaw::Short)?;
    rest.first_chunk().copied().ok_or(Flaw::Short)
}
