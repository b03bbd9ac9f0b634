//! Primitives that do not hear of something: R49 and R54.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{
    Change, Entry, Op, OpReply, Range, RangeReply, Span, Store, StoreEvent, StoreWatch, Txn, TxnReply,
};
use coord_api::{Result, Revision};
use coord_tests::harness::sabotaged::Sabotage;
use futures_util::StreamExt as _;

/// A primitive that hears something wrong.
struct Misheard {
    id: &'static str,
    breaks: &'static str,
    rules: &'static [&'static str],
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    /// Not of these entries of others.
    Entries(fn(&[u8]) -> bool),
    /// Not of the end of these keys.
    Ends(fn(&[u8]) -> bool),
    /// Where it has no entry of its own, of these as if the last one had come first.
    LastFirst(fn(&[u8]) -> bool),
}

const MISHEARD: &[Misheard] = &[
    Misheard {
        id: "semaphore-light-overtakes-heavy",
        breaks: "does not wait for others that want several permits",
        rules: &["r49"],
        how: How::Entries(|key| {
            key.starts_with(b"/semaphores/") && weight(key).is_some_and(|weight| weight > 1)
        }),
    },
    Misheard {
        id: "election-nobody-is-never-told",
        breaks: "does not tell observers that nobody leads",
        rules: &["r54"],
        how: How::Ends(is_candidate),
    },
    Misheard {
        id: "election-candidates-are-told",
        breaks: "tells observers of a candidate as of the leader",
        rules: &["r54"],
        how: How::LastFirst(is_candidate),
    },
];

/// Those who hear something wrong, as saboteurs.
pub(super) fn misheard() -> impl Iterator<Item = Sabotage> {
    MISHEARD.iter().map(|saboteur| {
        let store = move |good| Arc::new(Hears { good, saboteur, own: Arc::default() }) as Arc<dyn Store>;
        Sabotage::of_stores(saboteur.id, saboteur.breaks, saboteur.rules, store)
    })
}

/// The weight at the end of a permit's key.
fn weight(key: &[u8]) -> Option<u32> {
    std::str::from_utf8(key).ok()?.rsplit_once('-')?.1.parse().ok()
}

fn is_candidate(key: &[u8]) -> bool {
    key.starts_with(b"/elections/")
}

/// The keys that a client has put.
type Own = Arc<Mutex<HashSet<Bytes>>>;

/// A store whose answers arrive changed.
struct Hears {
    good: Arc<dyn Store>,
    saboteur: &'static Misheard,
    own: Own,
}

/// What is heard of an entry.
fn entry_heard(how: How, own: &Own, mut entry: Entry) -> Option<Entry> {
    let own = own.lock().unwrap_or_else(PoisonError::into_inner);
    match how {
        How::Entries(hidden) if hidden(&entry.key) && !own.contains(&entry.key) => return None,
        How::LastFirst(turned) if turned(&entry.key) && !own.iter().any(|key| turned(key)) => {
            entry.created = Revision::new((1 << 40) - entry.created.get());
        }
        _ => {}
    }
    Some(entry)
}

impl Hears {
    fn range_heard(&self, mut reply: RangeReply) -> RangeReply {
        let entries = std::mem::take(&mut reply.entries).into_iter();
        reply.entries =
            entries.filter_map(|entry| entry_heard(self.saboteur.how, &self.own, entry)).collect();
        reply
    }
}

#[async_trait]
impl Store for Hears {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        Ok(self.range_heard(self.good.range(range).await?))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        let puts = txn.then.iter().filter_map(|op| match op {
            Op::Put { key, .. } => Some(key.clone()),
            _ => None,
        });
        self.own.lock().unwrap_or_else(PoisonError::into_inner).extend(puts);
        let mut reply = self.good.txn(txn).await?;
        for reply in &mut reply.replies {
            if let OpReply::Range(found) = reply {
                *found = self.range_heard(std::mem::take(found));
            }
        }
        Ok(reply)
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = self.good.watch(span, after).await?;
        let (armed, how, own) = (watch.armed(), self.saboteur.how, Arc::clone(&self.own));
        let change_heard = move |change| match change {
            Change::Delete { key } if matches!(how, How::Ends(unheard) if unheard(&key)) => None,
            Change::Put(entry) => entry_heard(how, &own, entry).map(Change::Put),
            change => Some(change),
        };
        let heard = watch.map(move |item| {
            item.map(|event| match event {
                StoreEvent::Batch(mut batch) => {
                    let changes = std::mem::take(&mut batch.changes).into_iter();
                    batch.changes = changes.filter_map(&change_heard).collect();
                    match batch.changes.is_empty() {
                        true => StoreEvent::Progress(batch.revision),
                        false => StoreEvent::Batch(batch),
                    }
                }
                progress => progress,
            })
        });
        Ok(StoreWatch::new(armed, heard))
    }

    coord_api::forward_store! {
        self => self.good;
        grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}

impl fmt::Debug for Hears {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hears").field("id", &self.saboteur.id).finish_non_exhaustive()
    }
}
