//! What breaks a store's history: far behind, at a cut, ahead of the present, and without a bound
//! (S1, S2, S4, R22).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{
    Batch, Change, Entry, Op, Range, RangeReply, Span, Store, StoreEvent, StoreStatus, StoreWatch, Txn,
};
use coord_api::{ErrorKind, Result, Revision};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::super::store::{BrokenStore, Edited, mapped};
use super::super::{Sabotage, Saboteur};
use super::watch::LosesOldest;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("far-behind-skips", "a watch begins 1,024 revisions back at most", &["s4"], || {
        begins_late(1_024)
    }),
    Saboteur::new("log-of-a-hundred", "a watch begins a hundred revisions back at most", &["s4"], || {
        begins_late(100)
    }),
    Saboteur::new(
        "far-behind-ends",
        "of what is more than 1,024 revisions back a watch tells the first part alone",
        &["s4"],
        || Sabotage::store(|| FirstPart(1_024)),
    ),
    Saboteur::new(
        "reader-skips-1024",
        "a watch that is 1,024 batches behind loses the oldest",
        &["s4"],
        || Sabotage::store(|| LosesOldest(1_024)),
    ),
    Saboteur::new("reader-skips-256", "a watch that is 256 batches behind loses the oldest", &["s4"], || {
        Sabotage::store(|| LosesOldest(256))
    }),
    Saboteur::new(
        "old-is-present",
        "what is a thousand revisions back reads as the present",
        &["s2"],
        || Sabotage::store(|| OldReads(1_000, OldRead::Present)),
    ),
    Saboteur::new(
        "old-is-oldest-kept",
        "what is a hundred revisions back reads as the oldest that is kept",
        &["s2"],
        || Sabotage::store(|| OldReads(100, OldRead::OldestKept)),
    ),
    Saboteur::new(
        "old-is-what-changed",
        "what is a hundred revisions back reads without what was old then",
        &["s2"],
        || Sabotage::store(|| OldReads(100, OldRead::Recent)),
    ),
    Saboteur::new(
        "pages-split-1000",
        "a revision is split where a page of 1,000 changes ends",
        &["s4"],
        || Sabotage::store(|| Paged { size: 1_000, by_bytes: false, lose: false }),
    ),
    Saboteur::new("pages-split-128", "a revision is split where a page of 128 changes ends", &["s4"], || {
        Sabotage::store(|| Paged { size: 128, by_bytes: false, lose: false })
    }),
    Saboteur::new(
        "pages-lose-the-rest",
        "what a page of 512 changes does not hold of a revision is lost",
        &["s4"],
        || Sabotage::store(|| Paged { size: 512, by_bytes: false, lose: true }),
    ),
    Saboteur::new("pages-split-by-bytes", "a revision is split where a page of a MiB ends", &["s4"], || {
        Sabotage::store(|| Paged { size: 1 << 20, by_bytes: true, lose: false })
    }),
    Saboteur::new("batches-of-a-thousand", "a batch holds a thousand changes at most", &["s5"], || {
        Sabotage::store(|| Edited {
            told: Some(|event| match event {
                StoreEvent::Batch(mut batch) => {
                    batch.changes.truncate(1_000);
                    vec![StoreEvent::Batch(batch)]
                }
                event => vec![event],
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("cut-loses-deletion", "a deletion right after the cut is lost", &["s4"], || {
        Sabotage::store(|| AtTheCut { deletions: true })
    }),
    Saboteur::new("cut-loses-next", "the revision after the cut is lost", &["s4"], || {
        Sabotage::store(|| AtTheCut { deletions: false })
    }),
    Saboteur::new(
        "state-at-cut-is-later",
        "what is read at the cut, or right after it, is one revision too new",
        &["s2"],
        || Sabotage::store(|| LaterAtTheCut),
    ),
    Saboteur::new(
        "cut-forgets-creation",
        "what was created before the cut was created when it was last written",
        &["s2"],
        || Sabotage::store(|| ForgetsCreation),
    ),
    Saboteur::new("after-is-believed", "a watch after what is yet to come is armed there", &["s4"], || {
        Sabotage::store(|| Believes)
    }),
    Saboteur::new("one-identity", "every store has the same identity", &["s1"], || {
        Sabotage::store(|| Unnamed)
    }),
    Saboteur::new("revision-of-what-is-left", "the revision is the newest of what is there", &["s1"], || {
        Sabotage::store(|| NewestLeft)
    }),
    Saboteur::new("no-bound", "a watch that is not read is held whole", &["r22"], || {
        Sabotage::store(|| Unbounded)
    }),
    Saboteur::new(
        "no-bound-of-the-past",
        "a watch of the past that is not read is held whole",
        &["r22"],
        || Sabotage::store(|| UnboundedPast),
    ),
    Saboteur::new(
        "idle-ends",
        "a watch that told nothing for ten minutes ends without an error",
        &["s4"],
        || Sabotage::store(|| Idle { deaf: false }),
    ),
    Saboteur::new("a-hundred-watches", "a client's watches beyond a hundred tell nothing", &["s4"], || {
        Sabotage::store(|| Hundred(Arc::default()))
    }),
    Saboteur::new(
        "past-and-present-part",
        "between the past and the present of a watch there is a gap",
        &["s4"],
        || Sabotage::store(|| Parts),
    ),
    Saboteur::new(
        "last-of-a-key",
        "of several changes of a key that wait, a watch tells the last one",
        &["s4"],
        || Sabotage::store(|| LastOfKey),
    ),
];

fn begins_late(kept: u64) -> Sabotage {
    Sabotage::store(move || BeginsLate(kept))
}

async fn head(good: &Arc<dyn Store>) -> Result<Revision> {
    Ok(good.range(Range::key("\0")).await?.revision)
}

fn back(from: Revision, by: u64) -> Revision {
    Revision::new(from.get().saturating_sub(by))
}

struct BeginsLate(u64);

#[async_trait]
impl BrokenStore for BeginsLate {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let Some(after) = after else { return good.watch(span, None).await };
        let from = after.max(back(head(good).await?, self.0));
        let watch = good.watch(span, Some(from)).await?;
        Ok(StoreWatch::new(after.min(watch.armed()), watch))
    }
}

/// A watch of what is far back tells so many revisions of it, and goes on with the present.
struct FirstPart(u64);

#[async_trait]
impl BrokenStore for FirstPart {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let Some(after) = after else { return Ok(watch) };
        let (present, part) = (head(good).await?, Revision::new(after.get() + self.0));
        Ok(mapped(watch, move |item| match item {
            Ok(StoreEvent::Batch(batch)) if batch.revision > part && batch.revision <= present => Vec::new(),
            item => vec![item],
        }))
    }
}

#[derive(Clone, Copy)]
enum OldRead {
    Present,
    OldestKept,
    Recent,
}

struct OldReads(u64, OldRead);

#[async_trait]
impl BrokenStore for OldReads {
    async fn range(&self, good: &Arc<dyn Store>, mut range: Range) -> Result<RangeReply> {
        let Some(at) = range.at else { return good.range(range).await };
        let kept = back(head(good).await?, self.0);
        if at >= kept {
            return good.range(range).await;
        }
        match self.1 {
            OldRead::Present => range.at = None,
            OldRead::OldestKept => range.at = Some(kept),
            OldRead::Recent => {}
        }
        let mut found = good.range(range).await?;
        found.revision = at;
        if matches!(self.1, OldRead::Recent) {
            found.entries.retain(|entry| entry.modified > back(at, self.0));
        }
        Ok(found)
    }
}

struct Paged {
    size: usize,
    by_bytes: bool,
    lose: bool,
}

#[async_trait]
impl BrokenStore for Paged {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let (mut left, size, by_bytes, lose) = (self.size, self.size, self.by_bytes, self.lose);
        Ok(mapped(watch, move |item| match item {
            Ok(StoreEvent::Batch(batch)) => {
                let mut parts = vec![Vec::new()];
                for change in batch.changes {
                    let cost = if by_bytes { change.bytes() } else { 1 };
                    if left < cost {
                        left = size;
                        parts.push(Vec::new());
                    }
                    left = left.saturating_sub(cost);
                    if let Some(part) = parts.last_mut() {
                        part.push(change);
                    }
                }
                parts.retain(|part| !part.is_empty());
                parts.truncate(if lose { 1 } else { usize::MAX });
                let told = |changes| Ok(StoreEvent::Batch(Batch { revision: batch.revision, changes }));
                parts.into_iter().map(told).collect()
            }
            item => vec![item],
        }))
    }
}

/// Whether history was forgotten up to `at`, and no further.
async fn is_cut(good: &Arc<dyn Store>, at: Revision) -> Result<bool> {
    let read = async |at: Revision| match good.range(Range::key("\0").with_at(at)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Compacted => Ok(false),
        Err(error) => Err(error),
    };
    let before = back(at, 1);
    Ok(before > Revision::ZERO && read(at).await? && !read(before).await?)
}

struct AtTheCut {
    deletions: bool,
}

#[async_trait]
impl BrokenStore for AtTheCut {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let cut = match after {
            Some(after) if is_cut(good, after).await? => after,
            _ => return good.watch(span, after).await,
        };
        let watch = good.watch(span, after).await?;
        let (next, deletions) = (cut.next(), self.deletions);
        Ok(mapped(watch, move |item| match item {
            Ok(StoreEvent::Batch(mut batch)) if batch.revision == next => {
                batch.changes.retain(|change| deletions && matches!(change, Change::Put(_)));
                if batch.changes.is_empty() { Vec::new() } else { vec![Ok(StoreEvent::Batch(batch))] }
            }
            item => vec![item],
        }))
    }
}

struct LaterAtTheCut;

#[async_trait]
impl BrokenStore for LaterAtTheCut {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        if let Some(at) = range.at {
            if is_cut(good, at).await? || is_cut(good, back(at, 1)).await? {
                if let Ok(found) = good.range(range.clone().with_at(at.next())).await {
                    return Ok(RangeReply { revision: at, ..found });
                }
            }
        }
        good.range(range).await
    }
}

struct ForgetsCreation;

#[async_trait]
impl BrokenStore for ForgetsCreation {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let mut found = good.range(range).await?;
        for entry in &mut found.entries {
            let created = Range::key("\0").with_at(entry.created);
            if good.range(created).await.is_err_and(|error| error.kind() == ErrorKind::Compacted) {
                entry.created = entry.modified;
            }
        }
        Ok(found)
    }
}

struct Believes;

#[async_trait]
impl BrokenStore for Believes {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let Some(after) = after else { return Ok(watch) };
        let untold = mapped(watch, move |item| match item {
            Ok(StoreEvent::Batch(batch)) if batch.revision <= after => Vec::new(),
            item => vec![item],
        });
        Ok(StoreWatch::new(after, untold))
    }
}

struct Unnamed;

#[async_trait]
impl BrokenStore for Unnamed {
    async fn status(&self, good: &Arc<dyn Store>) -> Result<StoreStatus> {
        Ok(StoreStatus { store_id: "my-store".to_owned(), ..good.status().await? })
    }
}

struct NewestLeft;

#[async_trait]
impl BrokenStore for NewestLeft {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let present = range.at.is_none();
        let mut found = good.range(range).await?;
        if present {
            let all: Vec<Entry> = good.range(Range::prefix("").with_keys_only()).await?.entries;
            let newest = all.iter().map(|entry| entry.modified).max();
            found.revision = newest.unwrap_or(Revision::new(1)).min(found.revision);
        }
        Ok(found)
    }
}

/// Moves what a watch tells into a queue of any length.
fn held(watch: StoreWatch) -> StoreWatch {
    let (armed, (sender, receiver)) = (watch.armed(), mpsc::unbounded_channel());
    tokio::spawn(async move {
        let mut watch = watch;
        while let Some(item) = watch.next().await {
            if sender.send(item).is_err() {
                return;
            }
        }
    });
    let items =
        stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    StoreWatch::new(armed, items)
}

struct Unbounded;

#[async_trait]
impl BrokenStore for Unbounded {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        Ok(held(good.watch(span, after).await?))
    }
}

struct UnboundedPast;

#[async_trait]
impl BrokenStore for UnboundedPast {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let past = after.is_some_and(|after| after < watch.armed().next());
        Ok(if past { held(watch) } else { watch })
    }
}

struct Idle {
    deaf: bool,
}

#[async_trait]
impl BrokenStore for Idle {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let (armed, deaf) = (watch.armed(), self.deaf);
        let items = stream::unfold(watch, move |mut watch| async move {
            match timeout(Duration::from_secs(600), watch.next()).await {
                Ok(item) => Some((item?, watch)),
                Err(_) if deaf => std::future::pending().await,
                Err(_) => None,
            }
        });
        Ok(StoreWatch::new(armed, items))
    }
}

struct Hundred(Arc<AtomicUsize>);

#[async_trait]
impl BrokenStore for Hundred {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let open = Open(Arc::clone(&self.0));
        let one_too_many = open.0.fetch_add(1, Ordering::SeqCst) >= 100;
        Ok(mapped(watch, move |item| {
            open.is_open();
            if one_too_many && item.is_ok() { Vec::new() } else { vec![item] }
        }))
    }
}

/// A watch that is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    /// Keeps it inside of the closure that calls it.
    fn is_open(&self) {}
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Parts;

#[async_trait]
impl BrokenStore for Parts {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let Some(after) = after else { return good.watch(span, None).await };
        let mut past = good.watch(span.clone(), Some(after)).await?;
        let mut told = VecDeque::new();
        while let Some(Some(item)) = past.next().now_or_never() {
            told.push_back(item);
        }
        yield_now().await;
        let present = good.watch(span, None).await?;
        Ok(StoreWatch::new(past.armed(), stream::iter(told).chain(present)))
    }
}

struct LastOfKey;

#[async_trait]
impl BrokenStore for LastOfKey {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let armed = watch.armed();
        let bursts = stream::unfold(watch, |mut watch| async {
            let mut burst = vec![watch.next().await?];
            sleep(Duration::from_millis(5)).await;
            while let Some(Some(item)) = watch.next().now_or_never() {
                burst.push(item);
            }
            let mut last: HashMap<Bytes, Revision> = HashMap::new();
            for item in burst.iter().flatten() {
                if let StoreEvent::Batch(batch) = item {
                    last.extend(batch.changes.iter().map(|change| (change.key().clone(), batch.revision)));
                }
            }
            let kept = burst.into_iter().filter_map(move |item| match item {
                Ok(StoreEvent::Batch(mut batch)) => {
                    let revision = batch.revision;
                    batch.changes.retain(|change| last.get(change.key()) == Some(&revision));
                    (!batch.changes.is_empty()).then_some(Ok(StoreEvent::Batch(batch)))
                }
                item => Some(item),
            });
            Some((stream::iter(kept.collect::<Vec<_>>()), watch))
        });
        Ok(StoreWatch::new(armed, bursts.flatten()))
    }
}

/// Keeps a store's own writes out of the way.
pub(super) fn bookkeeping() -> Txn {
    Txn::new().then(Op::put("\0bookkeeping", ""))
}
