//! HEIF: AVIF and HEIC, distinguished by their brand, with the dimensions of the primary image.

use super::known::Known;
use super::{Dimensions, Flaw, bytes};
use crate::format::Format;

mod derived;

/// Maximum size of an `ftyp` box: enough for a few hundred brands.
const MAX_FTYP: usize = 1024;

/// Width and height of the usual largest coding block of HEVC and AV1, in pixels.
const CODING_BLOCK: u32 = 64;

/// A box of an ISO base media file (ISO/IEC 14496-12, 4.2).
struct IsoBox {
    kind: [u8; 4],
    /// Offset of its content.
    content: u64,
    end: u64,
}

/// Reads the box at `at`. A box that extends to the end of the file (size 0) is an error, because the boxes that are
/// searched for cannot follow it.
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

/// Distinguishes AVIF and HEIC by the brands of the `ftyp` box at the start of the file: by the major brand, or
/// otherwise by the first compatible brand that is known.
pub(super) fn brand(head: &[u8]) -> Result<Format, Flaw> {
    let (size, kind): (_, [u8; 4]) = (u32::from_be_bytes(bytes(head, 0)?), bytes(head, 4)?);
    let end = usize::try_from(size).map_err(|_| Flaw::Wrong)?;
    if &kind != b"ftyp" || !(16..=MAX_FTYP).contains(&end) {
        return Err(Flaw::Wrong);
    }
    let major: [u8; 4] = bytes(head, 8)?;
    match by_brand(&major) {
        Some(format) => Ok(format),
        // The compatible brands count only with these major brands, because a video may list image brands too.
        None if matches!(&major, b"mif1" | b"mif2" | b"msf1" | b"miaf") => {
            let compatible = head.get(16..end).ok_or(Flaw::Short)?;
            compatible.chunks_exact(4).find_map(by_brand).ok_or(Flaw::Wrong)
        }
        None => Err(Flaw::Wrong),
    }
}

/// Returns the format of a brand. These are the brands of <https://mp4ra.org/registered-types/brands> that name a
/// coding.
fn by_brand(brand: &[u8]) -> Option<Format> {
    match brand {
        b"avif" | b"avis" | b"avio" | b"MA1A" | b"MA1B" => Some(Format::Avif),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => Some(Format::Heic),
        _ => None,
    }
}

/// Returns the extents of the primary image after its cropping and rotation (ISO/IEC 23008-12).
///
/// The largest extents in the file would be wrong: encoders pad an image to whole blocks and crop it, and a thumbnail
/// has extents of its own.
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

/// Iterates over the boxes in a container's content from offset `skip`, as (kind, content).
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

/// Size in bytes of the version and flags of a FullBox.
const FULL: usize = 4;

fn primary(meta: &[u8]) -> Option<(u32, u32)> {
    let (pitm, iprp) = (child(meta, FULL, b"pitm")?, child(meta, FULL, b"iprp")?);
    let item = if pitm.first() == Some(&0) { u16_at(pitm, 4)?.into() } else { u32_at(pitm, 4)? };
    let properties = properties_of(item, iprp)?;
    let extents = properties.iter().find(|(kind, _)| kind == b"ispe");
    let extents = extents.and_then(|(_, content)| Some((u32_at(content, 4)?, u32_at(content, 8)?)));
    // A grid of tiles also has its size in its own data. Decoders differ in which of the two they use.
    let size = larger(extents, derived::size(item, meta))?;
    properties.iter().try_fold(size, |size, (kind, content)| transformed(size, kind, content))
}

/// Returns the larger of two sizes in each direction, or the only one if the other is `None`.
fn larger(one: Option<(u32, u32)>, other: Option<(u32, u32)>) -> Option<(u32, u32)> {
    match (one, other) {
        (Some(one), Some(other)) => Some((one.0.max(other.0), one.1.max(other.1))),
        (one, other) => one.or(other),
    }
}

/// Applies a property to a size. Properties are applied in the order of their association, each to the result of the
/// previous one. Mirroring (`imir`) does not change the size.
fn transformed((width, height): (u32, u32), kind: &[u8; 4], content: &[u8]) -> Option<(u32, u32)> {
    match kind {
        b"clap" => cropped((width, height), content),
        // A number of quarter turns, anticlockwise.
        b"irot" if content.first()? & 1 == 1 => Some((height, width)),
        _ => Some((width, height)),
    }
}

/// Returns the properties that are associated with one item. `ipco` contains the properties of all items in any order.
fn properties_of(item: u32, iprp: &[u8]) -> Option<Vec<([u8; 4], &[u8])>> {
    let all: Vec<_> = children(child(iprp, 0, b"ipco")?, 0).collect();
    let mut associations = children(iprp, 0).filter(|(kind, _)| kind == b"ipma");
    let indices = associations.find_map(|(_, ipma)| indices_of(item, ipma))?;
    // Indices start at 1; 0 means that there is no property.
    Some(indices.into_iter().filter_map(|index| all.get(index.checked_sub(1)?).copied()).collect())
}

/// Returns the indices of one item's properties in the order in which they are applied (ItemPropertyAssociationBox).
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
            // The highest bit marks a property as essential.
            let index = |entry: &[u8]| match entry {
                [high, low] => usize::from(high & 0x7f) << 8 | usize::from(*low),
                entry => usize::from(entry.first().copied().unwrap_or_default() & 0x7f),
            };
            return Some(entries.chunks(width).map(index).collect());
        }
    }
    None
}

/// Applies a CleanApertureBox. Its width and height are fractions; its offsets do not affect the size.
///
/// Encoders use it to crop the padding of the last coding block. A box that hides more than this padding is ignored,
/// because a decoder has to allocate the whole image.
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
