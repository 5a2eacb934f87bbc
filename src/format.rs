//! The image formats this service knows: their names, extensions and media types.

use std::fmt;

/// A format the service knows. Which of them it takes is [`crate::policy::Policy`]'s business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    Jpeg,
    Png,
    Gif,
    Bmp,
    Webp,
    Avif,
    Heic,
    Tiff,
}

impl Format {
    pub const ALL: [Format; 8] =
        [Format::Jpeg, Format::Png, Format::Gif, Format::Bmp, Format::Webp, Format::Avif, Format::Heic, Format::Tiff];

    /// Lower-case file name extensions, the usual one first.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Format::Jpeg => &["jpg", "jpeg"],
            Format::Png => &["png"],
            Format::Gif => &["gif"],
            Format::Bmp => &["bmp"],
            Format::Webp => &["webp"],
            Format::Avif => &["avif"],
            Format::Heic => &["heic", "heif"],
            Format::Tiff => &["tiff", "tif"],
        }
    }

    /// The IANA media type objects of this format are served with.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Jpeg => "image/jpeg",
            Format::Png => "image/png",
            Format::Gif => "image/gif",
            Format::Bmp => "image/bmp",
            Format::Webp => "image/webp",
            Format::Avif => "image/avif",
            Format::Heic => "image/heic",
            Format::Tiff => "image/tiff",
        }
    }

    /// The short name, as in settings and in `detected`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "jpeg",
            other => other.extensions()[0],
        }
    }

    /// The format of an extension, in any case, without its dot; with the extension as it is kept in keys.
    pub fn from_extension(extension: &str) -> Option<(Format, &'static str)> {
        Format::ALL.into_iter().find_map(|format| {
            let known = format.extensions().iter().find(|known| known.eq_ignore_ascii_case(extension));
            known.map(|known| (format, *known))
        })
    }

    /// The format of a media type (no parameters), in any case.
    pub fn from_content_type(content_type: &str) -> Option<Format> {
        let wanted = match content_type.to_ascii_lowercase() {
            // Long in use beside the registered names.
            name if name == "image/jpg" || name == "image/pjpeg" => "image/jpeg".to_owned(),
            name if name == "image/x-ms-bmp" || name == "image/x-bmp" => "image/bmp".to_owned(),
            name if name == "image/heif" => "image/heic".to_owned(),
            name => name,
        };
        Format::ALL.into_iter().find(|format| format.content_type() == wanted)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an image's own header says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    pub format: Format,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}
