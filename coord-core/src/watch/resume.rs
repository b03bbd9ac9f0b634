//! One watch on the store that never goes silently deaf: resumed after every fault, resynced where
//! history was lost.

use std::sync::Arc;
use std::time::Duration;

use coord_api::store::{Batch, Range, RangeReply, Span, StoreEvent, StoreWatch};
use coord_api::{ErrorKind, Result, Revision};
use coord_home::Backoff;
use tokio::time::Instant;

use crate::backoff::backoff;
use crate::error::is_permanent;
use crate::ground::Ground;

/// A stream that lasted so long was a good one: the pauses before the next start anew, also where
/// it had nothing to deliver.
const GOOD: Duration = Duration::from_millis(100);

/// What a resumed watch delivers.
#[derive(Debug)]
pub enum Delivery {
    /// The changes of one revision.
    Batch(Batch),
    /// History was lost: the whole span at one revision (R19).
    Resync {
        /// The whole span.
        state: RangeReply,
        /// Whether the store was replaced, so that its revisions may have gone back (S1).
        replaced: bool,
    },
}

/// A watch on the store that is resumed for ever (R18 to R20).
#[derive(Debug)]
pub struct ResumingWatch {
    ground: Arc<Ground>,
    span: Span,
    /// The store whose history this is; asked for when it first matters.
    store_id: Option<Arc<str>>,
    /// Everything up to here was delivered.
    seen: Revision,
    stream: Option<StoreWatch>,
    /// What to do before the stream is opened again.
    detached: Detached,
    /// Since when the stream is open.
    attached_at: Option<Instant>,
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// The state was read, and nothing has come since: history that is lost again then is not asked
    /// for at once.
    resynced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detached {
    /// Never attached, or the state was just read: nothing can have been lost.
    Fresh,
    /// The stream broke. The store behind the next one must be shown to be the same.
    Broken,
    /// History was lost: the state must be read anew.
    Lost,
    /// As lost, and revisions count from where the new store stands.
    Replaced,
}

impl ResumingWatch {
    /// Arms a watch for every change after `after`, or after now (R16).
    pub(crate) async fn arm(ground: Arc<Ground>, span: Span, after: Option<Revision>) -> Result<Self> {
        let store_id = Some(Arc::clone(ground.store_id().await?));
        let seen = after.unwrap_or_default();
        let mut watch = ResumingWatch {
            store_id,
            seen,
            detached: Detached::Fresh,
            ..ResumingWatch::from_snapshot(ground, span)
        };
        match watch.ground.store.watch(watch.span.clone(), after).await {
            Ok(stream) => {
                if after.is_none() {
                    watch.seen = stream.armed();
                    watch.attached_at = Some(watch.ground.home.now());
                    watch.stream = Some(stream);
                } else if stream.armed() < watch.seen {
                    watch.detached = Detached::Broken;
                } else {
                    watch.attached_at = Some(watch.ground.home.now());
                    watch.stream = Some(stream);
                }
            }
            Err(error) if error.kind() == ErrorKind::Compacted => watch.detached = Detached::Lost,
            Err(error) => return Err(error),
        }
        Ok(watch)
    }

    /// A watch that starts with a `Resync` of the present state (R17).
    pub(crate) fn from_snapshot(ground: Arc<Ground>, span: Span) -> Self {
        ResumingWatch {
            ground,
            span,
            store_id: None,
            seen: Revision::ZERO,
            stream: None,
            detached: Detached::Lost,
            attached_at: None,
            retry_at: None,
            backoff: backoff(),
            resynced: false,
        }
    }

    /// A watch for every change after `after`, which attaches when it is first polled.
    pub(crate) fn after(ground: Arc<Ground>, span: Span, after: Revision) -> Self {
        ResumingWatch { seen: after, detached: Detached::Fresh, ..ResumingWatch::from_snapshot(ground, span) }
    }

    /// As [`after`](Self::after), where what watched before was cut off: the store behind the watch
    /// may have been replaced meanwhile.
    pub(crate) fn broken_after(ground: Arc<Ground>, span: Span, after: Revision) -> Self {
        ResumingWatch { detached: Detached::Broken, ..ResumingWatch::after(ground, span, after) }
    }

    /// Everything up to this revision was delivered.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// Whether it is attached to the store.
    pub fn is_live(&self) -> bool {
        self.stream.is_some()
    }

    /// The next delivery. Cancel safe.
    ///
    /// # Errors
    ///
    /// Only what trying again cannot repair.
    pub async fn next(&mut self) -> Result<Delivery> {
        loop {
            if let Some(feed) = self.step().await? {
                return Ok(feed);
            }
        }
    }

    /// One step: a delivery, or a change of [`is_live`](Self::is_live), or nothing of interest.
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// Only what trying again cannot repair.
    pub async fn step(&mut self) -> Result<Option<Delivery>> {
        // Boxed: it is rare, and every watch would be as large as it otherwise.
        let Some(stream) = &mut self.stream else { return Box::pin(self.attach()).await };
        match stream.next().await {
            Some(Ok(StoreEvent::Batch(batch))) => {
                self.good();
                // A store that resumes inclusively, or replays, delivers what was seen.
                if batch.revision <= self.seen {
                    return Ok(None);
                }
                self.seen = batch.revision;
                Ok(Some(Delivery::Batch(batch)))
            }
            Some(Ok(StoreEvent::Progress(revision))) => {
                self.good();
                self.seen = self.seen.max(revision);
                Ok(None)
            }
            Some(Err(error)) if is_permanent(&error) => Err(error),
            Some(Err(error)) if error.kind() == ErrorKind::Compacted => {
                self.lose_history();
                Ok(None)
            }
            Some(Err(error)) => {
                let (span, seen) = (self.span.clone(), self.seen);
                coord_home::event!(DEBUG, span = ?span, kind = %error.kind(), seen = %seen, "watch broke");
                self.detach(Detached::Broken);
                self.pause();
                Ok(None)
            }
            None => {
                self.detach(Detached::Broken);
                self.pause();
                Ok(None)
            }
        }
    }

    /// Something came.
    fn good(&mut self) {
        self.backoff.reset();
        self.resynced = false;
    }

    /// The history that is needed is gone: the state is read anew. At once, unless that is what was
    /// done last: a store that refuses to go on from the state that it has just given would be
    /// asked without end.
    fn lose_history(&mut self) {
        self.detach(Detached::Lost);
        if self.resynced {
            self.pause();
        }
    }

    fn detach(&mut self, why: Detached) {
        self.stream = None;
        self.detached = why;
    }

    fn pause(&mut self) {
        let now = self.ground.home.now();
        if self.attached_at.take().is_some_and(|since| now.saturating_duration_since(since) >= GOOD) {
            self.backoff.reset();
        }
        self.retry_at = Some(now + self.backoff.pause());
    }

    async fn attach(&mut self) -> Result<Option<Delivery>> {
        if let Some(retry_at) = self.retry_at {
            self.ground.home.sleep_until(retry_at).await;
            self.retry_at = None;
        }
        match self.try_attach().await {
            Ok(feed) => Ok(feed),
            Err(error) if is_permanent(&error) => Err(error),
            Err(error) if error.kind() == ErrorKind::Compacted => {
                self.lose_history();
                Ok(None)
            }
            Err(_) => {
                self.pause();
                Ok(None)
            }
        }
    }

    async fn try_attach(&mut self) -> Result<Option<Delivery>> {
        if self.detached == Detached::Broken && self.is_another_store().await? {
            self.detached = Detached::Replaced;
        }
        if matches!(self.detached, Detached::Lost | Detached::Replaced) {
            let state = self.ground.list(self.span.clone()).await?;
            let replaced = self.detached == Detached::Replaced;
            self.seen = state.revision;
            self.detached = Detached::Fresh;
            self.resynced = true;
            return Ok(Some(Delivery::Resync { state, replaced }));
        }
        let stream = self.ground.store.watch(self.span.clone(), Some(self.seen)).await?;
        if stream.armed() < self.seen {
            // The store is behind what was seen: a replica that lags, or a store that was restored.
            // A linearizable read tells which.
            let probe = Range::new(self.span.clone()).with_limit(1).with_keys_only();
            if self.ground.store.range(probe).await?.revision < self.seen {
                self.detached = Detached::Replaced;
                return Ok(None);
            }
        }
        self.stream = Some(stream);
        self.attached_at = Some(self.ground.home.now());
        self.detached = Detached::Fresh;
        Ok(None)
    }

    /// Whether the store was replaced, for example from a backup: then its history has nothing to
    /// do with what was seen (S1).
    async fn is_another_store(&mut self) -> Result<bool> {
        let known = match &self.store_id {
            Some(known) => known,
            None => self.ground.store_id().await?,
        };
        let present = self.ground.store.status().await?.store_id;
        let changed = *present != **known;
        self.store_id = Some(present.into());
        Ok(changed)
    }
}
