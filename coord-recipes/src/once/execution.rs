//! Doing what is to be done once.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::handle::Leased;
use coord_api::store::{Compare, Op, Txn};
use coord_api::{Error, ErrorKind, Fence, FencingToken, HandleState, LeaseId, Lost, Outcome, Result, Value};
use coord_core::Client;
use coord_core::session::{LeasedEntry, Placed};

use super::record::{Record, State};
use crate::retained::{end_by_retained, end_while_held};

/// The largest result that can be recorded, in bytes: 512 KiB. A larger one is recorded as a
/// failure (R60).
pub const MAX_RESULT_BYTES: usize = 512 << 10;

/// The longest reason of a failure that is recorded, in bytes; what is longer is cut.
const MAX_REASON_BYTES: usize = 4_096;

const COMPLETE: &str = "once.complete";
const FAIL: &str = "once.fail";

/// An execution of what is to be done once, until its result is recorded, or it is released,
/// dropped or lost.
///
/// While it is held, nobody else runs (R57). It is lost, for ever, when its local deadline passes
/// unrenewed or the store says so (R32): then another one may run, and this one may go on, but its
/// result is not recorded any more. What it does elsewhere is told apart by the
/// [fencing token](Self::fencing_token).
#[must_use = "dropping an execution frees its key"]
pub struct Execution {
    client: Client,
    name: Arc<str>,
    fingerprint: Bytes,
    retention: Duration,
    entry: LeasedEntry,
}

/// What was done, once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ran {
    /// The recorded result.
    pub value: Value,
    /// Whether this call has done it; otherwise it found it done.
    pub first: bool,
}

/// Why there is no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError {
    /// The store, or the call itself, is at fault. Nothing was recorded by this call.
    Coord(Error),
    /// The work failed. Nothing was recorded, and its key is free again: it may be tried anew.
    Work(Box<dyn StdError + Send + Sync>),
    /// It failed for good, now or earlier, and that is recorded: the reason.
    Failed(String),
    /// The work was done, but its result could not be recorded (R58): the result, and why. It was
    /// recorded all the same, or will be, where the outcome of that error is `Unknown`.
    NotRecorded {
        /// The result.
        value: Value,
        /// Why: `LeaseLost` where the execution was lost meanwhile.
        error: Error,
    },
}

impl OnceError {
    /// The error of coord's own, where it is one.
    pub fn coord(&self) -> Option<&Error> {
        match self {
            OnceError::Coord(error) | OnceError::NotRecorded { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for OnceError {
    fn from(error: Error) -> Self {
        OnceError::Coord(error)
    }
}

impl fmt::Display for OnceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnceError::Coord(error) => error.fmt(f),
            OnceError::Work(_) => f.write_str("once: the work failed, and may be tried again"),
            OnceError::Failed(reason) => write!(f, "once: it failed for good: {reason}"),
            OnceError::NotRecorded { .. } => f.write_str("once: the work was done, and is not recorded"),
        }
    }
}

impl StdError for OnceError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            OnceError::Coord(error) => error.source(),
            OnceError::Work(error) => Some(&**error),
            OnceError::Failed(_) => None,
            OnceError::NotRecorded { error, .. } => Some(error),
        }
    }
}

/// How work fails. `?` makes [`Again`](WorkFailure::Again) of any error.
#[derive(Debug)]
pub enum WorkFailure {
    /// The key is free again, and whoever comes next tries anew.
    Again(Box<dyn StdError + Send + Sync>),
    /// Trying again cannot help: that is recorded, with this reason, as a result would be.
    Final(String),
}

impl<E: StdError + Send + Sync + 'static> From<E> for WorkFailure {
    fn from(error: E) -> Self {
        WorkFailure::Again(Box::new(error))
    }
}

impl Execution {
    pub(super) fn new(
        client: Client,
        name: Arc<str>,
        fingerprint: Bytes,
        retention: Duration,
        entry: LeasedEntry,
    ) -> Self {
        Execution { client, name, fingerprint, retention, entry }
    }

    /// What is done, as its users name it.
    pub fn key(&self) -> &str {
        &self.name
    }

    /// The number of this execution: greater than that of each earlier one of its key. What must
    /// not be done by one that was lost is given it, and refuses a smaller one.
    pub fn fencing_token(&self) -> FencingToken {
        self.entry.fencing_token()
    }

    /// Ties a write to the same store to this execution: it is applied only while nobody else can
    /// run, by the word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](coord_api::WriteOptions::with_fence).
    pub fn fence(&self) -> Fence {
        self.entry.fence()
    }

    /// Whether nobody else runs at this moment, by this machine's clock (R32). Once `false`,
    /// `false` for ever.
    pub fn is_held(&self) -> bool {
        self.entry.state().is_held()
    }

    /// What it stands for at this moment.
    pub fn state(&self) -> HandleState {
        self.entry.state()
    }

    /// The time left to the local deadline, zero when not held. Renewal moves it on.
    pub fn ttl(&self) -> Duration {
        self.entry.ttl()
    }

    /// Resolves once another one may run, whatever the reason (R32).
    pub fn lost(&self) -> Lost {
        self.entry.lost()
    }

    /// Frees the key without a result: whoever comes next does the work.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when it had been lost before. `Unavailable` or `Timeout`, outcome `Unknown`,
    /// when the store did not answer: it is not held any more, and the release is repeated until it
    /// is acknowledged or the lease has expired (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the release to the client.
    pub async fn release(&self) -> Result<()> {
        self.entry.release().await
    }

    /// Records the result: one request (R58). Where the store does not answer, it goes on trying
    /// for as long as the execution is held.
    ///
    /// # Errors
    ///
    /// [`OnceError::NotRecorded`], with the result, where the execution was lost meanwhile, or the
    /// store refused; [`OnceError::Failed`] for a result over [`MAX_RESULT_BYTES`], which is
    /// recorded as a failure.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the result is recorded or the key is free.
    pub async fn complete(self, value: impl Into<Value>) -> std::result::Result<Value, OnceError> {
        let value = value.into();
        if value.len() > MAX_RESULT_BYTES {
            let reason =
                format!("the result has {} bytes; at most {MAX_RESULT_BYTES} are recorded", value.len());
            return match self.record(COMPLETE, State::Failed(reason.clone())).await {
                Ok(()) => Err(OnceError::Failed(reason)),
                Err(error) => Err(OnceError::NotRecorded { value, error }),
            };
        }
        match self.record(COMPLETE, State::Done(value.clone())).await {
            Ok(()) => Ok(value),
            Err(error) => Err(OnceError::NotRecorded { value, error }),
        }
    }

    /// Records that it failed for good: nobody tries again for as long as that is kept (R60). Of
    /// the reason 4 KiB are kept.
    ///
    /// # Errors
    ///
    /// `LeaseLost` where the execution was lost meanwhile; `Unavailable` or `Timeout`, outcome
    /// `Unknown`; `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// As [`complete`](Self::complete).
    pub async fn fail(self, reason: impl Into<String>) -> Result<()> {
        let mut reason = reason.into();
        while reason.len() > MAX_REASON_BYTES {
            reason.pop();
        }
        self.record(FAIL, State::Failed(reason)).await
    }

    /// Writes the record over the own entry, if it is still there, on a lease that this client's
    /// end does not touch. A store that does not answer is asked again for as long as the execution
    /// is held: the work would have to be done anew otherwise.
    async fn record(self, operation: &'static str, state: State) -> Result<()> {
        let record = Record { fingerprint: self.fingerprint.clone(), state }.encode();
        let lost = || Error::lease_lost(operation, "it was lost before its result was recorded");
        let write = async {
            let key = self.entry.key();
            let Some(own) = self.entry.modified().filter(|_| self.is_held()) else { return Err(lost()) };
            let build = |lease: LeaseId| {
                Txn::new().when(Compare::Modified(key.clone(), own)).then(Op::put_leased(
                    key.clone(),
                    record.clone(),
                    lease,
                ))
            };
            let end = || end_by_retained(&self.client, operation, &self.entry, self.retention, &build);
            let found = match end_while_held(&self.client, &self.entry, end).await {
                Ok(Placed::Written(_)) => return Ok(()),
                Ok(Placed::Found(mut found)) => found.pop().flatten(),
                Ok(Placed::Refused(_)) => None,
                // It was lost while it was in doubt: the record itself tells.
                Err(error) if error.kind() == ErrorKind::LeaseLost && error.outcome() == Outcome::Unknown => {
                    self.client.read(key.clone()).await.map_err(|_| error)?
                }
                Err(error) => return Err(error),
            };
            if found.is_some_and(|found| found.value == record) { Ok(()) } else { Err(lost()) }
        };
        self.client.run_on(operation, &self.name, Outcome::Unknown, write).await
    }
}

crate::handle::leased_by_entry!(Execution);

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("key", &self.name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
