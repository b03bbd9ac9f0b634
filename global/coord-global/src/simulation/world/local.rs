//! What agents write down, and what is left of one that is killed.

use std::collections::BTreeSet;

use super::disk::standing;
use super::{Agent, World, blob};
use crate::model::id::EditId;
use crate::model::replica::{Part, Replica};
use crate::simulation::Broken;

impl World {
    /// Whether agents are what they wrote down. What else is broken reaches into them.
    fn writes_down(&self) -> bool {
        matches!(self.broken, Broken::Nothing | Broken::NoIntention | Broken::HalfWrittenDown)
    }

    /// What a step of an agent has changed is written down, unless it is killed here; whether it
    /// goes on.
    pub(super) fn write_down(&mut self, agent: usize) -> bool {
        if self.dies(agent) {
            return false;
        }
        self.write_parts(agent, |_| true);
        true
    }

    fn write_parts(&mut self, agent: usize, arrives: impl Fn(&Part) -> bool) {
        if !self.writes_down() {
            return;
        }
        let unsaid = self.is(Broken::NoIntention);
        let arrives = |part: &Part| arrives(part) && !(unsaid && matches!(part, Part::Writing(_)));
        let it = &mut self.agents[agent];
        match it.replica.changes() {
            Ok(changes) => {
                if self.over.is_some() {
                    self.write_local(agent, changes.clone());
                }
                let it = &mut self.agents[agent];
                for (part, value) in changes.into_iter().filter(|(part, _)| arrives(part)) {
                    match value {
                        Some(value) => drop(it.local.insert(part, value)),
                        None => drop(it.local.remove(&part)),
                    }
                }
                it.replica.written();
                let (base, filling) = it.replica.generations_in_use();
                it.local.retain(|part, _| match part {
                    Part::Node { generation, .. } => *generation == base || Some(*generation) == filling,
                    _ => true,
                });
            }
            Err(refusal) => {
                let what = format!("{} cannot be written down: {refusal}", it.region);
                self.fail(what);
            }
        }
    }

    /// Whether the agent is killed at this point, as the schedule says.
    pub(super) fn dies(&mut self, agent: usize) -> bool {
        match &mut self.killed_after {
            Some(0) => {
                self.killed_after = None;
                if self.is(Broken::HalfWrittenDown) {
                    self.write_parts(agent, |part| matches!(part, Part::State | Part::Node { .. }));
                }
                self.is_killed(agent);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn is_killed(&mut self, agent: usize) {
        if !self.writes_down() {
            return;
        }
        let lost = self.unfolded(agent);
        let Some(replica) = self.read_back(agent) else { return };
        self.agents[agent].replica = replica;
        let kept: BTreeSet<EditId> = self.unfolded(agent).into_keys().collect();
        let Agent { replica, stood, .. } = &mut self.agents[agent];
        for (id, (_, stands)) in stood.iter_mut() {
            // What was saved there is not known any more as a save.
            if stands.is_some_and(|edit| lost.contains_key(&edit) && !kept.contains(&edit)) {
                *stands = standing(replica, id);
            }
        }
        for edit in lost.into_keys() {
            if self.made.contains_key(&edit) && !kept.contains(&edit) && !self.accepted.contains(&edit) {
                self.made.insert(edit, Some("never written down"));
            }
        }
        // What was replaced or taken back since is there again.
        for edit in kept {
            if self.made.get(&edit).is_some_and(Option::is_some) {
                self.made.insert(edit, None);
            }
        }
        let it = &mut self.agents[agent];
        let content = |version: &crate::model::Version| {
            (0..=u8::MAX).find(|content| Some(blob(*content)) == version.content)
        };
        let shown = it.replica.shown().values();
        it.looked_at =
            shown.filter_map(|shown| Some((shown.path.clone(), content(&shown.version)?))).collect();
        self.restart(agent);
        self.counted.killed += 1;
    }

    /// The agent starts again, as another run.
    pub(super) fn restart(&mut self, agent: usize) {
        let session = self.session();
        self.agents[agent].replica.restarted(session);
        self.write_parts(agent, |_| true);
    }

    /// What was written down is what is known.
    pub(super) fn is_as_written_down(&mut self, agent: usize) {
        if !self.writes_down() {
            return;
        }
        let Some(replica) = self.read_back(agent) else { return };
        let it = &self.agents[agent];
        if replica != it.replica {
            let what = format!("{} was written down as {replica:?} instead of {:?}", it.region, it.replica);
            self.fail(what);
        }
    }

    fn read_back(&mut self, agent: usize) -> Option<Replica> {
        let it = &self.agents[agent];
        match Replica::restore(it.local.iter().map(|(part, value)| (*part, value))) {
            Ok(replica) => {
                let there = self.read_local(agent);
                if there.is_some_and(|there| there != replica) {
                    self.fail("a region is another one in its own store");
                }
                Some(replica)
            }
            Err(refusal) => {
                let what = format!("what {} wrote down cannot be read: {refusal}", it.region);
                self.fail(what);
                None
            }
        }
    }
}
