//! Barriers: nobody goes on before all are there (R61, R62).

mod party;
mod view;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Compare, Op, Range, Span, Txn, round_ttl};
use coord_api::{Error, ErrorKind, Outcome, Result, Revision, Wait, WatchStart, key};
use coord_core::session::{Fenced, LeasedEntry, Placed};
use coord_core::telemetry::Subject;
use coord_core::{Client, Limit, backoff, keys};

use crate::queue::confirmed;
use view::{BarrierView, Standing};

pub use party::Party;

/// What a party is called in logs and metrics.
const CONTRACT: &str = "barrier";

const ENTER: &str = "barrier.enter";

/// The most parties that meet at a barrier.
pub const MAX_PARTIES: u32 = 1_024;

/// How to enter a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BarrierOptions {
    /// How long a party that died counts: the TTL of its lease, rounded up to whole seconds (R7).
    /// 30 s by default.
    pub ttl: Duration,
    /// How long to wait for the others. [`Wait::Never`] is for who is the last one, or does not
    /// come.
    pub wait: Wait,
}

impl Default for BarrierOptions {
    fn default() -> Self {
        BarrierOptions { ttl: Duration::from_secs(30), wait: Wait::Forever }
    }
}

impl BarrierOptions {
    /// Sets the TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long to wait.
    #[must_use]
    pub fn with_wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }
}

/// A double barrier among all who know its name, over any store: all enter, and all leave,
/// together. Cheap to clone, and used again and again.
///
/// # Contract
///
/// - **R61** [`enter`](Self::enter) ends once as many have entered as are to meet. All of them have
///   the same [generation](Party::generation), and nobody of an earlier one is counted.
/// - **R62** [`leave`](Party::leave) ends once all of them have left, or are gone.
/// - What holds for a lock's guard while it is there holds for a [`Party`] (R29 to R33).
///
/// # Examples
///
/// ```
/// use coord_recipes::{Barrier, BarrierOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let client = coord_core::Client::new(store, "node-1", coord_core::Home::new("node-1"));
/// let barrier = Barrier::new(&client, "start");
/// let enter = || barrier.enter(2, BarrierOptions::default());
/// let (one, two) = tokio::try_join!(enter(), enter())?;
/// assert_eq!(one.generation(), two.generation());
/// tokio::try_join!(one.leave(), two.leave())?;
/// # client.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Barrier {
    client: Client,
    name: Arc<str>,
    /// Its directory, or what is wrong with the name.
    directory: Result<Bytes>,
}

impl Barrier {
    /// The barrier of this name. No I/O; a bad name (R4) is the error of every call.
    pub fn new(client: &Client, name: &str) -> Self {
        client.telemetry().declare(&[CONTRACT]);
        let directory = key::check(ENTER, name).map(keys::barrier);
        Barrier { client: client.clone(), name: name.into(), directory }
    }

    /// Enters, and waits until `parties` have (R61): one request each, and one of the last.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for no parties and for more than [`MAX_PARTIES`], a bad name or TTL,
    /// before any I/O; where others wait for another number. `Conflict` where [`Wait::Never`] finds
    /// that others are still to come; `Timeout` when [`Wait::For`] ran out, and then it is not
    /// counted any more; `LeaseLost` where its lease ended while it was let through; `Unavailable`,
    /// `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it is not counted any more (R29), unless it was already.
    pub async fn enter(&self, parties: u32, options: BarrierOptions) -> Result<Party> {
        let directory = self.directory.as_ref().map_err(|error| error.clone().in_operation(ENTER))?;
        if !(1..=MAX_PARTIES).contains(&parties) {
            let fault = format!("{parties} parties; they must be 1 to {MAX_PARTIES}");
            return Err(Error::invalid_argument(ENTER, fault));
        }
        round_ttl(ENTER, options.ttl)?;
        let home = self.client.home();
        let limit = Limit::of(home, options.wait);
        let enter = Box::pin(async {
            let mut backoff = backoff();
            loop {
                let mut visit = Visit { barrier: self, directory, parties, options, limit };
                match visit.enter().await? {
                    Some(entered) => return Ok(entered),
                    // The lease died, or the place was removed, while it waited: it enters anew.
                    None => {
                        let pause = async {
                            home.sleep(backoff.pause()).await;
                            Ok(())
                        };
                        limit.queue(home, ENTER, pause).await?;
                    }
                }
            }
        });
        let (entry, generation) = self.client.run_on(ENTER, &self.name, Outcome::NotApplied, enter).await?;
        entry.held();
        let (client, name) = (self.client.clone(), Arc::clone(&self.name));
        Ok(Party::new(client, name, directory.clone(), generation, entry))
    }
}

/// One who enters.
struct Visit<'a> {
    barrier: &'a Barrier,
    directory: &'a Bytes,
    parties: u32,
    options: BarrierOptions,
    limit: Limit,
}

impl Visit<'_> {
    /// Enters once. `None` where the place was lost before the others had come.
    async fn enter(&mut self) -> Result<Option<(LeasedEntry, Revision)>> {
        let (client, home) = (&self.barrier.client, self.barrier.client.home());
        let joined = self.limit.answer(home, ENTER, self.join()).await;
        let (entry, mut view) = match joined {
            Err(error) if error.kind() == ErrorKind::LeaseLost => return Ok(None),
            joined => joined?,
        };
        let mut watch = None;
        loop {
            let place = entry.number().unwrap_or_default();
            let standing = match &view {
                Some(view) => view.standing(entry.key(), place),
                None => Standing::Waiting,
            };
            let record = view.as_ref().filter(|_| standing == Standing::Last).map(|view| &view.record);
            let standing = match record {
                Some(record) => {
                    let released = self.release(&entry, record.modified, record.with(place));
                    match self.limit.answer(home, ENTER, released).await? {
                        true => Standing::Released(place),
                        // It is no longer as it was: that is seen next.
                        false => Standing::Last,
                    }
                }
                None => standing,
            };
            // Whether others are still to come is known once all places are.
            let comes_alone = standing == Standing::Waiting && view.is_some();
            match standing {
                Standing::Released(generation) => {
                    self.limit.answer(home, ENTER, entry.session().freshen()).await?;
                    return Ok(Some((entry, generation)));
                }
                Standing::OtherNumber(others) => {
                    entry.release().await.or_else(not_there)?;
                    let fault = format!("{} parties, where others wait for {others}", self.parties);
                    return Err(Error::invalid_argument(ENTER, fault));
                }
                Standing::Gone => return Ok(None),
                Standing::Waiting | Standing::Last => {}
            }
            if self.options.wait == Wait::Never && comes_alone {
                entry.release().await.or_else(not_there)?;
                return Err(Error::new(ErrorKind::Conflict, ENTER, "others are still to come"));
            }
            let next = async {
                let watch = match &mut watch {
                    Some(watch) => watch,
                    None => {
                        let span = Span::prefix(self.directory.clone());
                        let subscription = client.subscribe(span, WatchStart::Snapshot).await?;
                        watch.insert(subscription.into_watch(ENTER, Some))
                    }
                };
                watch.next().await.ok_or_else(|| Error::closed(ENTER))?
            };
            let next = async {
                tokio::select! {
                    biased;
                    delivery = next => delivery.map(Some),
                    _ = entry.loss().wait() => Ok(None),
                }
            };
            let Some(delivery) = self.limit.queue(home, ENTER, next).await? else { return Ok(None) };
            view.get_or_insert_with(|| BarrierView::new(self.directory.clone())).apply(&delivery);
        }
    }

    /// Takes a place, and says who stands there as far as one look tells: `None` where it does not.
    async fn join(&self) -> Result<(LeasedEntry, Option<BarrierView>)> {
        let client = &self.barrier.client;
        let session = client.enter(ENTER, self.options.ttl).await?;
        let key = keys::barrier_entry(self.directory, session.lease(), session.nonce(), self.parties);
        let entry = LeasedEntry::new(session, key, Subject::new(CONTRACT, &*self.barrier.name));
        let all = usize::try_from(self.parties).unwrap_or(usize::MAX);
        let join = || {
            let key = entry.key().clone();
            let owner = client.owner().value();
            let parties = Range::prefix(keys::barrier_parties(self.directory)).with_limit(all);
            Txn::new()
                .when(Compare::Absent(key.clone()))
                .then(Op::put_leased(key, owner, entry.session().lease()))
                .then(Op::Range(parties.with_keys_only()))
                .then(Op::Range(Range::key(keys::barrier_release(self.directory))))
        };
        loop {
            match entry.place(&join).await? {
                Placed::Written(reply) => {
                    let (parties, record) = (reply.try_range(1)?, reply.try_range(2)?);
                    // More than are to meet: some are about to leave, or came at the same time.
                    if parties.more {
                        return Ok((entry, None));
                    }
                    let mut view = BarrierView::new(self.directory.clone());
                    parties.entries.iter().chain(&record.entries).for_each(|entry| view.put(entry));
                    return Ok((entry, Some(view)));
                }
                Placed::Refused(_) => {
                    return Err(Error::new(ErrorKind::Internal, ENTER, "another place has this name"));
                }
                Placed::Found(found) if confirmed(&entry, &found) => return Ok((entry, None)),
                Placed::Found(_) => {}
            }
        }
    }

    /// Lets everyone through up to this place, unless the record is another one by now, or the own
    /// place is gone (R61). Says whether it did.
    async fn release(
        &self,
        entry: &LeasedEntry,
        record: Option<Revision>,
        released: coord_api::Value,
    ) -> Result<bool> {
        let release = keys::barrier_release(self.directory);
        let Some(own) = entry.modified() else { return Ok(false) };
        let write = || {
            let as_seen = match record {
                Some(modified) => Compare::Modified(release.clone(), modified),
                None => Compare::Absent(release.clone()),
            };
            Txn::new()
                .when(as_seen)
                .when(Compare::Modified(entry.key().clone(), own))
                .then(Op::put(release.clone(), released.clone()))
        };
        loop {
            match entry.session().write(&write).await {
                Ok(Fenced::Written(_)) => return Ok(true),
                Ok(Fenced::Refused(_)) => return Ok(false),
                Ok(Fenced::Settled) => {
                    let found = self.barrier.client.read(release.clone()).await?;
                    if found.as_ref().is_some_and(|found| found.value == released) {
                        return Ok(true);
                    }
                    if found.map(|found| found.modified) != record {
                        return Ok(false);
                    }
                }
                // The session is over, which its entry tells.
                Err(error) if error.kind() == ErrorKind::LeaseLost => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// It is as good as released where nothing of it is left.
fn not_there(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::LeaseLost { Ok(()) } else { Err(error) }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").field("name", &self.name).finish_non_exhaustive()
    }
}
