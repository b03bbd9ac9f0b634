//! Gray release of configuration: a value for some of the instances, before it is for all (R73 to
//! R75).

mod center;
mod follow;
mod record;
mod releases;
mod targets;
mod view;

use std::fmt;

use coord_api::store::{Op, Txn};
use coord_api::{Error, Outcome, Result, Value, Version, WriteOptions, json, key};
use coord_core::{Client, keys};
use serde::Serialize;

use crate::config::{self, Conditions, Config};
use view::{Both, Scope};

pub use center::GrayConfig;
pub use targets::{GrayIdentity, GrayTargets, MAX_TARGET_BYTES, MAX_TARGETS};

const RELEASE: &str = "gray.release";
const OF: &str = "gray.of";
const PROMOTE: &str = "gray.promote";
const WITHDRAW: &str = "gray.withdraw";

/// A gray release of a key, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrayRelease {
    /// Whom it is for.
    pub targets: GrayTargets,
    /// The gray value.
    pub value: Value,
    /// The version of the release: the revision at which it was written.
    pub version: Version,
    /// The version of the base at the same revision; zero where the key has none.
    pub base: Version,
    /// Who released it, as he said.
    pub author: String,
    /// Why, as he said.
    pub note: String,
    /// When, in milliseconds since 1970 by the clock of whoever released it: for people, nothing
    /// goes by it.
    pub at: u64,
}

/// Releases values of the config centre to some of the instances, and then to all, or to none.
/// Cheap to make and to clone. [`GrayConfig`] is how an instance sees them.
///
/// - **R73** A release is for those instances that it names by id or by label, and for a percentage
///   of all; raising that only adds instances. Others never see it.
/// - **R74** [`promote`](Self::promote) makes the gray value the base in one transaction.
/// - **R75** What is [withdrawn](Self::withdraw) is off everywhere.
///
/// A release lies under `/config-gray/<key>` as one line of JSON, then the value as it is:
/// `{"targets":{"ids":["gateway-7"],"labels":[["zone","north"]],"percent":10},"author":"ann",
/// "note":"why","at":1700000000000}`, where all but `targets`, and all within it, may be left out.
///
/// # Examples
///
/// ```
/// use coord_api::prelude::*;
/// use coord_api::{Note, WriteOptions};
/// use coord_recipes::{Gray, GrayTargets};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let provider = coord_recipes::StoreProvider::new(store, Default::default());
/// let gray = Gray::new(provider.core());
/// let some = GrayTargets::default().with_percent(5);
/// let first = gray.release("limits", &some, &20, WriteOptions::default()).await?;
/// // More of them; only if nobody has released something else meanwhile.
/// let still = WriteOptions::default().with_expected(first);
/// let second = gray.release("limits", &some.with_percent(50), &20, still).await?;
///
/// let seen = WriteOptions::default().with_expected(second);
/// gray.promote("limits", seen.with_note(Note::new("ann", "it works"))).await?;
/// assert_eq!(provider.config().get::<u32>("limits").await?, Some(20));
/// assert!(gray.of("limits").await?.is_none() && !gray.withdraw("limits").await?);
/// # provider.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct Gray {
    client: Client,
}

impl Gray {
    /// The releases over the client's store. No I/O.
    pub fn new(client: &Client) -> Self {
        Gray { client: client.clone() }
    }

    /// Releases a typed value to some instances, in place of an earlier release of the key:
    /// [`release_raw`](Self::release_raw) of its JSON.
    ///
    /// # Errors
    ///
    /// `Codec` when JSON could not give the value back (R15), before any I/O; those of
    /// [`release_raw`](Self::release_raw).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have released it (R2).
    pub async fn release<T: Serialize + ?Sized>(
        &self,
        key: &str,
        targets: &GrayTargets,
        value: &T,
        options: WriteOptions,
    ) -> Result<Version> {
        let encoded = json::encode(RELEASE, value).map_err(|error| error.about(key))?;
        self.release_raw(key, targets, encoded, options).await
    }

    /// Releases a value to some instances, in place of an earlier release of the key (R73). Returns
    /// the version of the release.
    ///
    /// Of the options, the [expected version](WriteOptions::expected) is that of the release that
    /// it takes the place of, zero where there must be none; fences are as for any other write
    /// (R55); and the [note](WriteOptions::note) says in the release who wrote it, and why.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad key (R4), for targets that name nobody, more than 100 percent,
    /// more than [`MAX_TARGETS`] or [`MAX_TARGET_BYTES`], and for a value or a note that could not
    /// be published (R71), before any I/O; `Conflict`, which carries the
    /// [current version](coord_api::Error::current_version) of the release; those of
    /// [`write_with`](coord_api::ConfigCenter::write_with).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have released it (R2).
    pub async fn release_raw(
        &self,
        key: &str,
        targets: &GrayTargets,
        value: Value,
        options: WriteOptions,
    ) -> Result<Version> {
        let key = key::check(RELEASE, key)?;
        let WriteOptions { expected, fences, note, .. } = options;
        let note = note.unwrap_or_default();
        let checked = targets.check(RELEASE).and_then(|()| config::record::check(RELEASE, &value, &note));
        let record = checked.and_then(|()| record::encode(RELEASE, targets, note, &value));
        let record = record.map_err(|error| error.about(key))?;
        let conditions = Conditions { expected, fences: &fences, removes: None };
        let release = keys::config_gray(key);
        let put = vec![Op::put(release.clone(), record)];
        let base = Config::new(self.client.clone());
        let write = base.conditional(RELEASE, release, &conditions, put);
        Ok(self.client.run_on(RELEASE, key, Outcome::Unknown, write).await?.revision)
    }

    /// The release of a key, if there is one. Linearizable.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4) before any I/O; `Codec` where what lies there is none: others left
    /// it, and it is for nobody; `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn of(&self, key: &str) -> Result<Option<GrayRelease>> {
        let key = key::check(OF, key)?;
        self.client.run_on(OF, key, Outcome::NotApplied, self.read(OF, key)).await
    }

    async fn read(&self, operation: &'static str, key: &str) -> Result<Option<GrayRelease>> {
        let both = Both::read(&self.client, &Scope::key(key)).await?;
        let Some(entry) = both.gray.first() else { return Ok(None) };
        let (record::Header { targets, author, note, at }, value) = record::decode(operation, entry)?;
        let base = both.base.first().map_or(Version::ZERO, |base| base.modified);
        Ok(Some(GrayRelease { targets, value, version: entry.modified, base, author, note, at }))
    }

    /// Makes the gray value of a key its base, byte for byte, and ends the release: in one
    /// transaction, so that who has the gray value never sees the old base (R74). Returns the new
    /// version of the base.
    ///
    /// Of the options, the [expected version](WriteOptions::expected) is that of the release, any
    /// will do without one; fences are as for any other write (R55); and with a
    /// [note](WriteOptions::note) the value is published, so that history tells of it (R71).
    ///
    /// # Errors
    ///
    /// `Conflict` where there is no release, or another one than expected, and where it or the base
    /// was written while this read them: nothing was changed then. `Codec` for what is no release;
    /// those of [`write_with`](coord_api::ConfigCenter::write_with).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have promoted it (R2).
    pub async fn promote(&self, key: &str, options: WriteOptions) -> Result<Version> {
        let key = key::check(PROMOTE, key)?;
        if let Some(note) = &options.note {
            config::record::check(PROMOTE, &Value::new(), note).map_err(|error| error.about(key))?;
        }
        let found = self.client.run_on(PROMOTE, key, Outcome::NotApplied, self.read(PROMOTE, key)).await?;
        let version = found.as_ref().map_or(Version::ZERO, |found| found.version);
        let Some(release) = found.filter(|_| options.expected.is_none_or(|expected| expected == version))
        else {
            return Err(Error::version_conflict(PROMOTE, version).about(key));
        };
        let removes = Some((keys::config_gray(key), version));
        let options = options.with_expected(release.base);
        let base = Config::new(self.client.clone());
        base.write_removing(PROMOTE, key, release.value, options, removes).await
    }

    /// Ends the release of a key: the base is what counts, for everyone (R75). Says whether there
    /// was one.
    ///
    /// # Errors
    ///
    /// Those of [`delete`](coord_api::ConfigCenter::delete).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have ended it (R2).
    pub async fn withdraw(&self, key: &str) -> Result<bool> {
        let key = key::check(WITHDRAW, key)?;
        let delete = Txn::new().then(Op::delete(keys::config_gray(key)));
        let delete = self.client.store().txn(delete);
        let reply = self.client.run_on(WITHDRAW, key, Outcome::Unknown, delete).await?;
        reply.try_existed(0).map_err(|error| error.in_operation(WITHDRAW))
    }
}

impl fmt::Debug for Gray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gray").finish_non_exhaustive()
    }
}
