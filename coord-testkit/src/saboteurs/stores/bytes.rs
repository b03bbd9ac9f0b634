//! What does not take keys and values for bytes (S2 to S5).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{
    Change, Compare, LeaseInfo, Op, OpReply, Range, RangeReply, Span, Store, StoreEvent, StoreWatch, Txn,
    TxnReply,
};
use coord_api::{LeaseId, Result, Revision, Value};

use super::super::store::{BrokenStore, Edited, changes, mapped};
use super::super::{Sabotage, Saboteur, Shared, locked};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "like-underscore",
        "an underscore in a prefix stands for any byte",
        &["s2", "s3", "s4"],
        || misreads(All, |span, key| matches(span, key, |prefix, key| like(prefix, key, b"_", b"", false))),
    ),
    Saboteur::new(
        "like-percent",
        "a percent sign in a prefix stands for any bytes",
        &["s2", "s3", "s4"],
        || misreads(All, |span, key| matches(span, key, |prefix, key| like(prefix, key, b"", b"%", false))),
    ),
    Saboteur::new(
        "like-backslash",
        "a backslash in a prefix escapes what follows it",
        &["s2", "s3", "s4"],
        || misreads(All, |span, key| matches(span, key, |prefix, key| like(prefix, key, b"", b"", true))),
    ),
    Saboteur::new("like-in-compares", "an underscore in a compare stands for any byte", &["s3"], || {
        misreads(Compares, |span, key| matches(span, key, |prefix, key| like(prefix, key, b"_", b"", false)))
    }),
    Saboteur::new(
        "like-in-watches",
        "a percent sign in what is watched stands for any bytes",
        &["s4"],
        || {
            misreads(Watches, |span, key| {
                matches(span, key, |prefix, key| like(prefix, key, b"", b"%", false))
            })
        },
    ),
    Saboteur::new(
        "glob",
        "a star in a prefix stands for any bytes, a question mark for one",
        &["s2", "s3"],
        || misreads(All, |span, key| matches(span, key, |prefix, key| like(prefix, key, b"?", b"*", false))),
    ),
    Saboteur::new(
        "like-is-case-blind",
        "a prefix does not tell upper from lower case",
        &["s2", "s3", "s4"],
        || {
            misreads(All, |span, key| {
                matches(span, key, |prefix, key| {
                    key.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                })
            })
        },
    ),
    Saboteur::new(
        "interval-is-a-prefix",
        "a compare with an empty interval asks for its start alone",
        &["s3"],
        || {
            misreads(Compares, |span, key| match span {
                Span::Interval(from, _) => key.starts_with(from),
                span => span.contains(key),
            })
        },
    ),
    Saboteur::new("signed-bytes", "bytes are compared as signed numbers", &["s2"], || ordered(signed)),
    Saboteur::new("utf-16-order", "keys come in the order of UTF-16", &["s2"], || ordered(utf_16)),
    Saboteur::new("case-blind-order", "keys come in the order of a dictionary", &["s2"], || {
        ordered(|one, other| one.to_ascii_lowercase().cmp(&other.to_ascii_lowercase()).then(one.cmp(other)))
    }),
    Saboteur::new("case-blind", "keys do not tell upper from lower case", &["s2", "s3", "s5"], || {
        folds(|key| key.to_ascii_lowercase())
    }),
    Saboteur::new(
        "case-blind-beyond-ascii",
        "keys do not tell upper from lower case, in any language",
        &["s2", "s3"],
        || {
            folds(|key| {
                std::str::from_utf8(key)
                    .map_or_else(|_| key.to_vec(), |text| text.to_lowercase().into_bytes())
            })
        },
    ),
    Saboteur::new("blanks-dropped", "blanks at the end of a key are dropped", &["s2", "s3", "s5"], || {
        folds(|key| {
            let length = key.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
            key.get(..length.max(1)).unwrap_or(key).to_vec()
        })
    }),
    Saboteur::new("white-space-dropped", "keys are trimmed", &["s2", "s3"], || {
        folds(|key| match std::str::from_utf8(key).map(str::trim) {
            Ok(text) if !text.is_empty() => text.as_bytes().to_vec(),
            _ => key.to_vec(),
        })
    }),
    Saboteur::new("slashes-folded", "two slashes are one", &["s2", "s3", "s5"], || {
        folds(|key| {
            let mut folded = key.to_vec();
            folded.dedup_by(|one, other| *one == b'/' && *other == b'/');
            folded
        })
    }),
    Saboteur::new("last-slash-dropped", "a slash at the end of a key is dropped", &["s2", "s3"], || {
        folds(|key| if key.len() > 1 { key.strip_suffix(b"/").unwrap_or(key).to_vec() } else { key.to_vec() })
    }),
    Saboteur::new("keys-end-at-zero", "a key ends at its first zero byte", &["s2", "s3"], || {
        folds(|key| match key.iter().position(|byte| *byte == 0) {
            Some(end) if end > 0 => key.get(..end).unwrap_or(key).to_vec(),
            _ => key.to_vec(),
        })
    }),
    Saboteur::new("no-text-replaced", "what is no text in a key is replaced", &["s2", "s3"], || {
        folds(|key| String::from_utf8_lossy(key).into_owned().into_bytes())
    }),
    Saboteur::new("numbers-are-numbers", "keys that are equal numbers are equal", &["s2", "s3"], || {
        folds(|key| {
            let number = std::str::from_utf8(key).ok().and_then(|text| text.parse::<f64>().ok());
            number
                .filter(|number| number.is_finite())
                .map_or_else(|| key.to_vec(), |number| number.to_string().into_bytes())
        })
    }),
    Saboteur::new("percent-decoded", "a percent sign in a key is decoded", &["s2", "s3"], || {
        folds(|key| {
            let text = String::from_utf8(key.to_vec());
            text.map_or_else(
                |_| key.to_vec(),
                |text| text.replace("%2F", "/").replace("%2f", "/").into_bytes(),
            )
        })
    }),
    Saboteur::new("keys-cut-at-255", "a key is cut after 255 bytes", &["s2", "s3", "s5"], || {
        folds(|key| cut(key, 255))
    }),
    Saboteur::new("keys-cut-at-1024", "a key is cut after 1,024 bytes", &["s2", "s3"], || {
        folds(|key| cut(key, 1_024))
    }),
    Saboteur::new(
        "key-lengths-in-16-bits",
        "the length of a key is stored in 16 bits",
        &["s2", "s3"],
        || folds(|key| if key.len() > 65_535 { cut(key, (key.len() & 0xffff).max(1)) } else { key.to_vec() }),
    ),
    Saboteur::new("told-values-cut", "a watch cuts values after 8,000 bytes", &["s4"], || {
        told_values(|value| if value.len() > 8_000 { cut(value, 8_000) } else { value.to_vec() })
    }),
    Saboteur::new("told-values-are-text", "a watch tells values as text", &["s4"], || {
        told_values(|value| String::from_utf8_lossy(value).into_owned().into_bytes())
    }),
    Saboteur::new("told-values-in-16-bits", "a watch has 16 bits for the length of a value", &["s4"], || {
        told_values(|value| cut(value, value.len() & 0xffff))
    }),
    Saboteur::new("read-values-cut", "a range cuts values after 65,535 bytes", &["s2", "s3"], || {
        read_values(|value| cut(value, 65_535))
    }),
    Saboteur::new("read-values-end-at-zero", "a value ends at its first zero byte", &["s2", "s3"], || {
        read_values(|value| cut(value, value.iter().position(|byte| *byte == 0).unwrap_or(value.len())))
    }),
    Saboteur::new("read-values-trimmed", "values are trimmed", &["s2", "s3"], || {
        read_values(|value| value.trim_ascii().to_vec())
    }),
    Saboteur::new("null-is-empty", "the value `null` is read as the empty one", &["s2", "s3"], || {
        read_values(|value| if value == b"null" { Vec::new() } else { value.to_vec() })
    }),
    Saboteur::new(
        "large-entries-left-out",
        "what is beyond four MiB is left out of a range",
        &["s2"],
        || {
            Sabotage::store(|| Edited {
                found: Some(|_, mut found| {
                    let mut left = 4_usize << 20;
                    found.entries.retain(|entry| {
                        left = left.saturating_sub(entry.value.len());
                        left > 0
                    });
                    found
                }),
                ..Edited::default()
            })
        },
    ),
];

fn cut(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes.get(..length).unwrap_or(bytes).to_vec()
}

/// What a span holds by another notion of prefixes.
fn matches(span: &Span, key: &[u8], starts: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    match span {
        Span::Prefix(prefix) => starts(prefix, key),
        span => span.contains(key),
    }
}

/// Whether a key begins with what a pattern says.
fn like(mut pattern: &[u8], mut key: &[u8], one: &[u8], any: &[u8], escapes: bool) -> bool {
    while let Some((byte, rest)) = pattern.split_first() {
        if any.contains(byte) {
            return (0..=key.len())
                .any(|skipped| key.get(skipped..).is_some_and(|tail| like(rest, tail, one, any, escapes)));
        }
        let escaped = rest.split_first().filter(|_| escapes && *byte == b'\\');
        let (wanted, rest) = escaped.unwrap_or((byte, rest));
        let Some((first, tail)) = key.split_first() else { return false };
        if first != wanted && !one.contains(wanted) {
            return false;
        }
        (pattern, key) = (rest, tail);
    }
    true
}

/// Where a store has its own notion of what a span holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    All,
    Compares,
    Watches,
}
use Where::{All, Compares, Watches};

fn misreads(place: Where, contains: fn(&Span, &[u8]) -> bool) -> Sabotage {
    Sabotage::store(move || Misreads { place, contains })
}

struct Misreads {
    place: Where,
    contains: fn(&Span, &[u8]) -> bool,
}

impl Misreads {
    async fn found(&self, good: &Arc<dyn Store>, range: &Range) -> Result<RangeReply> {
        range.validate()?;
        let mut all = range.clone();
        (all.span, all.limit) = (Span::prefix(""), None);
        let mut found = good.range(all).await?;
        found.entries.retain(|entry| (self.contains)(&range.span, &entry.key));
        let limit = range.limit.unwrap_or(usize::MAX);
        found.more = found.entries.len() > limit;
        found.entries.truncate(limit);
        Ok(found)
    }
}

#[async_trait]
impl BrokenStore for Misreads {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        if self.place == All { self.found(good, &range).await } else { good.range(range).await }
    }

    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        if self.place != Watches {
            let mut compares = Vec::new();
            for compare in txn.compares {
                let Compare::RangeAbsent(span) = &compare else {
                    compares.push(compare);
                    continue;
                };
                let found = self.found(good, &Range::new(span.clone())).await?;
                compares.extend(found.entries.first().map(|entry| Compare::Absent(entry.key.clone())));
            }
            txn.compares = compares;
        }
        good.txn(txn).await
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        if self.place == Compares {
            return good.watch(span, after).await;
        }
        span.validate("store.watch")?;
        let contains = self.contains;
        let watch = good.watch(Span::prefix(""), after).await?;
        Ok(mapped(watch, move |item| match item {
            Ok(event) => changes(event, |all| all.retain(|change| contains(&span, change.key())))
                .into_iter()
                .map(Ok)
                .collect(),
            error => vec![error],
        }))
    }
}

fn ordered(order: fn(&[u8], &[u8]) -> Ordering) -> Sabotage {
    Sabotage::store(move || Ordered(order))
}

fn signed(one: &[u8], other: &[u8]) -> Ordering {
    let signed = |bytes: &[u8]| bytes.iter().map(|byte| i8::from_ne_bytes([*byte])).collect::<Vec<i8>>();
    signed(one).cmp(&signed(other))
}

fn utf_16(one: &[u8], other: &[u8]) -> Ordering {
    match (std::str::from_utf8(one), std::str::from_utf8(other)) {
        (Ok(one), Ok(other)) => one.encode_utf16().cmp(other.encode_utf16()),
        _ => one.cmp(other),
    }
}

/// Has an order of its own for what it found.
struct Ordered(fn(&[u8], &[u8]) -> Ordering);

#[async_trait]
impl BrokenStore for Ordered {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let by_key = range.order == coord_api::store::Order::Key;
        let mut found = good.range(range).await?;
        if by_key {
            found.entries.sort_by(|one, other| (self.0)(&one.key, &other.key));
        }
        Ok(found)
    }
}

fn folds(fold: fn(&[u8]) -> Vec<u8>) -> Sabotage {
    let spelled = Shared::default();
    Sabotage::store(move || Folds { fold, spelled: Arc::clone(&spelled) })
}

/// Takes different keys for one. It tells each as it was first written.
struct Folds {
    fold: fn(&[u8]) -> Vec<u8>,
    spelled: Shared<HashMap<Bytes, Bytes>>,
}

impl Folds {
    fn key(&self, key: &Bytes) -> Bytes {
        (self.fold)(key).into()
    }

    fn put(&self, key: &Bytes) -> Bytes {
        let folded = self.key(key);
        locked(&self.spelled).entry(folded.clone()).or_insert_with(|| key.clone());
        folded
    }

    fn span(&self, span: Span) -> Span {
        match span {
            Span::Key(key) if !key.is_empty() => Span::Key(self.key(&key)),
            span => span,
        }
    }

    fn spell(&self, found: &mut RangeReply) {
        for entry in &mut found.entries {
            spell(&self.spelled, &mut entry.key);
        }
    }
}

fn spell(spelled: &Shared<HashMap<Bytes, Bytes>>, key: &mut Bytes) {
    if let Some(first) = locked(spelled).get(key) {
        *key = first.clone();
    }
}

#[async_trait]
impl BrokenStore for Folds {
    async fn range(&self, good: &Arc<dyn Store>, mut range: Range) -> Result<RangeReply> {
        range.span = self.span(range.span);
        let mut found = good.range(range).await?;
        self.spell(&mut found);
        Ok(found)
    }

    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        for compare in &mut txn.compares {
            match compare {
                Compare::Absent(key)
                | Compare::Present(key)
                | Compare::Modified(key, _)
                | Compare::Created(key, _)
                | Compare::Lease(key, _) => *key = self.key(key),
                Compare::RangeAbsent(span) => *span = self.span(span.clone()),
            }
        }
        for list in [&mut txn.then, &mut txn.otherwise] {
            let mut written = Vec::new();
            list.retain_mut(|op| match op {
                Op::Put { key, .. } | Op::Delete { key } => {
                    *key = self.put(key);
                    let first = !written.contains(key);
                    written.push(key.clone());
                    first
                }
                Op::Range(range) => {
                    range.span = self.span(range.span.clone());
                    true
                }
            });
        }
        let mut reply = good.txn(txn).await?;
        for answer in &mut reply.replies {
            if let OpReply::Range(found) = answer {
                self.spell(found);
            }
        }
        Ok(reply)
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(self.span(span), after).await?;
        let spelled = Arc::clone(&self.spelled);
        Ok(mapped(watch, move |item| {
            let edited = |event| {
                changes(event, |all| {
                    for change in all {
                        match change {
                            Change::Put(entry) => spell(&spelled, &mut entry.key),
                            Change::Delete { key } => spell(&spelled, key),
                        }
                    }
                })
            };
            match item {
                Ok(event) => edited(event).into_iter().map(Ok).collect(),
                error => vec![error],
            }
        }))
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let info = good.lease(id).await?;
        Ok(info.map(|mut info| {
            info.keys.iter_mut().for_each(|key| spell(&self.spelled, key));
            info
        }))
    }
}

/// What becomes of a value.
type Edit = fn(&[u8]) -> Vec<u8>;

/// An edit of values.
struct Values {
    read: Option<Edit>,
    told: Option<Edit>,
}

fn read_values(edit: fn(&[u8]) -> Vec<u8>) -> Sabotage {
    Sabotage::store(move || Values { read: Some(edit), told: None })
}

fn told_values(edit: fn(&[u8]) -> Vec<u8>) -> Sabotage {
    Sabotage::store(move || Values { read: None, told: Some(edit) })
}

impl Values {
    fn edit(&self, found: &mut RangeReply) {
        for entry in &mut found.entries {
            if let Some(edit) = self.read {
                entry.value = Value::from(edit(&entry.value));
            }
        }
    }
}

#[async_trait]
impl BrokenStore for Values {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let mut found = good.range(range).await?;
        self.edit(&mut found);
        Ok(found)
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let mut reply = good.txn(txn).await?;
        for answer in &mut reply.replies {
            if let OpReply::Range(found) = answer {
                self.edit(found);
            }
        }
        Ok(reply)
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let Some(edit) = self.told else { return Ok(watch) };
        let edited = move |event: StoreEvent| {
            changes(event, |all| {
                for change in all {
                    if let Change::Put(entry) = change {
                        entry.value = Value::from(edit(&entry.value));
                    }
                }
            })
        };
        Ok(mapped(watch, move |item| match item {
            Ok(event) => edited(event).into_iter().map(Ok).collect(),
            error => vec![error],
        }))
    }
}
