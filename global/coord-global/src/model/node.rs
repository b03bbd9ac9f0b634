//! A file as the log has left it: the versions of it that nobody has seen together, and how an
//! event changes them (the fold).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clock::Hlc;
use super::event::{Body, Event, Strategy};
use super::id::{Dot, Hash};
use super::path::{Names, RelPath};
use super::sibling::{Sibling, covers};
use super::vector::VersionVector;
use super::visible::Visible;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// All that has become part of it.
    pub context: VersionVector,
    /// What nothing has covered, by the edit's name. One in peace; several while it is in
    /// conflict; never none.
    pub siblings: BTreeMap<Dot, Sibling>,
    /// Where its last event lies in the log.
    pub position: u64,
    /// Where it took the path that it has. Who was first has the path (G14).
    pub claimed: u64,
}

/// How a version ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// An edit covered it whose writer had seen it.
    Covered,
    /// A resolution kept it, as a part of what it keeps or as an equal of it.
    Kept,
    /// A resolution did not keep it, and lists it.
    Listed,
    /// A resolution made a file of its own of it.
    Forked,
    /// It was a deletion that all have seen long ago.
    Forgotten,
}

/// What an event did to its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Whether it did anything: who knows an event already skips it.
    pub applied: bool,
    /// Whether it left a version of its own.
    pub inserted: bool,
    /// The versions that ended, as they were.
    pub ended: Vec<(Dot, Sibling, End)>,
}

impl Node {
    /// What a reader sees of it; `None` for a node without any version, which no log makes.
    #[must_use]
    pub fn visible(&self) -> Option<Visible> {
        Visible::of(&self.siblings)
    }

    /// What somebody has seen of it who was shown its visible version: not what lost against it.
    #[must_use]
    pub fn seen(&self, visible: &Visible) -> VersionVector {
        let mut seen = self.context.clone();
        for loser in &visible.losers {
            seen.remove(loser);
            // Who has seen all that a resolution stands for has seen it: so one of those was not.
            let stands_for = self.siblings.get(loser).map_or(&[][..], |sibling| &sibling.stands_for);
            let of_others = |dot: &&Dot| visible.of.iter().all(|of| of.actor != dot.actor);
            if let Some(unseen) = stands_for.iter().find(of_others).or(stands_for.first()) {
                seen.remove(unseen);
            }
        }
        seen
    }

    /// A hash of all of it.
    #[must_use]
    pub fn digest(&self) -> Hash {
        // It is made of what was read from events, whose encoding has bounds.
        Hash::of("coord.global.node", &[&bcs::to_bytes(self).unwrap_or_default()])
    }

    /// The greatest time of its versions.
    #[must_use]
    pub fn latest(&self) -> Hlc {
        self.siblings.values().map(|sibling| sibling.version.time).max().unwrap_or_default()
    }
}

/// What an event that lies at `position` makes of its node; `received_ms` is when the coordinator
/// took it, in milliseconds since 1970. A function of the log alone (G5).
#[must_use]
pub fn fold(
    names: Names,
    node: Option<Node>,
    position: u64,
    received_ms: u64,
    event: &Event,
) -> (Option<Node>, Folded) {
    let known = |node: &Node| position <= node.position || node.context.contains(&event.dot);
    if node.as_ref().is_some_and(known) {
        return (node, Folded::default());
    }
    let before = node.as_ref().and_then(wanted_path);
    let mut folded = Folded { applied: true, ..Folded::default() };
    let mut node = match (node, &event.body) {
        (Some(node), _) => node,
        // It is forgotten already.
        (None, Body::Forget) => return (None, folded),
        (None, _) => {
            Node { context: VersionVector::new(), siblings: BTreeMap::new(), position, claimed: position }
        }
    };
    let latest = node.latest();

    let mut siblings = BTreeMap::new();
    for (dot, sibling) in std::mem::take(&mut node.siblings) {
        if covers(&event.context, &dot, &sibling) {
            let end = how_it_ends(event, &dot);
            folded.ended.push((dot, sibling, end));
        } else {
            siblings.insert(dot, sibling);
        }
    }
    node.siblings = siblings;
    if let Some(version) = event.version() {
        let mut version = version.clone();
        // Who follows another is later than that one, also where the coordinator's clock is behind.
        let cap = Hlc::after(received_ms.saturating_add(super::clock::AHEAD_MS), latest);
        version.time = version.time.min(cap);
        let stands_for = match &event.body {
            Body::Resolve { stands_for, .. } => stands_for.clone(),
            _ => Vec::new(),
        };
        node.siblings.insert(event.dot.clone(), Sibling { version, stands_for });
        folded.inserted = true;
    }
    if node.siblings.is_empty() {
        return (None, folded);
    }
    node.context.join(&event.context);
    node.context.insert(&event.dot);
    node.position = position;
    let keeps_it = match (before, wanted_path(&node)) {
        (Some(before), Some(now)) => before == now || names.fold(before.as_str()) == names.fold(now.as_str()),
        (None, None) => true,
        _ => false,
    };
    if !keeps_it {
        node.claimed = position;
    }
    (Some(node), folded)
}

/// The path that a file wants; `None` if it is not there.
fn wanted_path(node: &Node) -> Option<RelPath> {
    let mut siblings = node.siblings.values();
    match (siblings.next(), siblings.next()) {
        // In peace, which is nearly always, there is nothing to join.
        (Some(only), None) => (!only.version.is_deleted()).then(|| only.version.path.clone()),
        _ => {
            let visible = node.visible()?;
            (!visible.is_deleted()).then_some(visible.version.path)
        }
    }
}

fn how_it_ends(by: &Event, dot: &Dot) -> End {
    match &by.body {
        Body::Write(_) | Body::Fork { .. } => End::Covered,
        Body::Forget => End::Forgotten,
        Body::Resolve { losers, by, .. } if losers.contains(dot) => match by {
            Strategy::Fork => End::Forked,
            Strategy::LastWriterWins | Strategy::Merge | Strategy::Manual => End::Listed,
        },
        Body::Resolve { .. } => End::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Sample, actor, delete, dot, write};
    use super::*;

    #[test]
    fn who_has_seen_covers_who_has_not_stands_beside() {
        let mut sample = Sample::new();
        sample.fold(write("a", 1, "one", &[]));
        sample.fold(write("b", 1, "two", &[("a", 1)]));
        assert_eq!(sample.siblings(), [dot("b", 1)]);
        sample.fold(write("c", 1, "three", &[("a", 1)]));
        assert_eq!(sample.siblings(), [dot("b", 1), dot("c", 1)]);
    }

    #[test]
    fn an_event_is_folded_once() {
        let mut sample = Sample::new();
        let first = write("a", 1, "one", &[]);
        sample.fold(first.clone());
        let before = sample.node.clone();
        assert!(!sample.fold(first.clone()).applied, "its node knows its name");
        assert_eq!(sample.node, before);
        let (node, folded) = fold(Names::Folded, before.clone(), 1, 0, &write("b", 1, "two", &[]));
        assert!(!folded.applied, "its node has seen that position");
        assert_eq!(node, before);
    }

    #[test]
    fn who_saw_all_that_a_resolution_stands_for_saw_it() {
        let mut sample = Sample::new();
        sample.fold(write("a", 1, "one", &[]));
        sample.fold(write("b", 1, "two", &[]));
        sample.fold(sample.resolve());
        assert_eq!(sample.siblings(), [Dot::new(Actor::lead(1), 1)]);
        let mut one = sample.clone();
        one.fold(delete("c", 1, &[("a", 1)]));
        assert_eq!(one.siblings().len(), 2, "it has not seen the other");
        sample.fold(delete("c", 1, &[("a", 1), ("b", 1)]));
        assert_eq!(sample.siblings(), [dot("c", 1)]);
        assert!(sample.node.unwrap().visible().unwrap().version.is_deleted());
    }

    use super::super::id::Actor;

    #[test]
    fn a_resolution_of_a_resolution_stands_for_all_of_it() {
        let mut sample = Sample::new();
        sample.fold(write("a", 1, "one", &[]));
        sample.fold(write("b", 1, "two", &[]));
        sample.fold(sample.resolve());
        sample.fold(write("c", 1, "three", &[]));
        sample.fold(sample.resolve());
        sample.fold(delete("d", 1, &[("a", 1), ("b", 1), ("c", 1)]));
        assert_eq!(sample.siblings(), [dot("d", 1)]);
    }

    #[test]
    fn a_time_counts_for_no_more_than_its_arrival() {
        let mut sample = Sample::new();
        sample.at = 1_000_000;
        let mut far = write("a", 1, "one", &[]);
        far.set_time(Hlc::at(u64::MAX));
        sample.fold(far);
        assert_eq!(sample.node.as_ref().unwrap().latest(), Hlc::at(1_005_000));
        // The coordinator's clock goes back: who follows is later all the same.
        sample.at = 10;
        let mut next = write("b", 1, "two", &[("a", 1)]);
        next.set_time(Hlc::after(1_000_001, Hlc::at(1_005_000)));
        sample.fold(next);
        assert!(sample.node.as_ref().unwrap().latest() > Hlc::at(1_005_000));
    }

    #[test]
    fn a_file_keeps_its_claim_within_a_path_and_takes_a_new_one_with_another() {
        let mut sample = Sample::new();
        sample.fold(write("a", 1, "one", &[]));
        assert_eq!(sample.node.as_ref().unwrap().claimed, 1);
        let mut other_case = write("a", 2, "one", &[("a", 1)]);
        other_case.set_path("FILE");
        sample.fold(other_case);
        assert_eq!(sample.node.as_ref().unwrap().claimed, 1);
        let mut renamed = write("a", 3, "one", &[("a", 2)]);
        renamed.set_path("other");
        sample.fold(renamed);
        assert_eq!(sample.node.as_ref().unwrap().claimed, 3);
    }

    #[test]
    fn what_is_not_shown_was_not_seen() {
        let mut sample = Sample::new();
        sample.fold(write("a", 1, "one", &[]));
        sample.fold(write("b", 1, "two", &[]));
        let node = sample.node.clone().unwrap();
        let visible = node.visible().unwrap();
        assert_eq!(visible.of, [dot("b", 1)]);
        assert_eq!(node.seen(&visible), [dot("b", 1)].into_iter().collect());
        assert_eq!(node.seen(&visible).get(&actor("a")), 0);
    }

    #[test]
    fn a_forgotten_deletion_leaves_nothing() {
        let mut sample = Sample::new();
        sample.fold(write("a", 1, "one", &[]));
        sample.fold(delete("a", 2, &[("a", 1)]));
        let folded = sample.fold(sample.forget());
        assert_eq!(sample.node, None);
        assert_eq!(folded.ended.len(), 1);
        assert_eq!(folded.ended[0].2, End::Forgotten);
    }

    /// A page of a snapshot may be newer than the moment in which the snapshot began: what the log
    /// has of a file up to its position is in it already. Its context does not tell that where the
    /// file was forgotten in between.
    #[test]
    fn a_page_of_a_snapshot_needs_the_position_of_its_file() {
        let mut log = Sample::new();
        let first = write("a", 1, "one", &[]);
        let deletion = delete("a", 2, &[("a", 1)]);
        let late = write("b", 1, "two", &[]);
        log.fold(first.clone());
        log.fold(deletion.clone());
        let forget = log.forget();
        for event in [forget.clone(), late.clone()] {
            log.fold(event);
        }
        let page = log.node.clone();
        let events = [first, deletion, forget, late];
        let read = |mut node: Option<Node>| {
            for (position, event) in (1..).zip(&events) {
                node = fold(Names::Folded, node.take(), position, log.at, event).0;
            }
            node
        };
        assert_eq!(read(page.clone()), page);
        let without = page.clone().map(|node| Node { position: 0, ..node });
        assert_ne!(read(without).unwrap().context, page.unwrap().context);
    }
}
