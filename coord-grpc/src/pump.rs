//! Requests that come bit by bit. What draws their messages is the caller's, and may block: so it
//! runs beside the connections, which others use as well.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use coord_home::Home;
use http_body::{Body as _, Frame};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

/// A frame, or `None` at the end.
type Piece = Option<Result<Frame<Bytes>, Status>>;

/// A body of which another task draws the frames.
#[derive(Debug)]
struct Pumped {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

/// Has a task of `home` draw the frames of a body, one ahead.
pub(crate) fn pump(home: &Home, mut body: Body) -> Body {
    if home.ready().is_err() {
        return body;
    }
    let (tell, pieces) = mpsc::channel(1);
    let pumping = async move {
        loop {
            let piece = tokio::select! {
                biased;
                () = tell.closed() => return,
                piece = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => piece,
            };
            let last = !matches!(piece, Some(Ok(_)));
            if tell.send(piece).await.is_err() || last {
                return;
            }
            // A stream that is always ready must not keep the thread from the others.
            tokio::task::consume_budget().await;
        }
    };
    // Without a task nothing is told, which ends the body with an error.
    let _ = home.spawn(pumping);
    Body::new(Pumped { pieces, ended: false })
}

impl http_body::Body for Pumped {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = match std::task::ready!(self.pieces.poll_recv(cx)) {
            Some(piece) => piece,
            // The server must not take half of it for the whole.
            None => Some(Err(Status::cancelled("the request broke off"))),
        };
        self.ended = !matches!(piece, Some(Ok(_)));
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(frames: Vec<Result<&'static str, &'static str>>) -> Body {
        let frames = frames.into_iter().map(|frame| match frame {
            Ok(text) => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
            Err(what) => Err(Status::internal(what)),
        });
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    #[tokio::test]
    async fn all_of_it_comes_in_order_with_its_error() {
        let home = Home::thread("test");
        let whole = pump(&home, body(vec![Ok("a"), Ok("b"), Ok("c")])).collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "abc");
        let mut broken = pump(&home, body(vec![Ok("a"), Err("as ordered"), Ok("b")]));
        assert_eq!(broken.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert_eq!(broken.frame().await.unwrap().unwrap_err().message(), "as ordered");
        assert!(broken.frame().await.is_none());
    }

    #[tokio::test]
    async fn one_that_panics_breaks_off_and_does_not_end() {
        let panics =
            stream::poll_fn(|_| -> Poll<Option<Result<Frame<Bytes>, Status>>> { panic!("as ordered") });
        let mut body = pump(&Home::thread("test"), Body::new(StreamBody::new(panics)));
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn dropped_it_draws_no_more() {
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let waiting = stream::poll_fn(move |_| -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let _held = &tell;
            Poll::Pending
        });
        let home = Home::thread("test");
        drop(pump(&home, Body::new(StreamBody::new(waiting))));
        told.await.expect_err("the stream is dropped");
    }
}
