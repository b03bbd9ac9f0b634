//! A region's own edits that its fold of the log does not have yet (G3).
//!
//! An edit is *pending* from the save on: a save on top of it replaces it, with the newest content
//! and the first context, so that ten thousand saves are one event. On top means that the disk
//! showed it: one that gave way to somebody else's version is moved aside, and sealed as it is. It
//! is *sealed* when its content is at the coordinator: then it has its name and its bytes for good.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Sealed, Version};
use super::id::{Dot, EditId, Hash, NodeId};
use super::tracked::Tracked;
use super::vector::VersionVector;

/// Whether it is known that an edit was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Nobody else has it.
    Own,
    /// An incarnation before this one had it, and whether it was accepted is not known yet. If that
    /// one had sealed it, under this name and with this hash.
    InDoubt(Option<(Dot, Hash)>),
}

/// An edit that has no name yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The save.
    pub edit: EditId,
    /// The file.
    pub node: NodeId,
    /// What of it stood on the disk when it was edited first.
    pub context: VersionVector,
    /// The file as the save leaves it.
    pub version: Version,
    /// The edit that it was made on top of, while that has no name either.
    pub on_top_of: Option<EditId>,
    /// Whether it is known that it was not accepted.
    pub standing: Standing,
}

/// Which edits there are of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Edits {
    sealed: Vec<u64>,
    pending: Vec<u64>,
}

/// A region's edits, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    pub(crate) sealed: Tracked<u64, Sealed>,
    pub(crate) pending: Tracked<u64, Pending>,
    by_node: BTreeMap<NodeId, Edits>,
    /// The number of the last pending edit that there was.
    pub(crate) last: u64,
}

impl Outbox {
    /// As it was written down.
    pub(crate) fn restored(sealed: Tracked<u64, Sealed>, pending: Tracked<u64, Pending>, last: u64) -> Self {
        let mut by_node: BTreeMap<NodeId, Edits> = BTreeMap::new();
        for (seq, event) in &*sealed {
            by_node.entry(event.event().node).or_default().sealed.push(*seq);
        }
        for (order, pending) in &*pending {
            by_node.entry(pending.node).or_default().pending.push(*order);
        }
        Self { sealed, pending, by_node, last }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.pending.is_empty()
    }

    /// The sealed edits from `seq` on, in order.
    pub fn sealed_from(&self, seq: u64) -> impl Iterator<Item = &Sealed> {
        self.sealed.range(seq..).map(|(_, event)| event)
    }

    /// The sealed edit of that number.
    #[must_use]
    pub fn sealed(&self, seq: u64) -> Option<&Sealed> {
        self.sealed.get(&seq)
    }

    /// The last sealed edit.
    #[must_use]
    pub fn last_sealed(&self) -> Option<&Sealed> {
        self.sealed.last_key_value().map(|(_, event)| event)
    }

    /// The pending edits in the order of their saves, each by its number.
    pub fn pending(&self) -> impl Iterator<Item = (u64, &Pending)> {
        self.pending.iter().map(|(order, pending)| (*order, pending))
    }

    /// How many pending edits there are.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// The edits of a file: sealed ones first, which are older.
    pub fn of_node(
        &self,
        node: &NodeId,
    ) -> (impl Iterator<Item = &Sealed>, impl Iterator<Item = (u64, &Pending)>) {
        let edits = self.by_node.get(node);
        let sealed = edits.into_iter().flat_map(|edits| &edits.sealed).filter_map(|seq| self.sealed.get(seq));
        let pending = edits.into_iter().flat_map(|edits| &edits.pending);
        (sealed, pending.filter_map(|order| Some((*order, self.pending.get(order)?))))
    }

    /// Whether there are edits of a file.
    #[must_use]
    pub fn has_node(&self, node: &NodeId) -> bool {
        self.by_node.contains_key(node)
    }

    /// The files that there are edits of.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.by_node.keys().copied().collect()
    }

    /// The pending edit of a file that carries that save.
    #[must_use]
    pub fn by_edit(&self, node: &NodeId, edit: EditId) -> Option<(u64, &Pending)> {
        self.of_node(node).1.find(|(_, pending)| pending.edit == edit)
    }

    /// The pending edit of that number.
    #[must_use]
    pub fn get(&self, order: u64) -> Option<&Pending> {
        self.pending.get(&order)
    }

    /// The pending edit of that number.
    pub(crate) fn pending_mut(&mut self, order: u64) -> Option<&mut Pending> {
        self.pending.get_mut(&order)
    }

    /// An edit of a file has that name, or is part of the base under one that is not known: what
    /// was made on top of it has seen it.
    pub(crate) fn named(&mut self, node: &NodeId, edit: EditId, dot: Option<&Dot>) {
        let orders = self.by_node.get(node).map(|edits| edits.pending.clone()).unwrap_or_default();
        for order in orders {
            if self.pending.get(&order).is_some_and(|pending| pending.on_top_of == Some(edit)) {
                if let Some(pending) = self.pending.get_mut(&order) {
                    pending.on_top_of = None;
                    dot.into_iter().for_each(|dot| pending.context.insert(dot));
                }
            }
        }
    }

    /// One more edit.
    pub(crate) fn add(&mut self, pending: Pending) -> u64 {
        self.last += 1;
        self.by_node.entry(pending.node).or_default().pending.push(self.last);
        self.pending.insert(self.last, pending);
        self.last
    }

    pub(crate) fn remove(&mut self, order: u64) -> Option<Pending> {
        let pending = self.pending.remove(&order)?;
        self.forget(&pending.node, |edits| edits.pending.retain(|other| *other != order));
        Some(pending)
    }

    /// A pending edit was given its bytes.
    pub(crate) fn seal(&mut self, order: u64, event: Sealed) {
        let seq = event.dot().seq;
        self.by_node.entry(event.event().node).or_default().sealed.push(seq);
        self.sealed.insert(seq, event);
        self.remove(order);
    }

    /// All sealed edits up to `seq` are folded.
    pub(crate) fn folded(&mut self, seq: u64) -> Vec<Sealed> {
        let folded = self.sealed.take_up_to(&seq);
        for (seq, event) in &folded {
            self.forget(&event.event().node, |edits| edits.sealed.retain(|other| other != seq));
        }
        folded.into_values().collect()
    }

    /// One sealed edit is no longer to be sent.
    pub(crate) fn take_out(&mut self, seq: u64) -> Option<Sealed> {
        let event = self.sealed.remove(&seq)?;
        self.forget(&event.event().node, |edits| edits.sealed.retain(|other| *other != seq));
        Some(event)
    }

    fn forget(&mut self, node: &NodeId, change: impl FnOnce(&mut Edits)) {
        if let Some(edits) = self.by_node.get_mut(node) {
            change(edits);
            if edits.sealed.is_empty() && edits.pending.is_empty() {
                self.by_node.remove(node);
            }
        }
    }

    /// Takes everything out, in order: sealed edits first, as pending ones that are in doubt.
    pub(crate) fn take_in_doubt(&mut self) -> Vec<Pending> {
        let (sealed, pending) = (self.sealed.take(), self.pending.take());
        self.by_node.clear();
        let mut last: BTreeMap<NodeId, (Dot, EditId)> = BTreeMap::new();
        let mut all = Vec::new();
        for event in sealed.into_values() {
            let (node, dot) = (event.event().node, event.dot().clone());
            let before = last.insert(node, (dot.clone(), event.event().edit));
            let on_top_of =
                before.filter(|(dot, _)| event.event().context.contains(dot)).map(|(_, edit)| edit);
            let Some(version) = event.event().version().cloned() else { continue };
            all.push(Pending {
                edit: event.event().edit,
                node,
                context: event.event().context.clone(),
                version,
                on_top_of,
                standing: Standing::InDoubt(Some((dot, event.hash()))),
            });
        }
        for mut pending in pending.into_values() {
            let before = last.get(&pending.node).filter(|(dot, _)| pending.context.contains(dot));
            pending.on_top_of = pending.on_top_of.or(before.map(|(_, edit)| *edit));
            if pending.standing == Standing::Own {
                pending.standing = Standing::InDoubt(None);
            }
            all.push(pending);
        }
        all
    }
}

/// Makes one edit of each chain of edits that were made on top of each other and that nobody else
/// has seen: the newest version, the first context, all fields that any of them changed.
#[must_use]
pub(crate) fn collapse(edits: Vec<Pending>) -> Vec<Pending> {
    let mut collapsed: Vec<Pending> = Vec::new();
    for edit in edits {
        let below = edit.on_top_of.and_then(|below| {
            collapsed.iter_mut().find(|other| other.edit == below && other.node == edit.node)
        });
        match below {
            Some(below) => {
                let version = Version {
                    base: below.version.base,
                    changed: below.version.changed.with(edit.version.changed),
                    was: below.version.was.or(edit.version.was),
                    ..edit.version
                };
                *below = Pending { edit: edit.edit, version, ..below.clone() };
            }
            None => collapsed.push(edit),
        }
    }
    collapsed
}

#[cfg(test)]
mod tests {
    use super::super::event::{Fields, Version};
    use super::super::samples::{file, node};
    use super::*;

    fn edit(n: u8, on_top_of: Option<u8>, version: Version) -> Pending {
        Pending {
            edit: EditId::from([n; 16]),
            node: node(),
            context: VersionVector::new(),
            version,
            on_top_of: on_top_of.map(|n| EditId::from([n; 16])),
            standing: Standing::Own,
        }
    }

    #[test]
    fn what_was_made_on_top_of_each_other_is_one() {
        let renamed = Version { changed: Fields::PATH, base: Some(file("0", 0).shows()), ..file("0", 1) };
        let edited = Version { changed: Fields::CONTENT, base: Some(renamed.shows()), ..file("1", 2) };
        let edits = collapse(vec![
            edit(1, None, renamed.clone()),
            edit(2, Some(1), edited.clone()),
            edit(3, None, edited),
        ]);
        assert_eq!(edits.len(), 2, "the third was made on something else");
        assert_eq!(edits[0].edit, EditId::from([2; 16]));
        assert_eq!(edits[0].version.base, renamed.base);
        assert_eq!(edits[0].version.changed, Fields::PATH.with(Fields::CONTENT));
        assert_eq!(edits[0].version.content, file("1", 0).content);
    }

    #[test]
    fn edits_are_found_by_their_file_until_they_leave() {
        let mut outbox = Outbox::default();
        let first = outbox.add(edit(1, None, file("1", 1)));
        let second = outbox.add(edit(2, None, file("2", 2)));
        assert!(first < second);
        assert_eq!(outbox.of_node(&node()).1.count(), 2);
        outbox.remove(first);
        assert_eq!(outbox.by_edit(&node(), EditId::from([2; 16])).map(|(order, _)| order), Some(second));
        outbox.remove(second);
        assert!(outbox.is_empty() && !outbox.has_node(&node()) && outbox.nodes().is_empty());
    }
}
