//! The names objects have.

use std::fmt;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::format::{Format, format_of_key};

/// An image's public name, `<uuid v4>.<extension>`: the `s3_key` of every answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageKey(String);

impl ImageKey {
    /// A fresh key, never used before.
    ///
    /// `extension` is one of [`Format::extensions`].
    pub fn random(extension: &str) -> Self {
        ImageKey(format!("{}.{extension}", Uuid::new_v4()))
    }

    /// Reads a path parameter: a hyphenated UUID, a dot and any known extension, byte for byte.
    ///
    /// Not only the formats allowed today: old objects stay in reach.
    pub fn parse(text: &str) -> Option<Self> {
        format_of_key(text).map(|_| ImageKey(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The format of the extension. The image's own may be another where the key was drawn before its bytes were seen.
    pub fn format(&self) -> Option<Format> {
        format_of_key(&self.0)
    }

    /// The extension, without its dot.
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

/// Where an object lies. The store puts its prefix (`S3_PREFIX`) before it; nothing else knows of that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObjectName {
    /// A whole, checked image: what the read routes see.
    Image(ImageKey),
    /// A direct upload that nobody has checked yet: `incoming/<key>`.
    Incoming(ImageKey),
}

impl ObjectName {
    pub fn key(&self) -> &ImageKey {
        match self {
            ObjectName::Image(key) | ObjectName::Incoming(key) => key,
        }
    }

    /// The object's key in the bucket.
    pub fn object_key(&self, prefix: &str) -> String {
        match self {
            ObjectName::Image(key) => format!("{prefix}{key}"),
            ObjectName::Incoming(key) => format!("{prefix}{INCOMING}{key}"),
        }
    }
}

/// The folder of what is not yet verified, below the prefix.
pub const INCOMING: &str = "incoming/";
