//! How a watch is doing, for those who do not have the watch itself.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::WatchState;

/// Says how a watch is doing, wherever the watch is: it can be asked while another task reads the
/// watch, and after the watch was dropped. Cheap to clone.
///
/// The status ends with the watch: dropping the watch makes it [`WatchState::Ended`].
#[derive(Clone)]
pub struct WatchStatus {
    shared: Arc<Shared>,
}

impl WatchStatus {
    /// How the watch is doing now.
    pub fn state(&self) -> WatchState {
        self.shared.lock().state
    }

    /// Waits until the watch is in another state than `known`, and says in which. Waits for ever
    /// where `known` is [`WatchState::Ended`], which is final.
    ///
    /// A state that lasted for a moment alone may go unseen. The future borrows nothing, so it may
    /// outlive the watch or move to another task.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn changed_from(&self, known: WatchState) -> impl Future<Output = WatchState> + Send + 'static {
        let mut waiter = Waiter { shared: Arc::clone(&self.shared), number: None };
        poll_fn(move |cx| waiter.poll(known, cx))
    }
}

impl fmt::Debug for WatchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStatus").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// What a watch tells its [`WatchStatus`] by. It belongs into the stream: dropping it says that the
/// watch has ended.
pub struct WatchStatusSender {
    shared: Arc<Shared>,
}

impl WatchStatusSender {
    /// Of a watch that is in this state.
    pub fn new(state: WatchState) -> Self {
        let shared = Shared { inner: Mutex::new(Inner { state, next: 0, waiting: BTreeMap::new() }) };
        WatchStatusSender { shared: Arc::new(shared) }
    }

    /// What others are told by.
    pub fn status(&self) -> WatchStatus {
        WatchStatus { shared: Arc::clone(&self.shared) }
    }

    /// The watch is in this state now. [`WatchState::Ended`] is final: what is said later counts
    /// for nothing.
    pub fn set(&self, state: WatchState) {
        self.replace(state).into_iter().for_each(Waker::wake);
    }

    /// As [`set`](Self::set), but gives back those who wait for a change: whoever holds a lock
    /// wakes them after it.
    #[must_use = "those who wait are to be woken"]
    pub fn replace(&self, state: WatchState) -> Vec<Waker> {
        let mut inner = self.shared.lock();
        if inner.state == state || inner.state == WatchState::Ended {
            return Vec::new();
        }
        inner.state = state;
        std::mem::take(&mut inner.waiting).into_values().collect()
    }
}

impl Drop for WatchStatusSender {
    fn drop(&mut self) {
        self.set(WatchState::Ended);
    }
}

impl fmt::Debug for WatchStatusSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStatusSender").field("state", &self.shared.lock().state).finish_non_exhaustive()
    }
}

struct Shared {
    inner: Mutex<Inner>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing here panics half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Inner {
    state: WatchState,
    /// The number of the next one who waits.
    next: u64,
    /// Those who wait for a change. Each is here once, and no longer than its future lives.
    waiting: BTreeMap<u64, Waker>,
}

/// One who waits for a change.
struct Waiter {
    shared: Arc<Shared>,
    /// Its number, from the first time that it had to wait.
    number: Option<u64>,
}

impl Waiter {
    fn poll(&mut self, known: WatchState, cx: &Context<'_>) -> Poll<WatchState> {
        let mut inner = self.shared.lock();
        if inner.state != known {
            return Poll::Ready(inner.state);
        }
        let number = *self.number.get_or_insert(inner.next);
        inner.next = inner.next.max(number + 1);
        let before = inner.waiting.insert(number, cx.waker().clone());
        drop(inner);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let waker = self.shared.lock().waiting.remove(&number);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>, woken: &Arc<Woken>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(woken))))
    }

    #[test]
    fn it_tells_the_state_wherever_the_watch_is() {
        let sender = WatchStatusSender::new(WatchState::Live);
        let status = sender.status();
        assert_eq!(status.state(), WatchState::Live);
        std::thread::spawn(move || sender.set(WatchState::Suspended)).join().unwrap();
        assert_eq!(status.clone().state(), WatchState::Ended, "its sender was dropped");
    }

    #[test]
    fn the_end_is_final() {
        let sender = WatchStatusSender::new(WatchState::Live);
        sender.set(WatchState::Ended);
        sender.set(WatchState::Live);
        assert_eq!(sender.status().state(), WatchState::Ended);
    }

    #[test]
    fn who_waits_is_woken_by_a_change_alone() {
        let sender = WatchStatusSender::new(WatchState::Live);
        let woken = Arc::new(Woken::default());
        let mut changed = pin!(sender.status().changed_from(WatchState::Live));
        assert!(poll(changed.as_mut(), &woken).is_pending());
        sender.set(WatchState::Live);
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        sender.set(WatchState::Suspended);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(changed.as_mut(), &woken), Poll::Ready(WatchState::Suspended));
        assert_eq!(
            poll(pin!(sender.status().changed_from(WatchState::Live)), &woken),
            Poll::Ready(WatchState::Suspended),
            "what is so already is not waited for"
        );
    }

    #[test]
    fn each_of_several_is_woken_and_by_the_end_too() {
        let sender = WatchStatusSender::new(WatchState::Live);
        let status = sender.status();
        let woken: Vec<_> = (0..3).map(|_| Arc::new(Woken::default())).collect();
        let mut waiting: Vec<_> =
            woken.iter().map(|_| Box::pin(status.changed_from(WatchState::Live))).collect();
        for (future, woken) in waiting.iter_mut().zip(&woken) {
            assert!(poll(future.as_mut(), woken).is_pending());
            assert!(poll(future.as_mut(), woken).is_pending());
        }
        assert_eq!(status.shared.lock().waiting.len(), 3, "each is there once");
        drop(sender);
        for (future, woken) in waiting.iter_mut().zip(&woken) {
            assert_eq!(woken.0.load(Ordering::SeqCst), 1);
            assert_eq!(poll(future.as_mut(), woken), Poll::Ready(WatchState::Ended));
        }
    }

    #[test]
    fn who_gives_up_waiting_leaves_nothing() {
        let sender = WatchStatusSender::new(WatchState::Live);
        let status = sender.status();
        let woken = Arc::new(Woken::default());
        for _ in 0..1_000 {
            assert!(poll(pin!(status.changed_from(WatchState::Live)), &woken).is_pending());
        }
        assert!(status.shared.lock().waiting.is_empty());
    }
}
