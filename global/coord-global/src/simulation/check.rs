//! What must hold at the end of a schedule.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::account::Account;
use super::world::{World, blob};
use crate::model::event::Body;
use crate::model::id::{Actor, Dot, EditId, NodeId};
use crate::model::path::Names;
use crate::model::state::State;
use crate::model::view::PathView;

impl World {
    /// What happened to the edits.
    pub(super) fn account(&self) -> Account {
        let tally = self.store.head.tally;
        let mut account = Account {
            made: self.made.len() as u64,
            accepted: self.accepted.len() as u64,
            covered: tally.covered,
            kept: tally.kept,
            listed: tally.listed,
            forked: tally.forked,
            forgotten: tally.forgotten,
            alive: tally.alive(),
            ..self.counted.clone()
        };
        for why in self.made.values().flatten() {
            *account.why.entry(why).or_default() += 1;
        }
        account
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let state = self.check_log()?;
        self.check_regions(&state)?;
        self.check_edits()?;
        self.check_deletions()?;
        self.check_contents()?;
        self.check_what_was_forgotten()
    }

    /// G1: positions are dense, and the files are what the log makes of them. G6: so is the tally.
    fn check_log(&self) -> Result<State, String> {
        let mut state = State::new(Names::Folded, self.store.head.epoch);
        for entry in self.log.values() {
            if entry.first != state.cursor + 1 {
                return Err(format!("an entry begins at {} after {}", entry.first, state.cursor));
            }
            state.fold(entry, usize::MAX).map_err(|astray| astray.to_string())?;
        }
        if state.cursor != self.store.head.position || state.chain != self.store.head.chain {
            return Err(format!(
                "the log ends at {}, the head at {}",
                state.cursor, self.store.head.position
            ));
        }
        if state.nodes != self.store.nodes {
            return Err("the files are not what the log makes of them".to_owned());
        }
        if state.alive() != self.store.head.tally.alive() {
            return Err(format!(
                "the tally says that {} versions are there, and {} are",
                self.store.head.tally.alive(),
                state.alive()
            ));
        }
        Ok(state)
    }

    /// G5: regions that have folded the same are equal, byte for byte. G14: and so are their disks.
    fn check_regions(&self, state: &State) -> Result<(), String> {
        let mut view = PathView::new(Names::Folded);
        for (id, node) in &state.nodes {
            view.set(*id, Some(node));
        }
        let tree = view.tree();
        for agent in self.agents.iter().filter(|agent| agent.up) {
            let region = &agent.region;
            let mut base = agent.replica.base().clone();
            if self.broken == Broken::NoPositionInSnapshot {
                for (id, node) in &mut base.nodes {
                    node.position = state.nodes.get(id).map_or(0, |node| node.position);
                }
            }
            if base.nodes != state.nodes || base.chain != state.chain {
                let differ = base.nodes.iter().find(|(id, node)| state.nodes.get(id) != Some(node));
                return Err(format!("{region} has other files than the log: {differ:?}"));
            }
            if agent.replica.view().tree() != tree {
                return Err(format!("{region} shows other files than the rest"));
            }
            let expected: BTreeMap<&String, _> = tree
                .iter()
                .map(|(path, id)| {
                    (path, state.nodes[id].visible().and_then(|visible| visible.version.content))
                })
                .collect();
            let files: BTreeMap<&String, _> =
                agent.files.iter().map(|(path, file)| (path, Some(blob(file.content)))).collect();
            if files != expected {
                return Err(format!("the disk of {region} has {files:?} instead of {expected:?}"));
            }
        }
        Ok(())
    }

    /// G3, G9: each edit that a user made was accepted once, or it is known why it needs not be.
    fn check_edits(&self) -> Result<(), String> {
        let name = |edit: &EditId| self.alias.get(edit).copied().unwrap_or(*edit);
        let mut seen = BTreeSet::new();
        for edit in &self.accepted {
            // Regions put back what a restored store forgot under one name. And a copy that was
            // made of what was in doubt, deleted and forgotten since, is made again by a disk that
            // is restored once more.
            if !seen.insert(name(edit)) && self.made.contains_key(edit) && !self.copies.contains(edit) {
                return Err(format!("edit {edit} was accepted twice"));
            }
        }
        // What callers of the API asked for was written once, however often they asked.
        let mut asked = BTreeSet::new();
        for event in self.log.values().flat_map(|entry| &entry.events).map(|event| event.event()) {
            if event.dot.actor.is_instance()
                && matches!(event.body, Body::Write(_))
                && event.dot.actor != Actor::lead(event.dot.actor.incarnation())
                && !asked.insert(event.edit)
            {
                return Err(format!("a write of the API, {}, is there twice", event.edit));
            }
        }
        for (edit, why) in &self.made {
            if why.is_none() && !seen.contains(&name(edit)) && !self.is_put_back(edit) {
                return Err(format!("edit {edit} was lost"));
            }
        }
        Ok(())
    }

    /// An edit that a restored store forgot is looked at as such.
    fn is_put_back(&self, edit: &EditId) -> bool {
        self.counted.stores > 0
            && !self
                .agents
                .iter()
                .any(|agent| agent.replica.outbox().pending().any(|(_, pending)| pending.edit == *edit))
    }

    /// G7: nothing is there of which somebody saw all, and deleted it.
    fn check_deletions(&self) -> Result<(), String> {
        let mut deletions: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        // Which edits are behind a resolution, whatever it says itself.
        let mut behind: BTreeMap<Dot, BTreeSet<Dot>> = BTreeMap::new();
        let mut state = State::new(Names::Folded, self.store.head.epoch);
        for entry in self.log.values() {
            for (event, folded) in state.fold(entry, usize::MAX).map_err(|astray| astray.to_string())? {
                let event = event.event();
                match &event.body {
                    Body::Write(version) if version.is_deleted() => {
                        deletions.entry(event.node).or_default().push(event)
                    }
                    Body::Resolve { .. } => {
                        let edits = folded.ended.iter().flat_map(|(dot, sibling, _)| match behind.get(dot) {
                            Some(edits) => edits.clone(),
                            None if sibling.version.is_deleted() => BTreeSet::new(),
                            None => [dot.clone()].into(),
                        });
                        let edits = edits.collect();
                        behind.insert(event.dot.clone(), edits);
                    }
                    _ => {}
                }
            }
        }
        for (id, node) in &self.store.nodes {
            if node.visible().is_none_or(|visible| visible.is_deleted()) {
                continue;
            }
            for deletion in deletions.get(id).into_iter().flatten() {
                let saw = |dot: &Dot| deletion.context.contains(dot);
                let saw_all = node
                    .siblings
                    .keys()
                    .all(|dot| saw(dot) || behind.get(dot).is_some_and(|edits| edits.iter().all(saw)));
                if saw_all {
                    return Err(format!(
                        "{} deleted all that there is of {id}, and it is there",
                        deletion.dot
                    ));
                }
            }
        }
        Ok(())
    }

    /// G21: the content of every file is there.
    fn check_contents(&self) -> Result<(), String> {
        for hash in self.store.referenced() {
            let object = self.store.contents.get(&hash).ok_or(format!("content {hash:?} has no key"))?;
            if !self.objects.contains(&(hash, *object)) {
                return Err(format!("content {hash:?} has no object"));
            }
        }
        Ok(())
    }

    /// G25: what a restored store forgot, and a region still had, is there again.
    fn check_what_was_forgotten(&self) -> Result<(), String> {
        let again: BTreeSet<EditId> =
            self.log.values().flat_map(|entry| &entry.events).map(|event| event.event().edit).collect();
        for forgotten in self.forgotten.iter().filter(|forgotten| !forgotten.holders.is_empty()) {
            let names = [forgotten.edit, EditId::again(&forgotten.dot), EditId::copy(&forgotten.edit)];
            let in_log = names.iter().any(|name| again.contains(name));
            let visible = self.store.nodes.get(&forgotten.node).and_then(|node| node.visible());
            let equal = visible.is_some_and(|visible| visible.version.content == forgotten.version.content);
            // Or who wrote it, or still had it, has edited the file since.
            let holders = forgotten.holders.iter().map(|holder| &self.agents[*holder].region);
            let regions: BTreeSet<_> = holders.chain(forgotten.dot.actor.of_region()).collect();
            let mut events = self.log.values().flat_map(|entry| &entry.events).map(|event| event.event());
            let edited = events.any(|event| {
                event.node == forgotten.node
                    && event.dot.actor.of_region().is_some_and(|region| regions.contains(region))
            });
            // Or its user took it back.
            let known = self.made.get(&forgotten.edit).is_some_and(Option::is_some);
            if !in_log && !equal && !edited && !known {
                return Err(format!("{} was forgotten by the store and is not there again", forgotten.dot));
            }
        }
        Ok(())
    }
}
