//! What leaves an outbox is accounted for, step by step.

use std::collections::BTreeMap;

use super::{Agent, World};
use crate::model::event::Version;
use crate::model::id::{Actor, EditId, NodeId};

impl World {
    /// Runs something on an agent, and counts what it adds to its outbox and takes from it.
    pub(super) fn on<R>(&mut self, agent: usize, run: impl FnOnce(&mut Self) -> R) -> R {
        self.on_agent(agent, false, run)
    }

    pub(super) fn on_agent<R>(&mut self, agent: usize, scanned: bool, run: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.unfolded(agent);
        let set_aside = self.agents[agent].replica.set_aside().len();
        let result = run(self);
        let after = self.unfolded(agent);
        let set_aside: BTreeMap<EditId, NodeId> = self.agents[agent]
            .replica
            .set_aside()
            .skip(set_aside)
            .map(|edit| (edit.edit, edit.node))
            .collect();
        for edit in set_aside.keys() {
            self.made.insert(*edit, Some("set aside"));
        }
        for (edit, (node, version)) in &before {
            if after.contains_key(edit)
                || self.accepted.contains(edit)
                || self.made.get(edit).is_none_or(Option::is_some)
            {
                continue;
            }
            let stands = self.agents[agent].stood.get(node).and_then(|(_, stands)| *stands);
            let by_save = after.iter().any(|(other, (other_node, _))| {
                other_node == node
                    && self.made.get(other).is_some_and(Option::is_none)
                    && !before.contains_key(other)
            });
            if by_save && scanned && stands != Some(*edit) {
                self.fail(format!("edit {edit} was replaced and did not stand there"));
            }
            let replaced = set_aside.values().any(|other| other == node)
                || after
                    .iter()
                    .any(|(other, (other_node, _))| other_node == node && !before.contains_key(other));
            let copies =
                before.iter().filter(|(_, (other, _))| other == node).map(|(other, _)| EditId::copy(other));
            let copied = copies.clone().any(|copy| after.contains_key(&copy));
            let visible = self.agents[agent].replica.node(node).and_then(|node| node.visible());
            let equal = visible.is_some_and(|visible| {
                let mut of_node = before.values().filter(|(other, _)| other == node);
                of_node.any(|(_, version)| version.agrees(&visible.version, version.changed))
            });
            let kept_before = copies.clone().any(|copy| self.accepted.contains(&copy));
            let never_heard_of =
                !self.agents[agent].replica.base().nodes.contains_key(node) && version.base.is_none();
            let why = if replaced {
                Some("replaced")
            } else if copied {
                let copies: Vec<EditId> = copies.filter(|copy| after.contains_key(copy)).collect();
                self.made.extend(copies.iter().map(|copy| (*copy, None)));
                self.copies.extend(copies);
                Some("copied")
            } else if kept_before {
                Some("copied before")
            } else if equal {
                Some("equal")
            } else if never_heard_of && !self.agents[agent].replica.shown().contains_key(node) {
                Some("taken back")
            } else if before.iter().any(|(other, (other_node, _))| {
                other != edit && other_node == node && after.contains_key(other)
            }) {
                // Several that were in doubt became one.
                Some("collapsed")
            } else {
                None
            };
            match why {
                Some(why) => drop(self.made.insert(*edit, Some(why))),
                None => self.fail(format!(
                    "edit {edit} of {} left the outbox and is nowhere: {before:?} => {after:?}",
                    self.agents[agent].region
                )),
            }
        }
        result
    }

    /// G8: a save has seen what stood on the disk, and nothing else.
    pub(super) fn look_at_context(&mut self, agent: usize, edit: EditId) {
        let Agent { replica, stood, region, .. } = &mut self.agents[agent];
        let Some((_, pending)) = replica.outbox().pending().find(|(_, pending)| pending.edit == edit) else {
            return;
        };
        let (seen, stands) = stood.entry(pending.node).or_default();
        *stands = Some(edit);
        let own = |actor: &Actor| actor.of_region() == Some(region);
        let unseen = pending.context.iter().find(|(actor, seq)| !own(actor) && *seq > seen.get(actor));
        if let Some((actor, seq)) = unseen {
            let what = format!("edit {edit} of {region} has seen {actor}:{seq}, which never stood there");
            self.fail(what);
        }
    }

    /// What is in an agent's outbox.
    pub(super) fn unfolded(&self, agent: usize) -> BTreeMap<EditId, (NodeId, Version)> {
        let outbox = self.agents[agent].replica.outbox();
        let sealed = outbox.sealed_from(0).filter_map(|event| {
            Some((event.event().edit, (event.event().node, event.event().version()?.clone())))
        });
        sealed
            .chain(outbox.pending().map(|(_, edit)| (edit.edit, (edit.node, edit.version.clone()))))
            .collect()
    }
}
