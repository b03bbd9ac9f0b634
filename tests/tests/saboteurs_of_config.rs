//! The cases of the types over the config centre are tested, as those of the kit are: a directory,
//! a history or a gray release that is broken fails the cases of the rule that it breaks.
//!
//! They are types over a store, so they are broken between the two: in what they send, and in what
//! they hear.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{
    Change, Entry, Op, OpReply, Range, RangeReply, Span, Store, StoreEvent, StoreWatch, Txn, TxnReply,
};
use coord_api::{Result, Revision, Value};
use coord_tests::harness::sabotaged::{Sabotage, prove, without};
use futures_util::StreamExt;
use serde_json::Value as Json;

const CONFIG: &[u8] = b"/config/";
const GRAY: &[u8] = b"/config-gray/";
const HISTORY: &[u8] = b"/config-history/";

/// How long it takes from one step to the next where there should be one.
const PAUSE: Duration = Duration::from_millis(20);

/// What is broken.
#[derive(Clone, Copy)]
enum Breaks {
    /// What it sends instead of a transaction.
    Sends(fn(Txn) -> Txn),
    /// What it sends some time before the rest of a transaction.
    SendsFirst(fn(&mut Txn) -> Option<Txn>),
    /// What it hears of an entry, wherever it is read or told.
    Hears(fn(Entry) -> Option<Entry>),
    /// It hears nothing of the deletion of keys that begin so.
    IsDeafTo(&'static [u8]),
    /// Once its watch of such keys was broken it takes nothing to be there.
    Forgets(&'static [u8]),
    /// A look at such keys alone tells it what it has read there last.
    LooksNoMore(&'static [u8]),
}

/// A type that breaks one thing.
struct Saboteur {
    id: &'static str,
    breaks: &'static str,
    rules: &'static [&'static str],
    how: Breaks,
}

const SABOTEURS: &[Saboteur] = &[
    Saboteur {
        id: "directory-keeps-what-is-deleted",
        breaks: "a directory takes no notice of a document that is deleted",
        rules: &["r67"],
        how: Breaks::IsDeafTo(CONFIG),
    },
    Saboteur {
        id: "directory-passes-over-bad-documents",
        breaks: "a directory does not show a document that does not decode",
        rules: &["r67"],
        how: Breaks::Hears(|entry| (!is_bad_document(&entry)).then_some(entry)),
    },
    Saboteur {
        id: "history-without-records",
        breaks: "publishes without a record",
        rules: &["r71", "r72"],
        how: Breaks::Sends(|mut txn| {
            txn.then.retain(|op| !matches!(op, Op::Put { key, .. } if key.starts_with(HISTORY)));
            // The answers are as many as before.
            if txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.starts_with(CONFIG))) {
                txn.then.insert(1, Op::Range(Range::key(Bytes::from_static(b"/nothing"))));
            }
            txn
        }),
    },
    Saboteur {
        id: "history-publishes-over-anything",
        breaks: "publishes over a version that it has not seen",
        rules: &["r71", "r72"],
        how: Breaks::Sends(|txn| if writes(&txn, HISTORY) { without(txn, "/config/") } else { txn }),
    },
    Saboteur {
        id: "history-names-no-predecessor",
        breaks: "a record does not say what it replaced",
        rules: &["r71"],
        how: Breaks::Sends(|txn| {
            with_values(txn, HISTORY, |record| {
                with_header(record, |header| header["replaced"] = Json::from(0))
            })
        }),
    },
    Saboteur {
        id: "history-grows-for-ever",
        breaks: "old records are never taken away",
        rules: &["r71"],
        how: Breaks::Sends(|mut txn| {
            txn.then.retain(|op| !matches!(op, Op::Delete { key } if key.starts_with(HISTORY)));
            txn
        }),
    },
    Saboteur {
        id: "history-writes-another-spelling",
        breaks: "what is rolled back is not byte for byte what it was",
        rules: &["r72"],
        how: Breaks::Sends(|txn| {
            if writes(&txn, HISTORY) {
                with_values(txn, CONFIG, |value| Some([value, b" "].concat()))
            } else {
                txn
            }
        }),
    },
    Saboteur {
        id: "gray-shown-to-others",
        breaks: "a gray value is seen by everyone",
        rules: &["r73"],
        how: Breaks::Hears(|entry| heard(entry, |_| 100)),
    },
    Saboteur {
        id: "gray-percentage-not-monotonic",
        breaks: "raising the percentage takes the gray value from some",
        rules: &["r73"],
        how: Breaks::Hears(|entry| heard(entry, |percent| 100 - percent.min(100))),
    },
    Saboteur {
        id: "gray-promoted-in-two-steps",
        breaks: "the release ends before the base has its value, so that the old base flashes",
        rules: &["r74"],
        how: Breaks::SendsFirst(|txn| {
            let is_release = |op: &Op| matches!(op, Op::Delete { key } if key.starts_with(GRAY));
            if !txn.then.iter().any(is_release) || !writes(txn, CONFIG) {
                return None;
            }
            let mut first = txn.clone();
            first.then.retain(is_release);
            txn.then.retain(|op| !is_release(op));
            *txn = without(std::mem::take(txn), "/config-gray/");
            Some(first)
        }),
    },
    Saboteur {
        id: "gray-promotes-what-it-has-not-seen",
        breaks: "a promotion does not compare what it has read",
        rules: &["r74"],
        how: Breaks::Sends(|txn| {
            let ends = txn.then.iter().any(|op| matches!(op, Op::Delete { key } if key.starts_with(GRAY)));
            if ends && writes(&txn, CONFIG) {
                without(without(txn, "/config-gray/"), "/config/")
            } else {
                txn
            }
        }),
    },
    Saboteur {
        id: "gray-not-looked-at",
        breaks: "tells a change of the base without a look at the releases",
        rules: &["r74"],
        how: Breaks::LooksNoMore(GRAY),
    },
    Saboteur {
        id: "gray-withdrawal-unheard",
        breaks: "takes no notice of a release that is withdrawn",
        rules: &["r75"],
        how: Breaks::IsDeafTo(GRAY),
    },
    Saboteur {
        id: "gray-ignored-after-a-resync",
        breaks: "knows no release any more once it was cut off",
        rules: &["r75"],
        how: Breaks::Forgets(GRAY),
    },
];

/// Whether a transaction puts such a key.
fn writes(txn: &Txn, prefix: &[u8]) -> bool {
    txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.starts_with(prefix)))
}

/// With the values that it puts under such keys changed.
fn with_values(mut txn: Txn, prefix: &[u8], change: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Txn {
    for op in &mut txn.then {
        if let Op::Put { key, value, .. } = op {
            if key.starts_with(prefix) {
                *value = change(value).map_or_else(|| value.clone(), Value::from);
            }
        }
    }
    txn
}

/// A record with its header changed; `None` where it is none.
fn with_header(record: &[u8], change: impl Fn(&mut Json)) -> Option<Vec<u8>> {
    let end = record.iter().position(|byte| *byte == b'\n')?;
    let (header, value) = record.split_at_checked(end)?;
    let mut header: Json = serde_json::from_slice(header).ok()?;
    if !header.is_object() {
        return None;
    }
    change(&mut header);
    Some([header.to_string().as_bytes(), value].concat())
}

/// A gray release to another percentage, or any other entry as it is.
#[allow(clippy::unnecessary_wraps, reason = "some hear nothing of an entry")]
fn heard(mut entry: Entry, change: impl Fn(u64) -> u64) -> Option<Entry> {
    if entry.key.starts_with(GRAY) {
        let changed = with_header(&entry.value, |header| {
            if let Some(percent) = header.pointer_mut("/targets/percent") {
                *percent = Json::from(change(percent.as_u64().unwrap_or_default()));
            }
        });
        if let Some(record) = changed {
            entry.value = record.into();
        }
    }
    Some(entry)
}

/// Whether it is a document that is no JSON. One that was asked for without its value is none.
fn is_bad_document(entry: &Entry) -> bool {
    let is_json = serde_json::from_slice::<Json>(&entry.value).is_ok();
    entry.key.starts_with(CONFIG) && !entry.value.is_empty() && !is_json
}

/// A store as a saboteur speaks to it.
struct Broken {
    good: Arc<dyn Store>,
    saboteur: &'static Saboteur,
    /// How often it has watched what it forgets.
    watched: AtomicUsize,
    /// What it has read last, where it looks no more.
    read: Mutex<HashMap<Span, Vec<Entry>>>,
}

impl Broken {
    fn range_heard(&self, mut reply: RangeReply) -> RangeReply {
        let entries = std::mem::take(&mut reply.entries).into_iter();
        reply.entries = entries.filter_map(|entry| self.entry_heard(entry)).collect();
        reply
    }

    /// What a look at keys alone tells, where it is not made.
    fn not_looked_at(&self, range: &Range) -> Option<Vec<Entry>> {
        let is_look = matches!(self.saboteur.how, Breaks::LooksNoMore(prefix)
            if range.keys_only && range.limit != Some(1) && range.start().starts_with(prefix));
        if is_look {
            self.read.lock().unwrap_or_else(PoisonError::into_inner).get(&range.span).cloned()
        } else {
            None
        }
    }

    /// It remembers what it has read.
    fn has_read(&self, span: &Span, reply: &RangeReply) {
        if matches!(self.saboteur.how, Breaks::LooksNoMore(prefix) if span.start().starts_with(prefix)) {
            self.read
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(span.clone(), reply.entries.clone());
        }
    }

    fn entry_heard(&self, entry: Entry) -> Option<Entry> {
        match self.saboteur.how {
            Breaks::Hears(hears) => hears(entry),
            Breaks::Forgets(prefix) => {
                let forgot = self.watched.load(Ordering::SeqCst) > 1 && entry.key.starts_with(prefix);
                (!forgot).then_some(entry)
            }
            _ => Some(entry),
        }
    }
}

/// What is told of a change.
fn change_heard(how: Breaks, change: Change) -> Option<Change> {
    match (how, change) {
        (Breaks::Hears(hears), Change::Put(entry)) => hears(entry).map(Change::Put),
        (Breaks::IsDeafTo(prefix), Change::Delete { key }) if key.starts_with(prefix) => None,
        (_, change) => Some(change),
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broken").field("id", &self.saboteur.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Broken {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        let (not_looked_at, keys_only) = (self.not_looked_at(&range), range.keys_only);
        let span = range.span.clone();
        let mut reply = self.range_heard(self.good.range(range).await?);
        if let Some(read) = not_looked_at {
            reply.entries = read;
        } else if !keys_only {
            self.has_read(&span, &reply);
        }
        Ok(reply)
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnReply> {
        match self.saboteur.how {
            Breaks::Sends(sends) => txn = sends(txn),
            Breaks::SendsFirst(first) => {
                if let Some(first) = first(&mut txn) {
                    let reply = self.good.txn(first).await?;
                    if !reply.succeeded {
                        return Ok(reply);
                    }
                    // By the clock on the wall, which the threads of the watches go by, and by the
                    // virtual one of the case.
                    let _ = tokio::task::spawn_blocking(|| thread::sleep(PAUSE)).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }
            _ => {}
        }
        let asked = txn.then.clone();
        let mut reply = self.good.txn(txn).await?;
        for (op, reply) in asked.iter().zip(&mut reply.replies) {
            if let OpReply::Range(found) = reply {
                *found = self.range_heard(std::mem::take(found));
                if let Op::Range(range) = op {
                    self.has_read(&range.span, found);
                }
            }
        }
        Ok(reply)
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        if matches!(self.saboteur.how, Breaks::Forgets(prefix) if span.start().starts_with(prefix)) {
            self.watched.fetch_add(1, Ordering::SeqCst);
        }
        let how = self.saboteur.how;
        let watch = self.good.watch(span, after).await?;
        let armed = watch.armed();
        let heard = watch.map(move |item| {
            item.map(|event| match event {
                StoreEvent::Batch(mut batch) => {
                    let changes = std::mem::take(&mut batch.changes).into_iter();
                    batch.changes = changes.filter_map(|change| change_heard(how, change)).collect();
                    if batch.changes.is_empty() {
                        return StoreEvent::Progress(batch.revision);
                    }
                    StoreEvent::Batch(batch)
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

#[test]
fn each_is_failed_at_the_rule_that_it_breaks() {
    let wrapped = |saboteur: &'static Saboteur| {
        let store = move |good| {
            let (watched, read) = (AtomicUsize::new(0), Mutex::default());
            Arc::new(Broken { good, saboteur, watched, read }) as Arc<dyn Store>
        };
        Sabotage::of_stores(saboteur.id, saboteur.breaks, saboteur.rules, store)
    };
    prove(SABOTEURS.iter().map(wrapped));
}
