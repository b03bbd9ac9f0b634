//! The marker that stands while a period lasts.

use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Change, Compare, Lease, Op, Range, Span, Txn};
use coord_api::{Result, Revision};
use coord_core::Client;
use coord_core::session::Fenced;
use coord_core::watch::Delivery;
use tokio::time::Instant;

use super::RUN;
use crate::election::Leadership;

/// A period that has begun: its marker stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period {
    /// The revision of its marker.
    pub(super) number: Revision,
    /// When its marker is gone, at the earliest.
    pub(super) ends: Instant,
}

/// What is known of the marker.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// Nothing, or no more since a write whose answer is not known.
    Nothing,
    /// None stands.
    Absent,
    /// One stands that was written then.
    Since(Revision),
}

/// A lease that was granted for a marker, which was not seen to stand on it yet.
#[derive(Clone, Copy, Debug)]
struct Granted {
    lease: Lease,
    /// When it was asked for.
    sent: Instant,
}

/// The markers that one leader writes.
pub(super) struct Markers<'a> {
    client: &'a Client,
    key: Bytes,
    every: Duration,
    leadership: &'a Leadership,
    seen: Seen,
    granted: Option<Granted>,
}

impl<'a> Markers<'a> {
    pub(super) fn new(client: &'a Client, key: Bytes, every: Duration, leadership: &'a Leadership) -> Self {
        Markers { client, key, every, leadership, seen: Seen::Nothing, granted: None }
    }

    /// Waits until no marker stands, and writes one, which begins a period. `None` where the store
    /// says that another one leads.
    ///
    /// # Errors
    ///
    /// Those of the store; it may be called again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may have begun a period. It may be called again, and finds out.
    pub(super) async fn next(&mut self) -> Result<Option<Period>> {
        loop {
            match self.seen {
                Seen::Nothing => {
                    if let Some(period) = self.look().await? {
                        return Ok(Some(period));
                    }
                }
                Seen::Since(written) => {
                    self.gone(written).await?;
                    self.seen = Seen::Absent;
                }
                Seen::Absent => match self.write().await? {
                    Fenced::Written(reply) => return Ok(self.begun(reply.revision)),
                    // A marker stands there, or another one leads.
                    Fenced::Refused(reply) if reply.try_range(0)?.entries.is_empty() => return Ok(None),
                    Fenced::Refused(_) | Fenced::Settled => {}
                },
            }
        }
    }

    /// Looks what stands there. After a write whose answer is not known that may be the own marker,
    /// which begins the period; a lease that carries none is given back.
    async fn look(&mut self) -> Result<Option<Period>> {
        self.leadership.session().settle().await?;
        let found = self.client.read(self.key.clone()).await?;
        if let Some(granted) = self.granted {
            match found.as_ref().filter(|found| found.lease == Some(granted.lease.id)) {
                Some(own) => return Ok(self.begun(own.modified)),
                None => self.client.store().revoke_lease(granted.lease.id).await?,
            }
            self.granted = None;
        }
        self.seen = found.map_or(Seen::Absent, |found| Seen::Since(found.modified));
        Ok(None)
    }

    /// The own marker stands since then.
    fn begun(&mut self, number: Revision) -> Option<Period> {
        self.seen = Seen::Since(number);
        let Granted { lease, sent } = self.granted.take()?;
        Some(Period { number, ends: sent + lease.ttl })
    }

    /// Writes a marker on a lease that is granted for it. The period is counted from the grant, so
    /// that it may not be asked for before the earlier marker is gone.
    async fn write(&mut self) -> Result<Fenced> {
        let fenced = self.client.fenced(RUN, &[self.leadership.fence()]).await?;
        let sent = self.client.home().now();
        let lease = self.client.store().grant_lease(self.every).await?;
        (self.granted, self.seen) = (Some(Granted { lease, sent }), Seen::Nothing);
        let write = || {
            let put = Op::put_leased(self.key.clone(), self.client.name().to_owned(), lease.id);
            let txn = fenced.iter().cloned().fold(Txn::new(), Txn::when);
            txn.when(Compare::Absent(self.key.clone()))
                .then(put)
                .otherwise(Op::Range(Range::key(self.key.clone())))
        };
        self.leadership.session().write(&write).await
    }

    /// Waits until the marker is gone that was written then.
    async fn gone(&self, written: Revision) -> Result<()> {
        let mut watch = self.client.follow_after(Span::key(self.key.clone()), written);
        loop {
            let is_gone = match watch.next().await? {
                Delivery::Batch(batch) => matches!(batch.changes.last(), Some(Change::Delete { .. })),
                Delivery::Resync { state, .. } => state.entries.is_empty(),
            };
            if is_gone {
                return Ok(());
            }
        }
    }
}
