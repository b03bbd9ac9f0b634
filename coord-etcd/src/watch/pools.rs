//! The streams to the members.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use etcd_client::WatchClient;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::request::{OpenedWatch, StreamHandle, WatchTarget};
use super::stream::{Route, start};
use super::watermark::Watermark;
use crate::connection::Link;
use crate::error::Fault;
use crate::members::{Asked, Members};

/// The streams to all members, in a pool for each link.
#[derive(Debug, Default)]
pub(super) struct StreamPools {
    pools: Mutex<Vec<(Weak<Link>, Arc<StreamPool>)>>,
}

impl StreamPools {
    /// The streams on a link. They go with it.
    pub(super) fn of(&self, link: &Arc<Link>) -> Arc<StreamPool> {
        let mut pools = self.pools.lock();
        if let Some((_, pool)) =
            pools.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(link)))
        {
            return Arc::clone(pool);
        }
        pools.retain(|(link, _)| link.strong_count() > 0);
        let pool = Arc::default();
        pools.push((Arc::downgrade(link), Arc::clone(&pool)));
        pool
    }
}

/// The streams on one link that may have a free slot.
#[derive(Debug, Default)]
pub(super) struct StreamPool {
    streams: Mutex<Vec<Arc<StreamHandle>>>,
    /// Whether the other end answers requests for progress, as servers do and some proxies do not.
    answers: Arc<AtomicBool>,
}

impl StreamPool {
    /// Watches a target, on a stream that there is or on a new one. Waits until the server has made
    /// the watch.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a watch that nobody waits for is canceled when the server has made it.
    pub(super) async fn watch(
        &self,
        members: &Arc<Members>,
        asked: &Asked,
        watermark: &Watermark,
        client: WatchClient,
        target: WatchTarget,
    ) -> Result<OpenedWatch, Fault> {
        let (tell, opened) = oneshot::channel();
        {
            let mut streams = self.streams.lock();
            streams.retain(|stream| stream.is_open());
            match streams.iter().find_map(StreamHandle::take_slot) {
                Some(slot) => slot.fill(target, tell),
                None => {
                    let marks = watermark.subscribe(&target.span.0)?;
                    let route = Route {
                        members: Arc::clone(members),
                        asked: asked.clone(),
                        client,
                        marks,
                        answers: Arc::clone(&self.answers),
                    };
                    streams.push(start(route, target, tell)?);
                }
            }
        }
        opened.await.unwrap_or_else(|_| Err(Fault::unavailable("the stream ended before the watch was made")))
    }
}
