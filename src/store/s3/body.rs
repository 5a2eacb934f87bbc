//! A request body made of the segments that arrived, sent as they are and as often as a retry needs.

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A body the SDK neither copies nor hashes, and can send again.
///
/// `SdkBody::from` of one `Bytes` would be taken for an in-memory body and hashed before it is sent.
pub(super) fn retryable(segments: &[Bytes]) -> ByteStream {
    let segments: Arc<[Bytes]> = segments.iter().filter(|segment| !segment.is_empty()).cloned().collect();
    ByteStream::new(SdkBody::retryable(move || SdkBody::from_body_1_x(Rope::new(segments.clone()))))
}

struct Rope {
    segments: Arc<[Bytes]>,
    next: usize,
    /// Bytes not yet given out.
    remaining: u64,
}

impl Rope {
    fn new(segments: Arc<[Bytes]>) -> Self {
        let remaining = segments.iter().map(|segment| segment.len() as u64).sum();
        Rope { segments, next: 0, remaining }
    }
}

impl Body for Rope {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(segment) = self.segments.get(self.next).cloned() else {
            return Poll::Ready(None);
        };
        self.next += 1;
        self.remaining -= segment.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(segment))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn rope(segments: &[&'static [u8]]) -> Rope {
        Rope::new(segments.iter().map(|segment| Bytes::from_static(segment)).collect())
    }

    #[tokio::test]
    async fn gives_its_segments_in_order_without_copying_them() {
        let segment = Bytes::from(vec![7; 64]);
        let mut body = Rope::new(Arc::new([segment.clone(), Bytes::from_static(b"end")]));
        assert_eq!(body.size_hint().exact(), Some(67));

        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.as_ptr(), segment.as_ptr());
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3), false));

        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "end");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn nothing_is_at_its_end_at_once() {
        assert!(rope(&[]).is_end_stream());
        assert_eq!(rope(&[]).size_hint().exact(), Some(0));
    }

    #[tokio::test]
    async fn can_be_sent_again() {
        let body = retryable(&[Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")]).into_inner();
        let again = body.try_clone().expect("a retryable body");
        for body in [body, again] {
            assert_eq!(body.content_length(), Some(3));
            assert_eq!(ByteStream::new(body).collect().await.unwrap().into_bytes(), "abc");
        }
    }
}
