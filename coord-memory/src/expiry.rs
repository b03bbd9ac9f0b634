//! The one task of a store: it expires leases on time, so that watchers hear of it though nobody calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
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
    /// Starts the task unless it runs. Outside a runtime nothing happens: then the next operation inside one starts it.
    pub(crate) fn ensure(self: &Arc<Self>, shared: &Weak<Shared>) {
        if self.running.load(Ordering::Acquire) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.running.swap(true, Ordering::AcqRel) {
            let task = Task { expiry: Arc::clone(self), shared: Weak::clone(shared) };
            runtime.spawn(task.run());
        }
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
            drop(shared);
            match wake_at {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
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
