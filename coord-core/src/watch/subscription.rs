//! One reader of a shared watch.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use coord_api::store::RangeReply;
use coord_api::{Error, Outcome, Result, Revision, WatchStart, WatchState};
use futures_util::future::BoxFuture;
use tokio::try_join;

use super::channel::Channel;
use super::window::{ReaderNext, SharedDelivery};
use crate::backoff::backoff;
use crate::error::is_permanent;
use crate::telemetry::Cause;

/// A reader of a watch that others may read as well. Its stream ends after an error, which is
/// permanent (R20).
pub struct Subscription {
    channel: Arc<Channel>,
    /// Its number among the readers.
    id: usize,
    /// The state that it starts with.
    first: Option<Arc<RangeReply>>,
    /// A resync under way, because this reader was too slow for the window.
    resync: Option<BoxFuture<'static, Result<Arc<RangeReply>>>>,
    ended: bool,
}

impl Subscription {
    /// Adds a reader to a channel, arming the watch on the store if it is the first.
    pub(super) async fn open(channel: Arc<Channel>, start: WatchStart) -> Result<Self> {
        let now = async {
            match start {
                // What was committed before this call may still come: a store arms a watch at most
                // at the present (S4), and others may read this channel already.
                WatchStart::Now => channel.head().await,
                _ => Ok(Revision::ZERO),
            }
        };
        let ((), now) = try_join!(channel.armed(start), now)?;
        let id = {
            let mut window = channel.window.lock();
            match start {
                WatchStart::After(revision) => window.add_reader_after(revision),
                _ => window.add_reader(now),
            }
        };
        let mut subscription = Subscription { channel, id, first: None, resync: None, ended: false };
        if let WatchStart::Snapshot = start {
            subscription.begin().await?;
        }
        Ok(subscription)
    }

    /// Begins with the state of the whole span.
    async fn begin(&mut self) -> Result<()> {
        let state = self.channel.snapshot().await?;
        self.channel.window.lock().know(self.id, state.revision);
        self.first = Some(state);
        Ok(())
    }

    /// How the watch on the store is doing.
    pub fn state(&self) -> WatchState {
        if self.ended { WatchState::Ended } else { self.channel.window.lock().state() }
    }

    /// The next delivery, in the manner of a stream.
    pub fn poll_next_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<SharedDelivery>>> {
        if self.ended {
            return Poll::Ready(None);
        }
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
                if self.channel.window.lock().go_on_from(self.id, state.revision) {
                    self.resync = None;
                    return Poll::Ready(Some(Ok(SharedDelivery::resync(state))));
                }
                self.resync = Some(self.start_resync());
                continue;
            }
            let next = self.channel.window.lock().next(self.id, cx.waker());
            match next {
                ReaderNext::Delivery(delivery) => return Poll::Ready(Some(Ok(delivery))),
                ReaderNext::Lagged => {
                    self.channel.ground.telemetry.resync(&self.channel.span, Cause::Lagged);
                    self.resync = Some(self.start_resync());
                }
                ReaderNext::Deserted => {
                    if let Err(error) = self.channel.restart_driver() {
                        return Poll::Ready(Some(Err(self.end(error))));
                    }
                }
                ReaderNext::End(error) => return Poll::Ready(Some(Err(self.end(error)))),
                ReaderNext::Pending => return Poll::Pending,
            }
        }
    }

    fn start_resync(&self) -> BoxFuture<'static, Result<Arc<RangeReply>>> {
        let channel = Arc::clone(&self.channel);
        Box::pin(async move {
            let ground = &channel.ground;
            let mut backoff = backoff();
            loop {
                match ground.run("watch", Outcome::NotApplied, channel.snapshot()).await {
                    Err(error) if !is_permanent(&error) && ground.ready("watch").is_ok() => {
                        ground.home.sleep(backoff.pause()).await
                    }
                    answer => return answer,
                }
            }
        })
    }

    fn end(&mut self, error: Error) -> Error {
        self.ended = true;
        error
    }
}

impl futures_util::Stream for Subscription {
    type Item = Result<SharedDelivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_next_delivery(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.channel.window.lock().remove_reader(self.id);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("span", &self.channel.span)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
