//! One read for all who ask at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result};
use coord_home::Home;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::task::yield_now;

use crate::error::homeless;

/// How long a read waits for the one before it. One that takes longer hangs.
const PATIENCE: Duration = Duration::from_millis(100);

/// Reads of the same thing, of which one at a time is under way, as long as none takes long.
///
/// Who asks joins the next read that has not begun yet, so that its answer is never older than the
/// question; while one is under way, everyone else waits for one and the same after it. A thousand
/// callers at once cost a few reads. The reads are tasks of the [`Home`]: no caller holds up the
/// others.
pub(super) struct Coalesced<T: Clone> {
    next: Mutex<Option<Joined<T>>>,
    /// Held while a read is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A read that others join. It answers `None` where it is cut off.
type Joined<T> = Shared<BoxFuture<'static, Option<Result<T>>>>;

impl<T: Clone> Default for Coalesced<T> {
    fn default() -> Self {
        Coalesced { next: Mutex::default(), turn: Arc::default() }
    }
}

impl<T: Clone> fmt::Debug for Coalesced<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalesced").finish_non_exhaustive()
    }
}

impl<T: Clone + Send + Sync + 'static> Coalesced<T> {
    /// Reads, together with everyone who asks before the read begins.
    ///
    /// # Errors
    ///
    /// Those of the read, and why there is no [`Home`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the read goes on for whoever still waits for it.
    pub(super) async fn read(
        self: &Arc<Self>,
        home: &Home,
        read: impl Fn() -> BoxFuture<'static, Result<T>>,
    ) -> Result<T> {
        loop {
            let joined = {
                let mut next = self.next.lock();
                match &*next {
                    Some(joined) => joined.clone(),
                    None => next.insert(self.begin(home, read())?).clone(),
                }
            };
            if let Some(answer) = joined.await {
                return answer;
            }
            // It was cut off, with the runtime that it ran on. Whoever sees that first takes it
            // away.
            self.next.lock().take_if(|next| next.peek().is_some());
            // It may take a while to end.
            yield_now().await;
        }
    }

    /// Starts a read. It answers `None` where it is cut off.
    fn begin(self: &Arc<Self>, home: &Home, read: BoxFuture<'static, Result<T>>) -> Result<Joined<T>> {
        let (reads, turn, timer) = (Arc::clone(self), Arc::clone(&self.turn), home.clone());
        let task = home.spawn(async move {
            let _turn = timer.timeout(PATIENCE, turn.lock()).await;
            // Lets those join who were answered by the read before this one, and ask again at once.
            yield_now().await;
            reads.next.lock().take();
            read.await
        });
        let task = task.map_err(|error| homeless("watch", error))?;
        let answer = async move {
            match task.await {
                Ok(answer) => Some(answer),
                Err(error) if error.is_panic() => Some(Err(Error::new(
                    ErrorKind::Internal,
                    "watch",
                    "the store panicked, or what lies between",
                ))),
                Err(_) => None,
            }
        };
        Ok(answer.boxed().shared())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use futures_util::{StreamExt, poll, stream};
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
        for _ in 0..4 {
            assert!(poll!(&mut *read).is_pending());
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_asks_at_once_shares_a_read() {
        let (reads, source, home) =
            (Arc::new(Coalesced::default()), Arc::new(Source::default()), Home::callers());
        let answers = join_all((0..100).map(|_| reads.read(&home, || read(&source)))).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [1; 100]);
    }

    #[tokio::test]
    async fn who_asks_again_at_once_shares_a_read_with_all_the_others_who_do() {
        let (reads, source, home) =
            (Arc::new(Coalesced::default()), Arc::new(Source::default()), Home::callers());
        let asked = stream::iter(0..1_000).map(|_| reads.read(&home, || read(&source))).buffer_unordered(100);
        assert_eq!(asked.collect::<Vec<_>>().await.len(), 1_000);
        assert_eq!(source.begun.load(Ordering::SeqCst), 10);
    }

    #[tokio::test]
    async fn who_asks_while_a_read_is_under_way_gets_the_next() {
        let source = Arc::new(Source { permits: Some(Semaphore::new(0)), ..Source::default() });
        let (reads, home) = (Arc::new(Coalesced::default()), Home::callers());
        let mut first = Box::pin(reads.read(&home, || read(&source)));
        under_way(&mut first).await;
        assert_eq!(source.begun.load(Ordering::SeqCst), 1);
        let mut later = join_all((0..10).map(|_| reads.read(&home, || read(&source))));
        assert!((&mut later).now_or_never().is_none());
        source.permits.as_ref().unwrap().add_permits(2);
        assert_eq!(first.await.unwrap(), 1);
        assert!(later.await.into_iter().all(|answer| answer.unwrap() == 2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_or_sleeps_holds_up_nobody() {
        let source = Arc::new(Source { permits: Some(Semaphore::new(0)), ..Source::default() });
        let (reads, home) = (Arc::new(Coalesced::default()), Home::callers());
        let ask = || Box::pin(reads.read(&home, || read(&source)));
        let (mut gone, mut left_alone) = (ask(), ask());
        under_way(&mut gone).await;
        drop(gone);
        assert_eq!(source.begun.load(Ordering::SeqCst), 1);
        under_way(&mut left_alone).await;
        source.permits.as_ref().unwrap().add_permits(2);
        // Whoever went away or is left alone: their reads are done, and the turn is free.
        assert_eq!(ask().await.unwrap(), 2);
        assert!(left_alone.await.is_ok());
    }
}
