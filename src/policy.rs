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
        self.formats.iter().map(|format| format.name()).collect()
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
        if !self.allows(info.format) {
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
