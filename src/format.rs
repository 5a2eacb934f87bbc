//! The image formats that this service supports: their names, extensions and media types.

use std::fmt;
use uuid::Uuid;

/// A supported image format. [`crate::policy::Policy`] defines which of them are allowed.
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

    /// Returns the lower-case extensions that a key may have, beginning with the usual one.
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

    /// Returns other extensions under which browsers, cameras and operating systems save this format. A key never has
    /// one of these: the image is then stored under the first of [`Format::extensions`].
    ///
    /// Sources: Chrome (`net/base/mime_util.cc`), the Windows registry, freedesktop.org's shared-mime-info, and
    /// cameras. Canon and Sony write `.HIF`, stereo cameras write `.MPO` (a JPEG followed by further ones).
    pub fn aliases(self) -> &'static [&'static str] {
        match self {
            Format::Jpeg => &["jfif", "pjpeg", "pjp", "jpe", "jif", "jfi", "mpo"],
            Format::Png => &["apng"],
            Format::Gif => &[],
            Format::Bmp => &["dib"],
            Format::Webp => &[],
            Format::Avif => &["avifs"],
            Format::Heic => &["hif", "heics", "heifs"],
            Format::Tiff => &["btf", "tf8"],
        }
    }

    /// Returns every extension that the name of such a file may have: [`Format::extensions`], then [`Format::aliases`].
    pub fn file_extensions(self) -> impl Iterator<Item = &'static str> {
        self.extensions().iter().chain(self.aliases()).copied()
    }

    /// Returns the IANA media type with which objects of this format are served.
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

    /// Returns the short name, as used in settings and in the `detected` field of errors.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "jpeg",
            other => other.extensions()[0],
        }
    }

    /// Returns the other media types in use for this format: unregistered ones, those of browser plug-ins, and those of
    /// image sequences in the same container.
    fn content_type_aliases(self) -> &'static [&'static str] {
        match self {
            Format::Jpeg => &[
                "image/jpg",
                "image/pjpeg",
                "image/jpe",
                "image/jfif",
                "image/pipeg",
                "image/x-citrix-jpeg",
                "image/mpo",
            ],
            Format::Png => &["image/x-png", "image/apng", "image/vnd.mozilla.apng", "image/x-citrix-png"],
            Format::Gif => &["image/x-gif", "image/x-citrix-gif"],
            Format::Bmp => {
                &["image/x-ms-bmp", "image/x-bmp", "image/ms-bmp", "image/x-windows-bmp", "image/x-win-bitmap"]
            }
            Format::Webp => &["image/x-webp"],
            Format::Avif => &["image/avif-sequence", "image/x-avif"],
            Format::Heic => {
                &["image/heif", "image/heic-sequence", "image/heif-sequence", "image/x-heic", "image/x-heif"]
            }
            Format::Tiff => &["image/tif", "image/x-tif", "image/x-tiff", "image/tiff-fx"],
        }
    }

    /// Returns the format of a file name's extension, and the extension that a key has for it. `extension` is without
    /// its dot and may be in upper or lower case.
    pub fn from_extension(extension: &str) -> Option<(Format, &'static str)> {
        let is = |known: &&&str| known.eq_ignore_ascii_case(extension);
        Format::ALL.into_iter().find_map(|format| {
            let own = format.extensions().iter().find(is);
            let stored = own.or_else(|| format.aliases().iter().find(is).and(format.extensions().first()));
            stored.map(|stored| (format, *stored))
        })
    }

    /// Returns the format of a media type without parameters, in upper or lower case.
    pub fn from_content_type(content_type: &str) -> Option<Format> {
        let is = |known: &str| known.eq_ignore_ascii_case(content_type);
        let matches =
            |format: &Format| is(format.content_type()) || format.content_type_aliases().iter().any(|known| is(known));
        Format::ALL.into_iter().find(matches)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the format that an image's key names by its extension. `None` if `text` is not a key: a hyphenated UUID, a dot and
/// one of [`Format::extensions`], byte for byte.
pub fn format_of_key(text: &str) -> Option<Format> {
    let (id, extension) = text.split_once('.')?;
    let uuid = Uuid::try_parse(id).ok()?;
    let (format, known) = Format::from_extension(extension)?;
    // `try_parse` also accepts braces, URNs, missing hyphens and upper case, but keys are compared byte for byte.
    (uuid.hyphenated().to_string() == id && known == extension).then_some(format)
}

/// The type and dimensions of an image, from its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    pub format: Format,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn aliases_are_stored_under_the_usual_extension() {
        for (name, format, stored) in [
            ("jfif", Format::Jpeg, "jpg"),
            ("JPE", Format::Jpeg, "jpg"),
            ("pjp", Format::Jpeg, "jpg"),
            ("HIF", Format::Heic, "heic"),
            ("heics", Format::Heic, "heic"),
            ("Dib", Format::Bmp, "bmp"),
            ("avifs", Format::Avif, "avif"),
            ("apng", Format::Png, "png"),
            ("JPEG", Format::Jpeg, "jpeg"),
            ("heif", Format::Heic, "heif"),
            ("tif", Format::Tiff, "tif"),
        ] {
            assert_eq!(Format::from_extension(name), Some((format, stored)), "{name}");
        }
        for other in ["svg", "", "jp", "jpgg", "jp2"] {
            assert_eq!(Format::from_extension(other), None, "{other}");
        }
    }

    #[test]
    fn extensions_and_media_types_are_unambiguous() {
        let mut extensions = HashSet::new();
        let mut types = HashSet::new();
        for format in Format::ALL {
            assert!(format.file_extensions().all(|extension| extensions.insert(extension)), "{format}");
            let all = [format.content_type()].into_iter().chain(format.content_type_aliases().iter().copied());
            for name in all {
                assert!(types.insert(name), "{name}");
                assert_eq!(Format::from_content_type(&name.to_uppercase()), Some(format));
            }
        }
    }
}
