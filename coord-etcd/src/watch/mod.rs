//! Watches (S4): opened where nothing is missed, drained at once, and given up when they have gone deaf.
//!
//! Many watches share one stream to a member: `pool` seats them, `stream` carries them, and `table` knows which response is whose. `assemble` makes batches of what a
//! server sends, `queue` holds them for who reads slowly, `watermark` knows how far a healthy stream must have come, and `liveness` decides by it, or by what `probe` reads where the other end gives no word of how far it is. What broke
//! is not repaired here: the watch ends, and the recipes watch again from the last revision that they saw.

mod assemble;
mod liveness;
mod pool;
mod probe;
mod queue;
mod stream;
mod table;
mod watermark;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use coord_api::store::{Span, StoreEvent, StoreWatch};
use coord_api::{Result, Revision};
use etcd_client::WatchOptions;
use futures_util::{Stream, StreamExt};

use crate::error::Effect;
use crate::kv::{interval, number};
use crate::members::{Asked, Members};
pub(crate) use pool::Pool;
use queue::Events;
use stream::Seat;
pub(crate) use watermark::Watermark;

const OPERATION: &str = "store.watch";

/// Watches a span: every change after `after`, or after the present one.
pub(crate) async fn open(members: &Arc<Members>, watermark: &Watermark, span: &Span, after: Option<Revision>) -> Result<StoreWatch> {
    let target = Target { span: interval(span), after };
    let opened = members.call(OPERATION, Effect::Read, |asked| {
        let target = &target;
        async move {
            let cluster = Cluster { members, asked: &asked, watermark };
            asked.link.watches.run(|client| asked.link.streams.watch(cluster, client.watch_client(), target.clone())).await
        }
    });
    let opened = opened.await?;
    Ok(StoreWatch::new(opened.armed, opened.events))
}

/// What a stream needs to know of where it is.
#[derive(Clone, Copy)]
struct Cluster<'a> {
    members: &'a Arc<Members>,
    /// The member that the stream goes to.
    asked: &'a Asked,
    watermark: &'a Watermark,
}

/// What is to be watched.
#[derive(Clone, Debug)]
struct Target {
    span: (Bytes, Option<Bytes>),
    after: Option<Revision>,
}

impl Target {
    /// A watch from the present on, or from the past. The past begins *at* the last revision that was seen, and what is seen again is dropped. So a
    /// server that has forgotten what follows that revision says that it was compacted; of one that is asked from the revision after it, some leave a
    /// deletion out.
    fn request(&self, from_past: bool) -> (Bytes, WatchOptions) {
        let mut options = WatchOptions::new().with_fragment().with_progress_notify();
        if let Some(end) = &self.span.1 {
            options = options.with_range(end.clone());
        }
        if let Some(after) = self.after.filter(|_| from_past) {
            options = options.with_start_revision(number(after).max(1));
        }
        (self.span.0.clone(), options)
    }
}

/// A watch that the server has confirmed.
#[derive(Debug)]
struct Opened {
    /// It delivers everything after this.
    armed: Revision,
    events: Seated,
}

/// What a watch delivers, and its seat on the stream that brings it.
#[derive(Debug)]
struct Seated {
    events: Events,
    _seat: Seat,
}

impl Stream for Seated {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(cx)
    }
}
