//! Type and dimensions of an image that can be read at any place, in few reads.

use bytes::Bytes;
use std::ops::Range;

use super::{Known, Sniff, inspect, out_of_reach, refuse_early};
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::policy::Policy;

/// Reads behind the beginning, at most: a HEIF's boxes can lead from one place to the next.
const MAX_RANGES: u32 = 4;

/// A search for an image's dimensions, without the reading itself:
///
/// ```text
/// let mut search = Search::new(size, policy)?;
/// loop {
///     let bytes = read(search.wanted());
///     if let Some(info) = search.add(bytes)? { return info }
/// }
/// ```
///
/// The beginning comes first: 64 KiB of it, then [`Policy::header_scan_limit`]. A TIFF's directory and a HEIF's properties
/// are read where they lie, however far behind that.
#[derive(Debug)]
pub struct Search<'a> {
    policy: &'a Policy,
    /// Bytes of the whole image.
    size: u64,
    wanted: Range<u64>,
    head: Bytes,
    later: Bytes,
    later_at: u64,
    ranges: u32,
}

impl<'a> Search<'a> {
    /// Bytes that are read first; nearly every image shows its dimensions in them.
    pub const HEAD: u64 = 64 << 10;

    /// # Errors
    /// [`Error::NoFile`] for an image of no bytes.
    pub fn new(size: u64, policy: &'a Policy) -> Result<Self> {
        if size == 0 {
            return Err(Error::NoFile { fields: None });
        }
        let limit = policy.header_scan_limit as u64;
        let none = Bytes::new();
        let wanted = 0..Search::HEAD.min(limit).min(size);
        Ok(Search { policy, size, wanted, head: none.clone(), later: none, later_at: 0, ranges: 0 })
    }

    /// The bytes to read next: never none, and never more than [`Policy::header_scan_limit`].
    pub fn wanted(&self) -> Range<u64> {
        self.wanted.clone()
    }

    /// How many bytes the search keeps once it has what is wanted.
    pub fn held(&self) -> u64 {
        let wanted = self.wanted.end - self.wanted.start;
        if self.wanted.start == 0 { wanted } else { wanted + self.head.len() as u64 }
    }

    /// Takes the bytes that were [wanted](Search::wanted). `None` wants others.
    ///
    /// # Errors
    /// As [`super::check`].
    pub fn add(&mut self, bytes: Bytes) -> Result<Option<ImageInfo>> {
        if self.wanted.start == 0 {
            self.head = bytes;
        } else {
            (self.later_at, self.later) = (self.wanted.start, bytes);
        }
        match inspect(Known::of(self.size, &self.head, self.later_at, &self.later)) {
            Sniff::Image(info) => self.policy.check_image(info).map(Some),
            Sniff::NotAnImage { detected } => Err(self.policy.invalid_type(detected)),
            Sniff::NeedMore => self.want_beginning().map(|()| None),
            Sniff::NeedRange(range) => self.want(range).map(|()| None),
        }
    }

    fn want_beginning(&mut self) -> Result<()> {
        let end = (self.policy.header_scan_limit as u64).min(self.size);
        if self.head.len() as u64 >= end {
            return Err(out_of_reach(&self.head, self.policy, false));
        }
        self.wanted = 0..end;
        refuse_early(&self.head, self.policy)
    }

    fn want(&mut self, range: Range<u64>) -> Result<()> {
        refuse_early(&self.head, self.policy)?;
        self.ranges += 1;
        let limit = self.policy.header_scan_limit as u64;
        let range = range.start..range.end.min(range.start.saturating_add(limit));
        // The same once more: it takes more than the limit.
        if self.ranges > MAX_RANGES || range == self.wanted {
            return Err(out_of_reach(&self.head, self.policy, false));
        }
        self.wanted = range;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        FIXTURES, heic_with_late_properties, jpeg_with_long_metadata, policy, tiff_with_late_directory,
    };
    use super::*;
    use crate::format::Format;

    const HEAD: u64 = Search::HEAD;

    /// The outcome of a search, and the ranges that were read.
    fn search(image: &[u8], policy: &Policy) -> (Result<ImageInfo>, Vec<Range<u64>>) {
        let mut search = Search::new(image.len() as u64, policy).unwrap();
        let mut read = Vec::new();
        loop {
            let range = search.wanted();
            assert!(!range.is_empty() && range.end <= image.len() as u64, "{range:?}");
            assert!(range.end - range.start <= policy.header_scan_limit as u64, "{range:?}");
            let bytes = Bytes::copy_from_slice(&image[range.start as usize..range.end as usize]);
            read.push(range);
            match search.add(bytes) {
                Ok(None) => assert!(read.len() < 10),
                Ok(Some(info)) => return (Ok(info), read),
                Err(error) => return (Err(error), read),
            }
        }
    }

    #[test]
    fn a_small_image_takes_one_read() {
        let policy = policy(&Format::ALL, 1 << 20);
        for (bytes, format, width, height) in FIXTURES {
            let (found, read) = search(bytes, &policy);
            assert_eq!(found.unwrap(), ImageInfo { format, width, height });
            assert_eq!(read, std::slice::from_ref(&(0..bytes.len() as u64)));
        }
    }

    #[test]
    fn a_long_beginning_is_read_up_to_the_limit() {
        let image = jpeg_with_long_metadata();
        let (found, read) = search(&image, &policy(&Format::ALL, 1 << 20));
        assert_eq!((found.unwrap().width, read), (16, vec![0..HEAD, 0..image.len() as u64]));
        let (found, read) = search(&image, &policy(&Format::ALL, 90_000));
        let Err(Error::InvalidFileType { detected, limit, .. }) = found else { panic!("{found:?}") };
        assert_eq!((detected, limit.unwrap().bytes, read), (Some("jpeg"), 90_000, vec![0..HEAD, 0..90_000]));
    }

    #[test]
    fn a_directory_behind_the_limit_is_read_where_it_lies() {
        let policy = policy(&Format::ALL, 1 << 20);
        for big_endian in [false, true] {
            let image = tiff_with_late_directory(3000, 2000, big_endian);
            assert!(image.len() > 5 << 20);
            let (found, read) = search(&image, &policy);
            assert_eq!(found.unwrap(), ImageInfo { format: Format::Tiff, width: 3000, height: 2000 });
            assert_eq!(read, [0..HEAD, 6_000_008..image.len() as u64]);
        }
    }

    #[test]
    fn properties_behind_the_media_data_are_read_where_they_lie() {
        let image = heic_with_late_properties(3 << 20);
        let (found, read) = search(&image, &policy(&Format::ALL, 1 << 20));
        assert_eq!(found.unwrap(), ImageInfo { format: Format::Heic, width: 64, height: 48 });
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn a_format_that_is_not_allowed_takes_one_read() {
        let (found, read) = search(&tiff_with_late_directory(3000, 2000, false), &policy(&[Format::Jpeg], 1 << 20));
        assert_eq!((found.unwrap_err().code(), read.len()), ("invalid_file_type", 1));
    }

    #[test]
    fn a_directory_that_is_not_there_is_no_image() {
        let mut image = tiff_with_late_directory(3000, 2000, false);
        image.truncate(5 << 20);
        let (found, read) = search(&image, &policy(&Format::ALL, 1 << 20));
        let Err(Error::InvalidFileType { detected, limit, .. }) = found else { panic!("{found:?}") };
        assert_eq!((detected, limit, read.len()), (Some("tiff"), None, 1));
    }

    #[test]
    fn places_that_lead_on_for_ever_end() {
        // Every box is just long enough to end behind what was read.
        let box_of = |size: u32| [&size.to_be_bytes()[..], b"free", &vec![0; size as usize - 8]].concat();
        let ftyp = u32::from_be_bytes(*FIXTURES[11].0.first_chunk().unwrap()) as usize;
        let image = [&FIXTURES[11].0[..ftyp], &box_of(70_000).repeat(20)].concat();
        let (found, read) = search(&image, &policy(&Format::ALL, 1 << 20));
        assert_eq!((found.unwrap_err().code(), read.len()), ("invalid_file_type", 1 + MAX_RANGES as usize));
    }
}
