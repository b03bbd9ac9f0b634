//! Faults on demand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::link::Links;
use crate::server::Shared;

/// A pause that is asked for without an end that a clock can tell ends after this.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What can be done to a [`FakeEtcd`](crate::FakeEtcd), from any thread. Nothing of it waits. Once
/// the server is gone, nothing of it has an effect.
#[derive(Clone, Debug)]
pub struct Faults {
    pub(crate) shared: Arc<Shared>,
    pub(crate) links: Links,
}

impl Faults {
    /// Forgets all history up to now, and returns the revision from which on there is some: reads
    /// at an older one and watches from an older one are refused. Watches that were told of
    /// everything go on.
    pub fn compact(&self) -> i64 {
        self.shared.with(|engine, _| {
            let revision = engine.revision();
            // It was done already where nothing happened since.
            let _ = engine.compact(revision);
            revision
        })
    }

    /// Lets the server stand still for this long, as a process that is stopped: connections stay
    /// open, new ones are not refused, and nothing is read nor answered. Leases run out meanwhile.
    /// A pause that is under way is replaced.
    pub fn pause(&self, duration: Duration) {
        let now = Instant::now();
        let until = now.checked_add(duration).or_else(|| now.checked_add(LONGEST_PAUSE));
        self.links.change(|disturbance| disturbance.paused = until);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.links.change(|disturbance| disturbance.paused = None);
    }

    /// Resets all connections, and returns how many there were. New ones are taken.
    pub fn drop_connections(&self) -> usize {
        let open = self.links.open();
        self.links.change(|disturbance| disturbance.resets += 1);
        open
    }

    /// Has new connections reset, or no longer. Those that are open stay.
    pub fn refuse_connections(&self, on: bool) {
        self.links.change(|disturbance| disturbance.refusing = on);
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.links.open()
    }

    /// Ends a lease now, as if its time were over, and says whether it was there.
    pub fn expire_lease(&self, id: i64) -> bool {
        self.shared.with(|engine, _| engine.revoke(id).is_ok())
    }

    /// The ids of all leases, that which ends first first.
    pub fn leases(&self) -> Vec<i64> {
        self.shared.with(|engine, _| engine.leases())
    }

    /// The store's revision.
    pub fn revision(&self) -> i64 {
        self.shared.with(|engine, _| engine.revision())
    }

    /// Raises the alarm that there is no space left, or disarms it. While it stands, puts,
    /// transactions with puts and grants of leases are refused.
    pub fn set_no_space(&self, on: bool) {
        self.shared.set_no_space(on);
    }

    /// Fails the next requests, whatever they are, and does nothing of what they ask. To open a
    /// stream is a request; those that are open go on. Replaces what was said before; 0 requests
    /// end it.
    pub fn fail_requests(&self, failure: Failure, requests: usize) {
        self.shared.failures.set(failure, requests);
    }
}
