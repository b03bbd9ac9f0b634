//! One reader of a shared watch.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use coord_api::store::RangeReply;
use coord_api::{Error, Result, Revision, Watch, WatchStart, WatchStatus};
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use tokio::try_join;

use super::shared::SharedWatch;
use super::window::{ReaderNext, SharedDelivery};
use crate::telemetry::Cause;

/// A reader of a watch that others may read as well. Its stream ends after an error, which is
/// permanent (R20).
pub struct Subscription {
    shared: Arc<SharedWatch>,
    /// Its number among the readers; `None` once it has ended.
    id: Option<usize>,
    status: WatchStatus,
    /// The state that it starts with.
    first: Option<Arc<RangeReply>>,
    /// A resync under way, because this reader was too slow for the window.
    resync: Option<BoxFuture<'static, Result<Arc<RangeReply>>>>,
}

impl Subscription {
    /// Adds a reader to a shared watch, arming the watch on the store if it is the first.
    pub(super) async fn open(shared: Arc<SharedWatch>, start: WatchStart) -> Result<Self> {
        let now = async {
            match start {
                // What was committed before this call may still come: a store arms a watch at most
                // at the present (S4), and others may read this watch already.
                WatchStart::Now => shared.head().await,
                _ => Ok(Revision::ZERO),
            }
        };
        let ((), now) = try_join!(shared.armed(start), now)?;
        let (id, status) = {
            let mut window = shared.window.lock();
            match start {
                WatchStart::After(revision) => window.add_reader_after(revision),
                _ => window.add_reader(now),
            }
        };
        let mut subscription = Subscription { shared, id: Some(id), status, first: None, resync: None };
        if let WatchStart::Snapshot = start {
            let state = subscription.shared.snapshot().await?;
            subscription.shared.window.lock().know(id, state.revision);
            subscription.first = Some(state);
        }
        Ok(subscription)
    }

    /// Says how the watch on the store is doing, also while others read this.
    pub fn status(&self) -> WatchStatus {
        self.status.clone()
    }

    /// A watch of the events that `translate` makes of each delivery. Its error, the last item, is
    /// one of `operation`.
    pub fn into_watch<E, I>(
        self,
        operation: &'static str,
        mut translate: impl FnMut(SharedDelivery) -> I + Send + 'static,
    ) -> Watch<E>
    where
        I: IntoIterator<Item = E>,
        I::IntoIter: Send + 'static,
        E: Send + 'static,
    {
        let events = move |item: Result<SharedDelivery>| match item {
            Ok(delivery) => stream::iter(translate(delivery)).map(Ok).left_stream(),
            Err(error) => stream::iter([Err(error.in_operation(operation))]).right_stream(),
        };
        Watch::new(self.status(), self.flat_map(events))
    }

    /// The next delivery, in the manner of a stream.
    fn poll_next_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<SharedDelivery>>> {
        let Some(id) = self.id else { return Poll::Ready(None) };
        if let Some(state) = self.first.take() {
            return Poll::Ready(Some(Ok(SharedDelivery::resync(state))));
        }
        loop {
            if let Some(resync) = &mut self.resync {
                let state = match resync.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(state)) => state,
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(self.end(error)))),
                };
                // The window moved on while the state was read; everything after it must still be
                // there.
                if self.shared.window.lock().go_on_from(id, state.revision) {
                    self.resync = None;
                    return Poll::Ready(Some(Ok(SharedDelivery::resync(state))));
                }
                self.resync = Some(self.start_resync());
                continue;
            }
            let next = self.shared.window.lock().next(id, cx.waker());
            match next {
                ReaderNext::Delivery(delivery) => return Poll::Ready(Some(Ok(delivery))),
                ReaderNext::Lagged => {
                    self.shared.ground.telemetry.resync(&self.shared.span, Cause::Lagged);
                    self.resync = Some(self.start_resync());
                }
                ReaderNext::Deserted => {
                    if let Err(error) = self.shared.restart_driver() {
                        return Poll::Ready(Some(Err(self.end(error))));
                    }
                }
                ReaderNext::End(error) => return Poll::Ready(Some(Err(self.end(error)))),
                ReaderNext::Pending => return Poll::Pending,
            }
        }
    }

    fn start_resync(&self) -> BoxFuture<'static, Result<Arc<RangeReply>>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.ground.read_for_watch(|| shared.snapshot()).await })
    }

    fn end(&mut self, error: Error) -> Error {
        self.leave();
        error
    }

    /// Is no reader any more, and its status says so.
    fn leave(&mut self) {
        if let Some(id) = self.id.take() {
            let reader = self.shared.window.lock().remove_reader(id);
            drop(reader);
        }
    }
}

impl Stream for Subscription {
    type Item = Result<SharedDelivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_next_delivery(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("span", &self.shared.span)
            .field("state", &self.status.state())
            .finish_non_exhaustive()
    }
}
