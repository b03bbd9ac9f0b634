//! The log of a space in a store, and all that stands beside it.
//!
//! Everything of a space lies below `/global/s/<space>/` of any [`Store`]. An append is one
//! transaction: it compares the head that it was made of and writes head, entry, files, paths and
//! actors together, or nothing (G1). Its other list reads what it takes to try again, so that a
//! lost race costs one request more. Any instance appends; those that wait at one instance share
//! one.
//!
//! | key | what |
//! |---|---|
//! | `head` | JSON: format, names, epoch, position, chain, floor, tally |
//! | `log/<last position>` | an entry |
//! | `node/<id>` | a file |
//! | `path/<folded>//<id>` | the file wants that path; an index, made of the files |
//! | `actor/<actor>` | JSON: how far it has come, and which run of its agent speaks for it |
//! | `conflict/<position>-<n>` | what a resolution lists |
//! | `req/<edit>` | JSON: the positions of a write of the API, for an hour at least |
//! | `blob/<hash>` | the content is at the coordinator; its value says where |

mod error;
pub(crate) mod keys;
pub(crate) mod picture;
mod reading;
mod upkeep;
mod writing;

use std::fmt;
use std::sync::Arc;

use coord_api::store::{Compare, Op, Range, Store, Txn};
use coord_api::{Error, ErrorKind, LeaseId};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use self::keys::Keys;
use self::picture::Picture;
use self::writing::Waiting;
use crate::model::{Head, Names, SpaceName};

pub use self::error::{LedgerError, Result};
pub use self::reading::{Listed, PAGE_MAX, Verified};
pub use self::writing::{Given, Pushed, Writer, Written};

/// What the calls of this module are called in errors of the store.
const OPERATION: &str = "global.ledger";

/// Tells the time of day, in milliseconds since 1970: it goes into the log as the moment in which
/// an entry was received, and bounds the times that edits claim (G11).
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The ledger of a space, as one instance has it. Clones are the same instance.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    space: SpaceName,
    keys: Keys,
    clock: Clock,
    /// What is known; whoever holds it appends.
    picture: tokio::sync::Mutex<Picture>,
    /// What waits for an append.
    waiting: Mutex<Vec<Waiting>>,
    /// The lease on which answers to writes of the API hang.
    answers: Mutex<Option<Answers>>,
}

/// A lease on which answers to writes of the API hang.
#[derive(Clone, Copy)]
struct Answers {
    lease: LeaseId,
    since: Instant,
    count: usize,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("space", &self.shared.space).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens a space, and makes it where there is none: then its paths are one as `names` says, for
    /// good.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Store`], with `InvalidArgument` for a space that has other names;
    /// [`Refusal::Format`](crate::model::Refusal::Format) for one that a newer build has written
    /// (G26).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a space may have been made.
    pub async fn open(store: Arc<dyn Store>, space: SpaceName, names: Names) -> Result<Self> {
        Self::open_with_clock(store, space, names, Arc::new(coord_core::time_of_day_ms)).await
    }

    /// [`open`](Self::open) by a clock of one's own.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a space may have been made.
    pub async fn open_with_clock(
        store: Arc<dyn Store>,
        space: SpaceName,
        names: Names,
        clock: Clock,
    ) -> Result<Self> {
        let keys = Keys::of(&space);
        let read = || Op::Range(Range::key(keys.head()));
        let new = json_value(&Head::new(names))?;
        let txn = Txn::new()
            .when(Compare::Absent(keys.head()))
            .then(Op::put(keys.head(), new))
            .then(read())
            .otherwise(read());
        let reply = store.txn(txn).await?;
        let found = if reply.succeeded { reply.range(1) } else { reply.range(0) };
        let Some(found) = found.and_then(|range| range.entries.first()) else {
            return Err(Error::new(
                ErrorKind::Internal,
                OPERATION,
                "the store did not answer what was asked",
            )
            .into());
        };
        let head = picture::head(found)?;
        if head.names != names {
            let what = format!("the space has the names {:?} since it was made, not {names:?}", head.names);
            return Err(Error::invalid_argument(OPERATION, what).into());
        }
        let picture = tokio::sync::Mutex::new(Picture::new(head, found.modified));
        let shared = Shared {
            store,
            space,
            keys,
            clock,
            picture,
            waiting: Mutex::default(),
            answers: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The time of day, by the clock that it was opened with.
    pub(crate) fn now_ms(&self) -> u64 {
        (self.shared.clock)()
    }

    /// The space.
    #[must_use]
    pub fn space(&self) -> &SpaceName {
        &self.shared.space
    }
}

/// A value as JSON, for people too.
fn json_value(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| unwritable(&error))
}

/// A value as bytes for programs.
fn binary_value(value: &impl Serialize) -> Result<Vec<u8>> {
    bcs::to_bytes(value).map_err(|error| unwritable(&error))
}

fn unwritable(error: &dyn fmt::Display) -> LedgerError {
    Error::new(ErrorKind::Internal, OPERATION, format!("a value cannot be written: {error}")).into()
}
