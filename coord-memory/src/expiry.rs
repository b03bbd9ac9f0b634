//! The one task of a store: it expires leases on time, so that watchers hear of it though nobody calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_home::Home;
use tokio::sync::Notify;

use crate::shared::Shared;

/// The longest sleep; tokio's timers do not reach as far as leases do.
const LONGEST_SLEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Whether the task runs, and its bell.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    running: AtomicBool,
    bell: Notify,
}

impl Expiry {
    /// Starts the task unless it runs. Where there is no place for it nothing happens, and the next operation tries again.
    pub(crate) fn ensure(self: &Arc<Self>, home: &Home, shared: &Weak<Shared>) {
        if self.running.load(Ordering::Acquire) || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let task = Task { expiry: Arc::clone(self), shared: Weak::clone(shared) };
        // A task that is not taken is dropped, and with that does not run.
        let _ = home.spawn(task.run());
    }

    /// Makes the task look again: a lease was granted, or the store is gone.
    pub(crate) fn poke(&self) {
        self.bell.notify_one();
    }
}

/// The task. It holds the store weakly and ends with it.
struct Task {
    expiry: Arc<Expiry>,
    shared: Weak<Shared>,
}

impl Task {
    async fn run(self) {
        // A store that let go of its directory has nothing left to expire.
        while let Some(shared) = self.shared.upgrade().filter(|shared| !shared.is_released()) {
            let (next, _) = shared.write(|state| state.engine.next_expiry());
            shared.start_flush();
            let wake_at = next.and_then(|next| shared.instant(next.min(shared.now() + LONGEST_SLEEP)));
            let home = shared.home().clone();
            drop(shared);
            match wake_at {
                Some(at) => tokio::select! {
                    () = home.sleep_until(at) => {}
                    () = self.expiry.bell.notified() => {}
                },
                None => self.expiry.bell.notified().await,
            }
        }
    }
}

impl Drop for Task {
    /// Also when its runtime ends before the store. The watchers, which may live in another runtime, start it anew there.
    fn drop(&mut self) {
        self.expiry.running.store(false, Ordering::Release);
        if let Some(shared) = self.shared.upgrade() {
            shared.wake_all();
        }
    }
}
