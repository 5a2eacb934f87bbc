//! HEIF: AVIF and HEIC, told apart by their brand, with the dimensions of the primary image.

use super::{Dimensions, Flaw, bytes};
use crate::format::Format;

/// The longest `ftyp` box read: a few hundred brands.
const MAX_FTYP: usize = 1024;

/// The side of HEVC's and AV1's usual largest block, in pixels.
const CODING_BLOCK: u32 = 64;

/// A box of an ISO base media file (ISO/IEC 14496-12, 4.2).
struct IsoBox {
    kind: [u8; 4],
    end: usize,
}

fn iso_box(head: &[u8], at: usize) -> Result<IsoBox, Flaw> {
    let (size, kind) = (u32::from_be_bytes(bytes(head, at)?), bytes(head, at + 4)?);
    // 0 (to the end of the file) and 1 (64 bits follow) are for media data, which comes after what is sought here.
    if size < 8 {
        return Err(Flaw::Wrong);
    }
    let size = usize::try_from(size).map_err(|_| Flaw::Wrong)?;
    Ok(IsoBox { kind, end: at.checked_add(size).ok_or(Flaw::Wrong)? })
}

/// AVIF or HEIC, by the brands of the `ftyp` box a file starts with: the major one, else the compatible ones in order.
pub(super) fn brand(head: &[u8]) -> Result<Format, Flaw> {
    let first = iso_box(head, 0)?;
    if &first.kind != b"ftyp" || !(16..=MAX_FTYP).contains(&first.end) {
        return Err(Flaw::Wrong);
    }
    let major: [u8; 4] = bytes(head, 8)?;
    match by_brand(&major) {
        Some(format) => Ok(format),
        // Only these say that the others count: a video may name image brands too.
        None if matches!(&major, b"mif1" | b"mif2" | b"msf1" | b"miaf") => {
            let compatible = head.get(16..first.end).ok_or(Flaw::Short)?;
            compatible.chunks_exact(4).find_map(by_brand).ok_or(Flaw::Wrong)
        }
        None => Err(Flaw::Wrong),
    }
}

/// The brands of <https://mp4ra.org/registered-types/brands> that name a coding.
fn by_brand(brand: &[u8]) -> Option<Format> {
    match brand {
        b"avif" | b"avis" | b"avio" | b"MA1A" | b"MA1B" => Some(Format::Avif),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => Some(Format::Heic),
        _ => None,
    }
}

/// The primary image's extents, cropped and turned as it says (ISO/IEC 23008-12).
///
/// Not the largest extents in the file: an encoder pads to whole blocks and crops, and a thumbnail has its own.
pub(super) fn heif(head: &[u8]) -> Dimensions {
    let mut at = 0;
    loop {
        let found = iso_box(head, at)?;
        if &found.kind == b"meta" {
            let meta = head.get(at..found.end).ok_or(Flaw::Short)?;
            return primary(meta).ok_or(Flaw::Wrong);
        }
        at = found.end;
    }
}

/// The boxes of a whole container, `skip` bytes of it being its own: kinds and contents.
fn children(container: &[u8], skip: usize) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut at = skip;
    std::iter::from_fn(move || {
        let child = iso_box(container, at).ok()?;
        let content = container.get(at + 8..child.end)?;
        at = child.end;
        Some((child.kind, content))
    })
}

fn child<'a>(container: &'a [u8], skip: usize, kind: &[u8; 4]) -> Option<&'a [u8]> {
    children(container, skip).find(|(found, _)| found == kind).map(|(_, content)| content)
}

fn primary(meta: &[u8]) -> Option<(u32, u32)> {
    // The box's own header, then its version and flags.
    let (pitm, iprp) = (child(meta, 12, b"pitm")?, child(meta, 12, b"iprp")?);
    let item = if pitm.first() == Some(&0) { u16_at(pitm, 4)?.into() } else { u32_at(pitm, 4)? };
    let properties = child(iprp, 0, b"ipco")?;
    let mut associations = children(iprp, 0).filter(|(kind, _)| kind == b"ipma");
    let indices = associations.find_map(|(_, ipma)| indices_of(item, ipma))?;
    let mut size = None;
    for index in indices {
        // Counted from 1; 0 is none.
        let Some((kind, content)) = index.checked_sub(1).and_then(|index| children(properties, 0).nth(index)) else {
            continue;
        };
        size = match &kind {
            b"ispe" => Some((u32_at(content, 4)?, u32_at(content, 8)?)),
            b"clap" => Some(cropped(size?, content)?),
            b"irot" if content.first()? & 1 == 1 => size.map(|(width, height)| (height, width)),
            _ => size,
        };
    }
    size
}

/// The properties of one item, in the order they are to be applied (ItemPropertyAssociationBox).
fn indices_of(item: u32, ipma: &[u8]) -> Option<Vec<usize>> {
    let (wide_item, wide_index) = (*ipma.first()? >= 1, ipma.get(3)? & 1 == 1);
    let mut at = 8;
    for _ in 0..u32_at(ipma, 4)? {
        let found = if wide_item { u32_at(ipma, at)? } else { u16_at(ipma, at)?.into() };
        at += if wide_item { 4 } else { 2 };
        let count = usize::from(*ipma.get(at)?);
        let width = if wide_index { 2 } else { 1 };
        let entries = ipma.get(at + 1..at + 1 + count * width)?;
        at += 1 + count * width;
        if found == item {
            // The highest bit says whether a reader must know the property.
            let index = |entry: &[u8]| match entry {
                [high, low] => usize::from(high & 0x7f) << 8 | usize::from(*low),
                entry => usize::from(entry.first().copied().unwrap_or_default() & 0x7f),
            };
            return Some(entries.chunks(width).map(index).collect());
        }
    }
    None
}

/// CleanApertureBox: width and height as fractions; the offsets do not matter here.
///
/// Encoders use it to trim what fills up the last coding block. One that hides more does not make the image smaller: a
/// decoder has to allocate all of it.
fn cropped((width, height): (u32, u32), clap: &[u8]) -> Option<(u32, u32)> {
    let crop_width = u32_at(clap, 0)?.checked_div(u32_at(clap, 4)?)?;
    let crop_height = u32_at(clap, 8)?.checked_div(u32_at(clap, 12)?)?;
    let is_padding = |side: u32, crop: u32| side.checked_sub(crop).map(|hidden| hidden < CODING_BLOCK);
    let trims = is_padding(width, crop_width)? && is_padding(height, crop_height)?;
    Some(if trims { (crop_width, crop_height) } else { (width, height) })
}

fn u16_at(content: &[u8], at: usize) -> Option<u16> {
    bytes(content, at).ok().map(u16::from_be_bytes)
}

fn u32_at(content: &[u8], at: usize) -> Option<u32> {
    bytes(content, at).ok().map(u32::from_be_bytes)
}
