//! A space as its log has left it up to a position.

use std::collections::BTreeMap;

use super::Refusal;
use super::event::Sealed;
use super::id::{Hash, NodeId};
use super::log::{Entry, Head, LOG_FORMAT, chained};
use super::node::{Folded, Node, fold};
use super::path::Names;

/// Why an entry does not go on from here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Astray {
    /// Entries are missing: they were trimmed, take a snapshot (G10, G17).
    #[error("the log goes on at {found}, after {cursor}: what lies between was trimmed")]
    Trimmed {
        /// Up to where the log was folded.
        cursor: u64,
        /// Where it goes on.
        found: u64,
    },
    /// The log is not the one that was folded: the store was restored from a backup (G25).
    #[error("the log is another one at {cursor} than the one that was folded up to there")]
    AnotherLog {
        /// Up to where the log was folded.
        cursor: u64,
    },
    /// It cannot be read here.
    #[error(transparent)]
    Unreadable(#[from] Refusal),
}

/// A space as its log has left it up to a position. Two with the same position and epoch are
/// equal, wherever they are (G5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    names: Names,
    /// The epoch of the log.
    pub epoch: u32,
    /// Up to where the log was folded.
    pub cursor: u64,
    /// The chain there.
    pub chain: Hash,
    /// The files, deleted ones too.
    pub nodes: BTreeMap<NodeId, Node>,
}

impl State {
    /// Of a log of which nothing was folded.
    #[must_use]
    pub const fn new(names: Names, epoch: u32) -> Self {
        Self { names, epoch, cursor: 0, chain: Hash::ZERO, nodes: BTreeMap::new() }
    }

    /// Which paths are one.
    #[must_use]
    pub const fn names(&self) -> Names {
        self.names
    }

    /// Whether this build can read the log of `head`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Format`]: the reader stops visibly and skips nothing (G26).
    pub const fn can_read(head: &Head) -> Result<(), Refusal> {
        if head.format <= LOG_FORMAT {
            Ok(())
        } else {
            Err(Refusal::Format { found: head.format, known: LOG_FORMAT })
        }
    }

    /// Folds what of an entry lies behind the cursor, and tells of each event what it did. `most`
    /// bounds how many are folded: the rest is had from the same entry the next time.
    ///
    /// # Errors
    ///
    /// [`Astray`]; nothing was folded.
    pub fn fold<'a>(&mut self, entry: &'a Entry, most: usize) -> Result<Vec<(&'a Sealed, Folded)>, Astray> {
        if entry.first > self.cursor + 1 {
            return Err(Astray::Trimmed { cursor: self.cursor, found: entry.first });
        }
        let known = usize::try_from(self.cursor + 1 - entry.first).unwrap_or(usize::MAX);
        if known >= entry.events.len() {
            return Ok(Vec::new());
        }
        let chain = entry.events.iter().take(known).fold(entry.chain, chained);
        if chain != self.chain {
            return Err(Astray::AnotherLog { cursor: self.cursor });
        }
        let mut folded = Vec::new();
        for event in entry.events.iter().skip(known).take(most) {
            self.cursor += 1;
            self.chain = chained(self.chain, event);
            folded.push((event, self.fold_event(self.cursor, entry.received_ms, event)));
        }
        Ok(folded)
    }

    fn fold_event(&mut self, position: u64, received_ms: u64, event: &Sealed) -> Folded {
        let id = event.event().node;
        let (node, folded) = fold(self.names, self.nodes.remove(&id), position, received_ms, event.event());
        if let Some(node) = node {
            self.nodes.insert(id, node);
        }
        folded
    }

    /// How many versions there are: what the head's tally must come to.
    #[must_use]
    pub fn alive(&self) -> u64 {
        self.nodes.values().map(|node| node.siblings.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Event;
    use super::super::samples::write;
    use super::*;

    /// A log of three events in two entries.
    fn log() -> (Vec<Entry>, Head) {
        let mut head = Head::new(Names::Folded);
        let mut prev = Hash::ZERO;
        let mut entries = Vec::new();
        for events in [
            vec![write("a", 1, "1", &[]), write("a", 2, "2", &[("a", 1)])],
            vec![write("a", 3, "3", &[("a", 2)])],
        ] {
            let mut entry =
                Entry { received_ms: 1, first: head.position + 1, chain: head.chain, events: Vec::new() };
            for event in events {
                let sealed = Sealed::new(Event { prev, ..event }).unwrap();
                prev = sealed.hash();
                head.position += 1;
                head.chain = chained(head.chain, &sealed);
                entry.events.push(sealed);
            }
            entries.push(entry);
        }
        (entries, head)
    }

    #[test]
    fn a_cursor_may_lie_inside_of_an_entry() {
        let (entries, head) = log();
        let mut whole = State::new(Names::Folded, 1);
        let mut parts = whole.clone();
        for entry in &entries {
            whole.fold(entry, usize::MAX).unwrap();
            while !parts.fold(entry, 1).unwrap().is_empty() {}
        }
        assert_eq!((whole.cursor, whole.chain), (head.position, head.chain));
        assert_eq!(parts, whole);
        assert!(whole.fold(&entries[0], usize::MAX).unwrap().is_empty(), "it is known");
    }

    #[test]
    fn a_gap_tells_that_the_log_was_trimmed() {
        let (entries, _) = log();
        let mut state = State::new(Names::Folded, 1);
        let before = state.clone();
        assert_eq!(state.fold(&entries[1], 9), Err(Astray::Trimmed { cursor: 0, found: 3 }));
        assert_eq!(state, before);
    }

    #[test]
    fn a_log_that_went_another_way_is_told() {
        let (mut entries, _) = log();
        let mut state = State::new(Names::Folded, 1);
        state.fold(&entries[0], usize::MAX).unwrap();
        entries[1].chain = Hash::of_content(b"another");
        let before = state.clone();
        assert_eq!(state.fold(&entries[1], 9), Err(Astray::AnotherLog { cursor: 2 }));
        assert_eq!(state, before);
    }

    #[test]
    fn a_log_of_a_later_format_is_not_read() {
        let head = Head { format: LOG_FORMAT + 1, ..Head::new(Names::Folded) };
        assert!(matches!(State::can_read(&head), Err(Refusal::Format { .. })));
        assert_eq!(State::can_read(&Head::new(Names::Folded)), Ok(()));
    }
}
