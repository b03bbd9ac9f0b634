//! What breaks the watches of a store (S4).

use std::sync::Arc;

use async_trait::async_trait;
use coord_api::store::{Batch, Change, Range, Span, Store, StoreEvent, StoreWatch};
use coord_api::{Error, ErrorKind, Result, Revision};
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast;

use super::super::store::{BrokenStore, Edited, changes, loses_oldest, mapped};
use super::super::{Sabotage, Saboteur};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "store-watch-armed-late",
        "a watch of the store is armed when it is first polled",
        &["s4"],
        || Sabotage::store(|| ArmedLate),
    ),
    Saboteur::new("store-after-inclusive", "a watch from a revision begins with it", &["s4"], || {
        Sabotage::store(|| AfterInclusive)
    }),
    Saboteur::new("past-is-not-told", "a watch from the past begins with the present", &["s4"], || {
        Sabotage::store(|| NoPast)
    }),
    Saboteur::new("batch-for-each-change", "each change is a batch of its own", &["s4"], || {
        tells(|event| match event {
            StoreEvent::Batch(Batch { revision, changes }) => changes
                .into_iter()
                .map(|change| StoreEvent::Batch(Batch { revision, changes: vec![change] }))
                .collect(),
            event => vec![event],
        })
    }),
    Saboteur::new("changes-sorted", "the changes of a revision are sorted by key", &["s4"], || {
        tells(|event| changes(event, |all| all.sort_by(|one, other| one.key().cmp(other.key()))))
    }),
    Saboteur::new(
        "store-watch-sees-neighbours",
        "a watch of a directory sees its neighbours",
        &["s4"],
        || {
            Sabotage::store(|| Edited {
                watch: Some(|span| match span {
                    Span::Prefix(prefix) if prefix.ends_with(b"/") => {
                        Span::Prefix(prefix.slice(..prefix.len() - 1))
                    }
                    span => span,
                }),
                ..Edited::default()
            })
        },
    ),
    Saboteur::new("every-put-creates", "every put is told as a creation", &["s4", "r21"], || {
        tells(|event| {
            changes(event, |all| {
                for change in all {
                    if let Change::Put(entry) = change {
                        entry.created = entry.modified;
                    }
                }
            })
        })
    }),
    Saboteur::new("deletions-untold", "deletions are not told", &["s4", "r21"], || {
        tells(|event| changes(event, |all| all.retain(|change| matches!(change, Change::Put(_)))))
    }),
    Saboteur::new("progress-ahead", "progress is told before what it covers", &["s4"], || {
        tells(|event| match event {
            StoreEvent::Batch(batch) => vec![StoreEvent::Progress(batch.revision), StoreEvent::Batch(batch)],
            event => vec![event],
        })
    }),
    Saboteur::new("batches-doubled", "every batch is told twice", &["s4"], || {
        tells(|event| vec![event.clone(), event])
    }),
    Saboteur::new("dropped-ends-others", "a watch that is dropped ends the others", &["s4"], || {
        let (ended, _) = broadcast::channel(1);
        Sabotage::store(move || EndsOthers(ended.clone()))
    }),
    Saboteur::new("store-laggard-loses", "a watch that is not read loses the oldest", &["s4"], || {
        Sabotage::store(|| LosesOldest(64))
    }),
    Saboteur::new("ends-without-error", "a watch of the store ends without an error", &["s4"], || {
        Sabotage::store(|| EndsQuietly)
    }),
    Saboteur::new("oldest-left-is-wrong", "lost history names as its oldest what is lost", &["s4"], || {
        Sabotage::store(|| Edited {
            error: Some(|error| match error.kind() {
                ErrorKind::Compacted => Error::compacted("store", Some(Revision::new(1))),
                _ => error,
            }),
            ..Edited::default()
        })
    }),
];

fn tells(edit: fn(StoreEvent) -> Vec<StoreEvent>) -> Sabotage {
    Sabotage::store(move || Edited { told: Some(edit), ..Edited::default() })
}

struct ArmedLate;

#[async_trait]
impl BrokenStore for ArmedLate {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        span.validate("store.watch")?;
        if after.is_some() {
            return good.watch(span, after).await;
        }
        let (armed, good) = (good.range(Range::key("\0")).await?.revision, Arc::clone(good));
        let later = stream::once(async move { good.watch(span, None).await });
        Ok(StoreWatch::new(
            armed,
            later.flat_map(|watch| match watch {
                Ok(watch) => watch.boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }),
        ))
    }
}

struct AfterInclusive;

#[async_trait]
impl BrokenStore for AfterInclusive {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let before = after.map(|after| Revision::new(after.get().saturating_sub(1)));
        let watch = good.watch(span, before).await?;
        Ok(StoreWatch::new(after.unwrap_or(watch.armed()), watch))
    }
}

struct NoPast;

#[async_trait]
impl BrokenStore for NoPast {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, None).await?;
        Ok(StoreWatch::new(after.unwrap_or(watch.armed()), watch))
    }
}

struct EndsOthers(broadcast::Sender<()>);

/// Tells the others when it is dropped.
struct Told(broadcast::Sender<()>);

impl Told {
    /// Keeps it inside of the closure that calls it.
    fn is_open(&self) {}
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[async_trait]
impl BrokenStore for EndsOthers {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let (armed, mut ended) = (watch.armed(), self.0.subscribe());
        let guard = Told(self.0.clone());
        let until = watch.take_until(async move { ended.recv().await });
        Ok(StoreWatch::new(armed, until.inspect(move |_| guard.is_open())))
    }
}

/// Keeps so many items for a reader.
pub(super) struct LosesOldest(pub(super) usize);

#[async_trait]
impl BrokenStore for LosesOldest {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        Ok(StoreWatch::new(watch.armed(), loses_oldest(watch, self.0)))
    }
}

struct EndsQuietly;

#[async_trait]
impl BrokenStore for EndsQuietly {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = match good.watch(span, after).await {
            Err(error) if error.kind() == ErrorKind::Compacted => {
                StoreWatch::new(after.unwrap_or_default(), stream::empty())
            }
            watch => watch?,
        };
        Ok(mapped(watch, |item| if item.is_err() { Vec::new() } else { vec![item] }))
    }
}
