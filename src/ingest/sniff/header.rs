//! The formats whose dimensions stand at a fixed place, and the two that are walked from one block to the next: GIF and JPEG.

use super::{Dimensions, Flaw, bytes};

/// PNG (third edition) 5.3 and 11.2.1: IHDR comes first.
pub(super) fn png(head: &[u8]) -> Dimensions {
    let first: [u8; 8] = bytes(head, 8)?;
    if &first != b"\0\0\0\x0dIHDR" {
        return Err(Flaw::Wrong);
    }
    Ok((u32::from_be_bytes(bytes(head, 16)?), u32::from_be_bytes(bytes(head, 20)?)))
}

/// The larger of the logical screen and the first frame, in each direction (GIF89a 18, 20).
///
/// Encoders write screens that are smaller than their image, and decoders show it whole: they allocate what the frame needs.
pub(super) fn gif(head: &[u8]) -> Dimensions {
    let [width, height] = [gif_number(head, 6)?, gif_number(head, 8)?];
    let [flags] = bytes(head, 10)?;
    let mut at = 13 + gif_colors(flags);
    loop {
        let [introducer] = bytes(head, at)?;
        at = match introducer {
            // An image: its place on the screen, its sides.
            b',' => {
                let right = gif_number(head, at + 1)? + gif_number(head, at + 5)?;
                let bottom = gif_number(head, at + 3)? + gif_number(head, at + 7)?;
                return Ok((width.max(right), height.max(bottom)));
            }
            // An extension: its label, then blocks up to an empty one.
            b'!' => gif_blocks(head, at + 2)?,
            // The end, before any image.
            b';' => return Err(Flaw::Wrong),
            // Stray bytes, an empty block too many: decoders go on at the next introducer.
            _ => at + 1,
        };
    }
}

fn gif_number(head: &[u8], at: usize) -> Result<u32, Flaw> {
    bytes(head, at).map(|number| u16::from_le_bytes(number).into())
}

/// Bytes of the colour table that flags of a screen announce.
fn gif_colors(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Behind a run of data blocks (GIF89a 15, 16).
fn gif_blocks(head: &[u8], mut at: usize) -> Result<usize, Flaw> {
    loop {
        let [size] = bytes(head, at)?;
        at += 1 + usize::from(size);
        if size == 0 {
            return Ok(at);
        }
    }
}

/// The size of a bitmap's second header, if it is one there is: "BM" alone would take any text that starts so.
///
/// 12 is OS/2 1.x, 40 Windows 3, 52 and 56 that with masks, 108 and 124 Windows 4 and 5. OS/2 2.x may leave off any fields
/// behind the first 16 bytes of its 64: these are the lengths that Chromium and Firefox take.
pub(super) fn bitmap_header_size(head: &[u8]) -> Option<u32> {
    let size = u32::from_le_bytes(bytes(head, 14).ok()?);
    let known = match size {
        12 | 42 | 46 | 108 | 124 => true,
        16..=64 => size % 4 == 0,
        _ => false,
    };
    known.then_some(size)
}

/// OS/2 1.x (12 bytes) has 16-bit sides; the others have signed 32-bit ones, and rows from the top where the height is
/// negative.
pub(super) fn bmp(head: &[u8]) -> Dimensions {
    if bitmap_header_size(head) == Some(12) {
        return Ok((u16::from_le_bytes(bytes(head, 18)?).into(), u16::from_le_bytes(bytes(head, 20)?).into()));
    }
    let width = i32::from_le_bytes(bytes(head, 18)?);
    let height = i32::from_le_bytes(bytes(head, 22)?);
    Ok((u32::try_from(width).map_err(|_| Flaw::Wrong)?, height.unsigned_abs()))
}

/// RFC 9649 2.5 to 2.7: lossy, lossless, extended.
pub(super) fn webp(head: &[u8]) -> Dimensions {
    let kind: [u8; 4] = bytes(head, 12)?;
    match &kind {
        b"VP8 " => webp_lossy(head),
        b"VP8L" => webp_lossless(head),
        b"VP8X" => Ok((1 + u24(bytes(head, 24)?), 1 + u24(bytes(head, 27)?))),
        _ => Err(Flaw::Wrong),
    }
}

/// RFC 6386 9.1: 14 bits each, scaling above them, behind a key frame's start code.
fn webp_lossy(head: &[u8]) -> Dimensions {
    if bytes(head, 23)? != [0x9d, 0x01, 0x2a] {
        return Err(Flaw::Wrong);
    }
    let (width, height) = (u16::from_le_bytes(bytes(head, 26)?), u16::from_le_bytes(bytes(head, 28)?));
    Ok((u32::from(width & 0x3fff), u32::from(height & 0x3fff)))
}

/// RFC 9649 3.4: 14 bits each, less one, behind a signature.
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
/// Cameras and editors leave stray bytes between segments, and lengths that are a little off. libjpeg, and with it every
/// browser, goes on at the next marker then (`jdmarker.c`, `next_marker`), and so does this.
pub(super) fn jpeg(head: &[u8]) -> Dimensions {
    let mut at = 2;
    loop {
        let (marker, after) = jpeg_marker(head, at)?;
        at = match marker {
            // TEM and RSTn stand alone.
            0x01 | 0xd0..=0xd7 => after,
            // DHT, JPG and DAC share the frame headers' range.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => return jpeg_frame(head, after),
            // A second image, its end or its data: there is no frame header before them.
            0xd8..=0xda => return Err(Flaw::Wrong),
            // A length counts itself, which a wrong one may not.
            _ => after + jpeg_length(head, after)?.max(2),
        };
    }
}

/// The next marker from `at` on and where what follows it starts. Before a marker there may be any number of 0xff, and bytes
/// that belong to none: others, and 0xff with the zero by which entropy-coded data escape it.
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

/// The length of the segment at `at`.
fn jpeg_length(head: &[u8], at: usize) -> Result<usize, Flaw> {
    bytes(head, at).map(|length| usize::from(u16::from_be_bytes(length)))
}

/// Length, precision, height, width. A height left to a DNL segment reads as 0, which is refused.
fn jpeg_frame(head: &[u8], at: usize) -> Dimensions {
    // Shorter than its own fields: what is read from it would be another segment's.
    if jpeg_length(head, at)? < 8 {
        return Err(Flaw::Wrong);
    }
    let (height, width) = (u16::from_be_bytes(bytes(head, at + 3)?), u16::from_be_bytes(bytes(head, at + 5)?));
    Ok((width.into(), height.into()))
}
