//! What is written to a region's disk.
//!
//! A writer says what it is going to write before it touches the disk, and that it has written
//! afterwards; each is written down before the next step is taken. Whatever ends it in between,
//! what stands on the disk then is known for what it is, and not taken for something that a user
//! saved (G3, G8).

use super::{Replica, Shown};
use crate::model::event::{BlobRef, Version};
use crate::model::id::{Dot, NodeId};

impl Replica {
    /// What should stand on the disk of a file, and where; `None` if nothing should.
    #[must_use]
    pub fn wanted(&self, id: &NodeId) -> Option<(String, Version)> {
        let path = self.view.place(id)?.path()?.to_owned();
        Some((path, self.node(id)?.visible()?.version))
    }

    /// The disk of a file is going to be made what it [should](Self::wanted) be. This is written
    /// down before the disk is touched, and ends with [`wrote`](Self::wrote) or
    /// [`left`](Self::left), or with the next look at the disk, which then finds the one or the
    /// other.
    pub fn will_write(&mut self, id: &NodeId) {
        let wanted = self.to_be_shown(id);
        self.writing.insert(*id, wanted);
    }

    /// The disk shows of a file what was [to be written](Self::will_write): who edits it there has
    /// seen that. Nothing if a look at the disk has found that before.
    pub fn wrote(&mut self, id: &NodeId) {
        match self.writing.remove(id) {
            Some(Some(shown)) => self.show(*id, shown),
            Some(None) => self.unshow(id),
            None => {}
        }
    }

    /// The disk shows of a file what it [should](Self::wanted), and was not touched for that.
    pub fn shows(&mut self, id: &NodeId) {
        self.will_write(id);
        self.wrote(id);
    }

    /// The disk of a file was left as it was: what stands there is not what was
    /// [last seen](Self::shown), and has to be looked at first.
    pub fn left(&mut self, id: &NodeId) {
        self.writing.remove(id);
    }

    /// The file stands nowhere on the disk for now: what should be its place is taken by something
    /// that was not looked at yet, or by a file that has to go first.
    pub fn took_away(&mut self, id: &NodeId) {
        self.unshow(id);
    }

    /// The file that was last seen or written at a path of the disk.
    #[must_use]
    pub fn stands_at(&self, path: &str) -> Option<NodeId> {
        self.disk.get(path).copied()
    }

    /// The files that are between [`will_write`](Self::will_write) and what ends it.
    pub fn writing(&self) -> impl Iterator<Item = &NodeId> {
        self.writing.keys()
    }

    fn to_be_shown(&self, id: &NodeId) -> Option<Shown> {
        let (path, _) = self.wanted(id)?;
        let node = self.node(id)?;
        let visible = node.visible()?;
        let unnamed = self.unnamed();
        let (_, pending) = self.outbox.of_node(id);
        let part = pending
            .filter(|(order, _)| visible.of.contains(&Dot::new(unnamed.clone(), *order)))
            .last()
            .map(|(_, pending)| pending.edit);
        let mut seen = node.seen(&visible);
        seen.lower(&unnamed, 0);
        Some(Shown { path, version: visible.version, seen, pending: part })
    }

    /// What is said of a file that stands on the disk holds for what is being written there too.
    pub(super) fn each_shown(&mut self, id: &NodeId, change: impl Fn(&mut Shown)) {
        let changed = |shown: &Shown| {
            let mut changed = shown.clone();
            change(&mut changed);
            (changed != *shown).then_some(changed)
        };
        if let Some(shown) = self.shown.get(id).and_then(changed) {
            self.shown.insert(*id, shown);
        }
        if let Some(shown) = self.writing.get(id).and_then(Option::as_ref).and_then(changed) {
            self.writing.insert(*id, Some(shown));
        }
    }

    /// Whether what was found there is what a writer was going to write when it ended.
    pub(super) fn was_written(&mut self, path: &str, content: BlobRef) -> bool {
        let is_it = |shown: &Shown| shown.path == path && shown.version.content == Some(content);
        let found = self.writing.iter().find(|(_, shown)| shown.as_ref().is_some_and(is_it));
        let Some(id) = found.map(|(id, _)| *id) else { return false };
        self.wrote(&id);
        true
    }
}
