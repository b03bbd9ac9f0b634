//! What breaks watches under the contracts: in the store, or on the way to it.

use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Batch, Change, Op, Span, Store, StoreEvent, StoreWatch, Txn, TxnReply};
use coord_api::{Error, ErrorKind, LeaseId, Result, Revision};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::store::{self, BrokenStore, Edited};
use super::super::{Sabotage, Saboteur, Shared, locked};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("resumes-from-now", "resumes from now after a reconnect", &["r18"], || {
        Sabotage::client(ResumesFromNow::default)
    }),
    Saboteur::new("skips-compaction", "skips silently over a compaction", &["r19", "s4"], || {
        Sabotage::store(|| SkipsCompaction)
    }),
    Saboteur::new("quick-puts-become-one", "two quick puts become one", &["r18", "s4"], || {
        Sabotage::store(|| Coalesces)
    }),
    Saboteur::new("slow-blocks-writer", "a slow one blocks the writer", &["r22"], || {
        let stuck = Arc::new(AtomicUsize::new(0));
        Sabotage::store(move || BlocksWriter(Arc::clone(&stuck)))
    }),
    Saboteur::new("expiry-is-silent", "expiry emits no DELETE", &["r21", "s5", "r28"], || {
        let deleted = Shared::default();
        Sabotage::store(move || ExpiryIsSilent(Arc::clone(&deleted)))
    }),
    Saboteur::new("permanent-is-retried", "a permanent error is retried for ever", &["r20", "r1"], || {
        Sabotage::client(|| Edited {
            error: Some(|error| match error.kind() {
                ErrorKind::PermissionDenied => {
                    Error::new(ErrorKind::Unavailable, "store", "refused").with_outcome(error.outcome())
                }
                _ => error,
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new(
        "values-are-read-anew",
        "an event has the value of when it is read",
        &["r18", "s4"],
        || Sabotage::store(|| ReadsAnew),
    ),
    Saboteur::new("watch-sees-neighbours", "a watch of `a` sees `ab`", &["r5", "r16"], || {
        Sabotage::client(|| Edited {
            watch: Some(|span| match span {
                Span::Prefix(prefix) if prefix.starts_with(b"/config/") && prefix.len() > 8 => {
                    Span::Prefix(prefix.slice(..prefix.len() - 1))
                }
                span => span,
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("key-sees-below", "a watch of a key sees what is below it", &["r16"], || {
        Sabotage::client(|| Edited {
            watch: Some(|span| match span {
                Span::Key(key) if key.starts_with(b"/config/") => Span::Prefix(key),
                span => span,
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new(
        "dropped-watch-leaves-task",
        "a dropped watch leaves a task and an open watch",
        &["r22"],
        || Sabotage::client(|| LeavesTask),
    ),
];

#[derive(Default)]
struct ResumesFromNow(Shared<HashSet<Span>>);

#[async_trait]
impl BrokenStore for ResumesFromNow {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let again = !locked(&self.0).insert(span.clone());
        let watch = good.watch(span, if again { None } else { after }).await?;
        Ok(StoreWatch::new(after.unwrap_or(watch.armed()), watch))
    }
}

struct SkipsCompaction;

#[async_trait]
impl BrokenStore for SkipsCompaction {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        match good.watch(span.clone(), after).await {
            Err(error) if error.kind() == ErrorKind::Compacted => {
                let watch = good.watch(span, None).await?;
                Ok(StoreWatch::new(after.unwrap_or(watch.armed()), watch))
            }
            watch => watch,
        }
    }
}

struct Coalesces;

fn only_puts(item: &Result<StoreEvent>) -> Option<Vec<&bytes::Bytes>> {
    let Ok(StoreEvent::Batch(batch)) = item else { return None };
    batch.changes.iter().map(|change| matches!(change, Change::Put(_)).then(|| change.key())).collect()
}

#[async_trait]
impl BrokenStore for Coalesces {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await?;
        let armed = watch.armed();
        let newest = |items: Vec<Result<StoreEvent>>| {
            let follows: Vec<bool> = items
                .windows(2)
                .map(|pair| matches!(pair, [one, other] if only_puts(one).is_some() && only_puts(one) == only_puts(other)))
                .chain([false])
                .collect();
            stream::iter(items.into_iter().zip(follows).filter(|(_, follows)| !follows).map(|(item, _)| item))
        };
        Ok(StoreWatch::new(armed, watch.ready_chunks(64).flat_map(newest)))
    }
}

/// Writers wait for as long as there are watchers whose buffer is full.
struct BlocksWriter(Arc<AtomicUsize>);

#[async_trait]
impl BrokenStore for BlocksWriter {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        while self.0.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
        good.txn(txn).await
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let (mut watch, stuck) = (good.watch(span, after).await?, Arc::clone(&self.0));
        let (armed, (sender, receiver)) = (watch.armed(), mpsc::channel(128));
        tokio::spawn(async move {
            while let Some(item) = watch.next().await {
                stuck.fetch_add(1, Ordering::SeqCst);
                let sent = sender.send(item).await;
                stuck.fetch_sub(1, Ordering::SeqCst);
                if sent.is_err() {
                    return;
                }
            }
        });
        let received = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|item| (item, receiver))
        });
        Ok(StoreWatch::new(armed, received))
    }
}

/// Tells of deletions only where someone asked for them.
struct ExpiryIsSilent(Shared<HashSet<bytes::Bytes>>);

#[async_trait]
impl BrokenStore for ExpiryIsSilent {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let deletes = txn
            .then
            .iter()
            .chain(&txn.otherwise)
            .filter_map(|op| if let Op::Delete { key } = op { Some(key.clone()) } else { None });
        locked(&self.0).extend(deletes);
        good.txn(txn).await
    }

    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        let keys = good.lease(id).await?.map(|info| info.keys);
        locked(&self.0).extend(keys.into_iter().flatten());
        good.revoke_lease(id).await
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let asked = Arc::clone(&self.0);
        let told = move |event| {
            store::changes(event, |changes| {
                changes.retain(|change| {
                    matches!(change, Change::Put(_)) || locked(&asked).contains(change.key())
                })
            })
        };
        Ok(store::mapped(good.watch(span, after).await?, move |item| match item {
            Ok(event) => told(event).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }))
    }
}

struct ReadsAnew;

#[async_trait]
impl BrokenStore for ReadsAnew {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let (watch, good) = (good.watch(span, after).await?, Arc::clone(good));
        let armed = watch.armed();
        Ok(StoreWatch::new(
            armed,
            watch.then(move |item| {
                let good = Arc::clone(&good);
                async move {
                    let Ok(StoreEvent::Batch(Batch { revision, mut changes })) = item else { return item };
                    for change in &mut changes {
                        if let Change::Put(entry) = change {
                            let now = good
                                .range(coord_api::store::Range::key(entry.key.clone()))
                                .await?
                                .entries
                                .pop();
                            entry.value = now.map_or(entry.value.clone(), |now| now.value);
                        }
                    }
                    Ok(StoreEvent::Batch(Batch { revision, changes }))
                }
            }),
        ))
    }
}

struct LeavesTask;

#[async_trait]
impl BrokenStore for LeavesTask {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let mut watch = good.watch(span, after).await?;
        let (armed, (sender, receiver)) = (watch.armed(), mpsc::unbounded_channel());
        tokio::spawn(async move {
            while let Some(item) = watch.next().await {
                // Nobody may be there any more.
                let _ = sender.send(item);
            }
            drop(sender);
            pending::<()>().await;
        });
        let received = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|item| (item, receiver))
        });
        Ok(StoreWatch::new(armed, received))
    }
}
