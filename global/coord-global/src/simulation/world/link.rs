//! Agents and instances: Hello, pushes, pulls, snapshots; disks that are restored and copied.

use std::collections::BTreeSet;

use super::{Agent, World};
use crate::model::Refusal;
use crate::model::append::{Accepted, Greeting, Known, hello};
use crate::model::id::{EditId, Hash, NodeId, Session};
use crate::model::outbox::{Pending, Standing};
use crate::model::replica::{Decided, Need, Paged, Replica};
use crate::model::state::Astray;
use crate::simulation::Broken;
use crate::simulation::faulty::Fate;

/// The outbox forgets all sealed edits up to `seq`.
fn drop_sealed(replica: &mut Replica, seq: u64) {
    for event in replica.outbox.folded(seq) {
        replica.refresh(event.event().node);
    }
}

impl World {
    pub(super) fn hello(&mut self, agent: usize, heard: bool) {
        if self.over.is_some() {
            return self.hello_over(agent, heard);
        }
        let (region, mut said) = (self.agents[agent].region.clone(), self.agents[agent].replica.hello());
        let mut last = self.store.last(&region);
        let speaks = |session: Option<Session>| {
            self.agents.iter().enumerate().any(|(other, it)| {
                other != agent && it.up && it.region == region && Some(it.replica.session) == session
            })
        };
        let mut alive = last.is_some_and(|(_, record)| speaks(record.session));
        if self.is(Broken::NoEpoch) {
            (said.cursor, said.astray) = (0, false);
        }
        if self.is(Broken::NoSessions) {
            alive = false;
            if let Some((_, record)) = &mut last {
                record.session = Some(said.session);
            }
        }
        self.epochs += 1;
        let named = said.actor.as_ref().and_then(|actor| self.store.actor(actor));
        match hello(&self.store.head, &region, last, named, &said, alive, self.epochs) {
            Ok(Greeting { welcome, actors }) => {
                let record = welcome.record;
                self.counted.renewed +=
                    u64::from(said.actor.is_some() && said.actor.as_ref() != Some(&welcome.actor));
                self.counted.restored += u64::from(welcome.epoch != self.store.head.epoch);
                self.store.head.epoch = welcome.epoch;
                self.store.actors.extend(actors);
                self.store.revision += 1;
                let head = self.store.head.position;
                if !heard {
                    return;
                }
                self.on(agent, |world| {
                    let replica = &mut world.agents[agent].replica;
                    replica.welcome(welcome, head);
                    match world.broken {
                        Broken::NoRollbackCheck if replica.renew => {
                            (replica.renew, replica.own, replica.accepted) = (false, record, record.seq);
                        }
                        Broken::DotsUsedAgain => {
                            replica.renew = false;
                            replica.accepted = record.seq;
                        }
                        Broken::NoEpoch => replica.astray = false,
                        Broken::NoEditIds => world.rename_doubts(agent),
                        _ => {}
                    }
                });
            }
            Err(Refusal::Busy { .. }) => self.counted.busy += 1,
            Err(other) => self.fail(format!("hello of {region}: {other}")),
        }
    }

    pub(super) fn rename_doubts(&mut self, agent: usize) {
        let fresh: Vec<EditId> = (0..16).map(|_| self.edit()).collect();
        let outbox = &mut self.agents[agent].replica.outbox;
        let in_doubt = |(order, edit): (u64, &Pending)| {
            (edit.standing == Standing::InDoubt(None)).then_some((order, edit.edit))
        };
        let orders: Vec<(u64, EditId)> = outbox.pending().filter_map(in_doubt).collect();
        for ((order, edit), fresh) in orders.into_iter().zip(fresh) {
            self.alias.insert(fresh, edit);
            self.made.insert(edit, Some("renamed"));
            self.made.insert(fresh, None);
            if let Some(pending) = outbox.pending_mut(order) {
                pending.edit = fresh;
            }
        }
    }

    pub(super) fn upload(&mut self, agent: usize) {
        let wanted: BTreeSet<Hash> = self
            .unfolded(agent)
            .values()
            .filter_map(|(_, version)| version.content)
            .map(|content| content.hash)
            .collect();
        for hash in wanted {
            self.put_content(hash);
        }
    }

    pub(super) fn put_content(&mut self, hash: Hash) {
        if self.store.contents.contains_key(&hash) {
        } else if self.over.is_some() {
            self.put_content_over(hash);
        } else {
            self.next_object += 1;
            self.objects.insert((hash, self.next_object));
            self.store.contents.insert(hash, self.next_object);
            self.changed = true;
        }
    }

    pub(super) fn seal(&mut self, agent: usize, most: usize) {
        let contents = self.store.contents.clone();
        let sealed = self
            .on(agent, |world| world.agents[agent].replica.seal(most, |hash| contents.contains_key(hash)));
        self.changed |= sealed > 0;
    }

    pub(super) fn push(&mut self, agent: usize, instance: usize, most: usize, fate: Fate) {
        if self.over.is_some() {
            return self.push_over(agent, instance, most, fate);
        }
        if self.agents[agent].replica.need() != Need::Nothing {
            return;
        }
        let events: Vec<_> = self.agents[agent].replica.to_push().take(most).cloned().collect();
        let (Some(first), Some(actor)) = (events.first(), self.agents[agent].replica.actor().cloned()) else {
            return;
        };
        let session = self.agents[agent].replica.session;
        if matches!(self.broken, Broken::NoSeqCheck | Broken::NoSessions) {
            let store = &mut self.instances[instance];
            let record = store.actors.entry(actor.clone()).or_default();
            record.session = Some(session);
            if self.broken == Broken::NoSeqCheck {
                (record.seq, record.hash) = (first.dot().seq - 1, first.event().prev);
            }
        }
        let answer = self.append(instance, fate, |appending| {
            let mut refused = None;
            for event in &events {
                if appending.is_full(event) {
                    break;
                }
                match appending.take(event, session) {
                    Ok(Accepted::At(_) | Accepted::Before) => {}
                    Err(refusal) => {
                        refused = Some((event.dot().seq, refusal));
                        break;
                    }
                }
            }
            (appending.actor(&actor), refused)
        });
        let last = events.last().map_or(0, |event| event.dot().seq);
        self.on(agent, |world| {
            let broken = world.broken;
            let it = &mut world.agents[agent];
            match answer {
                Some((record, refused)) => {
                    it.failures = 0;
                    if let Some((seq, refusal)) = refused {
                        it.replica.refused(seq, refusal);
                    } else if let Some(record) = record {
                        it.replica.answered(record);
                    }
                    if broken == Broken::DotsUsedAgain {
                        it.replica.renew = false;
                    }
                }
                None => {
                    it.failures += 1;
                    if broken == Broken::RetriesExhausted && it.failures >= 2 {
                        drop_sealed(&mut it.replica, first.dot().seq);
                    }
                }
            }
            if broken == Broken::DropAtPush {
                drop_sealed(&mut it.replica, last);
            }
        });
    }

    pub(super) fn pull(&mut self, agent: usize, instance: Option<usize>, most: usize) {
        if self.over.is_some() {
            return self.pull_over(agent, instance.unwrap_or_default(), most);
        }
        if !matches!(self.agents[agent].replica.need(), Need::Nothing | Need::Pull) {
            return;
        }
        let head = match instance {
            Some(instance) => self.instances[instance].head.clone(),
            None => self.store.head.clone(),
        };
        // An instance that is behind tells less, never something else.
        let current =
            instance.is_none_or(|instance| self.instances[instance].revision == self.store.revision);
        if current {
            self.agents[agent].replica.compare(&head);
            if self.is(Broken::NoEpoch) {
                self.agents[agent].replica.astray = false;
                self.agents[agent].replica.base.epoch = head.epoch;
                self.agents[agent].replica.epoch = head.epoch;
            }
        }
        for _ in 0..most {
            let cursor = self.agents[agent].replica.base().cursor;
            let store = instance.map_or(&self.store, |instance| &self.instances[instance]);
            let Some(entry) = store.entry_after(cursor).cloned() else { return };
            let result = self.on(agent, |world| world.agents[agent].replica.fold(&entry, most));
            match result {
                Ok(folded) => self.changed |= folded > 0,
                Err(Astray::Trimmed { .. }) if self.is(Broken::SkipInsteadOfSnapshot) => {
                    let replica = &mut self.agents[agent].replica;
                    replica.trimmed = false;
                    (replica.base.cursor, replica.base.chain) = (entry.first - 1, entry.chain);
                }
                Err(Astray::Trimmed { .. } | Astray::AnotherLog { .. }) => return,
                Err(other) => return self.fail(other.to_string()),
            }
            if self.is(Broken::DotsUsedAgain) {
                self.agents[agent].replica.renew = false;
            }
            if self.is(Broken::DrainedOnRead) {
                self.store.log.remove(&entry.last());
            }
        }
    }

    pub(super) fn page(&mut self, agent: usize, most: usize) {
        if self.over.is_some() {
            return self.page_over(agent, most);
        }
        if self.agents[agent].replica.need() != Need::Snapshot {
            return;
        }
        if self.agents[agent].replica.filling.is_none() {
            let record = self.agents[agent]
                .replica
                .actor()
                .and_then(|actor| self.store.actor(actor))
                .unwrap_or_default();
            if self.agents[agent].replica.begin_snapshot(&self.store.head, record).is_err() {
                return;
            }
            self.counted.snapshots += 1;
        }
        let replica = &self.agents[agent].replica;
        let (newer, after) = (replica.snapshot_newer_than(), replica.snapshot_after());
        let rest = self.store.nodes.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        let page: Vec<(NodeId, Paged)> = rest
            .take(most)
            .map(|(id, node)| {
                let mut node = node.clone();
                let paged = if node.position <= newer {
                    Paged::Unchanged(node.digest())
                } else {
                    Paged::Node(node.clone())
                };
                if self.broken == Broken::NoPositionInSnapshot && matches!(paged, Paged::Node(_)) {
                    node.position = 0;
                    return (*id, Paged::Node(node));
                }
                (*id, paged)
            })
            .collect();
        let (last, epoch) = (page.len() < most, self.store.head.epoch);
        self.changed = true;
        self.on(agent, |world| {
            let broken = world.broken;
            let replica = &mut world.agents[agent].replica;
            replica.page(epoch, page);
            if !last {
                return;
            }
            let doubt = match broken {
                Broken::TrimmedIsNotAccepted | Broken::TrimmedIsAccepted => replica.doubt_until.take(),
                _ => None,
            };
            if broken == Broken::NotIssuedAgain {
                replica.base.nodes.retain(|_, _| replica.filling.as_ref().is_none());
            }
            replica.finish_snapshot();
            match broken {
                Broken::OutboxDroppedWithSnapshot => {
                    for id in replica.outbox.nodes() {
                        replica.outbox = Default::default();
                        replica.refresh(id);
                    }
                }
                Broken::TrimmedIsNotAccepted if doubt.is_some() => replica.decide(Decided::AllOfThem),
                Broken::TrimmedIsAccepted if doubt.is_some() => {
                    for edit in replica.outbox.take_in_doubt() {
                        replica.refresh(edit.node);
                        world.made.insert(edit.edit, None);
                    }
                }
                _ => {}
            }
        });
    }

    pub(super) fn ack(&mut self, agent: usize) {
        let Agent { region, replica, up, .. } = &self.agents[agent];
        if *up && replica.need() == Need::Nothing {
            self.acks.insert(region.clone(), replica.base().cursor);
        }
    }

    pub(super) fn sync(&mut self, agent: usize, instance: usize) {
        self.scan(agent);
        if !self.write_down(agent) {
            return;
        }
        for _ in 0..8 {
            match self.agents[agent].replica.need() {
                Need::Hello => self.hello(agent, true),
                Need::Snapshot => self.page(agent, 1_000),
                Need::Pull | Need::Nothing => self.pull(agent, None, 1_000),
            }
            if !self.write_down(agent) {
                return;
            }
        }
        if !self.write(agent) {
            return;
        }
        self.upload(agent);
        self.seal(agent, 1_000);
        if !self.write_down(agent) {
            return;
        }
        self.instances[instance] = self.store.clone();
        self.push(agent, instance, 1_000, Fate::Arrives);
        if self.write_down(agent) {
            self.ack(agent);
        }
    }

    pub(super) fn gone_with_the_disk(&mut self, agent: usize, kept: &BTreeSet<EditId>) {
        let others: BTreeSet<EditId> = (0..self.agents.len())
            .filter(|other| *other != agent && self.agents[*other].up)
            .flat_map(|other| self.unfolded(other).into_keys())
            .collect();
        for edit in self.unfolded(agent).into_keys() {
            if self.made.contains_key(&edit)
                && !kept.contains(&edit)
                && !others.contains(&edit)
                && !self.accepted.contains(&edit)
            {
                self.made.insert(edit, Some("gone with its disk"));
            }
        }
        for forgotten in &mut self.forgotten {
            forgotten.holders.remove(&agent);
        }
    }

    pub(super) fn restore_disk(&mut self, agent: usize) {
        let Some(backup) = self.agents[agent].backup.clone() else { return };
        let Agent { replica, local, files, looked_at, stood, .. } = *backup;
        let kept: BTreeSet<EditId> = {
            let outbox = replica.outbox();
            outbox
                .sealed_from(0)
                .map(|event| event.event().edit)
                .chain(outbox.pending().map(|(_, edit)| edit.edit))
                .collect()
        };
        self.gone_with_the_disk(agent, &kept);
        let it = &mut self.agents[agent];
        (it.replica, it.local, it.files, it.looked_at, it.stood) = (replica, local, files, looked_at, stood);
        self.replace_local(agent);
        self.restart(agent);
        self.counted.disks += 1;
        // What was replaced or taken back since is there again.
        for edit in kept {
            if self.made.get(&edit).is_some_and(Option::is_some) {
                self.made.insert(edit, None);
            }
        }
    }

    pub(super) fn clone_disk(&mut self, agent: usize) {
        if self.agents.len() < 5 {
            let copy = self.agents[agent].clone();
            self.agents.push(copy);
            self.replace_local(self.agents.len() - 1);
            self.restart(self.agents.len() - 1);
            self.counted.clones += 1;
        }
    }
}
