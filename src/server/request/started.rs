//! A request body whose first bytes have arrived.

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body whose first frame was already read. It is returned first when the body is polled.
pub struct Started<B: Body> {
    first: Option<Result<Frame<B::Data>, B::Error>>,
    body: B,
}

impl<B: Body + Unpin> Started<B> {
    /// Waits for the first frame of `body`, or for its end.
    pub async fn wait(mut body: B) -> Self {
        Started { first: body.frame().await, body }
    }
}

impl<B: Body<Data: Unpin, Error: Unpin> + Unpin> Body for Started<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.first.take() {
            None => Pin::new(&mut self.body).poll_frame(cx),
            first => Poll::Ready(first),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    /// Returns a lower bound only, because frames other than data (trailers) are not known beforehand.
    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(|first| first.as_ref().ok()?.data_ref());
        let mut hint = SizeHint::new();
        hint.set_lower(first.map_or(0, |data| data.remaining() as u64) + self.body.size_hint().lower());
        hint
    }
}
