//! Somebody who wants an item.

use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, Range, Txn};
use coord_api::{Error, ErrorKind, Loss, Result, Value, Wait};
use coord_core::keys::{self, QueuePart};
use coord_core::session::{Fenced, LeasedEntry, Placed, SessionRef};
use coord_core::telemetry::Subject;
use coord_core::{Limit, backoff};

use super::follower::{Follower, Turn};
use super::line::FreeItem;
use super::{CLAIM, CONTRACT, Claim, ClaimOptions, ItemId, Queue};
use crate::queue::confirmed;

pub(super) struct Claimer<'a> {
    pub(super) queue: &'a Queue,
    pub(super) directory: &'a Bytes,
    pub(super) options: ClaimOptions,
}

/// What became of an item that was tried.
enum Tried {
    Claimed(Claim),
    /// It is not as it was seen: another one has it, or had.
    Refused,
    /// It is another one's turn to be tried: this item was put aside, or nothing was written.
    Nothing,
}

impl Claimer<'_> {
    /// Claims an item; `None` where there was none in time.
    ///
    /// # Errors
    ///
    /// As [`Queue::claim`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it has claimed nothing, and waits no more.
    pub(super) async fn claim(&self) -> Result<Option<Claim>> {
        let home = self.queue.client.home();
        let limit = Limit::of(home, self.options.wait);
        let mut backoff = backoff();
        loop {
            let claimed = match self.options.wait {
                Wait::Never => self.try_claim().await,
                _ => self.wait_for_claim(limit).await,
            };
            match claimed {
                // The lease died, or the place was removed, while it waited: it begins anew.
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    let pause = async {
                        home.sleep(backoff.pause()).await;
                        Ok(())
                    };
                    if is_over(limit.queue(home, CLAIM, pause).await)?.is_none() {
                        return Ok(None);
                    }
                }
                claimed => return claimed,
            }
        }
    }

    /// Claims what is free by the word of the store.
    async fn try_claim(&self) -> Result<Option<Claim>> {
        let session = self.session().await?;
        loop {
            let line = self.queue.read_line(self.directory).await?;
            let Some(item) = line.for_newcomer(|_| false) else { return Ok(None) };
            if let Tried::Claimed(claim) = self.try_item(&session, &item, None).await? {
                return Ok(Some(claim));
            }
        }
    }

    async fn wait_for_claim(&self, limit: Limit) -> Result<Option<Claim>> {
        let home = self.queue.client.home();
        let session = limit.answer(home, CLAIM, self.session()).await?;
        let follower = limit.answer(home, CLAIM, self.follower()).await?;
        while let Some(trial) = follower.try_next() {
            let tried = self.try_item(&session, &trial.item, None);
            let tried = limit.answer(home, CLAIM, tried).await?;
            if !matches!(tried, Tried::Nothing) {
                follower.outdated(&trial.item);
            }
            match tried {
                Tried::Claimed(claim) => return Ok(Some(claim)),
                // Others claim as well: one after the other, then.
                Tried::Refused => break,
                Tried::Nothing => {}
            }
        }
        drop(follower);
        let name: Arc<str> = keys::queue_name(session.lease(), session.nonce()).into();
        let place = limit.answer(home, CLAIM, self.join(&session, &name)).await?;
        loop {
            let Some((follower, turn)) = is_over(limit.queue(home, CLAIM, self.turn(&place, &name)).await)?
            else {
                return Ok(None);
            };
            let item = match turn {
                Turn::Item(item) => item,
                Turn::Gone => return Err(Error::lease_lost(CLAIM, "the place in the queue was removed")),
            };
            let tried = self.try_item(&session, &item, Some(&place));
            let tried = limit.answer(home, CLAIM, tried).await?;
            if !matches!(tried, Tried::Nothing) {
                follower.outdated(&item);
            }
            if let Tried::Claimed(claim) = tried {
                return Ok(Some(claim));
            }
        }
    }

    async fn session(&self) -> Result<SessionRef> {
        self.queue.client.enter(CLAIM, self.options.ttl).await
    }

    /// A follower that knows the queue.
    async fn follower(&self) -> Result<Arc<Follower>> {
        loop {
            let follower = self.queue.follower()?;
            if follower.loaded().await? {
                return Ok(follower);
            }
            self.next_follower().await?;
        }
    }

    /// The follower went down with the runtime that its task ran on, which may take a while to end.
    async fn next_follower(&self) -> Result<()> {
        if self.queue.client.is_closed() {
            return Err(Error::closed(CLAIM));
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Takes a place among those who wait.
    async fn join(&self, session: &SessionRef, name: &str) -> Result<LeasedEntry> {
        let key = keys::queue_part(self.directory, QueuePart::Waiter, name);
        let place = LeasedEntry::new(session.clone(), key, self.subject());
        let join = || {
            let key = place.key().clone();
            let put = Op::put_leased(key.clone(), self.queue.client.owner().value(), session.lease());
            Txn::new().when(Compare::Absent(key)).then(put)
        };
        loop {
            match place.place(&join).await? {
                Placed::Written(_) => return Ok(place),
                Placed::Refused(_) => {
                    return Err(Error::new(ErrorKind::Internal, CLAIM, "another place has this name"));
                }
                Placed::Found(found) if confirmed(&place, &found) => return Ok(place),
                Placed::Found(_) => {}
            }
        }
    }

    /// Waits until the place has its turn, or is gone.
    async fn turn(&self, place: &LeasedEntry, name: &Arc<str>) -> Result<(Arc<Follower>, Turn)> {
        loop {
            let follower = self.queue.follower()?;
            let joined = place.number().unwrap_or_default();
            let turn = tokio::select! {
                biased;
                turn = follower.turn(name, joined) => turn?,
                _ = place.loss().wait() => Some(Turn::Gone),
            };
            match turn {
                Some(turn) => return Ok((follower, turn)),
                None => self.next_follower().await?,
            }
        }
    }

    fn subject(&self) -> Subject {
        Subject::new(CONTRACT, &*self.queue.name)
    }

    /// Claims an item that is as it was seen, and with it gives up the place among those who wait.
    async fn try_item(
        &self,
        session: &SessionRef,
        item: &FreeItem,
        place: Option<&LeasedEntry>,
    ) -> Result<Tried> {
        if self.options.max_deliveries.is_some_and(|max| item.deliveries >= max) {
            return self.put_aside(session, item).await;
        }
        let part = |part| keys::queue_part(self.directory, part, &item.id);
        let entry = LeasedEntry::new(session.clone(), part(QueuePart::Claim), self.subject());
        let deliveries = item.deliveries.saturating_add(1);
        // All claims of an item have one key: this tells them apart, and the name is for people.
        let number = keys::queue_name(session.lease(), session.nonce());
        let own = Value::from(format!("{} {number}", self.queue.client.name()));
        let claim = || {
            let claim = Txn::new()
                .when(Compare::Modified(part(QueuePart::Item), item.modified))
                .when(Compare::Absent(part(QueuePart::Claim)))
                .then(Op::Range(Range::key(part(QueuePart::Value))))
                .then(Op::put_leased(part(QueuePart::Claim), own.clone(), session.lease()))
                .then(Op::put(part(QueuePart::Item), deliveries.to_string()));
            place.iter().fold(claim, |claim, place| claim.then(Op::delete(place.key().clone())))
        };
        let value = match entry.place(&claim).await? {
            Placed::Written(reply) => reply.try_range(0)?.entries.first().map(|entry| entry.value.clone()),
            Placed::Refused(_) => return Ok(Tried::Refused),
            Placed::Found(found) if is_own(&found, &own) && confirmed(&entry, &found) => {
                self.queue.client.read(part(QueuePart::Value)).await?.map(|entry| entry.value)
            }
            Placed::Found(_) => return Ok(Tried::Nothing),
        };
        if let Some(place) = place {
            place.end(Loss::Released);
        }
        let Some(value) = value else {
            let gone = "what was in the item is gone; allow fewer deliveries to have such items put aside";
            return Err(Error::new(ErrorKind::Codec, CLAIM, gone));
        };
        session.freshen().await?;
        entry.held();
        Ok(Tried::Claimed(self.handle(item, value, deliveries, entry)))
    }

    fn handle(&self, item: &FreeItem, value: Value, deliveries: u32, entry: LeasedEntry) -> Claim {
        let Queue { client, name, .. } = self.queue;
        let id = ItemId::new(Arc::clone(&item.id));
        Claim::new(client.clone(), Arc::clone(name), self.directory.clone(), id, (value, deliveries), entry)
    }

    /// Puts an item aside that was delivered too often (R80), if it is as it was seen.
    async fn put_aside(&self, session: &SessionRef, item: &FreeItem) -> Result<Tried> {
        let part = |part| keys::queue_part(self.directory, part, &item.id);
        let put_aside = || {
            Txn::new()
                .when(Compare::Modified(part(QueuePart::Item), item.modified))
                .when(Compare::Absent(part(QueuePart::Claim)))
                .then(Op::delete(part(QueuePart::Item)))
                .then(Op::put(part(QueuePart::Dead), item.deliveries.to_string()))
        };
        match session.write(&put_aside).await? {
            // What is put aside is as good as refused: the line is to tell of it first.
            Fenced::Written(_) | Fenced::Refused(_) => Ok(Tried::Refused),
            Fenced::Settled => Ok(Tried::Nothing),
        }
    }
}

/// Whether what stands there is the claim that was written with this value.
fn is_own(found: &[Option<Entry>], own: &Value) -> bool {
    found.iter().flatten().any(|found| found.value == *own)
}

/// What came in time; `None` where the time ran out.
fn is_over<T>(waited: Result<T>) -> Result<Option<T>> {
    match waited {
        Ok(waited) => Ok(Some(waited)),
        Err(error) if error.kind() == ErrorKind::Timeout => Ok(None),
        Err(error) => Err(error),
    }
}
