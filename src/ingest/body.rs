//! A request's body as chunks of data, and the conversion of its errors.

use bytes::Bytes;
use futures::future::poll_fn;
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{BoxError, Error, Result};

/// A request's body, of any type.
pub(super) struct BodyStream {
    /// `None` after its end was read.
    body: Option<UnsyncBoxBody<Bytes, BoxError>>,
    /// See [`BodyStream::left`].
    left: u64,
}

impl BodyStream {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        BodyStream { left: body.size_hint().lower(), body: Some(body.map_err(Into::into).boxed_unsync()) }
    }

    /// Returns how many bytes certainly follow, unless reading fails. It is 0 if the request has no Content-Length.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Returns the next bytes, never an empty chunk.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_chunk(cx)).await.transpose()
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let Some(frame) = ready!(Pin::new(body).poll_frame(cx)) else {
            self.body = None;
            return Poll::Ready(None);
        };
        match frame.map(|frame| frame.into_data().unwrap_or_default()) {
            Ok(data) if data.is_empty() => {
                // A peer can send any number of trailers and empty frames. Other tasks must run in between.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(data) => {
                self.left = self.left.saturating_sub(data.len() as u64);
                Poll::Ready(Some(Ok(data)))
            }
            Err(error) => Poll::Ready(Some(Err(error_from_body(error)))),
        }
    }
}

/// Returns the [`Error`] that a body's error contains, for example that of an idle timeout. Returns
/// [`Error::TruncatedBody`] for any other error.
pub(crate) fn error_from_body(error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        // Each `axum::body::Body` around a body wraps its errors once more.
        Err(error) => match error.downcast::<axum::Error>() {
            Ok(wrapper) => error_from_body(wrapper.into_inner()),
            Err(error) => Error::TruncatedBody(Some(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_errors_are_unwrapped() {
        let slow = || Error::ClientTooSlow { seconds: 7 };
        let wrapped = axum::Error::new(axum::Error::new(slow()));
        for error in [BoxError::from(slow()), BoxError::from(wrapped)] {
            assert!(matches!(error_from_body(error), Error::ClientTooSlow { seconds: 7 }));
        }
    }

    #[test]
    fn other_errors_are_truncated_body() {
        for error in [BoxError::from("reset"), BoxError::from(axum::Error::new("reset"))] {
            let Error::TruncatedBody(Some(source)) = error_from_body(error) else { panic!("another error") };
            assert_eq!(source.to_string(), "reset");
        }
    }
}
