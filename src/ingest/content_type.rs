//! Determines from a request's Content-Type how its body carries the image.

use http::HeaderValue;

use super::params;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::policy::Policy;

/// Maximum length of a boundary (RFC 2046 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// What a form may be longer than its file: the other fields it may hold, and every field's head.
const FORM_ALLOWANCE: u64 = 2 << 20;
/// How many times longer a file may be made by its encoding: quoted-printable has three characters for a byte, and line ends.
const LONGEST_ENCODING: u64 = 4;

/// How a body carries its image.
#[derive(Debug, PartialEq, Eq)]
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
    /// [`Error::UnsupportedMediaType`] except for forms, images and bytes of no stated type; [`Error::InvalidFileType`] for an image that is not taken;
    /// [`Error::MalformedForm`] for a form without a usable boundary.
    pub fn of(content_type: Option<&HeaderValue>, policy: &Policy) -> Result<Self> {
        let text = content_type
            .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
            .ok_or(Error::UnsupportedMediaType)?;
        let media_type = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if media_type == "multipart/form-data" {
            return Ok(BodyKind::Form { boundary: boundary(text)? });
        }
        // Clients that do not know the type say that the bytes are any.
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
}

impl BodyKind {
    /// Refuses a body that says itself, by its Content-Length, that its image is too large, before it is asked for.
    ///
    /// A form does not say yet whether its file is encoded: `check_form_length` follows when it does.
    ///
    /// # Errors
    /// 413.
    pub fn check_length(&self, length: u64, policy: &Policy) -> Result<()> {
        match self {
            BodyKind::Form { .. } => policy.check_stream_size(length.saturating_sub(FORM_ALLOWANCE) / LONGEST_ENCODING),
            BodyKind::Raw => policy.check_stream_size(length),
        }
    }
}

/// The same for a form of at least `length` bytes whose file is sent as it is.
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
    fn a_length_is_too_large_if_no_encoding_makes_it_fit() {
        let (policy, form) = (policy(), form("abc"));
        let limit = policy.max_upload_size;
        for (kind, longest) in [(&BodyKind::Raw, limit), (&form, FORM_ALLOWANCE + 4 * limit + 3)] {
            assert!(kind.check_length(longest, &policy).is_ok());
            let refused = kind.check_length(longest + 1, &policy).unwrap_err();
            assert_eq!(refused.status().as_u16(), 413, "{kind:?}");
        }
        assert!(check_form_length(FORM_ALLOWANCE + limit, &policy).is_ok());
        assert!(check_form_length(FORM_ALLOWANCE + limit + 1, &policy).is_err());
    }

    #[test]
    fn anything_else_is_unsupported() {
        for text in ["application/octet", "text/plain", "", "imagejpeg", "multipart/mixed; boundary=a", "\u{fc}"] {
            assert!(matches!(of(text), Err(Error::UnsupportedMediaType)), "{text}");
        }
        assert!(matches!(BodyKind::of(None, &policy()), Err(Error::UnsupportedMediaType)));
    }
}
