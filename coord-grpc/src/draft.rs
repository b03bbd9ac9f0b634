//! A request that can be sent more than once.

use coord_home::Home;
use http::{Request, request};
use tonic::Status;
use tonic::body::Body;

use crate::pump::pump;
use crate::recorded::Recorded;

/// A request and, if it fits a bound and is all there, what it takes to send it again.
#[derive(Debug)]
pub(crate) struct Draft {
    head: request::Parts,
    /// `None` once it was sent and not kept.
    body: Option<Recorded>,
}

impl Draft {
    /// Keeps a request, at most `limit` bytes of it. What is longer, or comes bit by bit, can be
    /// sent once; what is still to come is drawn by a task of `drawn_at`, or without one by whoever
    /// sends it.
    ///
    /// # Errors
    ///
    /// That of the body.
    pub(crate) fn of(request: Request<Body>, limit: usize, drawn_at: Option<&Home>) -> Result<Self, Status> {
        let (mut head, body) = request.into_parts();
        // They are for this process, and would be cloned each time.
        head.extensions.clear();
        let body = Recorded::read_ready(body, limit)?;
        let body = match drawn_at {
            Some(home) => body.map_rest(|rest| pump(home, rest)),
            None => body,
        };
        Ok(Draft { head, body: Some(body) })
    }

    /// Whether the request is there, however often it was sent.
    pub(crate) fn is_kept(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.copy().is_some())
    }

    /// The request, to be sent, and whether it can be had again.
    pub(crate) fn request(&mut self) -> (Request<Body>, bool) {
        let copy = self.body.as_ref().and_then(Recorded::copy);
        let kept = copy.is_some();
        let body = copy.or_else(|| self.body.take()).unwrap_or_default().into_body();
        (Request::from_parts(self.head.clone(), body), kept)
    }

    /// Takes back a request that could be had only once, and was not sent.
    pub(crate) fn take_back(&mut self, request: Request<Body>) {
        self.body = Some(Recorded::unread(request.into_body()));
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn what_fits_can_be_had_again_and_what_does_not_once() {
        for (limit, again) in [(3, true), (2, false)] {
            let body =
                Body::new(Full::new(bytes::Bytes::from_static(b"abc")).map_err(|never| match never {}));
            let mut draft = Draft::of(Request::new(body), limit, None).unwrap();
            let (first, kept) = draft.request();
            assert_eq!((kept, draft.is_kept()), (again, again));
            if !kept {
                draft.take_back(first);
                let (taken_back, kept) = draft.request();
                assert!(!kept);
                assert_eq!(taken_back.into_body().collect().await.unwrap().to_bytes(), "abc");
                assert!(!draft.is_kept(), "it is sent");
            } else {
                assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "abc");
                assert_eq!(draft.request().0.into_body().collect().await.unwrap().to_bytes(), "abc");
            }
        }
    }
}
