//! Determines from a request's Content-Type how its body carries the image.

use http::HeaderValue;

use super::params;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::policy::Policy;

/// Maximum length of a boundary (RFC 2046 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// Number of bytes by which a form may be longer than its file, for other fields and the headers of all fields.
pub(super) const FORM_ALLOWANCE: u64 = 2 << 20;
/// Maximum factor by which an encoding makes a file longer. Quoted-printable has three characters per byte and line
/// breaks.
const LONGEST_ENCODING: u64 = 4;

/// How a body carries its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    Form {
        boundary: String,
    },
    /// The body is the image.
    Raw,
}

impl BodyKind {
    /// Returns the kind of body for a request's Content-Type.
    ///
    /// # Errors
    /// Returns [`Error::UnsupportedMediaType`] unless it is a form, an image or `application/octet-stream`,
    /// [`Error::InvalidFileType`] if the image's format is not accepted, and [`Error::MalformedForm`] if the form has
    /// no valid boundary.
    pub fn of(content_type: Option<&HeaderValue>, policy: &Policy) -> Result<Self> {
        let text = content_type
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
            .ok_or(Error::UnsupportedMediaType)?;
        let media_type = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media_type == "multipart/form-data" {
            return Ok(BodyKind::Form { boundary: boundary(text)? });
        }
        // Clients that do not know the image's type send this one.
        if media_type == "application/octet-stream" {
            return Ok(BodyKind::Raw);
        }
        if !media_type.starts_with("image/") {
            return Err(Error::UnsupportedMediaType);
        }
        match Format::from_content_type(&media_type) {
            Some(format) if !policy.allows(format) => Err(policy.invalid_type(None)),
            None if media_type == "image/svg+xml" => Err(policy.invalid_type(None)),
            // The format is detected from the image's bytes.
            _ => Ok(BodyKind::Raw),
        }
    }

    /// Checks the Content-Length before the body is requested, and rejects it if the image is certainly too large.
    ///
    /// For a form it is not yet known whether the file is encoded. When it is, `check_form_length` is called.
    ///
    /// # Errors
    /// Returns [`Error::StreamTooLarge`] (413).
    pub fn check_length(&self, length: u64, policy: &Policy) -> Result<()> {
        match self {
            BodyKind::Form { .. } => policy.check_stream_size(length.saturating_sub(FORM_ALLOWANCE) / LONGEST_ENCODING),
            BodyKind::Raw => policy.check_stream_size(length),
        }
    }
}

/// Checks the length of a form whose file is not encoded.
pub(super) fn check_form_length(length: u64, policy: &Policy) -> Result<()> {
    policy.check_stream_size(length.saturating_sub(FORM_ALLOWANCE))
}

fn boundary(content_type: &str) -> Result<String> {
    let parameters = params::parse(content_type);
    match params::get(&parameters, "boundary") {
        Some(boundary) if (1..=MAX_BOUNDARY).contains(&boundary.len()) => Ok(boundary.to_owned()),
        Some(_) => Err(Error::MalformedForm(format!("its boundary must have 1 to {MAX_BOUNDARY} characters"))),
        None => Err(Error::MalformedForm("its Content-Type has no boundary".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::tests::policy;

    fn of(text: &str) -> Result<BodyKind> {
        BodyKind::of(Some(&HeaderValue::from_bytes(text.as_bytes()).unwrap()), &policy())
    }

    fn form(boundary: &str) -> BodyKind {
        BodyKind::Form { boundary: boundary.to_owned() }
    }

    #[test]
    fn form_content_types_are_recognised() {
        assert_eq!(of("multipart/form-data; boundary=abc").unwrap(), form("abc"));
        assert_eq!(of("Multipart/Form-Data;charset=utf-8;BOUNDARY=\"a b=c\"").unwrap(), form("a b=c"));
        assert_eq!(of("multipart/form-data; boundary=----=_Part_1.2").unwrap(), form("----=_Part_1.2"));
    }

    #[test]
    fn form_without_a_valid_boundary_is_malformed() {
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        for text in
            ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\"\"", &long]
        {
            assert!(matches!(of(text), Err(Error::MalformedForm(_))), "{text}");
        }
    }

    #[test]
    fn images_are_raw_bodies() {
        let bytes = "Application/Octet-Stream; charset=binary";
        for text in ["image/jpeg", "IMAGE/PNG; q=1", "image/x-unheard-of", "image/*", "image/pjpeg", bytes] {
            assert_eq!(of(text).unwrap(), BodyKind::Raw, "{text}");
        }
        for text in ["image/svg+xml", "image/SVG+xml; charset=utf-8", "image/tiff", "image/heif"] {
            assert!(matches!(of(text), Err(Error::InvalidFileType { .. })), "{text}");
        }
    }

    #[test]
    fn length_is_too_large_if_no_encoding_explains_it() {
        let (policy, form) = (policy(), form("abc"));
        let limit = policy.max_upload_size;
        for (kind, longest) in [(&BodyKind::Raw, limit), (&form, FORM_ALLOWANCE + 4 * limit + 3)] {
            assert!(kind.check_length(longest, &policy).is_ok());
            let rejected = kind.check_length(longest + 1, &policy).unwrap_err();
            assert_eq!(rejected.status().as_u16(), 413, "{kind:?}");
        }
        assert!(check_form_length(FORM_ALLOWANCE + limit, &policy).is_ok());
        assert!(check_form_length(FORM_ALLOWANCE + limit + 1, &policy).is_err());
    }

    #[test]
    fn other_content_types_are_unsupported() {
        for text in ["application/octet", "text/plain", "", "imagejpeg", "multipart/mixed; boundary=a", "\u{fc}"] {
            assert!(matches!(of(text), Err(Error::UnsupportedMediaType)), "{text}");
        }
        assert!(matches!(BodyKind::of(None, &policy()), Err(Error::UnsupportedMediaType)));
    }
}
