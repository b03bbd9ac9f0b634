//! What those who take ids share with the task that keeps the worker's number.

use coord::coord_core::Client;
use coord::recipes::KeptId;
use coord::{Error, ErrorKind, InstanceIdKeeper, Result};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::clock::{Clocks, nanos};
use super::generator::{Generator, Issued, Refusal};

const NEXT: &str = "uid.next";

/// A generator, its clocks, and what its task says of it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) service: String,
    pub(super) client: Client,
    pub(super) generator: Generator,
    pub(super) clocks: Clocks,
    /// Taken by whoever gives the number back.
    pub(super) keeper: Mutex<Option<InstanceIdKeeper>>,
    /// The number that the generator gives out ids of. Locked while that changes, too.
    worker: Mutex<Option<KeptId>>,
    /// Why there is no worker, where there is none.
    stopped: Mutex<Option<Error>>,
    /// How the last horizon could not be stored, until one was.
    trouble: Mutex<Option<Error>>,
    /// A later horizon is wanted before its time.
    pub(super) wanted: Notify,
    /// Rises with each thing that those who wait may wait for.
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(
        service: String,
        client: Client,
        generator: Generator,
        clocks: Clocks,
        keeper: InstanceIdKeeper,
    ) -> Self {
        Shared {
            service,
            client,
            generator,
            clocks,
            keeper: Mutex::new(Some(keeper)),
            worker: Mutex::new(None),
            stopped: Mutex::new(None),
            trouble: Mutex::new(None),
            wanted: Notify::new(),
            changes: watch::Sender::new(0),
        }
    }

    /// Gives out ids, or says why not (R64 to R66). The clocks are read, and nothing else is done.
    #[inline]
    pub(super) fn issue(&self, count: u32) -> Result<Issued, Refusal> {
        if self.clocks.home().is_left_behind() {
            return Err(Refusal::Stopped);
        }
        match self.generator.issue(self.clocks.read(), count) {
            Ok(issued) if !issued.is_near_horizon => Ok(issued),
            other => self.look_again(other, count),
        }
    }

    /// What is to be done besides, now and then.
    #[cold]
    fn look_again(&self, mut first: Result<Issued, Refusal>, count: u32) -> Result<Issued, Refusal> {
        if first == Err(Refusal::Expired) && self.renew() {
            first = self.generator.issue(self.clocks.read(), count);
        }
        if matches!(first, Ok(Issued { is_near_horizon: true, .. }) | Err(Refusal::AtHorizon)) {
            self.wanted.notify_one();
        }
        first
    }

    /// Looks until when the worker's number is held now: each renewal of its lease moves that.
    fn renew(&self) -> bool {
        let worker = self.worker.lock();
        let Some(held) = worker.as_ref() else { return false };
        let deadline = self.held_until(held);
        deadline.inspect(|deadline| self.generator.extend(*deadline)).is_some()
    }

    /// The local deadline of a number, by the monotonic clock, where it is held. The clock is read
    /// first, so that this is never too late.
    fn held_until(&self, held: &KeptId) -> Option<u64> {
        let now = self.clocks.monotonic();
        let left = held.ttl();
        (!left.is_zero()).then(|| now.saturating_add(nanos(left)))
    }

    /// The first horizon of a worker is stored: it gives out ids, if its number is still held.
    pub(super) fn begin(&self, held: KeptId, horizon: u64) -> bool {
        {
            let mut worker = self.worker.lock();
            let Some(deadline) = self.held_until(&held) else { return false };
            self.generator.begin(held.id(), horizon, deadline, self.clocks.monotonic());
            *worker = Some(held);
            *self.stopped.lock() = None;
            *self.trouble.lock() = None;
        }
        self.changed();
        true
    }

    /// A later horizon is stored.
    pub(super) fn raised(&self, horizon: u64) {
        self.generator.raise(horizon);
        *self.trouble.lock() = None;
        self.changed();
    }

    /// Gives out nothing any more, until a worker [begins](Self::begin). Gives the time that no id
    /// has reached.
    pub(super) fn stop(&self, why: Error) -> u64 {
        let free_from = {
            let mut worker = self.worker.lock();
            *worker = None;
            *self.stopped.lock() = Some(why);
            self.generator.stop()
        };
        self.changed();
        free_from
    }

    /// A horizon could not be stored.
    pub(super) fn failed(&self, why: Error) {
        *self.trouble.lock() = Some(why);
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Tells of each change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The number that ids are given out of, where it is held at this moment.
    pub(super) fn worker(&self) -> Option<KeptId> {
        if self.clocks.home().is_left_behind() {
            return None;
        }
        self.worker.lock().clone().filter(KeptId::is_held)
    }

    /// How storing a horizon or taking a number failed, where there is trouble.
    pub(super) fn last_error(&self) -> Option<Error> {
        let taking = self.keeper.lock().as_ref().and_then(InstanceIdKeeper::last_error);
        taking.or_else(|| self.trouble.lock().clone())
    }

    /// Why there will never be a worker again, where that is so.
    pub(super) fn is_over(&self) -> Option<Error> {
        if self.clocks.home().is_left_behind() {
            return Some(Error::closed(NEXT));
        }
        self.stopped.lock().clone().filter(|why| why.kind() != ErrorKind::LeaseLost)
    }

    /// The error of a call that got no id.
    #[cold]
    pub(super) fn error(&self, refusal: Refusal) -> Error {
        let error = match refusal {
            Refusal::Stopped | Refusal::Expired => self.is_over().unwrap_or_else(lost),
            Refusal::AtHorizon => {
                let fault = "no room is left below the horizon, and a later one is not stored yet";
                Error::new(ErrorKind::Unavailable, NEXT, fault)
            }
            Refusal::Exhausted(_) => {
                let fault = "more ids than there is time for, 4,096 in a millisecond; wait, or open \
                             another generator";
                Error::new(ErrorKind::Exhausted, NEXT, fault)
            }
        };
        let error = error.about(&self.service);
        match self.last_error().filter(|_| !matches!(refusal, Refusal::Exhausted(_))) {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

/// Why there is no id after a loss.
pub(super) fn lost() -> Error {
    Error::lease_lost(NEXT, "the worker's number is lost; another one is being taken")
}
