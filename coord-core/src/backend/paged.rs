//! The watches of a store that keeps its history (S4).

use async_trait::async_trait;
use coord_api::store::{Span, StoreWatch};
use coord_api::{Result, Revision};
use futures_util::stream;

use super::place::{Next, Page, PageRequest, Place};

/// A store's history, to be read page by page: all that [`paged_watch`] needs to know of a store.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// Reads a page, all of it as of one moment, and not before the last write that was
    /// acknowledged.
    ///
    /// # Errors
    ///
    /// Whatever keeps the store from being read. The watch ends with it.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any await point, or left alone after a poll.
    async fn page(&self, request: PageRequest) -> Result<Page>;

    /// Resolves once the store's present revision is beyond `seen`: at once where it is so already,
    /// and soon after where it comes to be, whoever wrote. It may resolve too early, which costs a
    /// look.
    ///
    /// A store that tells of changes itself waits for that here; one that does not looks from time
    /// to time, once for all watches of a client.
    ///
    /// # Errors
    ///
    /// What keeps the store from noticing changes: a watch that goes deaf ends with `Unavailable`.
    ///
    /// # Cancel safety
    ///
    /// As [`page`](Self::page).
    async fn changed(&self, seen: Revision) -> Result<()>;
}

/// The watch of a `span` after a revision, or from now on: all of
/// [`Store::watch`](coord_api::store::Store::watch) for a store that keeps its history.
///
/// The stream reads when it is read, and so has no task, delays no writer, and needs no bound on
/// how many there are. Right by construction are
///
/// - the **order**: one batch a revision, never a part of one, once, as history has them;
/// - the **end**: after its first error, which is `Compacted` where the watch fell behind a
///   compaction, also before it is first read;
/// - where it is **armed**: at `after`, or at the present revision where `after` is beyond it;
/// - **progress**: told where nothing of the span came, and never ahead of the batches;
/// - what it **holds**: at most 32 changes, or a single revision that has more.
///
/// # Errors
///
/// `Compacted` where history does not reach back to `after`; what [`History::page`] fails with.
///
/// # Examples
///
/// ```
/// use std::sync::Mutex;
///
/// use async_trait::async_trait;
/// use coord_api::store::{Change, Span};
/// use coord_api::{Result, Revision};
/// use coord_core::backend::{History, Page, PageRequest, paged_watch};
/// use tokio::sync::watch;
///
/// /// Keys that are deleted, one after the other.
/// struct Deletions {
///     keys: Mutex<Vec<&'static str>>,
///     present: watch::Sender<Revision>,
/// }
///
/// impl Deletions {
///     fn delete(&self, key: &'static str) {
///         let mut keys = self.keys.lock().unwrap();
///         keys.push(key);
///         self.present.send_replace(Revision::new(keys.len() as u64));
///     }
/// }
///
/// #[async_trait]
/// impl History for Deletions {
///     async fn page(&self, request: PageRequest) -> Result<Page> {
///         let changes = self.keys.lock().unwrap();
///         let changes = (1..).map(Revision::new).zip(changes.iter());
///         let changes = changes
///             .filter(|(revision, _)| *revision > request.after && *revision <= request.through)
///             .map(|(revision, key)| (revision, Change::Delete { key: (*key).into() }));
///         Ok(Page {
///             compacted: Revision::ZERO,
///             present: *self.present.borrow(),
///             changes: changes.take(request.limit).collect(),
///         })
///     }
///
///     async fn changed(&self, seen: Revision) -> Result<()> {
///         // Never fails: who sends is borrowed here.
///         let _ = self.present.subscribe().wait_for(|present| *present > seen).await;
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let deletions = Deletions { keys: Mutex::default(), present: watch::Sender::default() };
/// deletions.delete("a/1");
/// deletions.delete("b/1");
/// let mut watch = paged_watch(deletions, Span::prefix("a/"), Some(Revision::ZERO)).await?;
/// let first = format!("{:?}", watch.next().await);
/// assert!(first.contains("revision: Revision(1), changes: [Delete"), "{first}");
/// assert_eq!(format!("{:?}", watch.next().await), "Some(Ok(Progress(Revision(2))))");
/// # Ok(())
/// # }
/// ```
pub async fn paged_watch(history: impl History, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
    let bounds = history.page(Place::bounds(&span)).await?;
    let place = Place::arm(span, after, &bounds)?;
    let armed = place.armed();
    let items = stream::unfold(Some((history, place, false)), |open| async move {
        let (history, mut place, mut looked) = open?;
        loop {
            let step = match place.next(looked) {
                Next::Tell(event) => return Some((Ok(event), Some((history, place, looked)))),
                Next::Read(request) => match history.page(request).await {
                    Ok(page) => place.take(page),
                    Err(error) => Err(error),
                },
                Next::WaitFor(seen) => history.changed(seen).await.map(|()| false),
            };
            match step {
                Ok(last) => looked = last,
                Err(error) => return Some((Err(error), None)),
            }
        }
    });
    Ok(StoreWatch::new(armed, items))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use coord_api::store::{Change, StoreEvent};
    use coord_api::{Error, ErrorKind};
    use futures_util::FutureExt;
    use parking_lot::Mutex;
    use tokio::sync::watch;

    use super::*;

    /// A history of deletions of `k`, which may come to be out of reach.
    #[derive(Default)]
    struct Counted {
        page: Mutex<Page>,
        present: watch::Sender<Revision>,
        reads: AtomicUsize,
        failure: Mutex<Option<Error>>,
    }

    impl Counted {
        fn delete(&self) {
            let mut page = self.page.lock();
            page.present = page.present.next();
            let revision = page.present;
            page.changes.push((revision, Change::Delete { key: "k".into() }));
            self.present.send_replace(revision);
        }
    }

    #[async_trait]
    impl History for Arc<Counted> {
        async fn page(&self, request: PageRequest) -> Result<Page> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            if let Some(error) = self.failure.lock().clone() {
                return Err(error);
            }
            let mut page = self.page.lock().clone();
            page.changes.retain(|(revision, _)| *revision > request.after && *revision <= request.through);
            page.changes.truncate(request.limit);
            Ok(page)
        }

        async fn changed(&self, seen: Revision) -> Result<()> {
            let _ = self.present.subscribe().wait_for(|present| *present > seen).await;
            Ok(())
        }
    }

    fn revision(item: Option<Result<StoreEvent>>) -> u64 {
        match item {
            Some(Ok(StoreEvent::Batch(batch))) => batch.revision.get(),
            other => panic!("wanted a batch, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn what_comes_between_the_look_and_the_wait_is_told() {
        let history = Arc::new(Counted::default());
        let mut watch = paged_watch(Arc::clone(&history), Span::key("k"), None).await.unwrap();
        for n in 1..100 {
            assert!(watch.next().now_or_never().is_none());
            history.delete();
            assert_eq!(revision(watch.next().await), n);
        }
    }

    #[tokio::test]
    async fn a_watch_that_is_not_read_reads_nothing_and_a_quiet_one_waits() {
        let history = Arc::new(Counted::default());
        let mut watch = paged_watch(Arc::clone(&history), Span::key("k"), None).await.unwrap();
        (0..1_000).for_each(|_| history.delete());
        assert_eq!(history.reads.load(Ordering::SeqCst), 1);
        for n in 1..=1_000 {
            assert_eq!(revision(watch.next().await), n);
        }
        assert!(watch.next().now_or_never().is_none());
        let reads = history.reads.load(Ordering::SeqCst);
        assert!(watch.next().now_or_never().is_none());
        assert_eq!(history.reads.load(Ordering::SeqCst), reads);
    }

    #[tokio::test]
    async fn it_ends_after_its_first_error() {
        let history = Arc::new(Counted::default());
        let mut watch = paged_watch(Arc::clone(&history), Span::key("k"), None).await.unwrap();
        let failure = Error::new(ErrorKind::Unavailable, "store.watch", "out of reach");
        *history.failure.lock() = Some(failure.clone());
        history.delete();
        assert_eq!(watch.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        *history.failure.lock() = None;
        assert!(watch.next().await.is_none() && watch.next().await.is_none());
        *history.failure.lock() = Some(failure);
        assert!(paged_watch(history, Span::key("k"), None).await.is_err());
    }
}
