//! What was published under a key, and going back to it (R71, R72).

mod diff;

use std::fmt;

use coord_api::store::{Entry, Range, Span};
use coord_api::{Error, ErrorKind, Invalid, Note, Outcome, Result, Value, Version, WriteOptions, json, key};
use coord_core::{Client, keys};

use crate::config::{Config, record};

pub use diff::Difference;

const HISTORY: &str = "history.of";
const ROLLBACK: &str = "history.rollback";
const DIFF: &str = "history.diff";

/// Something that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The version that it became.
    pub version: Version,
    /// The version that it replaced; zero where the key was absent.
    pub replaced: Version,
    /// Who published it, as he said.
    pub author: String,
    /// Why, as he said.
    pub note: String,
    /// When, in milliseconds since 1970 by the clock of whoever published it: for people, nothing
    /// goes by it.
    pub at: u64,
    /// What was published.
    pub value: Value,
    /// Whether the key was written or deleted otherwise between the record before and this one. Of
    /// the oldest record that is kept it cannot be known, and is `false`.
    pub after_gap: bool,
}

/// The history of a key, at one revision.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyHistory {
    /// What was published, the oldest first.
    pub published: Vec<Published>,
    /// The present version of the key; zero where it is absent.
    pub current: Version,
    /// Records that do not decode: others left them there.
    pub invalid: Vec<Invalid>,
}

impl KeyHistory {
    /// Whether what the key has now, or that it is absent, is in no record: it was written or
    /// deleted otherwise after the newest one.
    pub fn ends_with_gap(&self) -> bool {
        self.published.last().map_or(Version::ZERO, |last| last.version) != self.current
    }

    /// What became this version.
    pub fn version(&self, version: Version) -> Option<&Published> {
        self.published.iter().find(|published| published.version == version)
    }
}

/// Reads what was published under the keys of a config centre, and goes back to it. Cheap to make
/// and to clone.
///
/// - **R71** A write with a [note](WriteOptions::with_note) leaves a record, in the same
///   transaction and at the same revision as its value, that names the version which it replaced.
///   What was written or deleted without a note shows as a gap. The newest 20 to 29 records of a
///   key are kept, whatever becomes of the store's own history.
/// - **R72** [`rollback`](Self::rollback) publishes an old value anew, under compare-and-set.
///
/// # Examples
///
/// ```
/// use coord_api::Note;
/// use coord_api::prelude::*;
/// use coord_recipes::History;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let provider = coord_recipes::StoreProvider::new(store, Default::default());
/// let (config, history) = (provider.config(), History::new(provider.core()));
/// let first = config.publish("limits", &10, Note::new("ann", "to begin with")).await?;
/// let second = config.publish("limits", &1_000, Note::new("ben", "more of it")).await?;
/// assert_eq!(history.of("limits").await?.published.len(), 2);
/// history.rollback("limits", first, second, Note::new("ann", "too much")).await?;
/// assert_eq!(config.get::<u32>("limits").await?, Some(10));
/// # provider.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct History {
    client: Client,
}

impl History {
    /// The history of everything that is published over the client's store. No I/O.
    pub fn new(client: &Client) -> Self {
        History { client: client.clone() }
    }

    /// What was published under `key`, and its present version, at one revision. Linearizable.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4) before any I/O; `Unavailable`, `Timeout`, `Closed`,
    /// `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn of(&self, key: &str) -> Result<KeyHistory> {
        let key = key::check(HISTORY, key)?;
        self.client.run_on(HISTORY, key, Outcome::NotApplied, self.read(key)).await
    }

    async fn read(&self, key: &str) -> Result<KeyHistory> {
        loop {
            let found = self.client.list(Span::prefix(keys::config_history(key))).await?;
            let present = Range::key(keys::config(key)).with_at(found.revision).with_keys_only();
            let present = match self.client.store().range(present).await {
                Ok(present) => present,
                // The history under the two reads was compacted: a newer state is as good.
                Err(error) if error.kind() == ErrorKind::Compacted => continue,
                Err(error) => return Err(error),
            };
            let current = present.entries.first().map_or(Version::ZERO, |entry| entry.modified);
            return Ok(history(found.entries, current));
        }
    }

    /// Publishes anew what had become `version`, if the present version is `expected`; zero where
    /// the key must be absent (R72). Returns the new version. The value is as it was, byte for
    /// byte.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a version of which no record is kept; `Conflict`, which carries the
    /// [current version](coord_api::Error::current_version), where the present version is another
    /// one: nothing was changed; those of
    /// [`write_with`](coord_api::ConfigCenter::write_with).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have published (R2).
    pub async fn rollback(
        &self,
        key: &str,
        version: Version,
        expected: Version,
        note: Note,
    ) -> Result<Version> {
        let history = self.of(key).await.map_err(|error| error.in_operation(ROLLBACK))?;
        let published = recorded(ROLLBACK, &history, version).map_err(|error| error.about(key))?;
        let options = WriteOptions::default().with_expected(expected).with_note(note);
        let config = Config::new(self.client.clone());
        config.write(ROLLBACK, key, published.value.clone(), options).await
    }

    /// What changed from one published version of a document to another: each place where they say
    /// something else, as JSON, in order.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a version of which no record is kept; `Codec` where one of them is no
    /// JSON; those of [`of`](Self::of).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn diff(&self, key: &str, from: Version, to: Version) -> Result<Vec<Difference>> {
        let history = self.of(key).await.map_err(|error| error.in_operation(DIFF))?;
        let document = |version| {
            let published = recorded(DIFF, &history, version)?;
            json::decode::<serde_json::Value>(DIFF, &published.value)
        };
        let both = document(from).and_then(|from| Ok((from, document(to)?)));
        let (from, to) = both.map_err(|error| error.about(key))?;
        Ok(Difference::between(&from, &to))
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

fn recorded<'a>(operation: &'static str, history: &'a KeyHistory, version: Version) -> Result<&'a Published> {
    let message = "no record of this version is kept; see which are, with `of`";
    history.version(version).ok_or_else(|| Error::invalid_argument(operation, message))
}

/// The history that these records tell.
fn history(mut records: Vec<Entry>, current: Version) -> KeyHistory {
    records.sort_by_key(|entry| entry.created);
    let mut history = KeyHistory { published: Vec::new(), current, invalid: Vec::new() };
    for entry in records {
        match record::decode::<record::Header>(HISTORY, &entry) {
            // A record is written once; another program may have touched it.
            Ok((header, value)) if entry.created == entry.modified => {
                let before = history.published.last().map(|before| before.version);
                history.published.push(Published {
                    version: entry.created,
                    replaced: header.replaced,
                    author: header.author,
                    note: header.note,
                    at: header.at,
                    value,
                    after_gap: before.is_some_and(|before| before != header.replaced),
                });
            }
            decoded => {
                let error = decoded.err().unwrap_or_else(|| {
                    Error::new(ErrorKind::Codec, HISTORY, "a record that was written over")
                });
                let version = entry.modified;
                history.invalid.push(Invalid { key: entry.key, value: entry.value, version, error });
            }
        }
    }
    history
}
