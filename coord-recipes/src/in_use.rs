//! Which versions of which documents a process has in use, for those who operate it (R86).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Op, Txn, round_ttl};
use coord_api::{Error, ErrorKind, Result, Value, Version};
use coord_core::session::{LeasedEntry, Placed, Token};
use coord_core::telemetry::Subject;
use coord_core::{Client, backoff, homeless, keys, time_of_day_ms};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use crate::config_manager::ConfigReader;
use crate::rewrite::{Rewritten, rewrite};

const OPERATION: &str = "versions_in_use";
const CONTRACT: &str = "versions_in_use";

/// What hangs on it is nobody's but the operator's, so that it may be late.
const TTL: Duration = Duration::from_secs(30);

/// How often it is looked whether another version is in use.
const EVERY: Duration = Duration::from_secs(1);

/// How many documents one process tells of at most. Of more, those that come first are told, by
/// key.
pub const MAX_IN_USE: usize = 1_000;

/// A version that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InUse {
    /// The version.
    pub version: Version,
    /// Since when, by the process's clock: milliseconds since 1970.
    pub since_ms: u64,
}

/// Tells those who operate a service which versions of its documents this process has in use (R86):
/// `coordctl config uses`, the operators' page, and
/// [`Inspect::versions_in_use`](crate::inspect::Inspect::versions_in_use) show them.
///
/// All of it stands under one key on a session of this client, and goes with it. It is looked at
/// once a second, and written where it has changed; in an outage the last state counts, and where
/// the session was lost it is written anew. Nobody waits for it. Dropped, it takes back what it
/// told, as soon as the store answers.
///
/// # Examples
///
/// ```
/// use coord_api::prelude::*;
/// use coord_memory::MemoryProvider;
/// use coord_recipes::VersionsInUse;
/// use coord_recipes::config_manager::ConfigManager;
/// use coord_recipes::inspect::Inspect;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> coord_api::Result<()> {
/// let coord = MemoryProvider::new();
/// let config = coord.config().clone();
/// let version = config.set("prod/gateway/workers", &8).await?;
/// let manager = ConfigManager::<u32>::builder(config, "gateway", "workers").env("prod").build()?;
/// manager.start().await;
///
/// let told = VersionsInUse::new(coord.core())?;
/// told.follow(&manager.reader());
/// tokio::time::sleep(std::time::Duration::from_secs(3)).await;
/// let uses = Inspect::new(coord.core()).versions_in_use().await?;
/// assert_eq!(uses[0].versions["prod/gateway/workers"].version, version);
/// # Ok(())
/// # }
/// ```
pub struct VersionsInUse {
    shared: Arc<Shared>,
    /// Dropped, the task ends, and what it holds is released.
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    versions: Mutex<BTreeMap<String, InUse>>,
    followed: Mutex<Vec<Followed>>,
}

/// A document that is followed.
struct Followed {
    key: String,
    version: Box<dyn Fn() -> Option<Version> + Send>,
}

impl VersionsInUse {
    /// Tells what this client's process has in use, on a lease of 30 s. No I/O.
    ///
    /// # Errors
    ///
    /// As [`Client::ready`].
    pub fn new(client: &Client) -> Result<Self> {
        VersionsInUse::with_ttl(client, TTL)
    }

    /// As [`new`](Self::new), on a lease of `ttl`, rounded up to whole seconds: after so long a
    /// process that is gone is told of no more.
    ///
    /// # Errors
    ///
    /// As [`Client::ready`]; `InvalidArgument` for a TTL of zero, or one that no store has.
    pub fn with_ttl(client: &Client, ttl: Duration) -> Result<Self> {
        let ttl = round_ttl(OPERATION, ttl)?;
        client.ready(OPERATION)?;
        let shared = Arc::<Shared>::default();
        let telling = Telling { client: client.clone(), ttl, shared: Arc::clone(&shared) };
        let task = client.home().spawn(telling.run()).map_err(|error| homeless(OPERATION, error))?;
        Ok(VersionsInUse { shared, _task: AbortOnDropHandle::new(task) })
    }

    /// Tells from now on which version the manager of this reader has in use; none while it has the
    /// default. It keeps the reader for as long as it lives.
    pub fn follow<T: Send + Sync + 'static>(&self, reader: &ConfigReader<T>) {
        let (key, reader) = (reader.key().to_owned(), reader.clone());
        let version = Box::new(move || reader.status().version());
        let mut followed = self.shared.followed.lock();
        followed.retain(|followed| followed.key != key);
        followed.push(Followed { key, version });
    }

    /// Tells that this version of a document is in use: for what no manager manages. The key is one
    /// of the config centre, as it is there.
    pub fn set(&self, key: impl Into<String>, version: Version) {
        self.shared.set(key.into(), Some(version));
    }

    /// A document is in use no more.
    pub fn forget(&self, key: &str) {
        self.shared.followed.lock().retain(|followed| followed.key != key);
        self.shared.versions.lock().remove(key);
    }
}

impl Shared {
    fn set(&self, key: String, version: Option<Version>) {
        let mut versions = self.versions.lock();
        match version {
            None => drop(versions.remove(&key)),
            Some(version) if versions.get(&key).is_some_and(|in_use| in_use.version == version) => {}
            Some(version) => {
                versions.insert(key, InUse { version, since_ms: time_of_day_ms() });
            }
        }
    }

    /// What is in use at this moment.
    fn look(&self) -> BTreeMap<String, InUse> {
        let followed = self.followed.lock();
        let seen: Vec<_> = followed.iter().map(|one| (one.key.clone(), (one.version)())).collect();
        drop(followed);
        for (key, version) in seen {
            self.set(key, version);
        }
        let versions = self.versions.lock();
        versions.iter().take(MAX_IN_USE).map(|(key, in_use)| (key.clone(), *in_use)).collect()
    }
}

impl fmt::Debug for VersionsInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VersionsInUse")
            .field("versions", &*self.shared.versions.lock())
            .finish_non_exhaustive()
    }
}

/// What stands in the store.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// The name of the client.
    pub(crate) name: String,
    pub(crate) versions: BTreeMap<String, InUse>,
}

/// The task.
struct Telling {
    client: Client,
    ttl: Duration,
    shared: Arc<Shared>,
}

impl Telling {
    async fn run(self) {
        let home = self.client.home().clone();
        let mut backoff = backoff();
        let mut entry: Option<LeasedEntry> = None;
        let mut told = BTreeMap::new();
        loop {
            let lost = entry.as_ref().is_some_and(|entry| entry.loss().get().is_some());
            if lost {
                entry = None;
                told.clear();
            }
            let now = self.shared.look();
            if now != told {
                match self.tell(entry.take(), &now).await {
                    Ok(written) => {
                        entry = written;
                        told = if entry.is_some() { now } else { BTreeMap::new() };
                        backoff.reset();
                    }
                    Err(error) if error.kind() == ErrorKind::Closed => return,
                    Err(error) => {
                        coord_home::event!(DEBUG, error = %error, "versions in use are not told yet");
                        told.clear();
                        home.sleep(backoff.pause()).await;
                    }
                }
            }
            home.sleep(EVERY).await;
        }
    }

    /// Writes what is in use; `None` where the entry was lost meanwhile.
    async fn tell(
        &self,
        entry: Option<LeasedEntry>,
        versions: &BTreeMap<String, InUse>,
    ) -> Result<Option<LeasedEntry>> {
        let client = &self.client;
        let told = Told { name: client.name().to_owned(), versions: versions.clone() };
        let value: Value = serde_json::to_vec(&told)
            .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "it has no JSON").with_source(error))?
            .into();
        if let Some(entry) = entry {
            return Ok(match rewrite(client, &entry, &value).await? {
                Rewritten::Done => Some(entry),
                Rewritten::Gone => None,
            });
        }
        let session = client.enter(OPERATION, self.ttl).await?;
        let key: Bytes = keys::in_use(session.lease(), session.nonce());
        let entry = LeasedEntry::new(session, key, Subject::new(CONTRACT, client.name()));
        let write = || {
            let put = Op::put_leased(entry.key().clone(), value.clone(), entry.session().lease());
            Txn::new().when(Compare::Absent(entry.key().clone())).then(put)
        };
        match entry.place_batched(Token::New, &write).await? {
            Placed::Written(_) => Ok(Some(entry)),
            Placed::Found(found) => {
                let found = found.into_iter().next().flatten();
                Ok(found.map(|found| {
                    entry.confirm(&found, Token::New);
                    entry
                }))
            }
            Placed::Refused(_) => Ok(None),
        }
    }
}
