//! One read for all who ask at once.

use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::{Error, Result};
use futures_util::future::{BoxFuture, Shared};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::task::yield_now;
use tokio::time::timeout;

/// How long a read waits for the one before it. Longer ones hang, or are asked for by somebody who does not poll any more.
const PATIENCE: Duration = Duration::from_millis(100);

/// Reads of the same thing, of which one at a time is under way, as long as none takes long.
///
/// Who asks joins the next read that has not begun yet, so that its answer is never older than the question; while one is under way, everyone else waits for
/// one and the same after it. A thousand callers at once cost a few reads.
#[derive(Debug)]
pub(super) struct Coalesced<T: Clone> {
    next: Mutex<Option<Shared<BoxFuture<'static, Result<T>>>>>,
    /// Held while a read is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl<T: Clone> Default for Coalesced<T> {
    fn default() -> Self {
        Coalesced { next: Mutex::default(), turn: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Coalesced<T> {
    /// Reads, together with everyone who asks before the read begins.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the read goes on for whoever still waits for it.
    pub(super) async fn read(self: &Arc<Self>, read: impl FnOnce() -> BoxFuture<'static, Result<T>>) -> Result<T> {
        let joined = self.next.lock().get_or_insert_with(|| self.begin(read())).clone();
        joined.await
    }

    fn begin(self: &Arc<Self>, read: BoxFuture<'static, Result<T>>) -> Shared<BoxFuture<'static, Result<T>>> {
        // It lies in `next` until it begins, and must not keep alive what it lies in.
        let (home, turn): (Weak<Self>, _) = (Arc::downgrade(self), Arc::clone(&self.turn));
        async move {
            let _turn = timeout(PATIENCE, turn.lock()).await;
            // Who is about to ask as well gets to do so: those who had their answer at once ask again at once. `yield_now` is over when it is polled again, and everyone
            // who joins polls; in a set of its own it is when it was woken.
            FuturesUnordered::from_iter([yield_now()]).next().await;
            let Some(home) = home.upgrade() else { return Err(Error::closed("watch")) };
            home.next.lock().take();
            read.await
        }
        .boxed()
        .shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use futures_util::poll;
    use futures_util::stream;
    use tokio::sync::Semaphore;

    use super::*;

    /// What is read: how often it was, each time when there is a permit.
    #[derive(Default)]
    struct Source {
        begun: AtomicUsize,
        permits: Option<Semaphore>,
    }

    fn read(source: &Arc<Source>) -> BoxFuture<'static, Result<usize>> {
        let source = Arc::clone(source);
        async move {
            let number = source.begun.fetch_add(1, Ordering::SeqCst) + 1;
            match &source.permits {
                Some(permits) => permits.acquire().await.unwrap().forget(),
                None => yield_now().await,
            }
            Ok(number)
        }
        .boxed()
    }

    /// Polls a read until it has begun.
    async fn under_way(read: &mut (impl Future<Output = Result<usize>> + Unpin)) {
        for _ in 0..2 {
            assert!(poll!(&mut *read).is_pending());
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_asks_at_once_shares_a_read() {
        let (reads, source) = (Arc::new(Coalesced::default()), Arc::new(Source::default()));
        let answers = join_all((0..100).map(|_| reads.read(|| read(&source)))).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [1; 100]);
    }

    #[tokio::test]
    async fn who_asks_again_at_once_shares_a_read_with_all_the_others_who_do() {
        let (reads, source) = (Arc::new(Coalesced::default()), Arc::new(Source::default()));
        let asked = stream::iter(0..1_000).map(|_| reads.read(|| read(&source))).buffer_unordered(100);
        assert_eq!(asked.collect::<Vec<_>>().await.len(), 1_000);
        assert_eq!(source.begun.load(Ordering::SeqCst), 10);
    }

    #[tokio::test]
    async fn who_asks_while_a_read_is_under_way_gets_the_next() {
        let source = Arc::new(Source { permits: Some(Semaphore::new(0)), ..Source::default() });
        let reads = Arc::new(Coalesced::default());
        let mut first = Box::pin(reads.read(|| read(&source)));
        under_way(&mut first).await;
        assert_eq!(source.begun.load(Ordering::SeqCst), 1);
        let mut later = join_all((0..10).map(|_| reads.read(|| read(&source))));
        assert!((&mut later).now_or_never().is_none());
        source.permits.as_ref().unwrap().add_permits(2);
        assert_eq!(first.await.unwrap(), 1);
        assert!(later.await.into_iter().all(|answer| answer.unwrap() == 2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_or_sleeps_holds_up_nobody() {
        let source = Arc::new(Source { permits: Some(Semaphore::new(0)), ..Source::default() });
        let reads = Arc::new(Coalesced::default());
        let ask = || Box::pin(reads.read(|| read(&source)));
        let (mut gone, mut sleeping) = (ask(), ask());
        under_way(&mut gone).await;
        drop(gone);
        // In the other's place.
        under_way(&mut sleeping).await;
        assert_eq!(source.begun.load(Ordering::SeqCst), 2);
        let mut awake = ask();
        assert!(awake.as_mut().now_or_never().is_none());
        // One of them is for the sleeper, who came first.
        source.permits.as_ref().unwrap().add_permits(2);
        assert_eq!(awake.await.unwrap(), 3, "nobody polls the read before it");
        drop(sleeping);
    }
}
