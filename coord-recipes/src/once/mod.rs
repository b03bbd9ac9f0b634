//! What is done once, however many ask for it, and whose result is kept for a while (R56 to R60).

mod execution;
mod follow;
mod record;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, Range, Txn, round_ttl};
use coord_api::{Error, ErrorKind, Outcome, Result, Revision, Value, Wait, key};
use coord_core::session::{LeasedEntry, Placed, Token};
use coord_core::telemetry::Subject;
use coord_core::{Client, Limit, SweptMap, backoff, check_retention, keys};
use parking_lot::Mutex;

use crate::queue::taken;
use follow::{Claim, Slot};
use record::{Record, State};

pub use execution::{Execution, MAX_RESULT_BYTES, OnceError, Ran, WorkFailure};

/// What an execution is called in logs and metrics.
const CONTRACT: &str = "once";

const RUN: &str = "once.run";
const PEEK: &str = "once.peek";
const FORGET: &str = "once.forget";

/// The longest fingerprint, in bytes.
pub const MAX_FINGERPRINT_BYTES: usize = 256;

/// How something is to be done once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OnceOptions {
    /// What is asked for, a hash of the request for example, in at most 256 bytes: who asks for
    /// something else under the same key gets `InvalidArgument`. Empty by default.
    pub fingerprint: Bytes,
    /// For how long the result is kept, in whole seconds: at most 1.25 times that, and the store's
    /// lag (R60). A day by default.
    pub retention: Duration,
    /// How long an execution that died keeps the others waiting: the TTL of its lease, rounded up
    /// to whole seconds (R7). 30 s by default.
    pub ttl: Duration,
    /// How long to wait for another one that does it.
    pub wait: Wait,
}

impl Default for OnceOptions {
    fn default() -> Self {
        OnceOptions {
            fingerprint: Bytes::new(),
            retention: Duration::from_secs(24 * 3_600),
            ttl: Duration::from_secs(30),
            wait: Wait::Forever,
        }
    }
}

impl OnceOptions {
    /// Sets what is asked for.
    #[must_use]
    pub fn with_fingerprint(mut self, fingerprint: impl Into<Bytes>) -> Self {
        self.fingerprint = fingerprint.into();
        self
    }

    /// Sets for how long the result is kept.
    #[must_use]
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

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

    fn check(&self) -> Result<()> {
        if self.fingerprint.len() > MAX_FINGERPRINT_BYTES {
            return Err(Error::invalid_argument(
                RUN,
                format!(
                    "a fingerprint of {} bytes; it may have {MAX_FINGERPRINT_BYTES}: take a hash",
                    self.fingerprint.len()
                ),
            ));
        }
        check_retention(RUN, self.retention)?;
        round_ttl(RUN, self.ttl).map(drop)
    }
}

/// What is known of something that is done once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnceState {
    /// Someone is doing it, of this name where it says so.
    Running(Option<String>),
    /// It was done, with this result.
    Done(Value),
    /// It failed for good, for this reason.
    Failed(String),
}

/// What begins where something is to be done once.
#[derive(Debug)]
pub enum Begun {
    /// It is the caller's to do, and to [complete](Execution::complete).
    Mine(Execution),
    /// It was done already, with this result.
    Done(Value),
}

/// Idempotent execution over any store: what has a key is done once, and its result is kept for
/// those who ask again. Cheap to clone.
///
/// Those who ask at once over one client share a claim and a watch.
///
/// # Contract
///
/// - **R56** A key has one result, which stays as it is for as long as it is kept.
/// - **R57** While someone runs, nobody else does. The work may run again iff its execution was
///   lost, dropped, or failed; one that was lost may overlap with the next one. A crash frees the
///   key within the TTL and the store's lag.
/// - **R58** The result is recorded iff the execution is still held; else
///   [`NotRecorded`](OnceError::NotRecorded) gives it back.
/// - **R59** Who comes meanwhile waits for the result, or gets `Conflict`; who asks for something
///   else gets `InvalidArgument`.
/// - **R60** A result, and a failure for good, are kept for the retention, whatever becomes of the
///   client.
///
/// # Examples
///
/// ```
/// use coord_recipes::{Once, OnceOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let client = coord_core::Client::new(store, "node-1", coord_core::Home::new("node-1"));
/// let once = Once::new(&client);
/// let charge = async |_: &coord_recipes::Execution| Ok("receipt 1".into());
/// assert!(once.run("charge/42", OnceOptions::default(), charge).await?.first);
/// let again = once.run("charge/42", OnceOptions::default(), async |_| unreachable!()).await?;
/// assert_eq!((again.value, again.first), ("receipt 1".into(), false));
/// # client.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Once {
    client: Client,
    shared: Arc<Shared>,
}

/// Who wants the same thing to be done in the same way: its name, the fingerprint, and the TTL.
type Wish = (Arc<str>, Bytes, Duration);

/// What all users of one client share.
#[derive(Debug, Default)]
struct Shared {
    slots: Mutex<SweptMap<Wish, Weak<Slot>>>,
}

impl Once {
    /// Over this client. No I/O.
    pub fn new(client: &Client) -> Self {
        client.telemetry().declare(&[CONTRACT]);
        Once { client: client.clone(), shared: client.shared(Shared::default) }
    }

    /// Does `work` unless it was done, or waits for whoever does it, and gives the result (R56 to
    /// R60). Two requests where it is done, one where it was.
    ///
    /// The work is given its [`Execution`], and goes on when that is lost: what it does elsewhere
    /// must refuse a fencing token that is too small, or bear to be done twice.
    ///
    /// # Errors
    ///
    /// [`OnceError::Coord`], before any I/O: `InvalidArgument` for a bad key (R4), TTL (R7),
    /// retention or fingerprint. `InvalidArgument` where something else was asked for under this
    /// key; `Conflict` where [`Wait::Never`] finds another one running; `Timeout` when
    /// [`Wait::For`] ran out; `Codec` where others left something under the key; `Unavailable`,
    /// `Closed`, `Exhausted`, `Unauthenticated`, `PermissionDenied`. The other kinds of
    /// [`OnceError`] are about the work.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the work is dropped at the point that it has reached, and the key is free unless
    /// the result is recorded already.
    pub async fn run(
        &self,
        key: &str,
        options: OnceOptions,
        work: impl AsyncFnOnce(&Execution) -> std::result::Result<Value, WorkFailure>,
    ) -> std::result::Result<Ran, OnceError> {
        let execution = match self.begin(key, options).await? {
            Begun::Done(value) => return Ok(Ran { value, first: false }),
            Begun::Mine(execution) => execution,
        };
        match work(&execution).await {
            Ok(value) => {
                let value = execution.complete(value).await?;
                Ok(Ran { value, first: true })
            }
            Err(WorkFailure::Again(error)) => {
                // One that the store did not answer is repeated (R9).
                let _ = execution.release().await;
                Err(OnceError::Work(error))
            }
            Err(WorkFailure::Final(reason)) => {
                execution.fail(reason.clone()).await?;
                Err(OnceError::Failed(reason))
            }
        }
    }

    /// As [`run`](Self::run), for work that is no closure: where it is the caller's to do it gives
    /// the [`Execution`], to be [completed](Execution::complete).
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); [`OnceError::Failed`] where it failed for good.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it has claimed nothing (R29).
    pub async fn begin(&self, key: &str, options: OnceOptions) -> std::result::Result<Begun, OnceError> {
        let name = key::check(RUN, key)?;
        options.check()?;
        let wish: Wish = (Arc::from(name), options.fingerprint.clone(), round_ttl(RUN, options.ttl)?);
        let slot = self.shared.slots.lock().shared(wish.clone());
        let limit = Limit::of(self.client.home(), options.wait);
        let begin = Box::pin(async {
            let mut backoff = backoff();
            loop {
                match self.begin_once(&slot, &wish, options.wait, limit).await {
                    // The session died while the claim was made, or while it was waited for.
                    Err(error) if error.kind() == ErrorKind::LeaseLost => {
                        let pause = async {
                            self.client.home().sleep(backoff.pause()).await;
                            Ok(())
                        };
                        limit.queue(self.client.home(), RUN, pause).await?;
                    }
                    answer => return answer,
                }
            }
        });
        match self.client.run_on(RUN, key, Outcome::NotApplied, begin).await? {
            Found::Free(entry) => {
                entry.held();
                let (name, fingerprint, _) = wish;
                let client = self.client.clone();
                Ok(Begun::Mine(Execution::new(client, name, fingerprint, options.retention, entry)))
            }
            Found::Done(value) => Ok(Begun::Done(value)),
            Found::Failed(reason) => Err(OnceError::Failed(reason)),
        }
    }

    async fn begin_once(&self, slot: &Arc<Slot>, wish: &Wish, wait: Wait, limit: Limit) -> Result<Found> {
        let (client, home) = (&self.client, self.client.home());
        let key = keys::once(&wish.0);
        loop {
            let claim = slot.claiming.run(home, RUN, || claim(client.clone(), wish.clone(), key.clone()));
            let (mut entry, mut at) = match limit.answer(home, RUN, claim).await? {
                Claim::Mine(place, at) => {
                    let own = place.lock().take();
                    match own {
                        Some(own) => {
                            limit.answer(home, RUN, own.session().freshen()).await?;
                            return Ok(Found::Free(own));
                        }
                        // Another caller of this client does it.
                        None => (None, at),
                    }
                }
                Claim::Taken(entry, at) => (Some(entry), at),
            };
            loop {
                let owner = match entry {
                    Some(entry) => match self.examine(&entry, &wish.1)? {
                        State::Running { owner, .. } => owner,
                        State::Done(value) => return Ok(Found::Done(value)),
                        State::Failed(reason) => return Ok(Found::Failed(reason)),
                    },
                    None => client.name().to_owned(),
                };
                if wait == Wait::Never {
                    return Err(taken(RUN, (!owner.is_empty()).then_some(&*owner)));
                }
                let changed = slot.changed(client, RUN, &key, at);
                let changed = limit.queue(home, RUN, changed).await.map_err(|error| match error.kind() {
                    ErrorKind::Timeout if !owner.is_empty() => error.held_by(&owner),
                    _ => error,
                })?;
                // It is free again, or something else stands there.
                let (Some(changed), now) = changed else { break };
                (entry, at) = (Some(changed), now);
            }
        }
    }

    /// What an entry says, to someone who asks for what has this fingerprint.
    fn examine(&self, entry: &Entry, fingerprint: &Bytes) -> Result<State> {
        let record = decode(RUN, entry)?;
        if record.fingerprint != *fingerprint {
            return Err(Error::invalid_argument(
                RUN,
                "something else was asked for under this key, with another fingerprint; take another key",
            ));
        }
        Ok(record.state)
    }

    /// What is known of a key, without waiting for anything; `None` where nobody has begun, or what
    /// was recorded is not kept any more. Linearizable.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad key (R4), before any I/O; `Codec` where others left something
    /// under the key; `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn peek(&self, key: &str) -> Result<Option<OnceState>> {
        let record = keys::once(key::check(PEEK, key)?);
        let read = async {
            let Some(entry) = self.client.read(record).await? else { return Ok(None) };
            Ok(Some(match decode(PEEK, &entry)?.state {
                State::Running { owner, .. } => {
                    OnceState::Running(Some(owner).filter(|name| !name.is_empty()))
                }
                State::Done(value) => OnceState::Done(value),
                State::Failed(reason) => OnceState::Failed(reason),
            }))
        };
        self.client.run_on(PEEK, key, Outcome::NotApplied, read).await
    }

    /// Forgets the result of a key, or that it failed for good, so that it can be done again. Says
    /// whether there was anything.
    ///
    /// # Errors
    ///
    /// `Conflict` where someone is doing it; `InvalidArgument` for a bad key (R4), before any I/O;
    /// `Unavailable` or `Timeout`, outcome `Unknown`; `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not have been forgotten.
    pub async fn forget(&self, key: &str) -> Result<bool> {
        let record = keys::once(key::check(FORGET, key)?);
        let forget = async {
            loop {
                let Some(entry) = self.client.read(record.clone()).await? else { return Ok(false) };
                // What others left there is no run of anybody's, and goes.
                if let Ok(Record { state: State::Running { owner, .. }, .. }) = decode(FORGET, &entry) {
                    return Err(taken(FORGET, (!owner.is_empty()).then_some(&*owner)));
                }
                let delete = Txn::new()
                    .when(Compare::Modified(record.clone(), entry.modified))
                    .then(Op::delete(record.clone()));
                if self.client.store().txn(delete).await?.succeeded {
                    return Ok(true);
                }
            }
        };
        self.client.run_on(FORGET, key, Outcome::Unknown, forget).await
    }
}

/// What was found of something that is to be done once.
enum Found {
    /// It is free, and claimed now by this entry.
    Free(LeasedEntry),
    Done(Value),
    Failed(String),
}

fn decode(operation: &'static str, entry: &Entry) -> Result<Record> {
    Record::decode(&entry.value).ok_or_else(|| {
        let fault = "what stands there is no record of this kind; forget it, or take another key";
        Error::new(ErrorKind::Codec, operation, fault)
    })
}

/// Claims a key: one request, which also says what stands there if it is not free.
async fn claim(client: Client, (name, fingerprint, ttl): Wish, key: Bytes) -> Result<Claim> {
    let session = client.enter(RUN, ttl).await?;
    let (lease, run) = (session.lease(), format!("{}-{:x}", session.lease(), session.nonce()));
    let owner = client.name().to_owned();
    let record = Record { fingerprint, state: State::Running { run, owner } }.encode();
    let entry = LeasedEntry::new(session, key.clone(), Subject::new(CONTRACT, &*name));
    let write = || {
        Txn::new()
            .when(Compare::Absent(key.clone()))
            .then(Op::put_leased(key.clone(), record.clone(), lease))
            .otherwise(Op::Range(Range::key(key.clone())))
    };
    loop {
        match entry.place(&write).await? {
            Placed::Written(_) => break,
            Placed::Refused(reply) => match reply.try_range(0)?.entries.first() {
                Some(found) => return Ok(Claim::Taken(found.clone(), reply.revision)),
                None => return Err(Error::new(ErrorKind::Internal, RUN, "what is not free is not there")),
            },
            Placed::Found(mut found) => match found.pop().flatten() {
                // Nobody else writes this value.
                Some(found) if found.value == record => {
                    entry.confirm(&found, Token::New);
                    break;
                }
                Some(found) => {
                    let at: Revision = found.modified;
                    return Ok(Claim::Taken(found, at));
                }
                None => {}
            },
        }
    }
    let at = entry.number().unwrap_or_default();
    Ok(Claim::Mine(Arc::new(Mutex::new(Some(entry))), at))
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("client", &self.client.name()).finish_non_exhaustive()
    }
}
