//! What breaks the config centre (R10 to R15) and the general rules as it shows them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::{Op, Range, RangeReply, Span, Store, Txn, TxnReply};
use coord_api::{
    ConfigEntry, ConfigEvent, Error, Outcome, Result, Snapshot, Value, Version, Versioned, Watch, WatchStart,
};
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep};

use super::provider::{BrokenProvider, Good, streamed};
use super::store::BrokenStore;
use super::{Sabotage, Saboteur, Shared, locked};
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("compare-ignores-version", "compare-and-set ignores the version", &["r12"], || {
        Sabotage::provider(|| IgnoresVersion)
    }),
    Saboteur::new("compare-by-value", "compares the value instead (ABA)", &["r12"], || {
        let known = Shared::default();
        Sabotage::provider(move || ByValue(Arc::clone(&known)))
    }),
    Saboteur::new("create-overwrites", "create-if-absent overwrites", &["r12"], || {
        Sabotage::provider(|| CreateOverwrites)
    }),
    Saboteur::new("failed-compare-raises-version", "a failed one raises the version", &["r11"], || {
        Sabotage::provider(|| FailedRaises)
    }),
    Saboteur::new("version-restarts-with-key", "version restarts after delete and create", &["r11"], || {
        let known = Shared::default();
        Sabotage::provider(move || Counted(Arc::clone(&known), Count::SinceCreated))
    }),
    Saboteur::new("version-restarts-with-store", "after reopening", &["r11"], || {
        let known = Shared::<Numbers>::default();
        let forgotten = Arc::clone(&known);
        Sabotage::provider(move || Counted(Arc::clone(&known), Count::SinceOpened)).and_reopened(move |_| {
            *locked(&forgotten) = Numbers::default();
            async {}
        })
    })
    .persistent(),
    Saboteur::new("version-is-clock", "is wall-clock milliseconds", &["r11"], || {
        let (known, start) = (Shared::default(), Instant::now());
        Sabotage::provider(move || Counted(Arc::clone(&known), Count::Milliseconds(start)))
    }),
    Saboteur::new("set-acknowledged-early", "set acknowledged before it is applied", &["r10"], || {
        Sabotage::provider(|| AcknowledgedEarly)
    }),
    Saboteur::new("lost-on-crash", "acknowledged, lost on crash", &["s6"], || {
        let last = Shared::<Vec<Op>>::default();
        let lost = Arc::clone(&last);
        Sabotage::store(move || RemembersLast(Arc::clone(&last))).and_reopened(move |store| {
            let txn = std::mem::take(&mut *locked(&lost)).into_iter().fold(Txn::new(), Txn::then);
            async move { drop(store.txn(txn).await) }
        })
    })
    .persistent(),
    Saboteur::new("unknown-as-not-applied", "Unknown reported as NotApplied", &["r2"], || {
        Sabotage::provider(|| NeverInDoubt)
    }),
    Saboteur::new("delete-always-existed", "delete of nothing says it existed", &["r13"], || {
        Sabotage::provider(|| AlwaysExisted)
    }),
    Saboteur::new("list-sees-neighbours", "`a/b` sees `a/bc`", &["r5", "r14"], || {
        Sabotage::client(|| SeesNeighbours)
    }),
    Saboteur::new("list-in-hash-order", "list in hash order", &["r14"], || Sabotage::provider(|| HashOrder)),
    Saboteur::new("list-shows-what-no-call-takes", "a list shows keys that no call takes", &["r14"], || {
        Sabotage::provider(|| ListsForeign)
    }),
    Saboteur::new(
        "list-hides-what-no-call-takes",
        "a list says nothing of keys that no call takes",
        &["r14"],
        || Sabotage::provider(|| HidesForeign),
    ),
    Saboteur::new("empty-reads-as-absent", "empty value reads as absent", &["r6"], || {
        Sabotage::provider(|| EmptyIsAbsent)
    }),
    Saboteur::new("failed-write-tells", "a failed write emits an event", &["r11"], || {
        let (told, _) = broadcast::channel(64);
        Sabotage::provider(move || FailedWriteTells(told.clone()))
    }),
    Saboteur::new("dot-dot-escapes", "`..` escapes the namespace", &["r4", "r5"], || {
        Sabotage::provider(|| DotDotEscapes)
    }),
];

/// The version that a conflict carries.
fn current(error: &Error) -> Option<Version> {
    error.current_version()
}

struct IgnoresVersion;

#[async_trait]
impl BrokenProvider for IgnoresVersion {
    async fn compare_and_set(&self, good: &Good, key: &str, value: Value, _: Version) -> Result<Version> {
        self.set(good, key, value).await
    }
}

/// Which value each version had, so that a value that came back passes for the version.
struct ByValue(Shared<HashMap<Version, Value>>);

#[async_trait]
impl BrokenProvider for ByValue {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        let version = good.provider.config().set_raw(key, value.clone()).await?;
        locked(&self.0).insert(version, value);
        Ok(version)
    }

    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        let (found, then) = (self.get(good, key).await?, locked(&self.0).get(&expected).cloned());
        let expected =
            found.filter(|found| Some(&found.value) == then.as_ref()).map_or(expected, |found| found.version);
        let version = good.provider.config().compare_and_set_raw(key, value.clone(), expected).await?;
        locked(&self.0).insert(version, value);
        Ok(version)
    }
}

struct CreateOverwrites;

#[async_trait]
impl BrokenProvider for CreateOverwrites {
    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        match expected {
            Version::ZERO => self.set(good, key, value).await,
            _ => good.provider.config().compare_and_set_raw(key, value, expected).await,
        }
    }
}

struct FailedRaises;

#[async_trait]
impl BrokenProvider for FailedRaises {
    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        let answer = good.provider.config().compare_and_set_raw(key, value, expected).await;
        if let (Err(_), Some(found)) = (&answer, self.get(good, key).await?) {
            self.set(good, key, found.value).await?;
        }
        answer
    }
}

/// The numbers that stand for the versions of each key.
type Numbers = HashMap<String, (Version, u64)>;

/// What versions are counted by.
#[derive(Clone, Copy)]
enum Count {
    SinceCreated,
    SinceOpened,
    Milliseconds(Instant),
}

/// Versions are numbers of its own.
struct Counted(Shared<Numbers>, Count);

impl Counted {
    fn number(&self, key: &str, version: Version) -> Version {
        let mut known = locked(&self.0);
        let last = match self.1 {
            Count::SinceCreated => known.get(key).map_or(0, |known| known.1),
            Count::SinceOpened => known.values().map(|known| known.1).max().unwrap_or(0),
            Count::Milliseconds(start) => {
                1_700_000_000_000 + u64::try_from(start.elapsed().as_millis()).unwrap_or(0)
            }
        };
        let known = known.entry(key.to_owned()).or_default();
        if known.0 != version {
            *known = (version, last + 1);
        }
        Version::new(known.1)
    }

    fn meant(&self, key: &str, number: Version) -> Version {
        locked(&self.0).get(key).filter(|known| known.1 == number.get()).map_or(number, |known| known.0)
    }
}

#[async_trait]
impl BrokenProvider for Counted {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        let found = good.provider.config().get_raw(key).await?;
        Ok(found.map(|found| Versioned { version: self.number(key, found.version), ..found }))
    }

    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        Ok(self.number(key, good.provider.config().set_raw(key, value).await?))
    }

    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        let expected = self.meant(key, expected);
        match good.provider.config().compare_and_set_raw(key, value, expected).await {
            Ok(version) => Ok(self.number(key, version)),
            Err(error) => match current(&error) {
                Some(Version::ZERO) | None => Err(error),
                Some(version) => {
                    Err(Error::version_conflict("config.compare_and_set", self.number(key, version)))
                }
            },
        }
    }

    async fn delete(&self, good: &Good, key: &str) -> Result<bool> {
        if matches!(self.1, Count::SinceCreated) {
            locked(&self.0).remove(key);
        }
        good.provider.config().delete(key).await
    }

    async fn compare_and_delete(&self, good: &Good, key: &str, expected: Version) -> Result<bool> {
        let expected = self.meant(key, expected);
        good.provider.config().compare_and_delete(key, expected).await
    }
}

struct AcknowledgedEarly;

#[async_trait]
impl BrokenProvider for AcknowledgedEarly {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        let head = good.provider.config().list_raw("").await?.revision;
        let (good, key) = (good.clone(), key.to_owned());
        tokio::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            good.provider.config().set_raw(&key, value).await
        });
        Ok(head.next())
    }
}

/// Knows how to undo the last write.
struct RemembersLast(Shared<Vec<Op>>);

#[async_trait]
impl BrokenStore for RemembersLast {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let keys = txn
            .then
            .iter()
            .filter_map(|op| if let Op::Put { key, .. } = op { Some(Op::delete(key.clone())) } else { None });
        let undone: Vec<Op> = keys.collect();
        let reply = good.txn(txn).await?;
        if reply.succeeded && !undone.is_empty() {
            *locked(&self.0) = undone;
        }
        Ok(reply)
    }
}

struct NeverInDoubt;

#[async_trait]
impl BrokenProvider for NeverInDoubt {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        good.provider
            .config()
            .set_raw(key, value)
            .await
            .map_err(|error| error.with_outcome(Outcome::NotApplied))
    }

    async fn delete(&self, good: &Good, key: &str) -> Result<bool> {
        good.provider.config().delete(key).await.map_err(|error| error.with_outcome(Outcome::NotApplied))
    }
}

struct AlwaysExisted;

#[async_trait]
impl BrokenProvider for AlwaysExisted {
    async fn delete(&self, good: &Good, key: &str) -> Result<bool> {
        good.provider.config().delete(key).await.map(|_| true)
    }
}

struct SeesNeighbours;

#[async_trait]
impl BrokenStore for SeesNeighbours {
    async fn range(&self, good: &Arc<dyn Store>, mut range: Range) -> Result<RangeReply> {
        if let Span::Prefix(prefix) = &range.span {
            if prefix.starts_with(layout::CONFIG.as_bytes()) && prefix.len() > layout::CONFIG.len() {
                range.span = Span::Prefix(prefix.slice(..prefix.len() - 1));
            }
        }
        good.range(range).await
    }
}

struct HashOrder;

#[async_trait]
impl BrokenProvider for HashOrder {
    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        let mut snapshot = good.provider.config().list_raw(prefix).await?;
        snapshot.items.sort_by_cached_key(|entry| {
            let mut hasher = DefaultHasher::new();
            entry.key.hash(&mut hasher);
            hasher.finish()
        });
        Ok(snapshot)
    }
}

/// Good entries for all keys that are UTF-8.
struct ListsForeign;

#[async_trait]
impl BrokenProvider for ListsForeign {
    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        let mut snapshot = good.provider.config().list_raw(prefix).await?;
        for record in std::mem::take(&mut snapshot.invalid) {
            match String::from_utf8(record.key.to_vec()) {
                Ok(key) => {
                    snapshot.items.push(ConfigEntry { key, value: record.value, version: record.version })
                }
                Err(_) => snapshot.invalid.push(record),
            }
        }
        snapshot.items.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(snapshot)
    }
}

/// Leaves out what is UTF-8 and no key.
struct HidesForeign;

#[async_trait]
impl BrokenProvider for HidesForeign {
    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        let mut snapshot = good.provider.config().list_raw(prefix).await?;
        snapshot.invalid.retain(|record| std::str::from_utf8(&record.key).is_err());
        Ok(snapshot)
    }
}

struct EmptyIsAbsent;

#[async_trait]
impl BrokenProvider for EmptyIsAbsent {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        Ok(good.provider.config().get_raw(key).await?.filter(|found| !found.value.is_empty()))
    }
}

/// Tells every watch of a compare-and-set that failed.
struct FailedWriteTells(broadcast::Sender<ConfigEntry>);

#[async_trait]
impl BrokenProvider for FailedWriteTells {
    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        let answer = good.provider.config().compare_and_set_raw(key, value.clone(), expected).await;
        if let Some(version) = answer.as_ref().err().and_then(current) {
            let _ = self.0.send(ConfigEntry { key: key.to_owned(), value, version });
        }
        answer
    }

    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let config = good.provider.config();
        let watch = if prefix {
            config.watch_prefix_raw(key, start).await?
        } else {
            config.watch_raw(key, start).await?
        };
        let told =
            stream::unfold(self.0.subscribe(), |mut told| async { Some((told.recv().await.ok()?, told)) });
        let told = told.map(|entry| Ok(ConfigEvent::Put { entry, created: false, last: true }));
        Ok(streamed(stream::select(told, watch)))
    }
}

struct DotDotEscapes;

#[async_trait]
impl BrokenProvider for DotDotEscapes {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        let Some(outside) = key.strip_prefix("../") else { return good.provider.config().get_raw(key).await };
        let found = good.store.range(Range::key(format!("/{outside}"))).await?.entries.pop();
        Ok(found.map(|entry| Versioned { value: entry.value, version: entry.modified }))
    }
}
