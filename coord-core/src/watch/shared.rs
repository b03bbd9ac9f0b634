//! One watch on the store for all who read the same range: who arms it, and what moves it on.
//!
//! Readers pull. A reader that does not poll costs its cursor and nothing else; what leaves the
//! window before it was read becomes a resync, which the reader makes for itself (R22).

use std::fmt;
use std::sync::{Arc, Weak};
use std::task::Waker;

use coord_api::store::{RangeReply, Span};
use coord_api::{Error, Result, Revision, WatchStart};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::coalesce::Coalesced;
use super::heads::Heads;
use super::resume::{Delivery, ResumingWatch};
use super::window::{SharedDelivery, Window};
use crate::error::homeless;
use crate::flight::SingleFlight;
use crate::ground::Ground;
use crate::telemetry::{Cause, CountedWatch};

/// A watch on the store, and what it has delivered to its readers.
pub(super) struct SharedWatch {
    pub(super) ground: Arc<Ground>,
    heads: Arc<Heads>,
    pub(super) span: Span,
    /// The arming of the watch on the store: once, for all who come meanwhile.
    arming: SingleFlight<()>,
    /// Reads the watch on the store; none until it is armed.
    driver: Mutex<Option<AbortOnDropHandle<()>>>,
    pub(super) window: Mutex<Window>,
    /// Reads of the whole span, for all readers that need one at once.
    snapshots: Arc<Coalesced<Arc<RangeReply>>>,
}

impl SharedWatch {
    pub(super) fn new(ground: Arc<Ground>, heads: Arc<Heads>, span: Span) -> Arc<Self> {
        Arc::new(SharedWatch {
            ground,
            heads,
            span,
            arming: SingleFlight::default(),
            driver: Mutex::new(None),
            window: Mutex::default(),
            snapshots: Arc::default(),
        })
    }

    /// Whether it will deliver nothing any more.
    pub(super) fn has_ended(&self) -> bool {
        self.window.lock().has_ended()
    }

    fn is_armed(&self) -> bool {
        self.driver.lock().is_some()
    }

    /// Whether everything after `revision` can be read from it.
    pub(super) fn reaches_back_to(&self, revision: Revision) -> bool {
        self.is_armed() && self.window.lock().reaches_back_to(revision)
    }

    /// Arms the watch on the store for readers who begin at `start`, unless it is armed already.
    pub(super) async fn armed(self: &Arc<Self>, start: WatchStart) -> Result<()> {
        while !self.is_armed() {
            let arm = || {
                let shared = Arc::clone(self);
                async move { shared.arm(start).await }
            };
            self.arming.run(&self.ground.home, "watch", arm).await?;
        }
        Ok(())
    }

    /// Arms the watch on the store, and starts what reads it.
    async fn arm(self: &Arc<Self>, start: WatchStart) -> Result<()> {
        if self.is_armed() {
            return Ok(());
        }
        let after = match start {
            WatchStart::After(revision) => Some(revision),
            _ => None,
        };
        let watch = ResumingWatch::arm(Arc::clone(&self.ground), self.span.clone(), after).await?;
        self.change(|window| window.armed(watch.seen(), watch.is_live()));
        self.start(watch)
    }

    fn start(self: &Arc<Self>, watch: ResumingWatch) -> Result<()> {
        // The driver does not own the shared watch: the last reader to go drops it, and that ends
        // the driver.
        let guard = WakeWhenEnded(Arc::downgrade(self));
        let ground = &self.ground;
        let task = ground
            .home
            .spawn(drive(guard, Arc::clone(ground), watch))
            .map_err(|error| homeless("watch", error))?;
        *self.driver.lock() = Some(AbortOnDropHandle::new(task));
        Ok(())
    }

    /// Goes on reading where a driver that ended by accident, with the runtime that it ran on, left
    /// off (R20).
    pub(super) fn restart_driver(self: &Arc<Self>) -> Result<()> {
        if self.ground.is_closed() {
            return Err(Error::closed("watch"));
        }
        // Another reader may have been first.
        let taken_over = self.window.lock().take_over();
        let Some(seen) = taken_over else { return Ok(()) };
        self.start(ResumingWatch::broken_after(Arc::clone(&self.ground), self.span.clone(), seen))
    }

    /// How far the store is.
    pub(super) async fn head(&self) -> Result<Revision> {
        self.heads.read(&self.ground, &self.span).await
    }

    /// The whole span.
    pub(super) async fn snapshot(&self) -> Result<Arc<RangeReply>> {
        let read = || {
            let (ground, span) = (Arc::clone(&self.ground), self.span.clone());
            Box::pin(async move { ground.list(span).await.map(Arc::new) }) as BoxFuture<'static, _>
        };
        self.snapshots.read(&self.ground.home, read).await
    }

    /// Changes how the watch is doing, and wakes those who wait for that.
    fn change(&self, change: impl FnOnce(&mut Window)) {
        self.change_and_wake(change, Window::take_state_wakers);
    }

    /// Changes what there is to read, and wakes the readers as well.
    fn publish(&self, change: impl FnOnce(&mut Window)) {
        self.change_and_wake(change, Window::take_wakers);
    }

    /// Nobody is woken under the lock: waking is somebody else's code.
    fn change_and_wake(
        &self,
        change: impl FnOnce(&mut Window),
        wakers: impl FnOnce(&mut Window) -> Vec<Waker>,
    ) {
        let wakers = {
            let mut window = self.window.lock();
            change(&mut window);
            wakers(&mut window)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Wakes the readers of a watch when its driver ends, so that none of them waits for one that is
/// gone.
struct WakeWhenEnded(Weak<SharedWatch>);

impl Drop for WakeWhenEnded {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.publish(Window::desert);
        }
    }
}

async fn drive(guard: WakeWhenEnded, ground: Arc<Ground>, mut watch: ResumingWatch) {
    let mut counted = CountedWatch::new(&ground.telemetry);
    loop {
        counted.is(watch.is_live());
        let step = tokio::select! {
            biased;
            () = ground.closing.cancelled() => Err(Error::closed("watch")),
            step = watch.step() => step,
        };
        let Some(shared) = guard.0.upgrade() else { return };
        match step {
            Ok(Some(delivery)) => {
                let item = match delivery {
                    Delivery::Batch(batch) => SharedDelivery::Batch(Arc::new(batch)),
                    Delivery::Resync { state, replaced } => {
                        ground
                            .telemetry
                            .resync(&shared.span, if replaced { Cause::Replaced } else { Cause::Compacted });
                        SharedDelivery::Resync { state: Arc::new(state), replaced }
                    }
                };
                shared.publish(|window| {
                    window.reached(watch.seen(), watch.is_live());
                    window.push(item);
                });
            }
            Ok(None) => shared.change(|window| window.reached(watch.seen(), watch.is_live())),
            Err(error) => {
                ground.telemetry.watch_ended(&shared.span, &error);
                shared.publish(|window| window.end(error));
                return;
            }
        }
    }
}

impl fmt::Debug for SharedWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWatch").field("span", &self.span).finish_non_exhaustive()
    }
}
