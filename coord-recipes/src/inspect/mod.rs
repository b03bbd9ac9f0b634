//! What stands in a store, for those who operate it: who holds and who waits, which sessions there
//! are and what hangs on them, which instances and ids; and to end what has to be ended.

mod config;
mod end;
mod queues;
mod services;
mod sessions;

use std::collections::BTreeMap;
use std::time::Duration;

use coord_api::store::{Entry, Span};
use coord_api::{LeaseId, Outcome, Result};
use coord_core::{Client, LossRecord, SessionOwner, keys};
use futures_util::StreamExt as _;
use futures_util::stream;

pub use config::{ConfigKeyView, InUseView};
pub use queues::{Entered, QueueView, StandingMode, StandingView};
pub use services::{IdView, InstanceView, ServiceView};
pub use sessions::SessionView;

/// How many requests one look has under way at once.
const AT_ONCE: usize = 16;

/// Looks into a store, whoever wrote what lies there. Cheap to make and to clone.
///
/// The layout of keys is coord's own and may change; this is how tools read it. Each list is read
/// at one revision, page by page; who has the sessions in it is read right after, so that a session
/// which ends in between has no owner.
///
/// Everything that it returns can be serialized. It holds what was read in memory, and what lies in
/// a store may be large: a lock in whose queue a thousand wait has a thousand entries.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use coord_api::prelude::*;
/// use coord_memory::MemoryProvider;
/// use coord_recipes::inspect::Inspect;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// let coord = MemoryProvider::new();
/// let guard = coord.lock().acquire("reports/daily", Duration::from_secs(30)).await?;
///
/// let inspect = Inspect::new(coord.core());
/// let lock = inspect.lock("reports/daily").await?.unwrap();
/// let holder = &lock.holders[0];
/// assert_eq!(holder.token, guard.fencing_token());
/// assert_eq!(holder.process.as_ref().unwrap().pid, std::process::id());
/// assert!(lock.waiters.is_empty());
/// # coord.close().await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Inspect {
    client: Client,
}

impl Inspect {
    /// A look into the store of this client. No I/O.
    pub fn new(client: &Client) -> Self {
        Inspect { client: client.clone() }
    }

    /// All that lies in a span, at one revision.
    async fn all(&self, operation: &'static str, span: Span) -> Result<Vec<Entry>> {
        let listing = async { Ok(self.client.list(span).await?.entries) };
        self.client.run(operation, Outcome::NotApplied, listing).await
    }

    /// All that lies in a span, and who has the sessions.
    async fn owned(&self, operation: &'static str, span: Span) -> Result<(Vec<Entry>, Owners)> {
        let entries = self.all(operation, span).await?;
        let owners = self.owners(operation).await?;
        Ok((entries, owners))
    }

    async fn owners(&self, operation: &'static str) -> Result<Owners> {
        let entries = self.all(operation, Span::prefix(keys::SESSIONS)).await?;
        let owner = |entry: &Entry| Some((keys::session_in(&entry.key)?, SessionOwner::of(&entry.value)));
        Ok(Owners(entries.iter().filter_map(owner).collect()))
    }

    /// How much time is left to each of these sessions unless it is renewed, as coarse as whole
    /// seconds rounded down; those that are over are not there. One request a session, several at
    /// once.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn remaining(
        &self,
        sessions: impl IntoIterator<Item = LeaseId>,
    ) -> Result<BTreeMap<LeaseId, Duration>> {
        let asked = sessions.into_iter().map(|session| async move {
            let lease = self.client.store().lease(session);
            let found = self.client.run("inspect.remaining", Outcome::NotApplied, lease).await?;
            Ok(found.map(|found| (session, found.remaining)))
        });
        let asked: Vec<Result<_>> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        asked.into_iter().filter_map(Result::transpose).collect()
    }

    /// What clients lost, as far as they wrote it down (R84): the oldest first.
    ///
    /// # Errors
    ///
    /// As [`remaining`](Self::remaining).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn losses(&self) -> Result<Vec<LossRecord>> {
        let entries = self.all("inspect.losses", Span::prefix(keys::LOSSES)).await?;
        // What is no such record was left by somebody else.
        let records = entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok());
        let mut losses: Vec<LossRecord> = records.flat_map(Vec::<LossRecord>::into_iter).collect();
        losses.sort_by(|one, other| (one.at_ms, &one.provider).cmp(&(other.at_ms, &other.provider)));
        Ok(losses)
    }
}

/// Who has the sessions.
struct Owners(BTreeMap<LeaseId, SessionOwner>);

impl Owners {
    fn of(&self, session: Option<LeaseId>) -> Option<SessionOwner> {
        self.0.get(&session?).cloned()
    }
}
