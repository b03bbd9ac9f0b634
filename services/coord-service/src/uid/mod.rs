//! Unique ids: 64-bit numbers that rise and never repeat, made without asking anybody (R63 to R66).
//!
//! [`Uid`] gives out ids of the form that is known as snowflake: 41 bits of milliseconds, 10 bits
//! of a worker's number, 12 bits of a sequence. So they sort by their time, fit every database's
//! largest integer, and 1,024 processes make 4,096 of them a millisecond each.
//!
//! ```
//! use coord::prelude::*;
//! use coord_service::uid::Uid;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> coord::Result<()> {
//! let coord = coord::open("memory://").await?;
//! let uid = Uid::builder(&coord, "im-logic").open().await?;
//!
//! let (first, second) = (uid.next()?, uid.next()?);
//! assert!(first < second);
//! assert_eq!(Some(Uid::parts(first).worker), uid.worker());
//!
//! for id in uid.next_batch(1_000)? {
//!     assert!(id > second);
//! }
//!
//! // Before the provider, so that the number is free at once and its last horizon is stored.
//! uid.close().await?;
//! coord.close().await
//! # }
//! ```
//!
//! # Why they never repeat
//!
//! Two things go wrong with ids of this form elsewhere: two processes have one number, or the clock
//! goes back. Here neither needs to be noticed in time, because of the **horizon**: a time that
//! stands in the store for each number, and that no id of the number has reached. It is written
//! before the ids that need it, by a write that the store refuses to who does not hold the number
//! any more. Who takes the number begins at the horizon.
//!
//! | what happens | what becomes of it |
//! |---|---|
//! | the clock is set back by an hour | nothing: the time in the ids goes on by the monotonic clock |
//! | the clock is set forward by an hour | the ids follow as soon as a later horizon is stored, which takes one request |
//! | the process is killed, and the clock is wrong when it comes back | it begins above the horizon |
//! | the machine stands still for a minute, and goes on with its old number | what it gives out in the moment before it notices lies below its horizon; who has the number by then began above |
//! | the store cannot be reached | ids go on for 10 s at least, and where they are few until the number's lease is over; then `LeaseLost`, until a number is had again |
//! | more ids than there is time for | up to 1 s is borrowed; then `Exhausted`, or [`Uid::next_wait`] waits |
//! | the process forks | the child gets `Closed`: its ids would be its parent's |
//!
//! # What to do about errors
//!
//! - `Exhausted`: more than 4,096 ids a millisecond for longer than a second. Wait, as
//!   [`Uid::next_wait`] does, or open a second generator, which is another worker.
//! - `LeaseLost`: the store was away for longer than the TTL, 30 s by default. The generator takes
//!   a number again by itself; [`Uid::ready`] waits for it, [`Uid::last_error`] says what is in the
//!   way. Refuse the request meanwhile.
//! - `Unavailable`: the store has been away for most of the TTL, and what was stored before is used
//!   up.
//! - `Exhausted` from [`UidBuilder::open`]: 1,024 workers of this service run.
//!
//! # Names
//!
//! A worker's number is an instance id of the service (R41): whoever else takes instance ids under
//! the same name, a generator in another language as well, has other numbers. A program that needs
//! instance ids of another range for itself gives its generator a name of its own.
//!
//! The time in the ids is for sorting and for people. Do not take it for the time of an event: it
//! goes by the clock of one machine, and after a crash it may be up to two thirds of the TTL ahead.
//! A clock that was set far forward has left its mark in the store: the number goes on from there.

mod batch;
mod builder;
mod clock;
mod generator;
mod horizon;
mod layout;
#[cfg(test)]
mod model;
mod reload;
mod shared;
mod task;

use std::fmt;
use std::sync::Arc;

use coord::{Coord, Error, ErrorKind, Provider as _, Result};
use tokio_util::sync::CancellationToken;

pub use batch::UidBatch;
pub use builder::UidBuilder;
use generator::{Issued, Refusal};
pub use layout::{EPOCH_UNIX_MS, IDS_PER_MS, MAX_WORKER, UidParts};
pub use reload::{UidConfig, UidReload};
use shared::Shared;
use task::{CLOSE, Ended};

/// Ids that one call takes at most.
pub const MAX_BATCH: u32 = 1 << 20;

/// A generator of unique ids. Cheap to clone; all clones are one.
///
/// # Contract
///
/// - **R63** Its ids rise strictly, also over a loss, and none of the service is ever given out
///   twice.
/// - **R64** Nothing is given out at or above the horizon that is known to be stored; giving the
///   number back stores the time after the last id.
/// - **R65** A clock that is set, back or forward, stops nothing. Ids are at most 1 s ahead of
///   their time.
/// - **R66** From the local deadline of its number on it gives out nothing, until it has one again.
///
/// # Dropping
///
/// The last clone hands the release to a task of the provider's, as [`close`](Self::close) does,
/// and waits for nothing.
#[derive(Clone)]
pub struct Uid {
    handle: Arc<Handle>,
}

/// What ends the task when nobody needs ids any more.
struct Handle {
    shared: Arc<Shared>,
    closing: CancellationToken,
    ended: Ended,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // In the child of a fork there is no task.
        if !self.shared.clocks.home().is_left_behind() {
            self.closing.cancel();
        }
    }
}

impl Uid {
    fn new(shared: Arc<Shared>, closing: CancellationToken, ended: Ended) -> Self {
        Uid { handle: Arc::new(Handle { shared, closing, ended }) }
    }

    /// A generator for `service`, to be [opened](UidBuilder::open). No I/O.
    pub fn builder(coord: &Coord, service: &str) -> UidBuilder {
        UidBuilder::new(coord.core(), coord.allocator(), service)
    }

    /// The next id. Asks nobody, takes no lock, and reads two clocks.
    ///
    /// # Errors
    ///
    /// `Exhausted` where the ids are 1 s ahead of their time (R65); `LeaseLost` while no number is
    /// held (R66); `Unavailable` where nothing is left below the horizon, because the store is
    /// away; `Closed` once this, or the provider, is closed, and in the child of a fork. Nothing is
    /// given out then.
    pub fn next(&self) -> Result<u64> {
        let shared = &*self.handle.shared;
        match shared.issue(1) {
            Ok(Issued { first, worker, .. }) => Ok(first.id(worker)),
            Err(refusal) => Err(shared.error(refusal)),
        }
    }

    /// As [`next`](Self::next), but waits where there is none at the moment: for time to pass where
    /// it would be `Exhausted`, and for the store where it would be `Unavailable`, until the number
    /// is lost at the latest. Those who wait are served in no order.
    ///
    /// # Errors
    ///
    /// `LeaseLost`, `Closed`, as [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it has taken no id.
    pub async fn next_wait(&self) -> Result<u64> {
        let Issued { first, worker, .. } = self.wait(1).await?;
        Ok(first.id(worker))
    }

    /// `count` ids in a row, or none. None asked for is an empty batch.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for more than [`MAX_BATCH`]; as [`next`](Self::next), also where there are
    /// some, but not `count`.
    pub fn next_batch(&self, count: u32) -> Result<UidBatch> {
        self.check(count)?;
        let shared = &*self.handle.shared;
        match shared.issue(count) {
            Ok(Issued { first, worker, .. }) => Ok(UidBatch::new(first, count, worker)),
            Err(refusal) => Err(shared.error(refusal)),
        }
    }

    /// As [`next_batch`](Self::next_batch), but waits as [`next_wait`](Self::next_wait) does.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, `LeaseLost`, `Closed`, as [`next_batch`](Self::next_batch).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it has taken no ids.
    pub async fn next_batch_wait(&self, count: u32) -> Result<UidBatch> {
        self.check(count)?;
        let Issued { first, worker, .. } = self.wait(count).await?;
        Ok(UidBatch::new(first, count, worker))
    }

    fn check(&self, count: u32) -> Result<()> {
        if count <= MAX_BATCH {
            return Ok(());
        }
        let fault = "more than 1,048,576 ids at once; take several batches";
        Err(Error::invalid_argument("uid.next_batch", fault).about(self.service()))
    }

    /// Takes ids as soon as there are some.
    async fn wait(&self, count: u32) -> Result<Issued> {
        let shared = &*self.handle.shared;
        let mut changes = None;
        loop {
            match shared.issue(count) {
                Ok(issued) => return Ok(issued),
                Err(Refusal::Exhausted(time)) => shared.clocks.home().sleep(time).await,
                Err(Refusal::AtHorizon) => {
                    // From before the next try on, so that no change is slept over.
                    let Some(mut changed) = changes.replace(shared.changes()) else { continue };
                    let left = shared.worker().map(|held| held.ttl()).unwrap_or_default();
                    tokio::select! {
                        _ = changed.changed() => {}
                        () = shared.clocks.home().sleep(left) => {}
                    }
                }
                Err(refusal) => return Err(shared.error(refusal)),
            }
        }
    }

    /// The number of the worker, where one is held at this moment by this machine's clock.
    pub fn worker(&self) -> Option<u32> {
        self.handle.shared.worker().map(|held| held.id())
    }

    /// Waits until a number is held, and gives it: at once, but for the time after a loss (R66).
    ///
    /// # Errors
    ///
    /// `Closed` where this, or the provider, is closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&self) -> Result<u32> {
        let shared = &*self.handle.shared;
        loop {
            let mut changes = shared.changes();
            if let Some(held) = shared.worker() {
                return Ok(held.id());
            }
            if let Some(over) = shared.is_over() {
                return Err(over.in_operation("uid.ready").about(self.service()));
            }
            // Ends with what is shared, which is kept here.
            let _ = changes.changed().await;
        }
    }

    /// How taking a number or storing a horizon failed last, until it succeeds again. It says so
    /// before [`next`](Self::next) fails: ids go on for a while.
    pub fn last_error(&self) -> Option<Error> {
        self.handle.shared.last_error()
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.handle.shared.service
    }

    /// What an id is made of. Of a number that is no id it is something.
    pub fn parts(id: u64) -> UidParts {
        UidParts::of(id)
    }

    /// Gives out nothing more, stores the time after the last id, and gives the number back, in
    /// this order (R64). Idempotent. Close it before the provider: after that nothing can be
    /// stored, and who takes the number next begins up to two thirds of the TTL later.
    ///
    /// # Errors
    ///
    /// `LeaseLost` where the number was lost at that moment; `Unavailable` or `Timeout`, outcome
    /// `Unknown`, where the store did not answer: the provider goes on trying (R9). `Closed` where
    /// the provider was closed before.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it has begun, and goes on without being waited for.
    pub async fn close(&self) -> Result<()> {
        let Handle { shared, closing, ended } = &*self.handle;
        if shared.clocks.home().is_left_behind() {
            return Ok(());
        }
        closing.cancel();
        let mut ended = ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ok(())),
            Err(_) => {
                Err(Error::new(ErrorKind::Internal, CLOSE, "the task of the generator had ended before")
                    .about(&shared.service))
            }
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uid")
            .field("service", &self.service())
            .field("worker", &self.worker())
            .finish_non_exhaustive()
    }
}
