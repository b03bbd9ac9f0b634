//! The streams to one member.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use etcd_client::WatchClient;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::stream::Line;
use super::table::Wanted;
use super::{Cluster, Opened, Target};
use crate::error::Fault;

/// The streams to one member on which there may be a seat.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    lines: Mutex<Vec<Arc<Line>>>,
    /// Whether the other end answers requests for progress, as servers do and some proxies do not.
    pub(super) answers: AtomicBool,
}

impl Pool {
    /// Watches a target, on a stream that there is or on a new one. Waits until the server has made the watch.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a watch that nobody waits for is canceled when the server has made it.
    pub(super) async fn watch(&self, cluster: Cluster<'_>, client: WatchClient, target: Target) -> Result<Opened, Fault> {
        let (tell, opened) = oneshot::channel();
        {
            let mut lines = self.lines.lock();
            lines.retain(|line| line.is_open());
            match lines.iter().find_map(Line::take_seat) {
                Some(seat) => seat.ask(|seat| Wanted::new(target, seat, tell)),
                None => lines.push(Line::start(cluster, client, |seat| Wanted::new(target, seat, tell))?),
            }
        }
        opened.await.unwrap_or_else(|_| Err(Fault::unavailable("the stream ended before the watch was made")))
    }
}
