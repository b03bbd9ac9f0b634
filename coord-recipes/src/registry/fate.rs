//! What a watch has told of one entry. Pure, and of constant size however much happens to the
//! entry.

use coord_api::Revision;
use coord_api::store::{Change, Entry};

/// What became of an entry in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was removed.
    Gone,
    /// A foreign owner wrote over it, or in its place.
    Foreign,
}

/// What a watch has told of one entry so far.
///
/// An entry that is not there any more was removed, and must be written again (R37); or a foreign
/// owner took its place and left, and it must not be (R34). Only what happened in between tells, so
/// the last of each kind is remembered.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// When it was last written by a foreign owner.
    foreign: Revision,
    /// When it was last found to be gone.
    gone: Revision,
    /// What was found in a store that replaced the one in which it was written: revisions do not
    /// compare.
    replaced: Option<Verdict>,
}

impl Fate {
    /// The entry was changed. `ours` tells the owner's own entries from foreign ones.
    pub(super) fn change(&mut self, change: &Change, revision: Revision, ours: impl Fn(&Entry) -> bool) {
        match change {
            Change::Put(entry) if ours(entry) => {}
            Change::Put(entry) => self.foreign = self.foreign.max(entry.modified),
            Change::Delete { .. } => self.gone = self.gone.max(revision),
        }
    }

    /// History was lost, and this is what stood there at `revision`; in another store, where that
    /// was `replaced` (R19, S1).
    pub(super) fn resync(
        &mut self,
        found: Option<&Entry>,
        revision: Revision,
        replaced: bool,
        ours: impl Fn(&Entry) -> bool,
    ) {
        let verdict = match found {
            Some(entry) if ours(entry) => None,
            Some(_) => Some(Verdict::Foreign),
            None => Some(Verdict::Gone),
        };
        match (verdict, found) {
            (verdict, _) if replaced => *self = Fate { replaced: verdict, ..Fate::default() },
            (Some(Verdict::Foreign), Some(entry)) => self.foreign = self.foreign.max(entry.modified),
            (Some(_), _) => self.gone = self.gone.max(revision),
            (None, _) => {}
        }
    }

    /// It was written anew: what another store held does not matter any more.
    pub(super) fn placed(&mut self) {
        self.replaced = None;
    }

    /// What became of the entry that was written at `known`.
    pub(super) fn verdict(&self, known: Revision) -> Option<Verdict> {
        match self.replaced {
            Some(verdict) => Some(verdict),
            None if self.foreign > known => Some(Verdict::Foreign),
            None if self.gone > known => Some(Verdict::Gone),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use coord_api::LeaseId;

    use super::*;

    const OURS: LeaseId = LeaseId::new(1);

    fn rev(number: u64) -> Revision {
        Revision::new(number)
    }

    fn entry(modified: u64, lease: u64) -> Entry {
        let (key, value) = ("k".into(), "v".into());
        Entry { key, value, created: rev(1), modified: rev(modified), lease: Some(LeaseId::new(lease)) }
    }

    fn ours(entry: &Entry) -> bool {
        entry.lease == Some(OURS)
    }

    fn fate(changes: &[(u64, Option<u64>)]) -> Fate {
        let mut fate = Fate::default();
        for (revision, written_by) in changes {
            let change = match written_by {
                Some(lease) => Change::Put(entry(*revision, *lease)),
                None => Change::Delete { key: "k".into() },
            };
            fate.change(&change, rev(*revision), ours);
        }
        fate
    }

    #[test]
    fn what_happened_before_the_entry_was_written_does_not_count() {
        let fate = fate(&[(3, Some(9)), (4, None), (5, Some(1))]);
        assert_eq!(fate.verdict(rev(5)), None);
        assert_eq!(fate.verdict(rev(3)), Some(Verdict::Gone));
        assert_eq!(fate.verdict(rev(2)), Some(Verdict::Foreign));
    }

    #[test]
    fn a_foreign_owner_who_came_and_left_is_told_from_a_removal() {
        assert_eq!(fate(&[(6, None)]).verdict(rev(5)), Some(Verdict::Gone));
        assert_eq!(fate(&[(6, Some(9)), (7, None)]).verdict(rev(5)), Some(Verdict::Foreign));
        assert_eq!(fate(&[(6, None), (7, Some(9))]).verdict(rev(5)), Some(Verdict::Foreign));
    }

    #[test]
    fn a_state_says_what_the_changes_before_it_would_have() {
        let mut fate = fate(&[]);
        fate.resync(Some(&entry(5, 1)), rev(8), false, ours);
        assert_eq!(fate.verdict(rev(5)), None);
        fate.resync(None, rev(9), false, ours);
        assert_eq!(fate.verdict(rev(5)), Some(Verdict::Gone));
        assert_eq!(fate.verdict(rev(10)), None, "it was written after the state was read");
        fate.resync(Some(&entry(7, 9)), rev(9), false, ours);
        assert_eq!(fate.verdict(rev(5)), Some(Verdict::Foreign));
    }

    #[test]
    fn in_another_store_revisions_do_not_compare_until_it_is_written_there() {
        let mut fate = fate(&[(50, Some(9))]);
        fate.resync(None, rev(3), true, ours);
        assert_eq!(fate.verdict(rev(100)), Some(Verdict::Gone));
        fate.placed();
        assert_eq!(fate.verdict(rev(4)), None);
        fate.resync(Some(&entry(3, 9)), rev(5), true, ours);
        assert_eq!(fate.verdict(rev(100)), Some(Verdict::Foreign));
    }
}
