//! What a store must remember: every state that there was and the changes between them, kept apart
//! from the store, and compared with what it says.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Change, Compare, Entry, Op, Range, Span, Store, Txn};
use coord_api::{Error, ErrorKind, LeaseId, Revision};
use futures_util::future::join_all;

use crate::fixture::Fixture;
use crate::view::StoreView;
use crate::wait::within;

/// One revision.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) revision: Revision,
    /// What it changed, in order; in any order where a lease ended.
    pub(super) changes: Vec<Change>,
    /// What there was since.
    pub(super) state: BTreeMap<Bytes, Entry>,
}

/// What happened to a store that nobody else writes to.
pub(super) struct Chronicle {
    store: Arc<dyn Store>,
    pages: Vec<Page>,
}

impl Chronicle {
    /// Begins with what the store holds.
    pub(super) async fn of(store: &Arc<dyn Store>) -> Self {
        let found = store.range(Range::prefix("")).await.unwrap();
        let state = found.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let page = Page { revision: found.revision, changes: Vec::new(), state };
        Chronicle { store: Arc::clone(store), pages: vec![page] }
    }

    pub(super) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// The newest revision.
    pub(super) fn last(&self) -> &Page {
        &self.pages[self.pages.len() - 1]
    }

    /// The number of the page of a revision, or of the last one before it.
    pub(super) fn number(&self, revision: Revision) -> usize {
        self.pages.partition_point(|page| page.revision <= revision).saturating_sub(1)
    }

    /// Runs puts and deletes, which change something.
    pub(super) async fn write(&mut self, ops: impl IntoIterator<Item = Op>) -> Revision {
        let ops: Vec<Op> = ops.into_iter().collect();
        let mut txn = Txn::new();
        txn.then.clone_from(&ops);
        let reply = self.store.txn(txn).await.unwrap();
        self.happened(ops, reply.revision);
        reply.revision
    }

    /// Takes down what a transaction did.
    pub(super) fn happened(&mut self, ops: Vec<Op>, revision: Revision) {
        let last = self.last();
        assert!(revision > last.revision, "a change after revision {} is at {revision}", last.revision);
        let (mut state, mut changes) = (last.state.clone(), Vec::new());
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let created = state.get(&key).map_or(revision, |entry| entry.created);
                    let entry = Entry { key: key.clone(), value, created, modified: revision, lease };
                    state.insert(key, entry.clone());
                    changes.push(Change::Put(entry));
                }
                Op::Delete { key } => {
                    changes.extend(state.remove(&key).map(|entry| Change::Delete { key: entry.key }));
                }
                Op::Range(_) => {}
            }
        }
        self.pages.push(Page { revision, changes, state });
    }

    pub(super) async fn put(&mut self, key: &'static str, value: impl Into<coord_api::Value>) -> Revision {
        self.write([Op::put(key, value)]).await
    }

    pub(super) async fn delete(&mut self, key: &'static str) -> Revision {
        self.write([Op::delete(key)]).await
    }

    /// Ends a lease that has keys.
    pub(super) async fn revoke(&mut self, lease: LeaseId) -> Revision {
        self.store.revoke_lease(lease).await.unwrap();
        let revision = self.store.range(Range::key("no such key")).await.unwrap().revision;
        let keys: Vec<Bytes> = self.keys_of(lease);
        self.happened(keys.into_iter().map(Op::delete).collect(), revision);
        revision
    }

    /// The keys that hang on a lease, in byte order.
    pub(super) fn keys_of(&self, lease: LeaseId) -> Vec<Bytes> {
        let on_it = |entry: &&Entry| entry.lease == Some(lease);
        self.last().state.values().filter(on_it).map(|entry| entry.key.clone()).collect()
    }

    /// The present must be what it is, whatever was forgotten.
    pub(super) async fn judge_present(&self) {
        let last = self.last();
        let found = self.store.range(Range::prefix("")).await.unwrap();
        expect(|| "the present".to_owned(), &found.entries, &entries(last));
        expect(|| "the present revision".to_owned(), &found.revision, &last.revision);
        for entry in last.state.values() {
            let key = entry.key.clone();
            let same = Txn::new()
                .when(Compare::Created(key.clone(), entry.created))
                .when(Compare::Modified(key, entry.modified));
            let held = self.store.txn(same).await.unwrap().succeeded;
            expect(|| format!("whether {entry:?} compares as itself"), &held, &true);
        }
    }

    /// The entries of the present, without looking at each by itself.
    pub(super) async fn judge_present_entries(&self) {
        let found = self.store.range(Range::prefix("")).await.unwrap();
        expect(|| "the present".to_owned(), &found.entries, &entries(self.last()));
    }

    /// Reads at each of these revisions, of which history through `cut` was forgotten: each reads
    /// as it was, or is `Compacted` where it lies before the cut. At the cut it may be either.
    pub(super) async fn judge_reads(&self, numbers: impl IntoIterator<Item = usize>, cut: Revision) {
        for number in numbers {
            let page = &self.pages[number];
            if page.revision == Revision::ZERO {
                continue;
            }
            let at = page.revision;
            match self.store.range(Range::prefix("").with_at(at)).await {
                Ok(found) => {
                    assert!(at >= cut, "{at} was read, which was forgotten through {cut}");
                    expect(|| format!("the revision of a read at {at}"), &found.revision, &at);
                    expect(|| format!("the state at {at}, cut at {cut}"), &found.entries, &entries(page));
                }
                Err(error) => {
                    assert_compacted(&error, at, "a read");
                    assert!(at <= cut, "{at} is not there, and only {cut} was forgotten: {error:?}");
                }
            }
        }
    }

    /// Watches after each of these revisions, and reads each watch to the end: see
    /// [`judge_reads`](Self::judge_reads). After the cut itself everything must be there.
    pub(super) async fn judge_watches(
        &self,
        cx: &Fixture,
        span: Span,
        numbers: impl IntoIterator<Item = usize>,
        cut: Revision,
    ) {
        // All at once: some servers take their time with each watch of the past.
        join_all(numbers.into_iter().map(async |number| {
            let page = &self.pages[number];
            let after = page.revision;
            if after < cut {
                let error = self.refused(cx, span.clone(), after, cut).await;
                assert_compacted(&error, after, "a watch");
            } else if let Err(error) = self.follow(cx, span.clone(), after).await {
                panic!("a watch after {after} is refused, and only {cut} was forgotten: {error:?}");
            }
        }))
        .await;
    }

    /// Watches after a revision whose history was forgotten: by the call or by the first item it
    /// must be told so.
    async fn refused(&self, cx: &Fixture, span: Span, after: Revision, cut: Revision) -> Error {
        let first = match StoreView::after(&self.store, span, after).await {
            Ok(mut watch) => within(cx.soon(), "a watch says that its history is lost", watch.next()).await,
            Err(error) => Err(error),
        };
        match first {
            Ok(batch) => panic!("a watch after {after} tells {}, cut at {cut}", batch.revision),
            Err(error) => error,
        }
    }

    /// Watches after a revision, and reads all that followed: batch by batch what happened, or it
    /// is `Compacted`.
    ///
    /// # Errors
    ///
    /// What the watch ended with.
    pub(super) async fn follow(&self, cx: &Fixture, span: Span, after: Revision) -> Result<(), Error> {
        let mut watch = StoreView::after(&self.store, span.clone(), after).await?;
        self.read(cx, &mut watch, &span, after).await
    }

    /// The same, as another client sees it.
    pub(super) fn seen_by(self, store: Arc<dyn Store>) -> Self {
        Chronicle { store, ..self }
    }

    /// Reads at these revisions, the oldest first, of which history through `cut` was forgotten,
    /// and maybe more of it: each reads as it was or is `Compacted`, and what is newer is not lost
    /// before what is older.
    pub(super) async fn judge_reads_left(&self, numbers: impl IntoIterator<Item = usize>, cut: Revision) {
        let mut served = false;
        for page in numbers.into_iter().map(|number| &self.pages[number]) {
            let at = page.revision;
            if at == Revision::ZERO {
                continue;
            }
            match self.store.range(Range::prefix("").with_at(at)).await {
                Ok(found) => {
                    assert!(at >= cut, "{at} was read, which was forgotten through {cut}");
                    expect(|| format!("the revision of a read at {at}"), &found.revision, &at);
                    expect(|| format!("the state at {at}"), &found.entries, &entries(page));
                    served = true;
                }
                Err(error) => {
                    assert_compacted(&error, at, "a read");
                    assert!(!served, "{at} is not there, and an older revision is: {error:?}");
                }
            }
        }
    }

    /// The same for watches after these revisions, each of which is read to the end.
    pub(super) async fn judge_watches_left(
        &self,
        cx: &Fixture,
        span: Span,
        numbers: impl IntoIterator<Item = usize>,
        cut: Revision,
    ) {
        let mut served = false;
        let pages: Vec<&Page> = numbers.into_iter().map(|number| &self.pages[number]).collect();
        let watched = join_all(pages.iter().map(|page| self.follow(cx, span.clone(), page.revision))).await;
        for (page, answer) in pages.into_iter().zip(watched) {
            let after = page.revision;
            match answer {
                Ok(()) => {
                    assert!(after >= cut, "a watch after {after} goes on, cut at {cut}");
                    served = true;
                }
                Err(error) => {
                    assert_compacted(&error, after, "a watch");
                    assert!(!served, "no watch after {after}, and one after an older revision: {error:?}");
                }
            }
        }
    }

    /// Reads a watch that has seen everything up to `after` until it has seen everything.
    ///
    /// # Errors
    ///
    /// What the watch ended with.
    pub(super) async fn read(
        &self,
        cx: &Fixture,
        watch: &mut StoreView,
        span: &Span,
        after: Revision,
    ) -> Result<(), Error> {
        for page in self.pages.iter().filter(|page| page.revision > after) {
            let mut expected: Vec<Change> =
                page.changes.iter().filter(|change| span.contains(change.key())).cloned().collect();
            if expected.is_empty() {
                continue;
            }
            let what = || format!("what a watch of {span:?} after {after} tells of {}", page.revision);
            let batch = within(cx.soon(), "the next batch of a watch", watch.next()).await?;
            expect(what, &batch.revision, &page.revision);
            let mut changes = batch.changes;
            // The keys of a lease that ends come in any order.
            let deletions = |all: &[Change]| all.iter().all(|change| matches!(change, Change::Delete { .. }));
            if deletions(&changes) && deletions(&expected) {
                changes.sort_by(|one, other| one.key().cmp(other.key()));
                expected.sort_by(|one, other| one.key().cmp(other.key()));
            }
            expect(what, &changes, &expected);
        }
        Ok(())
    }
}

/// The entries of a state, in byte order.
pub(super) fn entries(page: &Page) -> Vec<Entry> {
    page.state.values().cloned().collect()
}

/// Fails with what was asked where the store says something else; what is long is not shown whole.
pub(super) fn expect<T: PartialEq + Debug>(what: impl FnOnce() -> String, found: &T, expected: &T) {
    assert!(
        found == expected,
        "{}: the store says {:.1500}, expected was {:.1500}",
        what(),
        format!("{found:?}"),
        format!("{expected:?}")
    );
}

/// Fails unless history was lost, and the oldest revision left, if it is told, is none that is
/// lost.
pub(super) fn assert_compacted(error: &Error, lost: Revision, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Compacted, "{what} at {lost}: {error:?}");
    assert!(
        error.oldest_revision().is_none_or(|oldest| oldest >= lost),
        "{what} at {lost} is refused, though the oldest revision left is said to be older: {error:?}"
    );
}
