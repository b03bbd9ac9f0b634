//! What instances write: appends, callers of the API, the leader, trims, sweeps; and the store
//! that is restored.

use std::collections::{BTreeMap, BTreeSet};

use super::{Agent, Forgotten, Picture, World, blob, pick};
use crate::ledger::Writer;
use crate::model::append::{Appending, Draft, Known};
use crate::model::event::{Body, Fields, Strategy, Version};
use crate::model::id::{Actor, Hash, NodeId};
use crate::model::node::Node;
use crate::model::path::Names;
use crate::model::view::PathView;
use crate::model::{Hlc, leader};
use crate::simulation::Broken;
use crate::simulation::faulty::Fate;
use crate::simulation::store::{Store, Txn};

impl World {
    pub(super) fn received(&self) -> u64 {
        self.coordinator_clock + self.ms
    }

    /// An append by an instance: made of its picture, tried again on a newer one when the head is
    /// another. What it refuses counts when the picture was the store's.
    pub(super) fn append<R>(
        &mut self,
        instance: usize,
        fate: Fate,
        build: impl Fn(&mut Appending<'_, Picture<'_>>) -> R,
    ) -> Option<R> {
        for _ in 0..4 {
            let store = &self.instances[instance];
            let picture = Picture { store, blind: self.broken == Broken::NoContentCheck };
            let mut appending = Appending::new(&picture, &store.head, self.received());
            let result = build(&mut appending);
            let Some(append) = appending.finish() else {
                if store.revision == self.store.revision {
                    return Some(result);
                }
                self.instances[instance] = self.store.clone();
                continue;
            };
            let txn = Txn { revision: store.revision, append };
            match fate {
                Fate::Lost | Fate::Full => return None,
                Fate::Late => {
                    self.late.push(txn);
                    return None;
                }
                Fate::Arrives | Fate::AnswerLost => {
                    let done = self.apply(txn, false, fate);
                    self.instances[instance] = self.store.clone();
                    if done {
                        return (fate == Fate::Arrives).then_some(result);
                    }
                    self.counted.races += 1;
                }
            }
        }
        None
    }

    pub(super) fn apply(&mut self, txn: Txn, late: bool, fate: Fate) -> bool {
        let Txn { revision, append } = txn;
        let content = self.is(Broken::NoContentCheck)
            || append.contents.iter().all(|hash| self.store.has_content(hash));
        let compared = revision == self.store.revision && content;
        let blind = self.is(Broken::NoHeadCompare) || late && self.is(Broken::LateWriteBlind);
        if !compared && !blind {
            return false;
        }
        let store = &mut self.store;
        store.revision += 1;
        let epoch = store.head.epoch;
        store.head = append.head;
        store.head.epoch = epoch;
        if self.broken == Broken::NoTally {
            store.head.tally.listed = append.expected.tally.listed;
        }
        store.log.insert(append.entry.last(), append.entry.clone());
        self.log.insert(append.entry.last(), append.entry.clone());
        store.actors.extend(append.actors);
        for event in &append.entry.events {
            if !event.dot().actor.is_instance() {
                self.accepted.push(event.event().edit);
            }
        }
        self.counted.losers += append.losers.len() as u64;
        self.changed = true;
        if self.broken == Broken::TwoTransactions && fate == Fate::AnswerLost {
            return true;
        }
        for (id, node) in append.nodes {
            match node {
                Some(node) => drop(store.nodes.insert(id, node)),
                None => drop(store.nodes.remove(&id)),
            }
        }
        true
    }

    pub(super) fn nth_node(&self, instance: usize, node: u8) -> Option<NodeId> {
        let nodes = &self.instances[instance].nodes;
        nodes.keys().nth(pick(node, nodes.len())).copied()
    }

    pub(super) fn api(&mut self, instance: usize, node: u8, content: Option<u8>, all: bool, fate: Fate) {
        if self.over.is_some() {
            self.repeat_over(instance);
        }
        let Some(id) = self.nth_node(instance, node) else { return };
        if let Some(content) = content {
            self.put_content(blob(content).hash);
        }
        let edit = self.edit();
        let (wall, epoch) = (self.received(), self.store.head.epoch);
        let draft = |node: Node| {
            let visible = node.visible()?;
            let context = if all { node.context.clone() } else { node.seen(&visible) };
            let version = Version {
                content: content.map(blob),
                was: visible.version.content,
                base: Some(visible.version.shows()),
                changed: Fields::CONTENT,
                time: Hlc::after(wall, visible.version.time),
                ..visible.version
            };
            Some(Draft { edit, node: id, context, body: Body::Write(version) })
        };
        if self.over.is_some() {
            let drafts =
                self.instances[instance].nodes.get(&id).cloned().and_then(draft).into_iter().collect();
            return self.write_over(instance, fate, Writer::Api, drafts, BTreeMap::new());
        }
        self.append(instance, fate, |appending| {
            if let Some(draft) = appending.node(&id).and_then(draft) {
                let _ = appending.write(Actor::api(epoch), draft);
            }
        });
    }

    pub(super) fn lead(&mut self, instance: usize, fate: Fate, drafts: impl Fn(&Store) -> Vec<Draft>) {
        if self.over.is_some() {
            let store = &self.instances[instance];
            let drafts = drafts(store);
            // What it was decided by: the file, and all that want its path.
            let mut view = PathView::new(Names::Folded);
            store.nodes.iter().for_each(|(id, node)| view.set(*id, Some(node)));
            let decided_by = drafts.iter().flat_map(|draft| leader::decided_by(&draft.node, &view));
            let position = |id: NodeId| (id, store.nodes.get(&id).map_or(0, |node| node.position));
            let seen = decided_by.map(position).collect();
            return self.write_over(instance, fate, Writer::Lead, drafts, seen);
        }
        let (epoch, broken) = (self.store.head.epoch, self.broken);
        self.append(instance, fate, |appending| {
            for mut draft in drafts(appending.known().store) {
                if let Body::Resolve { stands_for, losers, .. } = &mut draft.body {
                    if broken == Broken::NoStandsFor {
                        stands_for.clear();
                    }
                    if broken == Broken::ResolutionWithoutContext {
                        let lead =
                            appending.node(&draft.node).and_then(|node| node.visible()?.lead().cloned());
                        draft.context = lead.into_iter().collect();
                        stands_for.retain(|dot| draft.context.contains(dot));
                        losers.retain(|dot| draft.context.contains(dot));
                    }
                }
                let _ = appending.write(Actor::lead(epoch), draft);
            }
        });
    }

    pub(super) fn resolve(&mut self, instance: usize, node: u8, by: Strategy, fate: Fate) {
        let Some(id) = self.nth_node(instance, node) else { return };
        self.lead(instance, fate, |store| {
            store.nodes.get(&id).map(|node| leader::resolve(id, node, by)).unwrap_or_default()
        });
    }

    pub(super) fn make_real(&mut self, instance: usize, node: u8, fate: Fate) {
        let Some(id) = self.nth_node(instance, node) else { return };
        self.lead(instance, fate, |store| {
            let mut view = PathView::new(Names::Folded);
            store.nodes.iter().for_each(|(id, node)| view.set(*id, Some(node)));
            store.nodes.get(&id).and_then(|node| leader::make_real(id, node, &view)).into_iter().collect()
        });
    }

    pub(super) fn forget(&mut self, instance: usize, node: u8, fate: Fate) {
        let Some(id) = self.nth_node(instance, node) else { return };
        self.lead(instance, fate, |store| {
            store.nodes.get(&id).and_then(|node| leader::forget(id, node)).into_iter().collect()
        });
    }

    pub(super) fn trim(&mut self, keep: u8) {
        let head = &mut self.store.head;
        let mut floor = head.position.saturating_sub(keep.into());
        if keep % 2 == 0 {
            floor = self.acks.values().copied().min().unwrap_or(0).min(floor);
        }
        let filling = self
            .agents
            .iter()
            .filter_map(|agent| agent.replica.filling.as_ref())
            .map(|filling| filling.state.cursor);
        floor = filling.chain([floor]).min().unwrap_or(0);
        if floor <= head.floor {
            return;
        }
        if self.over.is_some() {
            self.trim_over(floor);
        } else {
            head.floor = floor;
            self.store.revision += 1;
            self.store.log.retain(|last, _| *last > floor);
        }
        // A restore that nobody tells is found by the log alone, and that is gone.
        self.forgotten.retain(|forgotten| forgotten.told);
        self.counted.trims += 1;
    }

    /// Content that no file has any more: its key goes with the head, its object later.
    pub(super) fn sweep(&mut self) {
        let referenced = self.store.referenced();
        let unused: Vec<(Hash, u64)> = self
            .store
            .contents
            .iter()
            .filter(|(hash, _)| !referenced.contains(hash))
            .map(|(hash, object)| (*hash, *object))
            .collect();
        for (hash, object) in unused {
            if self.over.is_none() {
                self.store.contents.remove(&hash);
                self.store.revision += 1;
            } else if !self.forget_content_over(hash) {
                continue;
            }
            self.doomed.push((hash, object));
            self.counted.swept += 1;
        }
    }

    pub(super) fn arrive(&mut self, which: u8) {
        if self.over.is_some() {
            if self.late() > 0 {
                self.arrive_over(which);
            }
        } else if !self.late.is_empty() {
            let txn = self.late.remove(pick(which, self.late.len()));
            self.counted.late += 1;
            self.apply(txn, true, Fate::Arrives);
        }
        if !self.doomed.is_empty() {
            let (hash, object) = self.doomed.remove(pick(which, self.doomed.len()));
            let by_hash = self.is(Broken::SweepByHash);
            self.objects.retain(|(other, it)| *other != hash || !by_hash && *it != object);
        }
    }

    /// The store is restored from its backup. All instances are stopped for it, so that every
    /// connection ends.
    pub(super) fn restore_store(&mut self, told: bool) {
        let Some((mut store, log, accepted)) = self.backup.clone() else { return };
        // What it forgets, and who still has that.
        for (id, node) in &self.store.nodes {
            for (dot, sibling) in &node.siblings {
                let kept = store.nodes.get(id).is_some_and(|node| node.context.contains(dot));
                let holds = |agent: &Agent| {
                    let folded = agent
                        .replica
                        .base()
                        .nodes
                        .get(id)
                        .is_some_and(|node| node.siblings.contains_key(dot));
                    agent.up && folded && agent.replica.base().epoch == self.store.head.epoch
                };
                let holders: BTreeSet<usize> =
                    (0..self.agents.len()).filter(|agent| holds(&self.agents[*agent])).collect();
                let on_top = |agent: &usize| {
                    self.agents[*agent]
                        .replica
                        .outbox()
                        .of_node(id)
                        .0
                        .any(|event| event.event().context.contains(dot))
                        || self.agents[*agent]
                            .replica
                            .outbox()
                            .of_node(id)
                            .1
                            .any(|(_, edit)| edit.context.contains(dot))
                };
                let covered = holders.iter().any(on_top);
                // What instances write after a restore that nobody told them of has the names
                // of what was forgotten: regions that had that cannot tell one from the other.
                let ambiguous = !told && dot.actor.is_instance();
                if !kept && !covered && !holders.is_empty() && !ambiguous {
                    let edit = self
                        .log
                        .values()
                        .flat_map(|entry| &entry.events)
                        .find(|event| event.dot() == dot)
                        .unwrap()
                        .event()
                        .edit;
                    let version = sibling.version.clone();
                    self.forgotten.push(Forgotten {
                        dot: dot.clone(),
                        edit,
                        node: *id,
                        version,
                        holders,
                        told,
                    });
                }
            }
        }
        // Content is kept beside the store, and not restored with it.
        store.contents.clone_from(&self.store.contents);
        store.revision = self.store.revision + 1;
        if told && !self.is(Broken::NoEpoch) {
            self.epochs += 1;
            store.head.epoch = self.epochs;
        }
        (self.store, self.log, self.accepted) = (store, log, accepted);
        self.late.clear();
        if self.over.is_some() {
            self.restore_over(told.then_some(self.epochs));
        }
        for instance in &mut self.instances {
            *instance = self.store.clone();
        }
        for agent in 0..self.agents.len() {
            self.agents[agent].replica.disconnected();
            self.write_down(agent);
        }
        self.acks.clear();
        self.counted.stores += 1;
    }
}
