//! The releases that a watcher knows of: which they are, and which of them are for its instance.
//! Pure: nothing is read or awaited here.

use std::collections::HashMap;

use bytes::Bytes;
use coord_api::Revision;
use coord_api::store::{Batch, Change, Entry};
use coord_core::keys;

use super::record;
use super::targets::GrayIdentity;

/// A release, of which no more is kept than this: its value is read when it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    version: Revision,
    /// Whether it is for the instance.
    own: bool,
}

/// The releases of a scope as of a revision.
#[derive(Debug, Default)]
pub(super) struct Releases {
    by_key: HashMap<Bytes, Known>,
    /// They are known up to here.
    checked: Revision,
}

impl Releases {
    /// Those that were found at a revision.
    pub(super) fn of(instance: &GrayIdentity, entries: &[Entry], checked: Revision) -> Self {
        let known = |entry: &Entry| (entry.key.clone(), Known::of(instance, entry));
        Releases { by_key: entries.iter().map(known).collect(), checked }
    }

    /// Up to where they are known.
    pub(super) fn checked(&self) -> Revision {
        self.checked
    }

    /// Takes in what has changed, and says whether that concerns the instance.
    pub(super) fn apply(&mut self, instance: &GrayIdentity, batch: &Batch) -> bool {
        if batch.revision <= self.checked {
            return false;
        }
        self.checked = batch.revision;
        let mut concerns = false;
        for change in &batch.changes {
            let (before, now) = match change {
                Change::Put(entry) => {
                    let now = Known::of(instance, entry);
                    (self.by_key.insert(entry.key.clone(), now), now.own)
                }
                Change::Delete { key } => (self.by_key.remove(key), false),
            };
            concerns |= now || before.is_some_and(|before| before.own);
        }
        concerns
    }

    /// Whether these keys are there, as they are known, and no others. Then they are known up to
    /// `revision`.
    pub(super) fn confirm(&mut self, keys: &[Entry], revision: Revision) -> bool {
        let is_known =
            |entry: &Entry| self.by_key.get(&entry.key).is_some_and(|known| known.version == entry.modified);
        let confirmed = keys.len() == self.by_key.len() && keys.iter().all(is_known);
        if confirmed {
            self.checked = self.checked.max(revision);
        }
        confirmed
    }

    /// Takes these instead, and says whether what has changed concerns the instance.
    pub(super) fn replace(&mut self, with: Releases) -> bool {
        let before = std::mem::replace(self, with);
        let own = |all: &Releases| {
            let own = all.by_key.iter().filter(|(_, known)| known.own);
            own.map(|(key, known)| (key.clone(), known.version)).collect::<HashMap<_, _>>()
        };
        own(&before) != own(self)
    }

    /// Whether a change of the base is of a key that has a release for the instance.
    pub(super) fn hide(&self, change: &Change) -> bool {
        if self.by_key.is_empty() {
            return false;
        }
        let Some(key) = change.key().strip_prefix(keys::CONFIG.as_bytes()) else { return false };
        let key = [keys::GRAY.as_bytes(), key].concat();
        self.by_key.get(key.as_slice()).is_some_and(|known| known.own)
    }
}

impl Known {
    fn of(instance: &GrayIdentity, entry: &Entry) -> Self {
        Known { version: entry.modified, own: record::is_for(instance, entry) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "{\"targets\":{\"ids\":[\"me\"]}}\n1";
    const YOU: &str = "{\"targets\":{\"ids\":[\"you\"]}}\n1";

    fn entry(name: &str, value: &'static str, modified: u64) -> Entry {
        Entry {
            key: format!("/config-gray/{name}").into(),
            value: value.into(),
            created: Revision::new(1),
            modified: Revision::new(modified),
            lease: None,
        }
    }

    fn put(name: &str, value: &'static str, revision: u64) -> Batch {
        Batch { revision: Revision::new(revision), changes: vec![Change::Put(entry(name, value, revision))] }
    }

    fn delete(name: &str, revision: u64) -> Batch {
        let key = format!("/config-gray/{name}").into();
        Batch { revision: Revision::new(revision), changes: vec![Change::Delete { key }] }
    }

    fn hides(releases: &Releases, name: &str) -> bool {
        releases.hide(&Change::Delete { key: format!("/config/{name}").into() })
    }

    #[test]
    fn what_begins_ends_or_changes_for_the_instance_concerns_it() {
        let me = GrayIdentity::new("me");
        let mut releases = Releases::default();
        for (batch, concerns) in [
            (put("a", ME, 2), true),
            (put("a", ME, 3), true),
            (put("b", YOU, 4), false),
            (put("a", YOU, 5), true),
            (put("a", YOU, 6), false),
            (delete("a", 7), false),
            (put("b", ME, 8), true),
            (delete("b", 9), true),
            (delete("b", 10), false),
            (put("a", ME, 10), false),
        ] {
            assert_eq!(releases.apply(&me, &batch), concerns, "{batch:?}");
        }
        assert_eq!((releases.checked(), releases.by_key.len()), (Revision::new(10), 0));
    }

    #[test]
    fn the_base_is_hidden_where_a_release_is_for_the_instance() {
        let me = GrayIdentity::new("me");
        let found = [entry("a", ME, 2), entry("b", YOU, 2)];
        let releases = Releases::of(&me, &found, Revision::new(2));
        assert_eq!(["a", "b", "c"].map(|name| hides(&releases, name)), [true, false, false]);
    }

    #[test]
    fn what_is_there_is_confirmed_or_taken_instead() {
        let me = GrayIdentity::new("me");
        let found = [entry("a", ME, 2), entry("b", YOU, 2)];
        let mut releases = Releases::of(&me, &found, Revision::new(2));
        assert!(releases.confirm(&found, Revision::new(5)));
        assert_eq!(releases.checked(), Revision::new(5));
        let written = [entry("a", ME, 2), entry("b", YOU, 6)];
        for other in [&found[..1], &[entry("a", ME, 2), entry("c", YOU, 2)], &written] {
            assert!(!releases.confirm(other, Revision::new(9)), "{other:?}");
        }
        assert!(!releases.replace(Releases::of(&me, &written, Revision::new(9))), "it is for another one");
        assert!(releases.replace(Releases::of(&me, &written[1..], Revision::new(9))));
        assert!(releases.replace(Releases::of(&me, &found, Revision::new(9))));
    }
}
