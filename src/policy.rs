//! What is taken: formats, sizes, pixels. One policy for every door.

use serde::Serialize;

use crate::error::{Error, Result, ScanLimit};
use crate::format::{Format, ImageInfo};

/// The widest and highest an image may be, in pixels: what JPEG can say, and a bound on every decoder behind us.
pub const MAX_SIDE: u64 = 65_535;

/// The limits in force. Sizes are bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Policy {
    #[serde(skip)]
    pub formats: Vec<Format>,
    /// The largest image taken through this process.
    pub max_upload_size: u64,
    /// Width times height; 0 switches both pixel limits off.
    pub max_pixels: u64,
    /// How far into an image its dimensions must have shown.
    pub header_scan_limit: usize,
}

impl Policy {
    pub fn allows(&self, format: Format) -> bool {
        self.formats.contains(&format)
    }

    /// The error for what is no image of an allowed format; `detected` says what its bytes look like, if they were seen.
    pub fn invalid_type(&self, detected: Option<&'static str>) -> Error {
        Error::InvalidFileType { detected, accepted: self.accepted(), limit: None }
    }

    /// The same for an image that was not read far enough to tell.
    pub fn invalid_type_within(&self, detected: Option<&'static str>, limit: ScanLimit) -> Error {
        Error::InvalidFileType { detected, accepted: self.accepted(), limit: Some(limit) }
    }

    fn accepted(&self) -> Vec<&'static str> {
        self.formats.iter().map(|format| format.name()).collect()
    }

    /// Checks a file name's extension, if it has one.
    ///
    /// Returns the extension to keep (see [`Format::from_extension`]) and its format.
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

    /// Checks the size of an image that comes through the service.
    pub fn check_stream_size(&self, size: u64) -> Result<()> {
        self.check_size(size).map_err(|_| Error::StreamTooLarge { limit: self.max_upload_size })
    }

    /// Checks the size of an image, however it comes in.
    pub fn check_size(&self, size: u64) -> Result<()> {
        if size > self.max_upload_size {
            return Err(Error::PayloadTooLarge { limit: self.max_upload_size });
        }
        Ok(())
    }

    /// Checks what an image's header says.
    pub fn check_image(&self, info: ImageInfo) -> Result<ImageInfo> {
        if !self.allows(info.format) {
            return Err(self.invalid_type(Some(info.format.name())));
        }
        let (width, height) = (u64::from(info.width), u64::from(info.height));
        let too_many = |limit| Error::TooManyPixels { width, height, limit };
        if self.max_pixels > 0 && (width > MAX_SIDE || height > MAX_SIDE) {
            return Err(too_many(format!("each side may have at most {MAX_SIDE}")));
        }
        if self.max_pixels > 0 && width * height > self.max_pixels {
            return Err(too_many(format!("at most {} in all are taken", self.max_pixels)));
        }
        Ok(info)
    }
}
