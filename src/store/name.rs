//! The names of objects.

use std::fmt;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

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
}

impl ObjectName {
    pub fn key(&self) -> &ImageKey {
        match self {
            ObjectName::Image(key) | ObjectName::Incoming(key) => key,
        }
    }

    /// Returns the object's key in the bucket.
    pub fn object_key(&self, prefix: &str) -> String {
        match self {
            ObjectName::Image(key) => format!("{prefix}{key}"),
            ObjectName::Incoming(key) => format!("{prefix}{INCOMING}{key}"),
        }
    }
}

/// The folder of direct uploads that are not yet verified, below the prefix.
pub const INCOMING: &str = "incoming/";
