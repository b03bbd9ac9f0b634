//! What a store's watch may answer, by a store that says anything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::{Batch, Change, Entry, Span, Store, StoreEvent, StoreWatch};
use coord_api::{ConfigEvent, Error, ErrorKind, Result, Revision, ServiceChange, ServiceEvent, WatchStart};
use coord_memory::MemoryStore;
use coord_recipes::layers::Namespace;
use coord_recipes::{Home, ProviderOptions, StoreProvider};
use futures_util::stream::{self, StreamExt};

/// The namespace of the client. What lies outside must never be seen.
const NAMESPACE: &str = "ns";

/// What a watch is answered, one script after the other; when they are over it is answered nothing.
#[derive(Arbitrary, Clone, Debug)]
struct Script {
    /// Beyond, or before, what was asked for.
    armed: i8,
    answers: Vec<Answer>,
}

#[derive(Arbitrary, Clone, Debug)]
enum Answer {
    Batch { revision: u8, changes: Vec<(Key, Value)> },
    Progress(u8),
    Fails(Failure),
}

#[derive(Arbitrary, Clone, Debug)]
enum Key {
    /// Inside of what is watched.
    Config(u8),
    Instance(u8),
    /// Anywhere.
    Bytes(Vec<u8>),
}

impl Key {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Key::Config(number) => format!("/{NAMESPACE}/config/d/{}", number % 4).into_bytes(),
            Key::Instance(number) => format!("/{NAMESPACE}/services/s/{}", number % 4).into_bytes(),
            Key::Bytes(bytes) => bytes.clone(),
        }
    }
}

#[derive(Arbitrary, Clone, Debug)]
enum Value {
    Deleted,
    Bytes(Vec<u8>),
    /// The record of that instance.
    Instance(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Failure {
    Compacted,
    Unavailable,
    Timeout,
}

/// A store that is good but for its watches.
#[derive(Debug)]
struct Scripted {
    store: MemoryStore,
    scripts: Mutex<VecDeque<Script>>,
}

#[async_trait]
impl Store for Scripted {
    async fn watch(&self, _: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let script = self.scripts.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let after = after.unwrap_or_default().get();
        let Some(script) = script else {
            return Ok(StoreWatch::new(Revision::new(after), stream::pending()));
        };
        let armed = Revision::new(after.saturating_add_signed(script.armed.into()));
        let answers = script.answers.into_iter().map(answer);
        Ok(StoreWatch::new(armed, stream::iter(answers).chain(stream::pending())))
    }

    coord_api::forward_store! {
        self => self.store;
        range, txn, grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}

fn answer(answer: Answer) -> Result<StoreEvent> {
    match answer {
        Answer::Batch { revision, changes } => {
            let revision = Revision::new(revision.into());
            Ok(StoreEvent::Batch(Batch {
                revision,
                changes: changes.iter().map(|(key, value)| change(key, value, revision)).collect(),
            }))
        }
        Answer::Progress(revision) => Ok(StoreEvent::Progress(Revision::new(revision.into()))),
        Answer::Fails(failure) => {
            let kind = match failure {
                Failure::Compacted => ErrorKind::Compacted,
                Failure::Unavailable => ErrorKind::Unavailable,
                Failure::Timeout => ErrorKind::Timeout,
            };
            Err(Error::new(kind, "store.watch", "the script says so"))
        }
    }
}

fn change(key: &Key, value: &Value, revision: Revision) -> Change {
    let key = key.bytes().into();
    let value = match value {
        Value::Deleted => return Change::Delete { key },
        Value::Bytes(bytes) => bytes.clone(),
        Value::Instance(number) => {
            let instance = serde_json::json!({ "name": "s", "id": (number % 4).to_string(), "address": "localhost", "port": 80 });
            instance.to_string().into_bytes()
        }
    };
    Change::Put(Entry { key, value: value.into(), created: revision, modified: revision, lease: None })
}

/// Whatever a store answers: no key is named that it did not name, nor one from outside of the
/// namespace (R5), though it may lie outside of what is watched, where only the store is at fault
/// (S4); revisions never go back but by a `Resync`, the last change of a revision is marked
/// and no other is, and a service's changes are those of a set.
///
/// # Panics
///
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let Ok(scripts) = Vec::<Script>::arbitrary(&mut Unstructured::new(data)) else { return };
    let scripts: VecDeque<Script> = scripts.into_iter().take(8).collect();
    let named = Named::by(&scripts);
    crate::run(async {
        let coord = provider(scripts.clone());
        configuration(&*coord, &named).await;
        coord.close().await.expect("the store is there");
        let coord = provider(scripts);
        instances(&*coord).await;
        coord.close().await.expect("the store is there");
    });
}

fn provider(scripts: VecDeque<Script>) -> Arc<StoreProvider> {
    let store = Scripted { store: MemoryStore::new_in(Home::callers()), scripts: Mutex::new(scripts) };
    let store = Namespace::new(store, NAMESPACE).expect("a good name");
    StoreProvider::new(Arc::new(store), ProviderOptions::default().with_home(Home::callers()))
}

/// The next event; `None` when none comes any more.
async fn next<E>(watch: &mut coord_api::Watch<E>) -> Option<E> {
    // Longer than any pause between two tries.
    match tokio::time::timeout(Duration::from_secs(3_600), watch.next()).await {
        Ok(Some(Ok(event))) => Some(event),
        Ok(Some(Err(error))) => panic!("no fault of the scripts lasts: {error}"),
        Ok(None) => panic!("a watch ends only when it is dropped or its provider closed"),
        Err(_) => None,
    }
}

/// The keys of the namespace that the scripts name, as a client of it knows them.
struct Named(Vec<Vec<u8>>);

impl Named {
    fn by(scripts: &VecDeque<Script>) -> Self {
        let answers = scripts.iter().flat_map(|script| &script.answers);
        let changes = answers.flat_map(|answer| match answer {
            Answer::Batch { changes, .. } => changes.as_slice(),
            _ => &[],
        });
        let root = format!("/{NAMESPACE}");
        Named(
            changes
                .filter_map(|(key, _)| Some(key.bytes().strip_prefix(root.as_bytes())?.to_vec()))
                .collect(),
        )
    }

    /// Whether this is one of them, or what follows `/config/` in one.
    fn has(&self, key: &[u8]) -> bool {
        self.0.iter().any(|named| named == key || named.strip_prefix(b"/config/") == Some(key))
    }
}

/// Where a watch is: revisions never go back, and a new one begins when the last change of the one
/// before was marked.
#[derive(Default)]
struct Order {
    seen: Revision,
    within: bool,
}

impl Order {
    fn change(&mut self, revision: Revision, last: bool) {
        assert!(
            if self.within { revision == self.seen } else { revision > self.seen },
            "{revision} after {}",
            self.seen
        );
        self.seen = revision;
        self.within = !last;
    }

    fn resync(&mut self, revision: Revision) {
        assert!(!self.within, "a Resync amid the changes of {}", self.seen);
        self.seen = revision;
    }
}

async fn configuration(coord: &dyn Provider, named: &Named) {
    let mut watch = coord.config().watch_prefix_raw("d", WatchStart::Now).await.expect("it is answered");
    let mut order = Order::default();
    while let Some(event) = next(&mut watch).await {
        match event {
            ConfigEvent::Put { entry, last, .. } => {
                assert!(named.has(entry.key.as_bytes()), "{entry:?}");
                coord_api::key::check("fuzz", &entry.key).expect("a call takes what a watch names");
                order.change(entry.version, last);
            }
            ConfigEvent::Delete { key, version, last } => {
                assert!(named.has(key.as_bytes()), "{key}");
                order.change(version, last);
            }
            ConfigEvent::Invalid { record, last } => {
                assert!(named.has(&record.key), "{record:?}");
                order.change(record.version, last);
            }
            ConfigEvent::InvalidDeleted { key, version, last } => {
                assert!(named.has(&key), "{key:?}");
                order.change(version, last);
            }
            ConfigEvent::Resync(snapshot) => {
                assert!(
                    snapshot.items.is_empty() && snapshot.invalid.is_empty(),
                    "nothing was written: {snapshot:?}"
                );
                order.resync(snapshot.revision);
            }
        }
    }
}

async fn instances(coord: &dyn Provider) {
    let mut watch = coord.registry().watch("s").await.expect("it is answered");
    let mut order = Order::default();
    let mut there = BTreeMap::new();
    while let Some(event) = next(&mut watch).await {
        match event {
            ServiceEvent::Resync(snapshot) => {
                assert!(
                    snapshot.items.is_empty() && snapshot.invalid.is_empty(),
                    "nothing was registered: {snapshot:?}"
                );
                there.clear();
                order.resync(snapshot.revision);
            }
            ServiceEvent::Change { change, revision, last } => {
                order.change(revision, last);
                match change {
                    ServiceChange::Added(instance) => {
                        instance.validate("fuzz").expect("what is added can be called");
                        assert_eq!(instance.name, "s");
                        assert!(
                            there.insert(instance.id.clone(), instance).is_none(),
                            "added, and was there"
                        );
                    }
                    ServiceChange::Updated(instance) => {
                        assert!(
                            there.insert(instance.id.clone(), instance).is_some(),
                            "updated, and was not there"
                        );
                    }
                    ServiceChange::Removed(instance) => {
                        assert_eq!(there.remove(&instance.id), Some(instance), "its last content");
                    }
                    ServiceChange::Invalid(_) => {}
                    other => panic!("a change that this program does not know: {other:?}"),
                }
            }
        }
    }
}
