//! What is written with the head beside appends: who speaks for a region, the epoch, content, the
//! floor.

use coord_api::Outcome;
use coord_api::store::{Compare, Op, Range, Txn};

use super::error::{LedgerError, Result};
use super::picture::{head as head_in, json};
use super::reading::no_head;
use super::{Ledger, Shared, json_value};
use crate::model::append::{self, Hello, Welcome};
use crate::model::{ActorRecord, Hash, Head, Refusal, RegionId, Session};

/// How often something is written anew after others wrote in between.
const TRIES: u32 = 64;

impl Ledger {
    /// Answers a region that says [`Hello`] (G9): writes which run of its agent speaks for it, and
    /// the epoch, with the head. `alive` says whether the run that speaks for it so far still shows
    /// itself, and `fresh` is an epoch that no store of this space ever had: seconds since 1970
    /// are. The position is that of the head at which it was answered.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] with [`Refusal::Busy`] while another agent speaks for the region;
    /// [`LedgerError::Store`] and [`LedgerError::Contended`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may have been written. The same run may say Hello again at any time.
    pub async fn hello(
        &self,
        region: &RegionId,
        said: &Hello,
        alive: impl Fn(Option<Session>) -> bool,
        fresh: u32,
    ) -> Result<(Welcome, u64)> {
        let Shared { store, keys, .. } = &*self.shared;
        let mut doubts = 0;
        for _ in 0..TRIES {
            let read = Txn::new()
                .then(Op::Range(Range::key(keys.head())))
                .then(Op::Range(Range::prefix(keys.actors_of(region))));
            let reply = store.txn(read).await?;
            let (Some(head), Some(actors)) =
                (reply.range(0).and_then(|range| range.entries.first()), reply.range(1))
            else {
                return Err(no_head());
            };
            let mut last: Option<(u32, ActorRecord)> = None;
            let mut named = None;
            for found in &actors.entries {
                let Some(actor) = keys.actor_in(&found.key) else { continue };
                let record: ActorRecord = json(found)?;
                if last.is_none_or(|(incarnation, _)| incarnation < actor.incarnation()) {
                    last = Some((actor.incarnation(), record));
                }
                if said.actor.as_ref() == Some(&actor) {
                    named = Some(record);
                }
            }
            let at = head_in(head)?;
            let speaks = last.and_then(|(_, record)| record.session);
            let greeting = append::hello(&at, region, last, named, said, alive(speaks), fresh)?;
            let new = Head { epoch: greeting.welcome.epoch, ..at.clone() };
            let mut txn = Txn::new()
                .when(Compare::Modified(keys.head(), head.modified))
                .then(Op::put(keys.head(), json_value(&new)?));
            for (actor, record) in &greeting.actors {
                txn = txn.then(Op::put(keys.actor(actor), json_value(record)?));
            }
            match store.txn(txn).await {
                Ok(reply) if reply.succeeded => return Ok((greeting.welcome, at.position)),
                Ok(_) => {}
                // It may have been written: then it is answered the same way.
                Err(error) if error.outcome() == Outcome::Unknown && error.is_transient() && doubts < 2 => {
                    doubts += 1
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(LedgerError::Contended { tries: TRIES })
    }

    /// Says that the store was restored from a backup, with all instances stopped: the space goes
    /// on as epoch `fresh`, and each region takes a snapshot, goes on as its next incarnation, and
    /// issues again what the backup does not have (G25). `fresh` is an epoch that no store of this
    /// space ever had: seconds since 1970 are. To say it again is Ok.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] with [`Refusal::Epoch`] where the space is in a later epoch
    /// already; [`LedgerError::Store`] and [`LedgerError::Contended`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may have been written.
    pub async fn restored(&self, fresh: u32) -> Result<()> {
        let Shared { store, keys, .. } = &*self.shared;
        for _ in 0..TRIES {
            let found = store.range(Range::key(keys.head())).await?;
            let Some(found) = found.entries.first() else { return Err(no_head()) };
            let head = head_in(found)?;
            if head.epoch == fresh {
                return Ok(());
            }
            if head.epoch > fresh {
                return Err(Refusal::Epoch { claimed: fresh, known: head.epoch }.into());
            }
            let txn = Txn::new()
                .when(Compare::Modified(keys.head(), found.modified))
                .then(Op::put(keys.head(), json_value(&Head { epoch: fresh, ..head })?));
            if store.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
        Err(LedgerError::Contended { tries: TRIES })
    }

    /// Says that content is at the coordinator, and where: `object` is what whoever keeps it calls
    /// it. Returns where it is; one that was there before stays.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Store`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may have been written.
    pub async fn put_content(&self, hash: &Hash, object: &str) -> Result<String> {
        let Shared { store, keys, picture, .. } = &*self.shared;
        let key = keys.content(hash);
        let txn = Txn::new()
            .when(Compare::Absent(key.clone()))
            .then(Op::put(key.clone(), object.as_bytes().to_vec()))
            .otherwise(Op::Range(Range::key(key)));
        let reply = store.txn(txn).await?;
        picture.lock().await.has_now(*hash);
        let found = reply.range(0).and_then(|range| range.entries.first());
        Ok(found
            .map_or_else(|| object.to_owned(), |found| String::from_utf8_lossy(&found.value).into_owned()))
    }

    /// Forgets content that no file has: its key goes with the head, so that no append that was
    /// made before takes it for there (G21). `seen` is the position at which the caller has seen
    /// that no file has it. What it was called is returned: its object may be deleted afterwards.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Refused`] with [`Refusal::Moved`] where the log has gone on since: a file may
    /// have it now. [`LedgerError::Store`] and [`LedgerError::Contended`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may have been forgotten; then its object is an orphan, which is found by
    /// listing.
    pub async fn forget_content(&self, hash: &Hash, seen: u64) -> Result<Option<String>> {
        let Shared { store, keys, .. } = &*self.shared;
        for _ in 0..TRIES {
            let read = Txn::new()
                .then(Op::Range(Range::key(keys.head())))
                .then(Op::Range(Range::key(keys.content(hash))));
            let reply = store.txn(read).await?;
            let Some(found) = reply.range(0).and_then(|range| range.entries.first()) else {
                return Err(no_head());
            };
            let Some(content) = reply.range(1).and_then(|range| range.entries.first()) else {
                return Ok(None);
            };
            let position = head_in(found)?.position;
            if position != seen {
                return Err(Refusal::Moved { position }.into());
            }
            let txn = Txn::new()
                .when(Compare::Modified(keys.head(), found.modified))
                .then(Op::put(keys.head(), found.value.clone()))
                .then(Op::delete(keys.content(hash)));
            if store.txn(txn).await?.succeeded {
                return Ok(Some(String::from_utf8_lossy(&content.value).into_owned()));
            }
        }
        Err(LedgerError::Contended { tries: TRIES })
    }

    /// Moves the floor, and removes the entries up to it (G17): the floor first, so that a reader
    /// is told before it meets a gap. Returns how many entries are gone.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Store`] and [`LedgerError::Contended`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: entries below the floor that are still there go with the next call.
    pub async fn trim(&self, floor: u64) -> Result<usize> {
        let Shared { store, keys, .. } = &*self.shared;
        let mut tries = 0;
        let floor = loop {
            let found = store.range(Range::key(keys.head())).await?;
            let Some(found) = found.entries.first() else { return Err(no_head()) };
            let mut head = head_in(found)?;
            if head.floor >= floor.min(head.position) {
                break head.floor;
            }
            head.floor = floor.min(head.position);
            let txn = Txn::new()
                .when(Compare::Modified(keys.head(), found.modified))
                .then(Op::put(keys.head(), json_value(&head)?));
            if store.txn(txn).await?.succeeded {
                break head.floor;
            }
            tries += 1;
            if tries == TRIES {
                return Err(LedgerError::Contended { tries });
            }
        };
        let mut removed = 0;
        loop {
            let entries =
                store.range(Range::prefix(keys.log()).with_limit(100).with_keys_only()).await?.entries;
            let old: Vec<_> = entries
                .into_iter()
                .filter(|entry| keys.entry_in(&entry.key).is_some_and(|last| last <= floor))
                .collect();
            if old.is_empty() {
                return Ok(removed);
            }
            removed += old.len();
            let txn = old.into_iter().fold(Txn::new(), |txn, entry| txn.then(Op::delete(entry.key)));
            store.txn(txn).await?;
        }
    }
}
