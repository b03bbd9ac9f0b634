//! Edits of which a region does not know whether they were accepted (G9): its disk was restored
//! from a copy, or the store was, or another copy of the disk has spoken for it.

use std::collections::BTreeSet;

use super::super::Refusal;
use super::super::event::{Event, Fields, Sealed, Version};
use super::super::id::{Dot, EditId, NodeId};
use super::super::node::Node;
use super::super::outbox::{Pending, Standing, collapse};
use super::super::path::{RelPath, conflict_name};
use super::super::state::State;
use super::super::vector::VersionVector;
use super::{Replica, SetAside};

/// How much can be known of the edits that are in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// The log was read from where they were made: what it does not have was never accepted.
    AllOfThem,
    /// A part of the log is gone: what was not found may have been in it.
    SomeOfThem,
}

impl Replica {
    /// Everything in the outbox was written by another incarnation.
    pub(super) fn doubt(&mut self) {
        let edits = self.outbox.take_in_doubt();
        // The last one that was seen there is what stands on the disk, unless something was saved
        // on top of it.
        for edit in edits.iter().rev() {
            let Standing::InDoubt(Some((dot, _))) = &edit.standing else { continue };
            self.each_shown(&edit.node, |shown| {
                if shown.seen.contains(dot) && shown.pending.is_none() {
                    shown.pending = Some(edit.edit);
                }
            });
        }
        let found = self.found.take();
        let mut named = Vec::new();
        for edit in edits {
            match found.get(&edit.edit) {
                Some(dot) => named.push((edit.edit, edit.node, dot.clone())),
                None => {
                    self.outbox.add(edit);
                }
            }
        }
        for (edit, node, dot) in named {
            self.named(edit, node, Some(&dot));
            self.refresh(node);
        }
        self.refresh_all();
    }

    pub(super) fn refresh_all(&mut self) {
        for id in self.outbox.nodes() {
            self.refresh(id);
        }
    }

    pub(super) fn decide_if_read(&mut self) {
        let in_this_log = self.base.epoch == self.epoch && !self.trimmed;
        if in_this_log && self.doubt_until.is_some_and(|until| self.base.cursor >= until) {
            self.decide(Decided::AllOfThem);
        }
    }

    /// An incarnation before this one, or another copy of this disk, wrote that.
    pub(super) fn found_accepted(&mut self, event: &Sealed) {
        let Event { edit, node, .. } = event.event();
        if Some(&event.dot().actor) == self.actor.as_ref() {
            // What is here under that name is another edit.
            self.renew = true;
        }
        let same = |pending: &Pending| match &pending.standing {
            Standing::InDoubt(Some((dot, hash))) => {
                dot == event.dot() && *hash == event.hash() || pending.edit == *edit
            }
            Standing::InDoubt(None) | Standing::Own => pending.edit == *edit,
        };
        let (mut sealed, mut pending) = self.outbox.of_node(node);
        let is_sealed = sealed.any(|event| event.event().edit == *edit);
        let found = pending
            .find(|(_, pending)| same(pending))
            .map(|(order, pending)| (order, pending.standing.clone()));
        drop((sealed, pending));
        match found {
            Some((order, Standing::InDoubt(_))) => {
                self.outbox.remove(order);
                self.named(*edit, *node, Some(event.dot()));
            }
            None if !is_sealed => {}
            // Another copy of this disk speaks for the region, and had this edit too.
            _ => {
                self.found.insert(*edit, event.dot().clone());
                self.renew = true;
            }
        }
    }

    /// An edit has that name now, or is part of the base under one that is not known: what was made
    /// on top of it has seen it.
    pub(super) fn named(&mut self, edit: EditId, node: NodeId, dot: Option<&Dot>) {
        self.outbox.named(&node, edit, dot);
        self.each_shown(&node, |shown| {
            if shown.pending == Some(edit) {
                shown.pending = None;
                dot.into_iter().for_each(|dot| shown.seen.insert(dot));
            }
        });
    }

    /// What is still in doubt is decided.
    pub(crate) fn decide(&mut self, decided: Decided) {
        let edits: Vec<Pending> = self.outbox.take_in_doubt();
        let mut nodes: Vec<NodeId> = edits.iter().map(|edit| edit.node).collect();
        let skipped = std::mem::take(&mut self.skipped);
        let decided = match decided {
            _ if self.settled.is_some() => Decided::AllOfThem,
            Decided::AllOfThem if skipped => Decided::SomeOfThem,
            decided => decided,
        };
        let edits = self.without_accepted(edits);
        match decided {
            Decided::AllOfThem => {
                // None of them is in the log, and none can come into it any more.
                for edit in collapse(edits) {
                    self.put_back(edit);
                }
            }
            Decided::SomeOfThem => {
                for edit in collapse(edits) {
                    nodes.extend(self.copy(edit));
                }
            }
        }
        for id in nodes {
            self.refresh(id);
        }
    }

    /// The doubt ends: leaves out what is known to be accepted.
    fn without_accepted(&mut self, edits: Vec<Pending>) -> Vec<Pending> {
        self.doubt_until = None;
        let Some(settled) = self.settled.take() else { return edits };
        let accepted = |edit: &Pending| matches!(&edit.standing, Standing::InDoubt(Some((dot, _))) if dot.seq <= settled);
        let (accepted, mut rest): (Vec<_>, Vec<_>) = edits.into_iter().partition(accepted);
        for edit in accepted {
            rest.iter_mut()
                .filter(|other| other.on_top_of == Some(edit.edit))
                .for_each(|other| other.on_top_of = None);
            self.named(edit.edit, edit.node, None);
        }
        rest
    }

    /// An edit that nobody has is pending once more.
    fn put_back(&mut self, edit: Pending) {
        let mut edit = edit;
        let known = self.base.nodes.get(&edit.node).map(|node| node.context.clone()).unwrap_or_default();
        // Its context may have own edits that were never taken.
        edit.context = edit.context.meet(&known);
        edit.on_top_of = None;
        edit.standing = Standing::Own;
        self.each_shown(&edit.node, |shown| shown.seen = shown.seen.meet(&known));
        self.outbox.add(edit);
    }

    /// Whether an edit was accepted is no longer to be known: its content becomes a file of its
    /// own, unless the file has it anyway. Anything else that it did is set aside.
    fn copy(&mut self, edit: Pending) -> Option<NodeId> {
        self.named(edit.edit, edit.node, None);
        let visible = self.base.nodes.get(&edit.node).and_then(Node::visible);
        if visible.as_ref().is_some_and(|visible| edit.version.agrees(&visible.version, edit.version.changed))
        {
            return None;
        }
        let has_it = visible.is_some_and(|visible| visible.version.content == edit.version.content);
        let content = edit.version.content.filter(|_| edit.version.changed.has(Fields::CONTENT) && !has_it);
        let Some(content) = content else {
            let reason = Refusal::Body(
                "whether it was accepted before the disk was restored is no longer to be known".into(),
            );
            self.put_aside(SetAside { edit: edit.edit, node: edit.node, version: edit.version, reason });
            return None;
        };
        let actor = self.actor.clone().unwrap_or_else(|| self.unnamed());
        let path = edit.version.path.as_str();
        let (directory, name) =
            path.rsplit_once('/').map_or((None, path), |(directory, name)| (Some(directory), name));
        let copy = EditId::copy(&edit.edit);
        let name = conflict_name(name, &Dot::new(actor, 0), copy.to_string().get(..8));
        let path = directory.map_or_else(|| name.clone(), |directory| format!("{directory}/{name}"));
        let path = RelPath::new(path).unwrap_or_else(|_| edit.version.path.clone());
        // The name has the save in it: where there is such a file, it was kept before.
        let node = NodeId::created(&self.space, path.as_str(), &content.hash, 0);
        if self.base.nodes.contains_key(&node) || self.outbox.has_node(&node) {
            return None;
        }
        let version = Version { path, base: None, changed: Fields::ALL, was: None, ..edit.version };
        let standing = Standing::Own;
        let context = VersionVector::new();
        self.outbox.add(Pending { edit: copy, node, context, version, on_top_of: None, standing });
        Some(node)
    }

    /// The store was restored from a backup: what it has lost of what was folded here is issued
    /// again (G25), on top of what it still has.
    pub(super) fn issue_again(&mut self, old: &State) {
        let own = self.outbox.take_in_doubt();
        let sure = self.settled.is_some();
        let own = self.without_accepted(own);
        let known =
            |id: &NodeId| self.base.nodes.get(id).map(|node| node.context.clone()).unwrap_or_default();
        let mut edits = Vec::new();
        for (id, node) in &old.nodes {
            let known = known(id);
            for (dot, sibling) in &node.siblings {
                let covered =
                    || sure && own.iter().any(|edit| edit.node == *id && edit.context.contains(dot));
                if known.contains(dot) || covered() {
                    continue;
                }
                edits.push(Pending {
                    edit: EditId::again(dot),
                    node: *id,
                    context: node.context.meet(&known),
                    version: sibling.version.clone(),
                    on_top_of: None,
                    standing: Standing::Own,
                });
            }
        }
        let unknown = own.into_iter().filter(|edit| match &edit.standing {
            Standing::InDoubt(Some((dot, _))) => !known(&edit.node).contains(dot),
            _ => true,
        });
        let unknown = collapse(unknown.collect());
        let nodes: BTreeSet<NodeId> = self.shown.keys().chain(self.writing.keys()).copied().collect();
        for id in nodes {
            let known = self.base.nodes.get(&id).map(|node| node.context.clone()).unwrap_or_default();
            self.each_shown(&id, |shown| shown.seen = shown.seen.meet(&known));
        }
        for edit in edits {
            self.outbox.add(edit);
        }
        for edit in unknown {
            if sure {
                self.put_back(edit);
            } else {
                self.copy(edit);
            }
        }
    }
}
