//! The names of objects.

use std::fmt;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::crc64;
use crate::format::{Format, format_of_key};

/// An image's public name, `<uuid>.<extension>`: the `s3_key` of every answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageKey(String);

impl ImageKey {
    /// Returns a new random key.
    ///
    /// `extension` is one of [`Format::extensions`].
    pub fn random(extension: &str) -> Self {
        ImageKey(format!("{}.{extension}", Uuid::new_v4()))
    }

    /// Returns a key with this UUID, which was derived from other data. `extension` is one of [`Format::extensions`].
    pub fn derived(id: Uuid, extension: &str) -> Self {
        ImageKey(format!("{id}.{extension}"))
    }

    /// Returns another random key with the same extension.
    #[must_use]
    pub fn redrawn(&self) -> Self {
        ImageKey::random(self.extension())
    }

    /// Parses a path parameter: a hyphenated UUID, a dot and any known extension, byte for byte.
    ///
    /// The extension need not be of a format that is allowed now, so that older objects stay accessible.
    pub fn parse(text: &str) -> Option<Self> {
        format_of_key(text).map(|_| ImageKey(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the format of the extension. The image can have another format if the key was drawn before its bytes were seen.
    pub fn format(&self) -> Option<Format> {
        format_of_key(&self.0)
    }

    /// Returns the UUID.
    pub fn id(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// Returns the extension without its dot.
    pub fn extension(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or_default()
    }
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialSchema for ImageKey {
    fn schema() -> RefOr<Schema> {
        let extensions: Vec<&str> = Format::ALL.iter().flat_map(|format| format.extensions()).copied().collect();
        let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("An image's key: a UUID and the image's extension."))
            .pattern(Some(format!(r"^{uuid}\.({})$", extensions.join("|"))))
            .examples(["0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.jpg"])
            .into()
    }
}

impl ToSchema for ImageKey {}

/// The name of an object. Only the store adds its prefix (`S3_PREFIX`); the rest of the service does not use it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObjectName {
    /// A complete, verified image, which the read routes return.
    Image(ImageKey),
    /// A direct upload that is not yet verified: `incoming/<key>`.
    Incoming(ImageKey),
    /// What an unfinished resumable upload keeps apart from its parts: `incoming/<key>.<id>.<kept>`.
    Resumable { key: ImageKey, id: Uuid, kept: Kept },
}

impl ObjectName {
    pub fn key(&self) -> &ImageKey {
        match self {
            ObjectName::Image(key) | ObjectName::Incoming(key) | ObjectName::Resumable { key, .. } => key,
        }
    }

    /// Returns the object's key in the bucket.
    pub fn object_key(&self, prefix: &str) -> String {
        match self {
            ObjectName::Image(key) => format!("{prefix}{key}"),
            ObjectName::Incoming(key) => format!("{prefix}{INCOMING}{key}"),
            ObjectName::Resumable { key, id, kept } => format!("{}{kept}", kept_prefix(prefix, key, *id)),
        }
    }
}

/// Returns the common prefix of everything that an unfinished resumable upload keeps apart from its parts.
pub(super) fn kept_prefix(prefix: &str, key: &ImageKey, id: Uuid) -> String {
    format!("{prefix}{INCOMING}{key}.{id}.")
}

/// What an object of an unfinished resumable upload contains. Its name says it, so that a list of the names is enough to
/// know how far the upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kept {
    /// The `len` bytes of the file from `base` on, which do not fill a part: `<base>.<len>.tail`. All bytes before `base` are
    /// stored in parts.
    Tail { base: u64, len: u64 },
    /// The length of the file in bytes, if it was not known when the upload was created: `<length>.length`. The object is empty.
    Length(u64),
    /// The upload has ended because another upload's image consists of the same bytes: `<digest>.same`. The digest is that of the
    /// image's ETag ([`Kept::same_as`]). The object is empty.
    Same(u64),
}

impl Kept {
    /// Returns the record that an upload has the same bytes as the image with this ETag.
    pub fn same_as(etag: Option<&str>) -> Self {
        Kept::Same(crc64::checksum(etag.unwrap_or_default().trim_matches('"').as_bytes()))
    }

    /// Returns the offset in the file after the last byte of a tail.
    pub fn end(self) -> u64 {
        match self {
            Kept::Tail { base, len } => base + len,
            Kept::Length(_) | Kept::Same(_) => 0,
        }
    }

    /// Parses the last part of a name, exactly as it is displayed.
    pub fn parse(text: &str) -> Option<Self> {
        let kept = match text.split('.').collect::<Vec<_>>()[..] {
            [base, len, "tail"] => Kept::Tail { base: base.parse().ok()?, len: len.parse().ok()? },
            [length, "length"] => Kept::Length(length.parse().ok()?),
            [digest, "same"] => Kept::Same(u64::from_str_radix(digest, 16).ok()?),
            _ => return None,
        };
        let is_valid = !matches!(kept, Kept::Tail { base, len } if base.checked_add(len).is_none());
        (is_valid && kept.to_string() == text).then_some(kept)
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::Tail { base, len } => write!(f, "{base}.{len}.tail"),
            Kept::Length(length) => write!(f, "{length}.length"),
            Kept::Same(digest) => write!(f, "{digest:016x}.same"),
        }
    }
}

/// Whether `name`, which is below `incoming/`, belongs to an unfinished resumable upload.
pub(super) fn is_kept(name: &str) -> bool {
    // The key has two parts, the ID one, and `Kept` two or three.
    let mut parts = name.splitn(4, '.');
    let (Some(uuid), Some(extension), Some(id), Some(kept)) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let has_key = ImageKey::parse(&name[..uuid.len() + 1 + extension.len()]).is_some();
    has_key && Uuid::try_parse(id).is_ok() && Kept::parse(kept).is_some()
}

/// The folder of direct uploads that are not yet verified, below the prefix.
pub const INCOMING: &str = "incoming/";

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png";
    const ID: &str = "8d0c5b0e-1f6b-4c0e-8a52-6a6a2f6d9c11";

    #[test]
    fn names_of_resumable_uploads_are_parsed_as_they_are_written() {
        let (key, id) = (ImageKey::parse(KEY).unwrap(), Uuid::try_parse(ID).unwrap());
        for (kept, text) in [
            (Kept::Tail { base: 0, len: 5 }, "0.5.tail"),
            (Kept::Tail { base: 10 << 20, len: (5 << 20) - 1 }, "10485760.5242879.tail"),
            (Kept::Length(5_000_000_000), "5000000000.length"),
            (Kept::Same(0xab), "00000000000000ab.same"),
        ] {
            assert_eq!(Kept::parse(text), Some(kept));
            let name = ObjectName::Resumable { key: key.clone(), id, kept };
            assert_eq!(name.object_key("a/"), format!("a/incoming/{KEY}.{ID}.{text}"));
            assert!(is_kept(&format!("{KEY}.{ID}.{text}")));
        }
    }

    #[test]
    fn other_names_are_not_of_resumable_uploads() {
        for other in [
            "",
            "tail",
            "5.tail",
            "0.05.tail",
            "+0.5.tail",
            "0.5.tails",
            "0.5.6.tail",
            "length",
            ".length",
            "-1.length",
            "ab.same",
            "00000000000000AB.same",
            "same",
        ] {
            assert_eq!(Kept::parse(other), None, "{other}");
            assert!(!is_kept(&format!("{KEY}.{ID}.{other}")), "{other}");
        }
        assert_eq!(Kept::parse(&format!("{}.1.tail", u64::MAX)), None, "its end is no number");
        for other in
            [KEY, &format!("{KEY}.{ID}"), &format!("{KEY}.0.5.tail"), &format!("{ID}.0.5.tail"), "a.png.b.0.5.tail"]
        {
            assert!(!is_kept(other), "{other}");
        }
    }
}
