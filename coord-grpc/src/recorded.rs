//! A body that is read ahead, so that it can be sent again, or be known to be whole.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tonic::Status;
use tonic::body::Body;

/// The part of a body that was read, and what is left of it.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// The message of a unary call is one piece, which needs no queue.
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    trailers: Option<Box<HeaderMap>>,
    rest: Option<Body>,
}

impl Recorded {
    /// Reads a body to its end, at most `limit` bytes of it.
    ///
    /// # Errors
    ///
    /// That of the body.
    pub(crate) async fn read(mut body: Body, limit: usize) -> Result<Self, Status> {
        let mut recorded = Recorded::default();
        let mut size = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            size += recorded.take(frame?);
            if size > limit {
                recorded.rest = Some(body);
                return Ok(recorded);
            }
        }
        Ok(recorded)
    }

    /// Reads the part of a body that is there without waiting, at most `limit` bytes: all of a
    /// unary call's request, or the beginning of a stream.
    pub(crate) fn read_ready(mut body: Body, limit: usize) -> Result<Self, Status> {
        let mut recorded = Recorded::default();
        let mut size = 0;
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never() {
                Some(Some(frame)) => size += recorded.take(frame?),
                Some(None) => return Ok(recorded),
                None => break,
            }
            if size > limit {
                // Most requests are one message: whether more comes is worth another look.
                match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never() {
                    Some(Some(frame)) => drop(recorded.take(frame?)),
                    Some(None) => body = Body::empty(),
                    None => {}
                }
                break;
            }
        }
        recorded.rest = Some(body);
        Ok(recorded)
    }

    /// Keeps a frame, and returns how many bytes it has.
    fn take(&mut self, frame: Frame<Bytes>) -> usize {
        match frame.into_data() {
            Ok(data) => {
                let size = data.len();
                match self.first {
                    None => self.first = Some(data),
                    Some(_) => self.more.push_back(data),
                }
                size
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok().map(Box::new);
                0
            }
        }
    }

    /// A copy of the body; `None` if not all of it was read.
    pub(crate) fn copy(&self) -> Option<Self> {
        match self.rest {
            None => Some(Recorded {
                first: self.first.clone(),
                more: self.more.clone(),
                trailers: self.trailers.clone(),
                rest: None,
            }),
            Some(_) => None,
        }
    }

    /// Replaces the part of the body that was not read, if there is one.
    pub(crate) fn map_rest(mut self, make: impl FnOnce(Body) -> Body) -> Self {
        self.rest = self.rest.map(|rest| if rest.is_end_stream() { rest } else { make(rest) });
        self
    }

    /// A body of which nothing was read.
    pub(crate) fn unread(body: Body) -> Self {
        Recorded { rest: Some(body), ..Recorded::default() }
    }

    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }

    pub(crate) fn into_body(self) -> Body {
        Body::new(self)
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(data) = self.first.take().or_else(|| self.more.pop_front()) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(*trailers))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && self.more.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn frames(
        chunks: &'static [&'static str],
    ) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Status>> + Send {
        stream::iter(chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))))
    }

    async fn text(body: Body) -> String {
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_fits_can_be_sent_again_and_what_does_not_is_sent_once() {
        for (limit, copies) in [(6, true), (5, false), (0, false)] {
            let recorded =
                Recorded::read_ready(Body::new(StreamBody::new(frames(&["abc", "def"]))), limit).unwrap();
            assert_eq!(recorded.copy().is_some(), copies, "{limit}");
            if let Some(copy) = recorded.copy() {
                assert_eq!(text(copy.into_body()).await, "abcdef");
            }
            assert_eq!(text(recorded.into_body()).await, "abcdef");
        }
    }

    #[tokio::test]
    async fn a_stream_is_not_waited_for() {
        let waiting = futures_util::StreamExt::chain(frames(&["abc"]), stream::pending());
        let recorded = Recorded::read_ready(Body::new(StreamBody::new(waiting)), 100).unwrap();
        assert!(recorded.copy().is_none());
        let mut body = recorded.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(body.frame().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_with_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        for limit in [0, 3, 100] {
            let last = stream::iter([Ok(Frame::trailers(trailers.clone()))]);
            let body =
                Body::new(StreamBody::new(futures_util::StreamExt::chain(frames(&["abc", "def"]), last)));
            let recorded = Recorded::read(body, limit).await.unwrap();
            assert_eq!(recorded.trailers().is_some(), limit == 100);
            let all = recorded.into_body().collect().await.unwrap();
            assert_eq!(all.trailers(), Some(&trailers));
            assert_eq!(all.to_bytes(), "abcdef");
        }
    }

    #[test]
    fn an_empty_body_is_empty() {
        let recorded = Recorded::read_ready(Body::empty(), 100).unwrap();
        assert!(recorded.copy().unwrap().is_end_stream());
    }
}
