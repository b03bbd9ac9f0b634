//! The config centre over a store (R10 to R15, R55, R71).

pub(crate) mod record;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Change, Compare, Entry, MAX_TXN_OPS, Op, Order, Range, Span, Txn, TxnReply};
use coord_api::{
    ConfigCenter, ConfigEntry, ConfigEvent, Error, ErrorKind, Fence, Invalid, Note, Outcome, Result,
    Revision, Snapshot, Value, Version, Versioned, Watch, WatchStart, WriteOptions, key,
};

use coord_core::watch::SharedDelivery;
use coord_core::{Client, keys, time_of_day_ms};
use parking_lot::Mutex;

/// Configuration over a store.
#[derive(Debug)]
pub(crate) struct Config {
    client: Client,
    published: Arc<LastPublished>,
}

/// On which conditions a key of the store is written.
#[derive(Debug, Default)]
pub(crate) struct Conditions<'a> {
    /// Its version; any will do where there is none.
    pub(crate) expected: Option<Version>,
    /// Handles that must be held.
    pub(crate) fences: &'a [Fence],
    /// Another key, which is deleted with the write: it must have this version.
    pub(crate) removes: Option<(Bytes, Version)>,
}

/// The versions that were published last over a client, so that most publications need not ask what
/// they replace.
#[derive(Debug, Default)]
struct LastPublished(Mutex<HashMap<String, Version>>);

/// How many keys are remembered at most.
const REMEMBERED: usize = 1_024;

impl LastPublished {
    fn of(&self, key: &str) -> Option<Version> {
        self.0.lock().get(key).copied()
    }

    fn remember(&self, key: &str, version: Version) {
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED && !all.contains_key(key) {
            all.clear();
        }
        all.insert(key.to_owned(), version);
    }
}

impl Config {
    pub(crate) fn new(client: Client) -> Self {
        let published = client.shared(LastPublished::default);
        Config { client, published }
    }

    async fn watch(
        &self,
        operation: &'static str,
        name: &str,
        span: Span,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let subscribe = Box::pin(self.client.subscribe(span, start));
        let subscription = self.client.run_on(operation, name, Outcome::NotApplied, subscribe).await?;
        Ok(subscription.into_watch("config.watch", events))
    }

    /// A write of a key of the store, on conditions.
    pub(crate) async fn conditional(
        &self,
        operation: &'static str,
        key: Bytes,
        conditions: &Conditions<'_>,
        ops: Vec<Op>,
    ) -> Result<TxnReply> {
        let fences = self.client.fenced(operation, conditions.fences).await?;
        let mut txn = Txn { then: ops, ..Txn::new() };
        txn.otherwise.extend(fences.iter().map(|compare| keys_only(compare.span())));
        txn.compares.extend(fences.iter().cloned());
        let mut versions = Vec::new();
        if let Some((removed, version)) = &conditions.removes {
            txn = txn.then(Op::delete(removed.clone()));
            versions.push((removed.clone(), *version));
        }
        versions.extend(conditions.expected.map(|expected| (key, expected)));
        for (key, version) in &versions {
            txn = txn.otherwise(keys_only(Span::Key(key.clone()))).when(match *version {
                Version::ZERO => Compare::Absent(key.clone()),
                version => Compare::Modified(key.clone(), version),
            });
        }
        let reply = self.client.store().txn(txn).await?;
        if reply.succeeded {
            return Ok(reply);
        }
        for (n, compare) in fences.iter().enumerate() {
            if !compare.holds(reply.try_range(n)?.entries.first()) {
                return Err(Fence::lost(operation));
            }
        }
        let mut current = Version::ZERO;
        for (n, (_, expected)) in versions.iter().enumerate() {
            let found = reply.try_range(fences.len().saturating_add(n))?;
            current = found.entries.first().map_or(Version::ZERO, |entry| entry.modified);
            if current != *expected {
                break;
            }
        }
        Err(Error::version_conflict(operation, current))
    }

    /// Writes a key on any conditions.
    pub(crate) async fn write(
        &self,
        operation: &'static str,
        key: &str,
        value: Value,
        options: WriteOptions,
    ) -> Result<Version> {
        self.write_removing(operation, key, value, options, None).await
    }

    /// As [`write`](Self::write); another key of the store is deleted with it, if its version is
    /// this.
    pub(crate) async fn write_removing(
        &self,
        operation: &'static str,
        key: &str,
        value: Value,
        options: WriteOptions,
        removes: Option<(Bytes, Version)>,
    ) -> Result<Version> {
        let WriteOptions { expected, fences, note, .. } = options;
        let key = key::check(operation, key)?;
        key::check_value(operation, &value)?;
        let conditions = Conditions { expected, fences: &fences, removes };
        if let Some(note) = note {
            record::check(operation, &value, &note)?;
            let publish = Box::pin(self.publish(operation, key, value, conditions, note));
            return self.client.run_on(operation, key, Outcome::Unknown, publish).await;
        }
        let put = vec![Op::put(keys::config(key), value)];
        let write = self.conditional(operation, keys::config(key), &conditions, put);
        Ok(self.client.run_on(operation, key, Outcome::Unknown, write).await?.revision)
    }

    /// Writes a value and its record in one transaction, over the version that the record names
    /// (R71). Without an expected one that is what was published last, as far as is known here, or
    /// what the refused try has found.
    async fn publish(
        &self,
        operation: &'static str,
        key: &str,
        value: Value,
        mut conditions: Conditions<'_>,
        note: Note,
    ) -> Result<Version> {
        let given = conditions.expected.is_some();
        let mut replaced = conditions.expected.or_else(|| self.published.of(key)).unwrap_or_default();
        let Note { author, text, .. } = note;
        let mut header = record::Header { replaced, author, note: text, at: time_of_day_ms() };
        loop {
            header.replaced = replaced;
            conditions.expected = Some(replaced);
            let written = record::encode(operation, &header, &value)?;
            let records = Range::prefix(keys::config_history(key))
                .with_order(Order::OldestFirst)
                .with_limit(MAX_TXN_OPS)
                .with_keys_only();
            let ops = vec![
                Op::put(keys::config(key), value.clone()),
                Op::put(keys::config_record(key, replaced, fastrand::u64(..)), written),
                Op::Range(records),
            ];
            match self.conditional(operation, keys::config(key), &conditions, ops).await {
                Ok(reply) => {
                    self.published.remember(key, reply.revision);
                    self.trim(&reply).await;
                    return Ok(reply.revision);
                }
                Err(error) => match error.current_version() {
                    Some(current) if !given && current != replaced => replaced = current,
                    _ => return Err(error),
                },
            }
        }
    }

    /// Takes the oldest records away once there are many. What fails here the next publication
    /// does.
    async fn trim(&self, reply: &TxnReply) {
        let superfluous = reply.range(2).map(record::superfluous).unwrap_or_default();
        if superfluous.is_empty() {
            return;
        }
        let deletes = superfluous.iter().map(|entry| Op::delete(entry.key.clone())).collect();
        if let Err(error) = self.client.store().txn(Txn { then: deletes, ..Txn::new() }).await {
            coord_home::event!(DEBUG, kind = %error.kind(), "old records could not be deleted");
        }
    }
}

/// Reads what is there, without values.
fn keys_only(span: Span) -> Op {
    Op::Range(Range::new(span).with_keys_only())
}

#[async_trait]
impl ConfigCenter for Config {
    async fn get_raw(&self, key: &str) -> Result<Option<Versioned>> {
        const OPERATION: &str = "config.get";
        let key = key::check(OPERATION, key)?;
        let range = Range::key(keys::config(key));
        let reply =
            self.client.run_on(OPERATION, key, Outcome::NotApplied, self.client.store().range(range)).await?;
        Ok(reply
            .entries
            .into_iter()
            .next()
            .map(|entry| Versioned { value: entry.value, version: entry.modified }))
    }

    async fn write_with(&self, key: &str, value: Value, options: WriteOptions) -> Result<Version> {
        let operation = if options.expected.is_none() { "config.set" } else { "config.compare_and_set" };
        self.write(operation, key, value, options).await
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        const OPERATION: &str = "config.delete";
        let key = key::check(OPERATION, key)?;
        let delete = Txn::new().then(Op::delete(keys::config(key)));
        let reply =
            self.client.run_on(OPERATION, key, Outcome::Unknown, self.client.store().txn(delete)).await?;
        reply.try_existed(0).map_err(|error| error.in_operation(OPERATION))
    }

    async fn compare_and_delete(&self, key: &str, expected: Version) -> Result<bool> {
        const OPERATION: &str = "config.compare_and_delete";
        let key = key::check(OPERATION, key)?;
        let conditions = Conditions { expected: Some(expected), ..Conditions::default() };
        let delete = vec![Op::delete(keys::config(key))];
        let delete = self.conditional(OPERATION, keys::config(key), &conditions, delete);
        let reply = self.client.run_on(OPERATION, key, Outcome::Unknown, delete).await?;
        reply.try_existed(0).map_err(|error| error.in_operation(OPERATION))
    }

    async fn list_raw(&self, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        const OPERATION: &str = "config.list";
        let directory = keys::config_directory(key::check_prefix(OPERATION, prefix)?);
        let reply = self
            .client
            .run_on(OPERATION, prefix, Outcome::NotApplied, self.client.list(Span::Prefix(directory)))
            .await?;
        Ok(snapshot(reply.revision, &reply.entries))
    }

    async fn watch_raw(&self, key: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        const OPERATION: &str = "config.watch";
        if key.ends_with('/') {
            return self.watch_prefix_raw(key, start).await;
        }
        let key = key::check(OPERATION, key)?;
        self.watch(OPERATION, key, Span::Key(keys::config(key)), start).await
    }

    async fn watch_prefix_raw(&self, prefix: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        const OPERATION: &str = "config.watch_prefix";
        let directory = keys::config_directory(key::check_prefix(OPERATION, prefix)?);
        self.watch(OPERATION, prefix, Span::Prefix(directory), start).await
    }
}

/// The entry as its user knows it; what no user can have written, because no call takes its key, is
/// invalid.
fn user_entry(entry: &Entry) -> std::result::Result<ConfigEntry, Invalid> {
    match user_key(&entry.key) {
        Ok(key) => {
            Ok(ConfigEntry { key: key.to_owned(), value: entry.value.clone(), version: entry.modified })
        }
        Err(error) => Err(Invalid {
            key: relative(&entry.key),
            value: entry.value.clone(),
            version: entry.modified,
            error,
        }),
    }
}

/// The key that a call takes for a key of the store (R4), or why there is none.
fn user_key(key: &[u8]) -> Result<&str> {
    let wrong = |fault: &str| {
        Error::new(ErrorKind::Codec, "config", format!("left under a key that no call takes: {fault}"))
    };
    let key = key.strip_prefix(keys::CONFIG.as_bytes()).unwrap_or(key);
    let key = std::str::from_utf8(key).map_err(|fault| wrong("not UTF-8").with_source(fault))?;
    match key::check("config", key) {
        Ok(taken) if taken == key => Ok(taken),
        // A leading `/` is ignored, so that a call would take it for another key.
        Ok(_) => Err(wrong("an empty segment in a key")),
        Err(fault) => Err(wrong(fault.message())),
    }
}

fn relative(key: &Bytes) -> Bytes {
    if key.starts_with(keys::CONFIG.as_bytes()) { key.slice(keys::CONFIG.len()..) } else { key.clone() }
}

/// What is there at a revision, as users know it.
pub(crate) fn snapshot(revision: Revision, entries: &[Entry]) -> Snapshot<ConfigEntry> {
    let mut snapshot = Snapshot { revision, items: Vec::with_capacity(entries.len()), invalid: Vec::new() };
    for entry in entries {
        match user_entry(entry) {
            Ok(entry) => snapshot.items.push(entry),
            Err(invalid) => snapshot.invalid.push(invalid),
        }
    }
    snapshot
}

/// The events of what a range's watch delivers; those of one revision come together.
pub(crate) fn events(delivery: SharedDelivery) -> Vec<ConfigEvent> {
    match delivery {
        SharedDelivery::Resync { state, .. } => {
            vec![ConfigEvent::Resync(snapshot(state.revision, &state.entries))]
        }
        SharedDelivery::Batch(batch) => {
            let count = batch.changes.len();
            let numbered = batch.changes.iter().enumerate();
            numbered.map(|(index, change)| event(change, batch.revision, index + 1 == count)).collect()
        }
    }
}

fn event(change: &Change, revision: Revision, last: bool) -> ConfigEvent {
    match change {
        Change::Put(entry) => match user_entry(entry) {
            Ok(user) => ConfigEvent::Put { entry: user, created: entry.created == entry.modified, last },
            Err(record) => ConfigEvent::Invalid { record, last },
        },
        Change::Delete { key } => match user_key(key) {
            Ok(key) => ConfigEvent::Delete { key: key.to_owned(), version: revision, last },
            Err(_) => ConfigEvent::InvalidDeleted { key: relative(key), version: revision, last },
        },
    }
}
