//! The formats with their dimensions at a fixed offset (PNG, BMP, WebP), and the two that are walked from one block to
//! the next (GIF and JPEG).

use super::{Dimensions, Flaw, bytes};

/// Reads the dimensions from IHDR, which is the first chunk (PNG, third edition, 5.3 and 11.2.1).
pub(super) fn png(head: &[u8]) -> Dimensions {
    let first: [u8; 8] = bytes(head, 8)?;
    if &first != b"\0\0\0\x0dIHDR" {
        return Err(Flaw::Wrong);
    }
    Ok((u32::from_be_bytes(bytes(head, 16)?), u32::from_be_bytes(bytes(head, 20)?)))
}

/// Returns the larger of the logical screen and the first frame, in each direction (GIF89a 18, 20).
///
/// Some encoders write a screen that is smaller than the image. Decoders show the whole image and allocate memory for
/// the frame.
pub(super) fn gif(head: &[u8]) -> Dimensions {
    let [width, height] = [gif_number(head, 6)?, gif_number(head, 8)?];
    let [flags] = bytes(head, 10)?;
    let mut at = 13 + gif_colors(flags);
    loop {
        let [introducer] = bytes(head, at)?;
        at = match introducer {
            // An image: its position on the screen, then its width and height.
            b',' => {
                let right = gif_number(head, at + 1)? + gif_number(head, at + 5)?;
                let bottom = gif_number(head, at + 3)? + gif_number(head, at + 7)?;
                return Ok((width.max(right), height.max(bottom)));
            }
            // An extension: its label, then data blocks up to an empty one.
            b'!' => gif_blocks(head, at + 2)?,
            // The trailer before any image.
            b';' => return Err(Flaw::Wrong),
            // Stray bytes, for example an extra empty block. Decoders continue at the next introducer.
            _ => at + 1,
        };
    }
}

fn gif_number(head: &[u8], at: usize) -> Result<u32, Flaw> {
    bytes(head, at).map(|number| u16::from_le_bytes(number).into())
}

/// Returns the size in bytes of the colour table that the screen's flags declare.
fn gif_colors(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Returns the offset after a sequence of data blocks (GIF89a 15, 16).
fn gif_blocks(head: &[u8], mut at: usize) -> Result<usize, Flaw> {
    loop {
        let [size] = bytes(head, at)?;
        at += 1 + usize::from(size);
        if size == 0 {
            return Ok(at);
        }
    }
}

/// Returns the size of a bitmap's second header if it is a known one. The mark "BM" alone would match any text that
/// begins with it.
///
/// 12 is OS/2 1.x, 40 is Windows 3, 52 and 56 are Windows 3 with masks, 108 and 124 are Windows 4 and 5. OS/2 2.x may
/// omit any fields after the first 16 of its 64 bytes. These are the sizes that Chromium and Firefox accept.
pub(super) fn bitmap_header_size(head: &[u8]) -> Option<u32> {
    let size = u32::from_le_bytes(bytes(head, 14).ok()?);
    let known = match size {
        12 | 42 | 46 | 108 | 124 => true,
        16..=64 => size % 4 == 0,
        _ => false,
    };
    known.then_some(size)
}

/// Reads the dimensions. OS/2 1.x (12 bytes) has 16-bit numbers. The others have signed 32-bit numbers; a negative
/// height means that the rows are stored from top to bottom.
pub(super) fn bmp(head: &[u8]) -> Dimensions {
    if bitmap_header_size(head) == Some(12) {
        return Ok((u16::from_le_bytes(bytes(head, 18)?).into(), u16::from_le_bytes(bytes(head, 20)?).into()));
    }
    let width = i32::from_le_bytes(bytes(head, 18)?);
    let height = i32::from_le_bytes(bytes(head, 22)?);
    Ok((u32::try_from(width).map_err(|_| Flaw::Wrong)?, height.unsigned_abs()))
}

/// Reads the dimensions of a lossy, lossless or extended file (RFC 9649 2.5 to 2.7).
pub(super) fn webp(head: &[u8]) -> Dimensions {
    let kind: [u8; 4] = bytes(head, 12)?;
    match &kind {
        b"VP8 " => webp_lossy(head),
        b"VP8L" => webp_lossless(head),
        b"VP8X" => Ok((1 + u24(bytes(head, 24)?), 1 + u24(bytes(head, 27)?))),
        _ => Err(Flaw::Wrong),
    }
}

/// Reads the dimensions after the start code of a key frame: 14 bits each, with the scaling in the upper bits (RFC 6386
/// 9.1).
fn webp_lossy(head: &[u8]) -> Dimensions {
    if bytes(head, 23)? != [0x9d, 0x01, 0x2a] {
        return Err(Flaw::Wrong);
    }
    let (width, height) = (u16::from_le_bytes(bytes(head, 26)?), u16::from_le_bytes(bytes(head, 28)?));
    Ok((u32::from(width & 0x3fff), u32::from(height & 0x3fff)))
}

/// Reads the dimensions after the signature: 14 bits each, minus one (RFC 9649 3.4).
fn webp_lossless(head: &[u8]) -> Dimensions {
    if bytes(head, 20)? != [0x2f] {
        return Err(Flaw::Wrong);
    }
    let packed = u32::from_le_bytes(bytes(head, 21)?);
    Ok((1 + (packed & 0x3fff), 1 + (packed >> 14 & 0x3fff)))
}

fn u24([low, middle, high]: [u8; 3]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0])
}

/// Walks the segments up to the frame header (ITU T.81 B.1.1, B.2.2).
///
/// Some cameras and editors write stray bytes between segments, or lengths that are slightly wrong. libjpeg, and
/// therefore every browser, continues at the next marker (`jdmarker.c`, `next_marker`). This function does the same.
pub(super) fn jpeg(head: &[u8]) -> Dimensions {
    let mut at = 2;
    loop {
        let (marker, after) = jpeg_marker(head, at)?;
        at = match marker {
            // TEM and RSTn stand alone.
            0x01 | 0xd0..=0xd7 => after,
            // DHT, JPG and DAC are in the same range as the frame headers.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => return jpeg_frame(head, after),
            // SOI, EOI or SOS before any frame header.
            0xd8..=0xda => return Err(Flaw::Wrong),
            // A length includes its own two bytes. A wrong length may be smaller.
            _ => after + jpeg_length(head, after)?.max(2),
        };
    }
}

/// Returns the next marker at or after `at`, and the offset after it.
///
/// A marker may be preceded by any number of 0xff and by stray bytes: any bytes other than 0xff, and 0xff followed by
/// the zero that escapes it in entropy-coded data.
fn jpeg_marker(head: &[u8], mut at: usize) -> Result<(u8, usize), Flaw> {
    loop {
        let rest = head.get(at..).ok_or(Flaw::Short)?;
        let fill = memchr::memchr(0xff, rest).ok_or(Flaw::Short)?;
        let code = fill + rest[fill..].iter().position(|byte| *byte != 0xff).ok_or(Flaw::Short)?;
        let [marker] = bytes(rest, code)?;
        at += code + 1;
        if marker != 0 {
            return Ok((marker, at));
        }
    }
}

/// Returns the length of the segment at `at`.
fn jpeg_length(head: &[u8], at: usize) -> Result<usize, Flaw> {
    bytes(head, at).map(|length| usize::from(u16::from_be_bytes(length)))
}

/// Reads a frame header: length, precision, height, width. The height is 0 if a DNL segment defines it; such an image
/// is rejected.
fn jpeg_frame(head: &[u8], at: usize) -> Dimensions {
    // In a segment that is shorter than its fields, the bytes read would belong to the next segment.
    if jpeg_length(head, at)? < 8 {
        return Err(Flaw::Wrong);
    }
    let (height, width) = (u16::from_be_bytes(bytes(head, at + 3)?), u16::from_be_bytes(bytes(head, at + 5)?));
    Ok((width.into(), height.into()))
}
