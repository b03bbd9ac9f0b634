//! Following what an instance has: two watches, and never a word before both keys are known at its
//! revision (R74).
//!
//! The watch of the base says what is told. Before it tells a change, the releases are known up to
//! the revision of that: their keys are looked at, unless a look at a later revision was had
//! already. What concerns a release for the instance is told by reading everything anew.

use std::sync::Arc;

use coord_api::store::{Range, RangeReply, Span};
use coord_api::{ConfigEvent, Error, ErrorKind, Result, Revision, Watch, WatchStart};
use coord_core::Client;
use coord_core::watch::{SharedDelivery, Subscription};
use futures_util::{StreamExt, stream};

use super::releases::Releases;
use super::targets::GrayIdentity;
use super::view::{Both, Scope};
use crate::config;

const OPERATION: &str = "config.watch";

/// Follows a scope for an instance. It reads when it is read, and holds no values.
struct Follower {
    client: Client,
    instance: Arc<GrayIdentity>,
    scope: Scope,
    base: Subscription,
    gray: Subscription,
    releases: Releases,
    /// Everything up to here was told.
    told: Revision,
    /// Everything is to be read anew and told.
    stale: bool,
}

/// Opens a watch of a scope for an instance.
pub(super) async fn open(
    client: &Client,
    instance: &Arc<GrayIdentity>,
    scope: Scope,
    start: WatchStart,
) -> Result<Watch<ConfigEvent>> {
    let mut stale = false;
    let (base, gray, found, told) = match start {
        WatchStart::After(revision) => {
            let found = releases_at(client, &scope.gray, revision).await?;
            stale = found.is_none();
            let found = found.unwrap_or(RangeReply { revision, ..RangeReply::default() });
            let base = client.subscribe(scope.base.clone(), start).await?;
            let gray = client.subscribe(scope.gray.clone(), WatchStart::After(found.revision)).await?;
            (base, gray, found, revision)
        }
        _ => {
            let base = client.subscribe(scope.base.clone(), WatchStart::Now).await?;
            let gray = client.subscribe(scope.gray.clone(), WatchStart::Now).await?;
            // Whatever comes after it, the two watches tell.
            let found = match start {
                WatchStart::Snapshot => RangeReply::default(),
                _ => client.list(scope.gray.clone()).await?,
            };
            let told = found.revision;
            (base, gray, found, told)
        }
    };
    let mut follower = Follower {
        client: client.clone(),
        releases: Releases::of(instance, &found.entries, found.revision),
        instance: Arc::clone(instance),
        scope,
        base,
        gray,
        told,
        stale,
    };
    let first = match start {
        WatchStart::Snapshot => Some(Both::read(client, &follower.scope).await?),
        _ => None,
    };
    let first = first.map(|both| Ok(follower.take_both(both)));
    let status = follower.base.status();
    let events = stream::unfold(Some(follower), |follower| async {
        let mut follower = follower?;
        match follower.next().await {
            Ok(events) => Some((stream::iter(events).map(Ok).left_stream(), Some(follower))),
            // It is the last item, and the two watches end with it.
            Err(error) => Some((stream::iter([Err(error.in_operation(OPERATION))]).right_stream(), None)),
        }
    });
    Ok(Watch::new(status, stream::iter(first).chain(events.flatten())))
}

/// The releases as they were at a revision, or are now where that is yet to come; `None` where that
/// history is gone.
async fn releases_at(client: &Client, releases: &Span, revision: Revision) -> Result<Option<RangeReply>> {
    let present = client.list(releases.clone()).await?;
    if present.revision <= revision {
        return Ok(Some(present));
    }
    if revision == Revision::ZERO {
        return Ok(Some(RangeReply::default()));
    }
    match client.list_range(Range::new(releases.clone()).with_at(revision)).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::Compacted => Ok(None),
        Err(error) => Err(error),
    }
}

impl Follower {
    /// What is to be told next.
    async fn next(&mut self) -> Result<Vec<ConfigEvent>> {
        loop {
            if self.stale {
                let (client, scope) = (&self.client, &self.scope);
                let both = client.read_for_watch(|| Both::read(client, scope)).await?;
                return Ok(vec![self.take_both(both)]);
            }
            tokio::select! {
                biased;
                delivery = self.gray.next() => self.take_gray(&delivered(delivery)?),
                delivery = self.base.next() => {
                    let events = self.take_base(delivered(delivery)?).await?;
                    if !events.is_empty() {
                        return Ok(events);
                    }
                }
            }
        }
    }

    /// Takes in everything at one revision.
    fn take_both(&mut self, both: Both) -> ConfigEvent {
        let revision = both.revision;
        self.releases = Releases::of(&self.instance, &both.gray, revision);
        self.told = revision;
        self.stale = false;
        ConfigEvent::Resync(config::snapshot(revision, &both.of(&self.instance)))
    }

    fn take_gray(&mut self, delivery: &SharedDelivery) {
        match delivery {
            SharedDelivery::Batch(batch) => {
                let concerns = self.releases.apply(&self.instance, batch);
                self.stale |= concerns && batch.revision > self.told;
            }
            SharedDelivery::Resync { state, replaced } => {
                self.stale |= *replaced || state.revision > self.releases.checked();
            }
        }
    }

    async fn take_base(&mut self, delivery: SharedDelivery) -> Result<Vec<ConfigEvent>> {
        let batch = match &delivery {
            SharedDelivery::Batch(batch) => Arc::clone(batch),
            SharedDelivery::Resync { state, replaced } => {
                self.stale |= *replaced || state.revision > self.told;
                return Ok(Vec::new());
            }
        };
        if batch.revision <= self.told {
            return Ok(Vec::new());
        }
        if batch.revision > self.releases.checked() {
            self.check(batch.revision).await?;
        }
        self.stale |= batch.changes.iter().any(|change| self.releases.hide(change));
        if self.stale {
            return Ok(Vec::new());
        }
        self.told = batch.revision;
        Ok(config::events(delivery))
    }

    /// Gets to know the releases up to a revision that a watch has told.
    async fn check(&mut self, revision: Revision) -> Result<()> {
        let (client, releases) = (&self.client, Range::new(self.scope.gray.clone()));
        let look = || client.list_range(releases.clone().with_keys_only());
        let found = client.read_for_watch(look).await?;
        if self.releases.confirm(&found.entries, found.revision.max(revision)) {
            return Ok(());
        }
        let found = client.read_for_watch(|| client.list_range(releases.clone())).await?;
        let found = Releases::of(&self.instance, &found.entries, found.revision.max(revision));
        self.stale |= self.releases.replace(found);
        Ok(())
    }
}

/// What a watch has delivered; its error is its last item.
fn delivered(item: Option<Result<SharedDelivery>>) -> Result<SharedDelivery> {
    item.unwrap_or_else(|| Err(Error::closed(OPERATION)))
}
