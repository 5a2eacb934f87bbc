//! The request body in an event. It is decoded once and read in slices.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, general_purpose::PAD};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::{BoxError, Error};

/// Maximum size of a slice in bytes. It is limited because the reader may have to keep a copy.
const SLICE: usize = 64 << 10;

/// Replaces invalid bytes if a sender treated a binary body as text.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Padding is optional, because not every sender writes it.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// An event's body. If it cannot be decoded, reading it returns the error, so that the router creates the response as
/// for any other error.
#[derive(Debug)]
pub struct EventBody {
    rest: Bytes,
    error: Option<Error>,
    text: bool,
}

impl EventBody {
    /// Decodes the body. `binary` means that the body should contain arbitrary bytes. A replacement character in a text
    /// body then shows that bytes were lost.
    pub fn new(body: Option<Cow<'_, str>>, base64: bool, binary: bool) -> Self {
        let body = body.unwrap_or_default();
        if base64 {
            return match BASE64.decode(body.as_bytes()) {
                Ok(bytes) => EventBody { rest: bytes.into(), error: None, text: false },
                Err(_) => EventBody { rest: Bytes::new(), error: Some(Error::InvalidBase64), text: false },
            };
        }
        if binary && body.contains(REPLACEMENT) {
            return EventBody { rest: Bytes::new(), error: Some(Error::MangledBody), text: true };
        }
        let text = !body.is_empty();
        EventBody { rest: body.into_owned().into(), error: None, text }
    }

    /// Whether the body was sent as text and not as base64.
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// Returns the remaining number of bytes. `None` if the body could not be decoded.
    pub fn len(&self) -> Option<usize> {
        self.error.is_none().then_some(self.rest.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error.into())));
        }
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let slice = this.rest.split_to(SLICE.min(this.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none() && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, |len| SizeHint::with_exact(len as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn decoded(text: &str, base64: bool) -> EventBody {
        EventBody::new(Some(text.into()), base64, true)
    }

    #[tokio::test]
    async fn body_is_read_in_limited_slices() {
        let whole = "x".repeat(SLICE * 2 + 1);
        let mut body = decoded(&whole, false);
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let mut sizes = Vec::new();
        while let Some(frame) = body.frame().await {
            sizes.push(frame.unwrap().into_data().unwrap().len());
        }
        assert_eq!(sizes, [SLICE, SLICE, 1]);
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn invalid_body_is_an_error_when_read() {
        for (mut body, code) in
            [(decoded("not base64!", true), "invalid_base64"), (decoded("\u{fffd}PNG", false), "mangled_body")]
        {
            assert!(!body.is_end_stream());
            let error = body.frame().await.unwrap().unwrap_err();
            assert_eq!(error.downcast_ref::<Error>().unwrap().code(), code);
        }
    }

    #[test]
    fn padding_is_optional() {
        for text in ["YQ==", "YQ"] {
            assert_eq!(decoded(text, true).rest, "a");
        }
    }
}
