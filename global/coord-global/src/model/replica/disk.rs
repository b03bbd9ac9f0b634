//! What users do on a region's disk.

use std::collections::BTreeMap;

use super::super::clock::Hlc;
use super::super::event::{BlobRef, Fields, Version};
use super::super::id::{EditId, Hash, NodeId};
use super::super::outbox::{Pending, Standing};
use super::super::path::RelPath;
use super::super::vector::VersionVector;
use super::{Replica, Shown};

impl Replica {
    /// A file with that content stands at `path` on the disk; `modified_ms` is when the disk says
    /// that it was modified, `wall_ms` the clock now. Tells which file it is; `None` if nothing has
    /// changed.
    pub fn found(
        &mut self,
        path: &RelPath,
        content: BlobRef,
        modified_ms: u64,
        wall_ms: u64,
        edit: EditId,
    ) -> Option<NodeId> {
        if self.was_written(path.as_str(), content) {
            return None;
        }
        if let Some(id) = self.disk.get(path.as_str()).copied() {
            return self.edited(id, wall_ms, edit, |version| {
                version.changed = Fields::CONTENT;
                if version.content == Some(content) {
                    return false;
                }
                (version.content, version.modified_ms) = (Some(content), modified_ms);
                true
            });
        }
        let version = Version {
            path: path.clone(),
            content: Some(content),
            modified_ms,
            meta: BTreeMap::new(),
            was: None,
            base: None,
            changed: Fields::ALL,
            time: Hlc::at(modified_ms),
            primary: self.region.clone(),
        };
        // Somebody else's file has this path, and has never stood on this disk: this is an edit of
        // it that has not seen it.
        let owner = self.view.owner(path.as_str()).filter(|id| !self.shown.contains_key(id));
        let id = owner.unwrap_or_else(|| self.unused_id(path.as_str(), &content.hash));
        self.save(id, VersionVector::new(), version, edit, None);
        self.stands(id, path.as_str(), edit);
        Some(id)
    }

    /// The file at `path` is no longer there. Tells which file it was; `None` if none was known
    /// there, or where one was [to be written](Self::will_write) and it is not known whether its
    /// writer took it away or a user: then it comes back.
    pub fn vanished(&mut self, path: &str, wall_ms: u64, edit: EditId) -> Option<NodeId> {
        let id = self.disk.get(path).copied()?;
        if self.writing.contains_key(&id) {
            // It was taken away to be written elsewhere, or not at all.
            self.took_away(&id);
            return None;
        }
        let was = self.shown.get(&id).and_then(|shown| shown.version.content);
        let is_new = |pending: &Pending| {
            pending.context.is_empty() && pending.version.base.is_none() && pending.standing == Standing::Own
        };
        let pending = self.shown.get(&id).and_then(|shown| self.outbox.by_edit(&id, shown.pending?));
        let unheard_of = pending
            .filter(|(_, pending)| is_new(pending) && !self.base.nodes.contains_key(&id))
            .map(|(order, _)| order);
        if let Some(order) = unheard_of {
            self.outbox.remove(order);
            self.unshow(&id);
            self.refresh(id);
            return Some(id);
        }
        let done = self.edited(id, wall_ms, edit, |version| {
            version.changed = Fields::CONTENT;
            (version.content, version.was) = (None, was);
            true
        });
        self.unshow(&id);
        done
    }

    /// The file at `from` stands at `to` now. If another one stood there, it is told first that
    /// that one [vanished](Self::vanished).
    pub fn moved(&mut self, from: &str, to: &RelPath, wall_ms: u64, edit: EditId) -> Option<NodeId> {
        let id = self.disk.get(from).copied()?;
        let content = self.shown.get(&id)?.version.content;
        if content.is_some_and(|content| self.was_written(to.as_str(), content)) {
            return None;
        }
        self.edited(id, wall_ms, edit, |version| {
            version.changed = Fields::PATH;
            version.path = to.clone();
            true
        });
        if let Some(shown) = self.shown.get(&id).cloned() {
            self.show(id, Shown { path: to.as_str().to_owned(), ..shown });
        }
        Some(id)
    }

    fn edited(
        &mut self,
        id: NodeId,
        wall_ms: u64,
        edit: EditId,
        change: impl FnOnce(&mut Version) -> bool,
    ) -> Option<NodeId> {
        let shown = self.shown.get(&id)?;
        let base = shown.version.shows();
        let mut version = Version {
            base: Some(base),
            time: Hlc::after(wall_ms, shown.version.time),
            ..shown.version.clone()
        };
        version.primary = self.region.clone();
        if !change(&mut version) {
            return None;
        }
        // Where something was being written, it is not known what it was saved on top of.
        let is_known = !self.writing.contains_key(&id);
        let (path, seen, on_top_of) =
            (shown.path.clone(), shown.seen.clone(), shown.pending.filter(|_| is_known));
        self.save(id, seen, version, edit, on_top_of);
        self.stands(id, &path, edit);
        Some(id)
    }

    /// Takes a save down. On top of an edit that nobody has yet it replaces that.
    fn save(
        &mut self,
        id: NodeId,
        seen: VersionVector,
        version: Version,
        edit: EditId,
        on_top_of: Option<EditId>,
    ) {
        let below = on_top_of
            .and_then(|below| self.outbox.by_edit(&id, below))
            .filter(|(_, below)| below.standing == Standing::Own);
        match below.map(|(order, _)| order).and_then(|order| self.outbox.pending_mut(order)) {
            Some(below) => {
                below.version = Version {
                    base: below.version.base,
                    changed: below.version.changed.with(version.changed),
                    ..version
                };
                below.edit = edit;
            }
            None => {
                let mut context = seen;
                // Of one that is in doubt, it has the context too.
                if let Some((_, below)) = on_top_of.and_then(|below| self.outbox.by_edit(&id, below)) {
                    context.join(&below.context);
                    if let Standing::InDoubt(Some((dot, _))) = &below.standing {
                        context.insert(dot);
                    }
                }
                let standing = Standing::Own;
                self.outbox.add(Pending { edit, node: id, context, version, on_top_of, standing });
            }
        }
        self.refresh(id);
    }

    /// The disk shows that edit of a file.
    fn stands(&mut self, id: NodeId, path: &str, edit: EditId) {
        let Some((_, pending)) = self.outbox.by_edit(&id, edit) else { return };
        let seen = match self.shown.get(&id) {
            Some(shown) => shown.seen.clone(),
            None => pending.context.clone(),
        };
        let shown =
            Shown { path: path.to_owned(), version: pending.version.clone(), seen, pending: Some(edit) };
        self.show(id, shown);
    }

    /// The file stands there now, and no other one does.
    pub(super) fn show(&mut self, id: NodeId, shown: Shown) {
        if self.shown.get(&id) == Some(&shown) {
            return;
        }
        self.unshow(&id);
        self.writing.remove(&id);
        if let Some(other) = self.disk.get(&shown.path).copied() {
            self.unshow(&other);
        }
        self.disk.insert(shown.path.clone(), id);
        self.shown.insert(id, shown);
    }

    pub(super) fn unshow(&mut self, id: &NodeId) {
        if let Some(shown) = self.shown.remove(id) {
            if self.disk.get(&shown.path) == Some(id) {
                self.disk.remove(&shown.path);
            }
        }
    }

    /// The first id that nobody has: a tombstone has one too.
    pub(super) fn unused_id(&self, path: &str, content: &Hash) -> NodeId {
        let mut counter = 0;
        loop {
            let id = NodeId::created(&self.space, path, content, counter);
            let is_used = self.base.nodes.contains_key(&id)
                || self.outbox.has_node(&id)
                || self.shown.contains_key(&id);
            if !is_used {
                return id;
            }
            counter += 1;
        }
    }
}
