//! The images that are accepted: formats, sizes, pixels. The same policy applies to every upload method.

use serde::Serialize;

use crate::error::{Error, Result, ScanLimit};
use crate::format::{Format, ImageInfo};

/// Maximum width and height of an image in pixels. This is the maximum of JPEG, and it limits what every later decoder
/// has to handle.
pub const MAX_SIDE: u64 = 65_535;

/// The limits in force. Sizes are bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    #[serde(skip)]
    pub formats: Vec<Format>,
    /// The only format that the bytes may have, if the image's key is fixed beforehand: that of the key's extension. The file's
    /// name must still be of one of the `formats`.
    #[serde(skip)]
    pub key_format: Option<Format>,
    /// Maximum size of an image that is uploaded through this process.
    pub max_upload_size: u64,
    /// Maximum of width times height. 0 disables both pixel limits.
    pub max_pixels: u64,
    /// Number of leading bytes of an image in which its dimensions must be.
    pub header_scan_limit: usize,
}

impl Policy {
    pub fn allows(&self, format: Format) -> bool {
        self.formats.contains(&format)
    }

    /// Whether an image's bytes may have this format.
    pub fn allows_bytes(&self, format: Format) -> bool {
        self.allows(format) && self.key_format.is_none_or(|only| only == format)
    }

    /// Returns this policy with further limits. None of them allows more than this policy.
    pub fn within(&self, max_size: Option<u64>, formats: Option<&[Format]>, key_format: Option<Format>) -> Policy {
        let mut limited = self.clone();
        limited.max_upload_size = max_size.unwrap_or(u64::MAX).min(self.max_upload_size);
        limited.formats.retain(|format| formats.is_none_or(|formats| formats.contains(format)));
        limited.key_format = key_format.or(self.key_format);
        limited
    }

    /// Returns the formats that an image's bytes may have.
    pub fn byte_formats(&self) -> impl Iterator<Item = Format> {
        self.formats.iter().copied().filter(|format| self.allows_bytes(*format))
    }

    /// Returns the error for a file that is not an image of an allowed format. `detected` is the file type that was
    /// detected, if any.
    pub fn invalid_type(&self, detected: Option<&'static str>) -> Error {
        Error::InvalidFileType { detected, accepted: self.accepted(), limit: None }
    }

    /// Returns the same error for an image whose dimensions are beyond the number of bytes that are scanned.
    pub fn invalid_type_within(&self, detected: Option<&'static str>, limit: ScanLimit) -> Error {
        Error::InvalidFileType { detected, accepted: self.accepted(), limit: Some(limit) }
    }

    fn accepted(&self) -> Vec<&'static str> {
        self.byte_formats().map(Format::name).collect()
    }

    /// Checks a file name's extension, if it has one.
    ///
    /// Returns the format and the extension that the key gets (see [`Format::from_extension`]).
    pub fn check_name(&self, file_name: &str) -> Result<Option<(Format, &'static str)>> {
        let base = file_name.rsplit(['/', '\\']).next().unwrap_or_default();
        let Some((_, extension)) = base.rsplit_once('.') else {
            return Ok(None);
        };
        match Format::from_extension(extension) {
            Some((format, known)) if self.allows(format) => Ok(Some((format, known))),
            _ => Err(self.invalid_type(None)),
        }
    }

    /// Checks the size of an image that is uploaded through the service.
    pub fn check_stream_size(&self, size: u64) -> Result<()> {
        self.check_size(size).map_err(|_| Error::StreamTooLarge { limit: self.max_upload_size })
    }

    /// Checks the size of an image that is uploaded in any way.
    pub fn check_size(&self, size: u64) -> Result<()> {
        if size > self.max_upload_size {
            return Err(Error::PayloadTooLarge { limit: self.max_upload_size });
        }
        Ok(())
    }

    /// Checks an image's type and dimensions.
    pub fn check_image(&self, info: ImageInfo) -> Result<ImageInfo> {
        if !self.allows_bytes(info.format) {
            return Err(self.invalid_type(Some(info.format.name())));
        }
        let (width, height) = (u64::from(info.width), u64::from(info.height));
        let too_many = |limit| Error::TooManyPixels { width, height, limit };
        if self.max_pixels > 0 && (width > MAX_SIDE || height > MAX_SIDE) {
            return Err(too_many(format!("width and height may be at most {MAX_SIDE} each")));
        }
        if self.max_pixels > 0 && width * height > self.max_pixels {
            return Err(too_many(format!("at most {} pixels in total are allowed", self.max_pixels)));
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_limits_never_allow_more() {
        let formats = vec![Format::Jpeg, Format::Png];
        let policy = Policy { formats, key_format: None, max_upload_size: 100, max_pixels: 0, header_scan_limit: 4096 };
        let limited = policy.within(Some(1000), Some(&[Format::Png, Format::Webp]), None);
        assert_eq!((limited.max_upload_size, limited.formats), (100, vec![Format::Png]));
        assert_eq!(policy.within(Some(7), None, None).max_upload_size, 7);
        let keyed = policy.within(None, None, Some(Format::Jpeg));
        assert_eq!(keyed.byte_formats().collect::<Vec<_>>(), [Format::Jpeg]);
        assert!(keyed.check_name("a.png").is_ok() && keyed.check_name("a.webp").is_err());
        let png = ImageInfo { format: Format::Png, width: 1, height: 1 };
        let Err(Error::InvalidFileType { detected, accepted, .. }) = keyed.check_image(png) else { panic!("accepted") };
        assert_eq!((detected, accepted), (Some("png"), vec!["jpeg"]));
        // A key of a format that is not allowed makes it no allowed one.
        assert_eq!(policy.within(None, None, Some(Format::Webp)).byte_formats().count(), 0);
    }
}
