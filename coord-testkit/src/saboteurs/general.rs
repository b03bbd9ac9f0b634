//! What breaks the rules of every contract (R1 to R6), and more of the config centre (R10 to R15).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::{Range, RangeReply, Store, Txn, TxnReply};
use coord_api::{ConfigEntry, Error, ErrorKind, Result, Snapshot, Value, Version, Versioned};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::provider::{BrokenProvider, Good};
use super::store::BrokenStore;
use super::{Sabotage, Saboteur, Shared, locked};
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("error-shows-value", "an error shows the value", &["r1"], || {
        Sabotage::provider(|| ShowsValue)
    }),
    Saboteur::new("stays-down", "a provider that was out of reach stays so", &["r3"], || {
        Sabotage::client(|| StaysDown(AtomicBool::new(false)))
    }),
    Saboteur::new("keys-cleaned-up", "bad keys are made good", &["r4"], || {
        keys(|key| key.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
    }),
    Saboteur::new("keys-folded", "keys are folded to lower case", &["r4"], || keys(str::to_lowercase)),
    Saboteur::new(
        "bad-keys-are-asked-for",
        "a bad key is refused after the store was asked",
        &["r4"],
        || Sabotage::provider(|| AsksFirst),
    ),
    Saboteur::new("values-up-to-half", "values over 512 KiB are refused", &["r6"], || {
        Sabotage::provider(|| Half)
    }),
    Saboteur::new("values-cut-off", "values over 1 MiB are cut off", &["r6"], || {
        Sabotage::provider(|| CutsOff)
    }),
    Saboteur::new("reads-from-cache", "what was read is read again for a moment", &["r10"], || {
        Sabotage::provider(|| ReadCache(Shared::default()))
    }),
    Saboteur::new("lists-from-cache", "what was listed is listed again for a moment", &["r10"], || {
        Sabotage::provider(|| ListCache(Shared::default()))
    }),
    Saboteur::new("list-skips-newest", "a list does not hold what was written last", &["r10", "r14"], || {
        lists(|_, mut snapshot| {
            let newest = snapshot.items.iter().map(|entry| entry.version).max();
            snapshot.items.retain(|entry| Some(entry.version) != newest);
            snapshot
        })
    }),
    Saboteur::new("reads-then-writes", "compare-and-set reads, compares and sets", &["r10", "r12"], || {
        Sabotage::provider(|| ReadsThenWrites)
    }),
    Saboteur::new("version-is-head", "a version is the store's revision when it is read", &["r11"], || {
        Sabotage::provider(|| VersionIsHead)
    }),
    Saboteur::new("conflict-without-version", "a conflict carries no version", &["r12"], || {
        conflicts(|_| Error::new(ErrorKind::Conflict, "config.compare_and_set", "another version"))
    }),
    Saboteur::new("conflict-with-wrong-version", "a conflict carries the expected version", &["r12"], || {
        conflicts(|expected| Error::version_conflict("config.compare_and_set", expected))
    }),
    Saboteur::new(
        "absent-expectation-creates",
        "an expectation of an absent key creates it",
        &["r12"],
        || Sabotage::provider(|| CreatesAnyway),
    ),
    Saboteur::new("compare-and-delete-deletes", "compare-and-delete ignores the version", &["r13"], || {
        Sabotage::provider(|| DeletesAnyway)
    }),
    Saboteur::new("delete-looks-first", "delete looks first and then deletes", &["r13"], || {
        Sabotage::provider(|| LooksFirst)
    }),
    Saboteur::new("list-holds-own-key", "a prefix holds the key of its own name", &["r14"], || {
        Sabotage::provider(|| HoldsOwnKey)
    }),
    Saboteur::new("list-keys-absolute", "listed keys are those of the store", &["r14", "r5"], || {
        lists(|_, mut snapshot| {
            snapshot.items.iter_mut().for_each(|entry| entry.key = layout::config(&entry.key));
            snapshot
        })
    }),
    Saboteur::new("list-keys-below", "listed keys are relative to the prefix", &["r14"], || {
        lists(|prefix, mut snapshot| {
            let above = format!("{}/", prefix.trim_matches('/'));
            snapshot.items.iter_mut().for_each(|entry| {
                entry.key = entry.key.strip_prefix(&above).unwrap_or(&entry.key).to_owned()
            });
            snapshot
        })
    }),
    Saboteur::new("list-doubles-last", "a list holds its last key twice", &["r14"], || {
        lists(|_, mut snapshot| {
            snapshot.items.extend(snapshot.items.last().cloned());
            snapshot
        })
    }),
    Saboteur::new("list-fails-on-garbage", "a key that is not UTF-8 fails the list", &["r14"], || {
        Sabotage::provider(|| FailsOnGarbage)
    }),
    Saboteur::new("floats-rounded", "floats lose their last digits", &["r15"], || {
        reads(|value| rounded(&value).unwrap_or(value))
    }),
    Saboteur::new("strings-parsed", "a string that looks like JSON is taken for it", &["r15"], || {
        reads(|value| match serde_json::from_slice(&value) {
            Ok(serde_json::Value::String(text))
                if serde_json::from_str::<serde_json::Value>(&text).is_ok() =>
            {
                Value::from(text)
            }
            _ => value,
        })
    }),
];

fn keys(edit: fn(&str) -> String) -> Sabotage {
    Sabotage::provider(move || Keys(edit))
}

fn lists(edit: fn(&str, Snapshot<ConfigEntry>) -> Snapshot<ConfigEntry>) -> Sabotage {
    Sabotage::provider(move || Lists(edit))
}

fn conflicts(edit: fn(Version) -> Error) -> Sabotage {
    Sabotage::provider(move || Conflicts(edit))
}

fn reads(edit: fn(Value) -> Value) -> Sabotage {
    Sabotage::provider(move || Reads(edit))
}

/// A number as a float of single precision.
fn rounded(value: &Value) -> Option<Value> {
    let number: f64 = serde_json::from_slice(value).ok()?;
    (number.fract() != 0.0).then(|| Value::from(format!("{number:.6}")))
}

struct ShowsValue;

#[async_trait]
impl BrokenProvider for ShowsValue {
    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        let shown = String::from_utf8_lossy(&value).into_owned();
        good.provider.config().compare_and_set_raw(key, value, expected).await.map_err(|error| {
            match error.kind() {
                ErrorKind::Conflict => Error::new(
                    ErrorKind::Conflict,
                    "config.compare_and_set",
                    format!("could not write {shown}"),
                ),
                _ => error,
            }
        })
    }
}

struct StaysDown(AtomicBool);

impl StaysDown {
    fn pass<T>(&self, answer: Result<T>) -> Result<T> {
        if answer.as_ref().is_err_and(Error::is_transient) {
            self.0.store(true, Ordering::SeqCst);
        }
        if self.0.load(Ordering::SeqCst) {
            Err(Error::new(ErrorKind::Unavailable, "store", "it could not be reached"))
        } else {
            answer
        }
    }
}

#[async_trait]
impl BrokenStore for StaysDown {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        self.pass(good.range(range).await)
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        self.pass(good.txn(txn).await)
    }
}

struct Keys(fn(&str) -> String);

#[async_trait]
impl BrokenProvider for Keys {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        good.provider.config().get_raw(&(self.0)(key)).await
    }

    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        good.provider.config().set_raw(&(self.0)(key), value).await
    }
}

struct AsksFirst;

#[async_trait]
impl BrokenProvider for AsksFirst {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        good.store.range(Range::key(layout::config(key))).await?;
        good.provider.config().get_raw(key).await
    }
}

struct Half;

#[async_trait]
impl BrokenProvider for Half {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        if value.len() > 512 * 1024 {
            return Err(Error::invalid_argument("config.set", "too large"));
        }
        good.provider.config().set_raw(key, value).await
    }
}

struct CutsOff;

#[async_trait]
impl BrokenProvider for CutsOff {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        let bytes = value.into_bytes();
        let end = bytes.len().min(coord_api::key::MAX_VALUE_BYTES);
        good.provider.config().set_raw(key, bytes.slice(..end).into()).await
    }
}

/// For how long a cache is believed.
const MOMENT: Duration = Duration::from_millis(50);

struct ReadCache(Shared<HashMap<String, (Instant, Option<Versioned>)>>);

#[async_trait]
impl BrokenProvider for ReadCache {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        let known = locked(&self.0).get(key).cloned();
        if let Some((_, found)) = known.filter(|(at, _)| at.elapsed() < MOMENT) {
            return Ok(found);
        }
        let found = good.provider.config().get_raw(key).await?;
        locked(&self.0).insert(key.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }
}

struct ListCache(Shared<HashMap<String, (Instant, Snapshot<ConfigEntry>)>>);

#[async_trait]
impl BrokenProvider for ListCache {
    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        let known = locked(&self.0).get(prefix).cloned();
        if let Some((_, found)) = known.filter(|(at, _)| at.elapsed() < MOMENT) {
            return Ok(found);
        }
        let found = good.provider.config().list_raw(prefix).await?;
        locked(&self.0).insert(prefix.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }
}

struct Lists(fn(&str, Snapshot<ConfigEntry>) -> Snapshot<ConfigEntry>);

#[async_trait]
impl BrokenProvider for Lists {
    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        Ok((self.0)(prefix, good.provider.config().list_raw(prefix).await?))
    }
}

struct ReadsThenWrites;

#[async_trait]
impl BrokenProvider for ReadsThenWrites {
    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        let current = self.get(good, key).await?.map_or(Version::ZERO, |found| found.version);
        if current != expected {
            return Err(Error::version_conflict("config.compare_and_set", current));
        }
        yield_now().await;
        self.set(good, key, value).await
    }
}

struct VersionIsHead;

#[async_trait]
impl BrokenProvider for VersionIsHead {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        let head = good.provider.config().list_raw("").await?.revision;
        let found = good.provider.config().get_raw(key).await?;
        Ok(found.map(|found| Versioned { version: head, ..found }))
    }
}

struct Conflicts(fn(Version) -> Error);

#[async_trait]
impl BrokenProvider for Conflicts {
    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        good.provider.config().compare_and_set_raw(key, value, expected).await.map_err(|error| {
            match error.kind() {
                ErrorKind::Conflict => (self.0)(expected),
                _ => error,
            }
        })
    }
}

struct CreatesAnyway;

#[async_trait]
impl BrokenProvider for CreatesAnyway {
    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        let expected = if self.get(good, key).await?.is_none() { Version::ZERO } else { expected };
        good.provider.config().compare_and_set_raw(key, value, expected).await
    }
}

struct DeletesAnyway;

#[async_trait]
impl BrokenProvider for DeletesAnyway {
    async fn compare_and_delete(&self, good: &Good, key: &str, _: Version) -> Result<bool> {
        good.provider.config().delete(key).await
    }
}

struct LooksFirst;

#[async_trait]
impl BrokenProvider for LooksFirst {
    async fn delete(&self, good: &Good, key: &str) -> Result<bool> {
        let existed = good.provider.config().get_raw(key).await?.is_some();
        sleep(Duration::from_millis(1)).await;
        good.provider.config().delete(key).await?;
        Ok(existed)
    }
}

struct HoldsOwnKey;

#[async_trait]
impl BrokenProvider for HoldsOwnKey {
    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        let mut snapshot = good.provider.config().list_raw(prefix).await?;
        let own = prefix.trim_matches('/');
        if let (false, Some(found)) = (own.is_empty(), self.get(good, own).await?) {
            snapshot
                .items
                .insert(0, ConfigEntry { key: own.to_owned(), value: found.value, version: found.version });
        }
        Ok(snapshot)
    }
}

struct FailsOnGarbage;

#[async_trait]
impl BrokenProvider for FailsOnGarbage {
    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        let snapshot = good.provider.config().list_raw(prefix).await?;
        match snapshot.invalid.first() {
            Some(record) => Err(record.error.clone()),
            None => Ok(snapshot),
        }
    }
}

struct Reads(fn(Value) -> Value);

#[async_trait]
impl BrokenProvider for Reads {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        let found = good.provider.config().get_raw(key).await?;
        Ok(found.map(|found| Versioned { value: (self.0)(found.value), version: found.version }))
    }
}
