//! The image formats this service knows: their names, extensions and media types.

use std::fmt;
use uuid::Uuid;

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

    /// Lower-case extensions that a key may have, the usual one first.
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

    /// Other extensions under which browsers, cameras and systems save this format. A key never has one of them: an image
    /// is stored under the first of [`Format::extensions`] then.
    ///
    /// Chrome (`net/base/mime_util.cc`), the registry of Windows, freedesktop.org's shared-mime-info, and cameras: Canon and
    /// Sony write `.HIF`, stereo cameras `.MPO` (a JPEG followed by further ones).
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

    /// Every extension that the name of such a file may have: [`Format::extensions`], then [`Format::aliases`].
    pub fn file_extensions(self) -> impl Iterator<Item = &'static str> {
        self.extensions().iter().chain(self.aliases()).copied()
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

    /// The other media types in use for this format: unregistered ones, those of browsers' plug-ins, and those of image
    /// sequences in the same container.
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

    /// The format of a file name's extension, in any case, without its dot; and the extension that a key has for it.
    pub fn from_extension(extension: &str) -> Option<(Format, &'static str)> {
        let is = |known: &&&str| known.eq_ignore_ascii_case(extension);
        Format::ALL.into_iter().find_map(|format| {
            let kept = format.extensions().iter().find(is);
            let stored = kept.or_else(|| format.aliases().iter().find(is).and(format.extensions().first()));
            stored.map(|stored| (format, *stored))
        })
    }

    /// The format of a media type (no parameters), in any case.
    pub fn from_content_type(content_type: &str) -> Option<Format> {
        let is = |known: &str| known.eq_ignore_ascii_case(content_type);
        let of =
            |format: &Format| is(format.content_type()) || format.content_type_aliases().iter().any(|known| is(known));
        Format::ALL.into_iter().find(of)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The format that an image's key names by its extension. None if `text` is no key: a hyphenated UUID, a dot and one of
/// [`Format::extensions`], byte for byte.
pub fn format_of_key(text: &str) -> Option<Format> {
    let (id, extension) = text.split_once('.')?;
    let uuid = Uuid::try_parse(id).ok()?;
    let (format, known) = Format::from_extension(extension)?;
    // `try_parse` also takes braces, URNs, no hyphens and upper case; a key is used byte for byte.
    (uuid.hyphenated().to_string() == id && known == extension).then_some(format)
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
    fn no_name_stands_for_two_formats() {
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
