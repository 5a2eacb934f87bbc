//! The formats whose dimensions stand at a fixed place, and JPEG.

use super::{Dimensions, Flaw, bytes};

/// PNG (third edition) 5.3 and 11.2.1: IHDR comes first.
pub(super) fn png(head: &[u8]) -> Dimensions {
    let first: [u8; 8] = bytes(head, 8)?;
    if &first != b"\0\0\0\x0dIHDR" {
        return Err(Flaw::Wrong);
    }
    Ok((u32::from_be_bytes(bytes(head, 16)?), u32::from_be_bytes(bytes(head, 20)?)))
}

/// GIF89a 18: the logical screen.
pub(super) fn gif(head: &[u8]) -> Dimensions {
    Ok((u16::from_le_bytes(bytes(head, 6)?).into(), u16::from_le_bytes(bytes(head, 8)?).into()))
}

/// The size of a bitmap's second header, where it is one there is: "BM" alone would take any text that starts so.
pub(super) fn bitmap_header_size(head: &[u8]) -> Option<u32> {
    let size = u32::from_le_bytes(bytes(head, 14).ok()?);
    matches!(size, 12 | 40 | 52 | 56 | 64 | 108 | 124).then_some(size)
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
pub(super) fn jpeg(head: &[u8]) -> Dimensions {
    let mut at = 2;
    loop {
        let (marker, after) = jpeg_marker(head, at)?;
        at = match marker {
            // TEM and RSTn stand alone.
            0x01 | 0xd0..=0xd7 => after,
            // DHT, JPG and DAC share the frame headers' range.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => return jpeg_frame(head, after),
            // A stuffed zero, a second image, its end or its data: there is no frame header before them.
            0x00 | 0xd8..=0xda => return Err(Flaw::Wrong),
            _ => after + jpeg_segment(head, after, 2)?,
        };
    }
}

/// The marker at `at` and where what follows it starts. Any number of 0xFF may come before a marker.
fn jpeg_marker(head: &[u8], at: usize) -> Result<(u8, usize), Flaw> {
    let rest = head.get(at..).ok_or(Flaw::Short)?;
    let fill = rest.iter().position(|byte| *byte != 0xff).ok_or(Flaw::Short)?;
    let [marker] = bytes(rest, fill)?;
    if fill == 0 { Err(Flaw::Wrong) } else { Ok((marker, at + fill + 1)) }
}

/// The length of the segment at `at`, which counts itself.
fn jpeg_segment(head: &[u8], at: usize, least: usize) -> Result<usize, Flaw> {
    let length = usize::from(u16::from_be_bytes(bytes(head, at)?));
    if length < least { Err(Flaw::Wrong) } else { Ok(length) }
}

/// Length, precision, height, width. A height left to a DNL segment reads as 0, which nobody takes.
fn jpeg_frame(head: &[u8], at: usize) -> Dimensions {
    jpeg_segment(head, at, 8)?;
    let (height, width) = (u16::from_be_bytes(bytes(head, at + 3)?), u16::from_be_bytes(bytes(head, at + 5)?));
    Ok((width.into(), height.into()))
}
