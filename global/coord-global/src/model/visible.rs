//! What a reader sees of a file: a pure function of the versions that nothing has covered (G12).

use std::collections::BTreeMap;

use super::event::{Fields, Version};
use super::id::Dot;
use super::sibling::Sibling;

/// What a reader sees of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible {
    /// The file.
    pub version: Version,
    /// The edits that it shows: the one that leads first, then those that are joined with it or
    /// equal to it.
    pub of: Vec<Dot>,
    /// The edits that it does not show.
    pub losers: Vec<Dot>,
}

impl Visible {
    /// The latest edit leads. Each next one joins it that started from the same and changed other
    /// fields, as a rename and an edit of the content do; one that agrees in all that it changed is
    /// no other. Whatever is left over has lost. A deletion loses against an edit of the content
    /// and wins against all else.
    ///
    /// `None` for no versions at all.
    #[must_use]
    pub fn of(siblings: &BTreeMap<Dot, Sibling>) -> Option<Self> {
        let mut latest_first: Vec<(&Dot, &Version)> =
            siblings.iter().map(|(dot, sibling)| (dot, &sibling.version)).collect();
        latest_first
            .sort_by(|(dot, version), (other_dot, other)| (other.time, other_dot).cmp(&(version.time, dot)));
        let (deleted, mut alive): (Vec<_>, Vec<_>) =
            latest_first.into_iter().partition(|(_, version)| version.is_deleted());

        if !deleted.is_empty() {
            // Only an edit of the content stands up to a deletion; it leads, and a rename may join.
            match alive.iter().position(|(_, version)| version.changed.has(Fields::CONTENT)) {
                Some(at) => {
                    let lead = alive.remove(at);
                    alive.insert(0, lead);
                }
                None => {
                    let losers = alive.into_iter().map(|(dot, _)| dot.clone()).collect();
                    return Self::join(deleted, losers);
                }
            }
        }
        Self::join(alive, deleted.into_iter().map(|(dot, _)| dot.clone()).collect())
    }

    /// The first of `versions` and all that go together with it.
    fn join(versions: Vec<(&Dot, &Version)>, mut losers: Vec<Dot>) -> Option<Self> {
        let mut versions = versions.into_iter();
        let (lead, version) = versions.next()?;
        let mut visible = Self { version: version.clone(), of: vec![lead.clone()], losers: Vec::new() };
        for (dot, other) in versions {
            let joined = &mut visible.version;
            let same_base = other.base.is_some() && other.base == version.base;
            let fits = if other.is_deleted() || joined.is_deleted() {
                other.is_deleted() && joined.is_deleted()
            } else if other.agrees(joined, other.changed) {
                true
            } else if same_base && other.changed.is_disjoint(joined.changed) {
                joined.take(other, other.changed);
                true
            } else {
                false
            };
            if fits {
                joined.changed = joined.changed.with(other.changed);
                visible.of.push(dot.clone());
            } else {
                losers.push(dot.clone());
            }
        }
        visible.losers = losers;
        Some(visible)
    }

    /// The edit that leads.
    #[must_use]
    pub fn lead(&self) -> Option<&Dot> {
        self.of.first()
    }

    /// Whether it is shown that the file is deleted.
    #[must_use]
    pub const fn is_deleted(&self) -> bool {
        self.version.is_deleted()
    }

    /// Whether there is anything that it does not show.
    #[must_use]
    pub fn is_in_conflict(&self) -> bool {
        !self.losers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::samples::{content, delete, dot, file, sibling, write};
    use super::*;

    fn seen(versions: &[(&str, Version)]) -> Visible {
        let siblings =
            versions.iter().map(|(actor, version)| (dot(actor, 1), sibling(version.clone()))).collect();
        Visible::of(&siblings).unwrap()
    }

    fn renamed(path: &str, time: u64) -> Version {
        Version {
            changed: Fields::PATH,
            base: Some(file("one", 0).shows()),
            ..file("one", time).at_path(path)
        }
    }

    fn edited(text: &str, time: u64) -> Version {
        Version { changed: Fields::CONTENT, base: Some(file("one", 0).shows()), ..file(text, time) }
    }

    fn noted(note: &str, time: u64) -> Version {
        let mut version =
            Version { changed: Fields::META, base: Some(file("one", 0).shows()), ..file("one", time) };
        version.meta.insert("note".to_owned(), note.to_owned());
        version
    }

    fn deleted(time: u64) -> Version {
        Version { time: super::super::clock::Hlc::at(time), ..delete("x", 1, &[]).version().unwrap().clone() }
    }

    #[test]
    fn the_latest_leads_and_the_dot_decides_within_one_time() {
        assert_eq!(seen(&[("a", edited("x", 2)), ("b", edited("y", 1))]).of, [dot("a", 1)]);
        assert_eq!(seen(&[("a", edited("x", 1)), ("b", edited("y", 1))]).of, [dot("b", 1)]);
    }

    #[test]
    fn a_rename_an_edit_and_a_note_go_together() {
        for times in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let visible = seen(&[
                ("a", renamed("other", times[0])),
                ("b", edited("two", times[1])),
                ("c", noted("n", times[2])),
            ]);
            assert_eq!(visible.losers, []);
            assert_eq!(visible.version.path.as_str(), "other");
            assert_eq!(visible.version.content, content("two"));
            assert_eq!(visible.version.meta["note"], "n");
            assert_eq!(visible.version.changed, Fields::ALL);
        }
    }

    #[test]
    fn two_edits_of_one_field_do_not_go_together_whatever_joins_them() {
        let visible = seen(&[
            ("a", edited("two", 3)),
            ("b", renamed("other", 2)),
            ("c", edited("three", 1)),
            ("d", renamed("third", 1)),
        ]);
        assert_eq!(visible.version.content, content("two"));
        assert_eq!(visible.version.path.as_str(), "other");
        assert_eq!(visible.losers, [dot("d", 1), dot("c", 1)]);
    }

    #[test]
    fn what_started_from_something_else_does_not_join() {
        let from_elsewhere = Version { base: Some(file("zero", 0).shows()), ..renamed("other", 1) };
        let visible = seen(&[("a", edited("two", 2)), ("b", from_elsewhere)]);
        assert_eq!(visible.losers, [dot("b", 1)]);
    }

    #[test]
    fn equals_are_one_and_stay_so() {
        let visible = seen(&[("a", edited("two", 1)), ("b", edited("two", 2))]);
        assert_eq!(visible.losers, []);
        // An equal of what nobody of the others changed: a third must not change it behind it.
        let visible = seen(&[("a", renamed("other", 3)), ("b", edited("one", 2)), ("c", edited("two", 1))]);
        assert_eq!(visible.version.content, content("one"));
        assert_eq!(visible.losers, [dot("c", 1)]);
    }

    #[test]
    fn an_edit_beats_a_deletion_and_a_rename_does_not() {
        let visible = seen(&[("a", edited("two", 1)), ("b", deleted(9))]);
        assert_eq!((visible.version.content, &visible.losers[..]), (content("two"), &[dot("b", 1)][..]));
        let visible = seen(&[("a", renamed("other", 9)), ("b", deleted(1))]);
        assert!(visible.is_deleted());
        assert_eq!(visible.losers, [dot("a", 1)]);
        // With an edit, the rename has something to join.
        let visible = seen(&[("a", renamed("other", 9)), ("b", deleted(5)), ("c", edited("two", 1))]);
        assert_eq!((visible.version.path.as_str(), visible.version.content), ("other", content("two")));
        assert_eq!(visible.losers, [dot("b", 1)]);
    }

    #[test]
    fn deletions_are_no_conflict() {
        let visible = seen(&[("a", deleted(1)), ("b", deleted(2))]);
        assert!(visible.is_deleted() && !visible.is_in_conflict());
    }

    fn versions() -> impl Strategy<Value = Vec<Version>> {
        let version = (0_u8..4, 0_u8..3, 0_u64..4).prop_map(|(kind, value, time)| match kind {
            0 => renamed(["p", "q", "r"][usize::from(value)], time),
            1 => edited(["one", "two", "three"][usize::from(value)], time),
            2 => noted(["x", "y", "z"][usize::from(value)], time),
            _ => deleted(time),
        });
        proptest::collection::vec(version, 1..7)
    }

    proptest! {
        /// In whatever order concurrent edits come, the file looks the same; each is shown or has
        /// lost; and what is shown has all that the shown ones changed.
        #[test]
        fn the_order_of_arrival_is_not_seen(versions in versions(), order in any::<u64>()) {
            use super::super::samples::Sample;
            let events: Vec<_> = versions
                .iter()
                .enumerate()
                .map(|(at, version)| {
                    let mut event = write(["a", "b", "c", "d", "e", "f"][at], 1, "x", &[]);
                    event.body = super::super::event::Body::Write(version.clone());
                    event
                })
                .collect();
            let mut shuffled = events.clone();
            fastrand::Rng::with_seed(order).shuffle(&mut shuffled);
            let (mut one, mut other) = (Sample::new(), Sample::new());
            events.into_iter().for_each(|event| drop(one.fold(event)));
            shuffled.into_iter().for_each(|event| drop(other.fold(event)));
            let (one, other) = (one.node.unwrap(), other.node.unwrap());
            let visible = one.visible().unwrap();
            prop_assert_eq!(&visible, &other.visible().unwrap());
            prop_assert_eq!(visible.of.len() + visible.losers.len(), versions.len());
            for shown in &visible.of {
                let version = &one.siblings[shown].version;
                prop_assert!(version.is_deleted() == visible.is_deleted());
                prop_assert!(visible.is_deleted() || version.agrees(&visible.version, version.changed));
            }
        }
    }
}
