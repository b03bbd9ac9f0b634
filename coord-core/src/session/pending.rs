//! Releases that the store has not acknowledged (R9).

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use coord_api::Revision;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The pending releases of one session. Bounded by what was acquired: each was a handle, or a call
/// under way.
///
/// A release has the number of the entry that left it: one key can have several, when it was
/// acquired again before its first release was acknowledged, and what ends the one says nothing
/// about the other.
#[derive(Debug, Default)]
pub(super) struct PendingReleases {
    releases: Mutex<Releases>,
    added: Notify,
}

/// Each step but the look for the oldest costs the same however many there are: handles are dropped
/// by the thousand, on the thread of whoever drops them.
#[derive(Debug, Default)]
struct Releases {
    by_number: BTreeMap<u64, Release>,
    /// The numbers of the releases of each key.
    by_key: HashMap<Bytes, Vec<u64>>,
}

/// An entry that must go.
#[derive(Clone, Debug)]
pub(super) struct Release {
    /// The number of the entry.
    pub(super) number: u64,
    pub(super) key: Bytes,
    /// The entry's mod revision; `None` while it is not known whether it was ever written.
    pub(super) modified: Option<Revision>,
    /// Since when it is pending.
    pub(super) since: Instant,
}

impl Releases {
    fn add(&mut self, release: Release) {
        let Release { number, modified, .. } = release;
        let key = release.key.clone();
        // A release that failed again is pending since it first failed.
        let mut new = false;
        self.by_number.entry(number).and_modify(|release| release.modified = modified).or_insert_with(|| {
            new = true;
            release
        });
        if new {
            self.by_key.entry(key).or_default().push(number);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(release) = self.by_number.remove(&number) else { return };
        if let Some(numbers) = self.by_key.get_mut(&release.key) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_key.remove(&release.key);
            }
        }
    }

    /// The releases of a key of which it is known that they were written.
    fn of_written(&self, key: &Bytes) -> Vec<u64> {
        let numbers = self.by_key.get(key).map(Vec::as_slice).unwrap_or_default();
        let written =
            |number: &u64| self.by_number.get(number).is_some_and(|release| release.modified.is_some());
        numbers.iter().copied().filter(written).collect()
    }
}

impl PendingReleases {
    /// Takes over a release. Never blocks; works outside of a runtime.
    pub(super) fn add(&self, release: Release) {
        self.releases.lock().add(release);
        self.added.notify_one();
    }

    /// Forgets the release of an entry, which its handle has done meanwhile.
    pub(super) fn forget(&self, number: u64) {
        self.releases.lock().remove(number);
    }

    /// Forgets the releases of a key, because a new entry was written over what they would remove.
    /// The release of an entry that was perhaps not written yet stays pending: its write may be
    /// under way still, and be applied once the new entry is gone.
    pub(super) fn written_over(&self, key: &Bytes) {
        let mut releases = self.releases.lock();
        for number in releases.of_written(key) {
            releases.remove(number);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.releases.lock().by_number.is_empty()
    }

    /// Since when the oldest one is pending.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.releases.lock().by_number.values().map(|release| release.since).min()
    }

    /// As many as fit into one transaction, the oldest numbers first.
    pub(super) fn some(&self, limit: usize) -> Vec<Release> {
        self.releases.lock().by_number.values().take(limit).cloned().collect()
    }

    /// The store has acknowledged these.
    pub(super) fn acknowledged(&self, numbers: &HashSet<u64>) {
        let mut releases = self.releases.lock();
        numbers.iter().for_each(|number| releases.remove(*number));
    }

    /// Resolves when one was added since the last time. A permit is stored when one comes between a
    /// look and the wait.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn release(number: u64, key: &'static str, modified: Option<u64>, since: Instant) -> Release {
        Release { number, key: key.into(), modified: modified.map(Revision::new), since }
    }

    fn numbers(pending: &PendingReleases) -> Vec<u64> {
        pending.some(usize::MAX).iter().map(|release| release.number).collect()
    }

    #[test]
    fn one_key_can_have_several_and_each_ends_by_itself() {
        let (pending, now) = (PendingReleases::default(), Instant::now());
        pending.add(release(1, "k", Some(5), now));
        pending.add(release(2, "k", Some(6), now));
        pending.forget(1);
        assert_eq!(numbers(&pending), [2]);
        pending.acknowledged(&HashSet::from([2, 7]));
        assert!(pending.is_empty());
    }

    #[test]
    fn what_failed_again_is_as_old_as_it_was() {
        let (pending, now) = (PendingReleases::default(), Instant::now());
        pending.add(release(1, "k", None, now));
        pending.add(release(1, "k", Some(5), now + Duration::from_secs(9)));
        assert_eq!(pending.oldest(), Some(now));
        assert_eq!(pending.some(9).first().and_then(|release| release.modified), Some(Revision::new(5)));
    }

    #[test]
    fn what_is_written_over_needs_no_release_but_a_doubt_stays() {
        let (pending, now) = (PendingReleases::default(), Instant::now());
        pending.add(release(1, "k", Some(5), now));
        pending.add(release(2, "k", None, now));
        pending.add(release(3, "other", Some(5), now));
        pending.written_over(&"k".into());
        assert_eq!(numbers(&pending), [2, 3]);
    }
}
