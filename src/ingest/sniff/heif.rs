//! HEIF: AVIF and HEIC, told apart by their brand, with the dimensions of the primary image.

use super::known::Known;
use super::{Dimensions, Flaw, bytes};
use crate::format::Format;

mod derived;

/// The longest `ftyp` box read: a few hundred brands.
const MAX_FTYP: usize = 1024;

/// The side of HEVC's and AV1's usual largest block, in pixels.
const CODING_BLOCK: u32 = 64;

/// A box of an ISO base media file (ISO/IEC 14496-12, 4.2).
struct IsoBox {
    kind: [u8; 4],
    /// Where its content begins.
    content: u64,
    end: u64,
}

/// The box at `at`. One that says of itself only that it goes on to the end of the file (size 0) is none: nothing that is
/// sought can follow it.
fn iso_box(known: &Known, at: u64) -> Result<IsoBox, Flaw> {
    let (size, kind) = (u32::from_be_bytes(known.array(at)?), known.array(at + 4)?);
    let (size, header) = match size {
        1 => (u64::from_be_bytes(known.array(at + 8)?), 16),
        size => (u64::from(size), 8),
    };
    if size < header {
        return Err(Flaw::Wrong);
    }
    Ok(IsoBox { kind, content: at + header, end: at.checked_add(size).ok_or(Flaw::Wrong)? })
}

/// AVIF or HEIC, by the brands of the `ftyp` box a file starts with: the major one, else the compatible ones in order.
pub(super) fn brand(head: &[u8]) -> Result<Format, Flaw> {
    let (size, kind): (_, [u8; 4]) = (u32::from_be_bytes(bytes(head, 0)?), bytes(head, 4)?);
    let end = usize::try_from(size).map_err(|_| Flaw::Wrong)?;
    if &kind != b"ftyp" || !(16..=MAX_FTYP).contains(&end) {
        return Err(Flaw::Wrong);
    }
    let major: [u8; 4] = bytes(head, 8)?;
    match by_brand(&major) {
        Some(format) => Ok(format),
        // Only these say that the others count: a video may name image brands too.
        None if matches!(&major, b"mif1" | b"mif2" | b"msf1" | b"miaf") => {
            let compatible = head.get(16..end).ok_or(Flaw::Short)?;
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
pub(super) fn heif(known: &Known) -> Dimensions {
    let mut at = 0;
    loop {
        let found = iso_box(known, at)?;
        if &found.kind == b"meta" {
            let meta = known.get(found.content, found.end - found.content)?;
            return primary(meta).ok_or(Flaw::Wrong);
        }
        at = found.end;
    }
}

/// The boxes in a container's content from `skip` on: kinds and contents.
fn children(container: &[u8], skip: usize) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut at = skip;
    std::iter::from_fn(move || {
        let child = iso_box(&Known::whole(container), at as u64).ok()?;
        let (content, end) = (usize::try_from(child.content).ok()?, usize::try_from(child.end).ok()?);
        at = end;
        Some((child.kind, container.get(content..end)?))
    })
}

fn child<'a>(container: &'a [u8], skip: usize, kind: &[u8; 4]) -> Option<&'a [u8]> {
    children(container, skip).find(|(found, _)| found == kind).map(|(_, content)| content)
}

/// Bytes of a FullBox's version and flags.
const FULL: usize = 4;

fn primary(meta: &[u8]) -> Option<(u32, u32)> {
    let (pitm, iprp) = (child(meta, FULL, b"pitm")?, child(meta, FULL, b"iprp")?);
    let item = if pitm.first() == Some(&0) { u16_at(pitm, 4)?.into() } else { u32_at(pitm, 4)? };
    let properties = properties_of(item, iprp)?;
    let extents = properties.iter().find(|(kind, _)| kind == b"ispe");
    let extents = extents.and_then(|(_, content)| Some((u32_at(content, 4)?, u32_at(content, 8)?)));
    // What a grid of tiles comes to stands in its own data too, and decoders differ in which of the two they go by.
    let size = larger(extents, derived::size(item, meta))?;
    properties.iter().try_fold(size, |size, (kind, content)| transformed(size, kind, content))
}

/// The larger of two sizes in each direction, or the one there is.
fn larger(one: Option<(u32, u32)>, other: Option<(u32, u32)>) -> Option<(u32, u32)> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.max(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    }
}

/// A size after one of the properties that change it. They are applied in the order of their association, and to what the
/// others have made of the extents; a mirrored image (`imir`) keeps its size.
fn transformed((width, height): (u32, u32), kind: &[u8; 4], content: &[u8]) -> Option<(u32, u32)> {
    match kind {
        b"clap" => cropped((width, height), content),
        // Quarter turns, anticlockwise.
        b"irot" if content.first()? & 1 == 1 => Some((height, width)),
        _ => Some((width, height)),
    }
}

/// The properties of one item, looked up by their association: `ipco` has those of all items in any order.
fn properties_of(item: u32, iprp: &[u8]) -> Option<Vec<([u8; 4], &[u8])>> {
    let all: Vec<_> = children(child(iprp, 0, b"ipco")?, 0).collect();
    let mut associations = children(iprp, 0).filter(|(kind, _)| kind == b"ipma");
    let indices = associations.find_map(|(_, ipma)| indices_of(item, ipma))?;
    // Counted from 1; 0 is none.
    Some(indices.into_iter().filter_map(|index| all.get(index.checked_sub(1)?).copied()).collect())
}

/// The numbers of one item's properties, in the order they are to be applied (ItemPropertyAssociationBox).
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
