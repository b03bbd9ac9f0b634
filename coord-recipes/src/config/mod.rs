//! The config centre over a store (R10 to R15).

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Change, Compare, Entry, Op, Range, Span, Txn, TxnReply};
use coord_api::watch::WatchStream;
use coord_api::{
    ConfigCenter, ConfigEntry, ConfigEvent, Error, ErrorKind, Invalid, Outcome, Result, Revision, Snapshot,
    Value, Version, Versioned, Watch, WatchStart, WatchState, key,
};
use futures_util::Stream;

use coord_core::watch::{SharedDelivery, Subscription};
use coord_core::{Client, keys};

/// Configuration over a store.
#[derive(Debug)]
pub(crate) struct Config {
    client: Client,
}

impl Config {
    pub(crate) fn new(client: Client) -> Self {
        Config { client }
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
        Ok(Watch::new(ConfigWatch { subscription, ready: VecDeque::new() }))
    }

    /// A write on the condition that the key's version is `expected`.
    async fn conditional(
        &self,
        operation: &'static str,
        name: &str,
        expected: Version,
        op: Op,
    ) -> Result<TxnReply> {
        let key = keys::config(name);
        let condition = if expected == Version::ZERO {
            Compare::Absent(key.clone())
        } else {
            Compare::Modified(key.clone(), expected)
        };
        let txn = Txn::new().when(condition).then(op).otherwise(Op::Range(Range::key(key).with_keys_only()));
        let reply =
            self.client.run_on(operation, name, Outcome::Unknown, self.client.store().txn(txn)).await?;
        if reply.succeeded {
            return Ok(reply);
        }
        let current = reply
            .range(0)
            .and_then(|found| found.entries.first())
            .map_or(Version::ZERO, |entry| entry.modified);
        Err(Error::version_conflict(operation, current).about(name))
    }
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

    async fn set_raw(&self, key: &str, value: Value) -> Result<Version> {
        const OPERATION: &str = "config.set";
        let key = key::check(OPERATION, key)?;
        key::check_value(OPERATION, &value)?;
        let put = Txn::new().then(Op::put(keys::config(key), value));
        Ok(self.client.run_on(OPERATION, key, Outcome::Unknown, self.client.store().txn(put)).await?.revision)
    }

    async fn compare_and_set_raw(&self, key: &str, value: Value, expected: Version) -> Result<Version> {
        const OPERATION: &str = "config.compare_and_set";
        let key = key::check(OPERATION, key)?;
        key::check_value(OPERATION, &value)?;
        let put = Op::put(keys::config(key), value);
        Ok(self.conditional(OPERATION, key, expected, put).await?.revision)
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
        let delete = Op::delete(keys::config(key));
        let reply = self.conditional(OPERATION, key, expected, delete).await?;
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

fn snapshot(revision: Revision, entries: &[Entry]) -> Snapshot<ConfigEntry> {
    let mut snapshot = Snapshot { revision, items: Vec::with_capacity(entries.len()), invalid: Vec::new() };
    for entry in entries {
        match user_entry(entry) {
            Ok(entry) => snapshot.items.push(entry),
            Err(invalid) => snapshot.invalid.push(invalid),
        }
    }
    snapshot
}

/// Turns what a range's watch delivers into events.
struct ConfigWatch {
    subscription: Subscription,
    /// The rest of the revision that is being delivered.
    ready: VecDeque<ConfigEvent>,
}

impl ConfigWatch {
    fn take(&mut self, item: SharedDelivery) {
        match item {
            SharedDelivery::Resync { state, .. } => {
                self.ready.push_back(ConfigEvent::Resync(snapshot(state.revision, &state.entries)))
            }
            SharedDelivery::Batch(batch) => {
                let count = batch.changes.len();
                for (index, change) in batch.changes.iter().enumerate() {
                    let last = index + 1 == count;
                    self.ready.push_back(match change {
                        Change::Put(entry) => match user_entry(entry) {
                            Ok(user) => ConfigEvent::Put {
                                entry: user,
                                created: entry.created == entry.modified,
                                last,
                            },
                            Err(record) => ConfigEvent::Invalid { record, last },
                        },
                        Change::Delete { key } => match user_key(key) {
                            Ok(key) => {
                                ConfigEvent::Delete { key: key.to_owned(), version: batch.revision, last }
                            }
                            Err(_) => ConfigEvent::InvalidDeleted {
                                key: relative(key),
                                version: batch.revision,
                                last,
                            },
                        },
                    });
                }
            }
        }
    }
}

impl Stream for ConfigWatch {
    type Item = Result<ConfigEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(self.subscription.poll_next_delivery(cx)) {
                Some(Ok(item)) => self.take(item),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.in_operation("config.watch")))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl WatchStream<ConfigEvent> for ConfigWatch {
    fn state(&self) -> WatchState {
        self.subscription.state()
    }
}
