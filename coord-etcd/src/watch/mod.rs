//! Watches (S4): opened where nothing is missed, drained at once, and given up when they have gone
//! deaf.
//!
//! Many watches share one stream to a member. `pools` finds a slot for each, `request` is what both
//! ends of such a slot know of each other, `stream` carries the watches, and `table` knows which
//! response belongs to which. `assemble` makes batches of what a server sends, and `queue` holds
//! them for who reads slowly. `watermark` knows how far a healthy stream must have come, and
//! `liveness` decides by it, or by what was read where the other end gives no word of how far it
//! is. A stream that broke is not repaired here: its watches end, and the recipes watch again from
//! the last revision that they saw.

mod assemble;
mod liveness;
mod pools;
mod queue;
mod request;
mod stream;
mod table;
mod watermark;

use coord_api::store::{Effect, Span, StoreWatch};
use coord_api::{Result, Revision};

use crate::cluster::Cluster;
use crate::wire::interval;
use pools::StreamPools;
use request::{OPERATION, WatchTarget};
use watermark::Watermark;

/// The watches of one client.
#[derive(Debug)]
pub(crate) struct Watches {
    pools: StreamPools,
    watermark: Watermark,
}

impl Watches {
    /// Watches of a cluster, of which none is open yet.
    pub(crate) fn new(cluster: std::sync::Arc<Cluster>) -> Self {
        Watches { pools: StreamPools::default(), watermark: Watermark::new(cluster) }
    }

    /// Watches a span: every change after `after`, or after the present one.
    pub(crate) async fn open(
        &self,
        cluster: &Cluster,
        span: &Span,
        after: Option<Revision>,
    ) -> Result<StoreWatch> {
        let target = WatchTarget { span: interval(span), after };
        let opened = cluster.call(OPERATION, Effect::Read, |asked| {
            let target = &target;
            async move {
                let pool = self.pools.of(&asked.link);
                let watch =
                    |client| pool.watch(cluster.members(), &asked, &self.watermark, client, target.clone());
                asked.link.watches.run(|client| watch(client.watch_client())).await
            }
        });
        let opened = opened.await?;
        Ok(StoreWatch::new(opened.armed, opened.events))
    }
}
