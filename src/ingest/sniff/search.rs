//! Finds the type and dimensions of an image that can be read at any offset, in few reads.

use bytes::Bytes;
use std::ops::Range;

use super::{Known, Sniff, inspect, out_of_reach, reject_early};
use crate::error::{Error, Result};
use crate::format::ImageInfo;
use crate::policy::Policy;

/// Maximum number of reads after the first bytes. The boxes of a HEIF file can lead from one offset to the next.
const MAX_RANGES: u32 = 4;

/// A search for an image's dimensions. The caller reads the bytes:
///
/// ```text
/// let mut search = Search::new(size, policy)?;
/// loop {
///     let bytes = read(search.wanted());
///     if let Some(info) = search.add(bytes)? { return info }
/// }
/// ```
///
/// The first 64 KiB are read first, then up to [`Policy::header_scan_limit`] bytes. A TIFF directory and the properties
/// of a HEIF file are read at their own offset, which may be beyond that limit.
#[derive(Debug)]
pub struct Search<'a> {
    policy: &'a Policy,
    /// Size of the whole image in bytes.
    size: u64,
    wanted: Range<u64>,
    head: Bytes,
    later: Bytes,
    later_at: u64,
    ranges: u32,
}

impl<'a> Search<'a> {
    /// Length of the first read. Nearly every image has its dimensions in these bytes.
    pub const HEAD: u64 = 64 << 10;

    /// Creates a search in an image of `size` bytes.
    ///
    /// # Errors
    /// Returns [`Error::NoFile`] if the image is empty.
    pub fn new(size: u64, policy: &'a Policy) -> Result<Self> {
        if size == 0 {
            return Err(Error::NoFile { fields: None });
        }
        let limit = policy.header_scan_limit as u64;
        let wanted = 0..Search::HEAD.min(limit).min(size);
        Ok(Search { policy, size, wanted, head: Bytes::new(), later: Bytes::new(), later_at: 0, ranges: 0 })
    }

    /// Returns the range to read next. It is never empty and never longer than [`Policy::header_scan_limit`].
    pub fn wanted(&self) -> Range<u64> {
        self.wanted.clone()
    }

    /// Returns the number of bytes that the search holds after it has been given the [wanted](Search::wanted) range.
    pub fn held(&self) -> u64 {
        let wanted = self.wanted.end - self.wanted.start;
        if self.wanted.start == 0 { wanted } else { wanted + self.head.len() as u64 }
    }

    /// Adds the bytes of the [wanted](Search::wanted) range. Returns `None` if another range must be read.
    ///
    /// # Errors
    /// Returns the same errors as [`super::check`].
    pub fn add(&mut self, bytes: Bytes) -> Result<Option<ImageInfo>> {
        if self.wanted.start == 0 {
            self.head = bytes;
        } else {
            (self.later_at, self.later) = (self.wanted.start, bytes);
        }
        match inspect(Known::of(self.size, &self.head, self.later_at, &self.later)) {
            Sniff::Image(info) => self.policy.check_image(info).map(Some),
            Sniff::NotAnImage { detected } => Err(self.policy.invalid_type(detected)),
            Sniff::NeedMore => self.request_longer_head().map(|()| None),
            Sniff::NeedRange(range) => self.request(range).map(|()| None),
        }
    }

    fn request_longer_head(&mut self) -> Result<()> {
        let end = (self.policy.header_scan_limit as u64).min(self.size);
        if self.head.len() as u64 >= end {
            return Err(out_of_reach(&self.head, self.policy, false));
        }
        self.wanted = 0..end;
        reject_early(&self.head, self.policy)
    }

    fn request(&mut self, range: Range<u64>) -> Result<()> {
        reject_early(&self.head, self.policy)?;
        self.ranges += 1;
        let limit = self.policy.header_scan_limit as u64;
        let range = range.start..range.end.min(range.start.saturating_add(limit));
        // The same range again means that more bytes than the limit are needed.
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

    /// Returns the result of a search, and the ranges that were read.
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
    fn small_image_takes_one_read() {
        let policy = policy(&Format::ALL, 1 << 20);
        for (bytes, format, width, height) in FIXTURES {
            let (found, read) = search(bytes, &policy);
            assert_eq!(found.unwrap(), ImageInfo { format, width, height });
            assert_eq!(read, std::slice::from_ref(&(0..bytes.len() as u64)));
        }
    }

    #[test]
    fn long_metadata_is_read_up_to_the_scan_limit() {
        let image = jpeg_with_long_metadata();
        let (found, read) = search(&image, &policy(&Format::ALL, 1 << 20));
        assert_eq!((found.unwrap().width, read), (16, vec![0..HEAD, 0..image.len() as u64]));
        let (found, read) = search(&image, &policy(&Format::ALL, 90_000));
        let Err(Error::InvalidFileType { detected, limit, .. }) = found else { panic!("{found:?}") };
        assert_eq!((detected, limit.unwrap().bytes, read), (Some("jpeg"), 90_000, vec![0..HEAD, 0..90_000]));
    }

    #[test]
    fn tiff_directory_beyond_the_limit_is_read_at_its_offset() {
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
    fn heif_properties_after_media_data_are_read_at_their_offset() {
        let image = heic_with_late_properties(3 << 20);
        let (found, read) = search(&image, &policy(&Format::ALL, 1 << 20));
        assert_eq!(found.unwrap(), ImageInfo { format: Format::Heic, width: 64, height: 48 });
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn disallowed_format_takes_one_read() {
        let (found, read) = search(&tiff_with_late_directory(3000, 2000, false), &policy(&[Format::Jpeg], 1 << 20));
        assert_eq!((found.unwrap_err().code(), read.len()), ("invalid_file_type", 1));
    }

    #[test]
    fn missing_tiff_directory_is_rejected() {
        let mut image = tiff_with_late_directory(3000, 2000, false);
        image.truncate(5 << 20);
        let (found, read) = search(&image, &policy(&Format::ALL, 1 << 20));
        let Err(Error::InvalidFileType { detected, limit, .. }) = found else { panic!("{found:?}") };
        assert_eq!((detected, limit, read.len()), (Some("tiff"), None, 1));
    }

    #[test]
    fn number_of_ranges_is_limited() {
        // Every box is just long enough to end after the range that was read.
        let box_of = |size: u32| [&size.to_be_bytes()[..], b"free", &vec![0; size as usize - 8]].concat();
        let ftyp = u32::from_be_bytes(*FIXTURES[11].0.first_chunk().unwrap()) as usize;
        let image = [&FIXTURES[11].0[..ftyp], &box_of(70_000).repeat(20)].concat();
        let (found, read) = search(&image, &policy(&Format::ALL, 1 << 20));
        assert_eq!((found.unwrap_err().code(), read.len()), ("invalid_file_type", 1 + MAX_RANGES as usize));
    }
}
