//! Users and their disks, and the agent that looks at one and writes to it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Agent, File, World, blob, pick};
use crate::model::event::BlobRef;
use crate::model::event::Version;
use crate::model::id::{EditId, NodeId};
use crate::model::path::{RelPath, directories};
use crate::model::replica::Replica;
use crate::model::vector::VersionVector;
use crate::simulation::Broken;
use crate::simulation::ops::PATHS;

/// That much of the file stands on the disk now.
fn stand(replica: &Replica, stood: &mut BTreeMap<NodeId, (VersionVector, Option<EditId>)>, id: NodeId) {
    if let Some(shown) = replica.shown().get(&id) {
        let entry = stood.entry(id).or_default();
        entry.0.join(&shown.seen);
        entry.1 = standing(replica, &id);
    }
}

/// The own edit that stands on the disk, as far as the agent knows.
pub(super) fn standing(replica: &Replica, id: &NodeId) -> Option<EditId> {
    let shown = replica.shown().get(id)?;
    let sealed = replica.outbox().of_node(id).0.filter(|event| shown.seen.contains(event.dot())).last();
    shown.pending.or(sealed.map(|event| event.event().edit))
}

impl World {
    pub(super) fn save(&mut self, agent: usize, path: &str, content: u8) {
        let modified_ms = self.clock(agent);
        let files = &mut self.agents[agent].files;
        let below = format!("{path}/");
        let fits = !files.keys().any(|other| other.starts_with(&below))
            && !directories(path).any(|directory| files.contains_key(directory));
        if fits {
            files.insert(path.to_owned(), File { content, modified_ms });
        }
    }

    pub(super) fn path_of(&self, agent: usize, path: u8) -> Option<String> {
        let files = &self.agents[agent].files;
        files.keys().nth(pick(path, files.len())).cloned()
    }

    pub(super) fn delete(&mut self, agent: usize, path: u8) {
        if let Some(path) = self.path_of(agent, path) {
            self.agents[agent].files.remove(&path);
        }
    }

    pub(super) fn rename(&mut self, agent: usize, from: u8, to: u8) {
        let Some(from) = self.path_of(agent, from) else { return };
        let Some(file) = self.agents[agent].files.remove(&from) else { return };
        let to = PATHS[pick(to, PATHS.len())];
        self.save(agent, to, file.content);
        match self.agents[agent].files.get_mut(to) {
            Some(moved) if moved.content == file.content => moved.modified_ms = file.modified_ms,
            _ => drop(self.agents[agent].files.insert(from, file)),
        }
    }

    /// The agent looks at its disk. A file that is gone from one path and stands at another is
    /// known as the same.
    pub(super) fn scan(&mut self, agent: usize) {
        if self.is(Broken::ContextOfTheAgent) {
            let replica = &mut self.agents[agent].replica;
            let ids: Vec<NodeId> = replica.shown().keys().copied().collect();
            for id in ids {
                if let Some(node) = replica.node(&id) {
                    let Some(visible) = node.visible() else { continue };
                    let mut seen = node.seen(&visible);
                    seen.lower(&replica.unnamed(), 0);
                    if let Some(shown) = replica.shown.get_mut(&id) {
                        shown.seen = seen;
                    }
                }
            }
        }
        if self.is(Broken::NothingMovedAside) {
            let replica = &mut self.agents[agent].replica;
            for id in replica.outbox.nodes() {
                let last = replica.outbox.of_node(&id).1.last().map(|(_, edit)| edit.edit);
                if let Some(shown) = replica.shown.get_mut(&id) {
                    shown.pending = last;
                }
            }
        }
        let files = &self.agents[agent].files;
        self.agents[agent].looked_at =
            files.iter().map(|(path, file)| (path.clone(), file.content)).collect();
        let wall = self.clock(agent);
        let Agent { replica, files, .. } = &self.agents[agent];
        let shown: BTreeMap<String, Option<BlobRef>> =
            replica.shown().values().map(|shown| (shown.path.clone(), shown.version.content)).collect();
        let mut gone: Vec<String> = shown.keys().filter(|path| !files.contains_key(*path)).cloned().collect();
        let found: Vec<(String, File)> = files
            .iter()
            .filter(|(path, file)| {
                shown.get(*path).is_none_or(|content| *content != Some(blob(file.content)))
            })
            .map(|(path, file)| (path.clone(), *file))
            .collect();
        for (path, file) in found {
            let edit = self.edit();
            let rel = RelPath::new(&path).unwrap();
            let moved = gone
                .iter()
                .position(|from| !shown.contains_key(&path) && shown[from] == Some(blob(file.content)));
            let from = moved.map(|at| gone.remove(at));
            let done = self.on_agent(agent, true, |world| {
                let replica = &mut world.agents[agent].replica;
                let done = match from {
                    Some(from) => replica.moved(&from, &rel, wall, edit),
                    None => replica.found(&rel, blob(file.content), file.modified_ms, wall, edit),
                };
                if done.is_some() {
                    world.made.insert(edit, None);
                }
                done
            });
            self.look_at_context(agent, edit);
            self.changed |= done.is_some();
            let Agent { replica, stood, .. } = &mut self.agents[agent];
            if let Some(id) = replica.stands_at(&path).filter(|_| done.is_none()) {
                // What was to be written there stands there, whoever has put it there.
                stand(replica, stood, id);
            }
        }
        for path in gone {
            let edit = self.edit();
            let done = self.on_agent(agent, true, |world| {
                let done = world.agents[agent].replica.vanished(&path, wall, edit);
                if world.unfolded(agent).contains_key(&edit) {
                    world.made.insert(edit, None);
                }
                done
            });
            self.look_at_context(agent, edit);
            self.changed |= done.is_some();
        }
    }

    /// Brings the disk to what it should show, but for what was changed there and not looked at.
    /// Whether the agent goes on.
    pub(super) fn write(&mut self, agent: usize) -> bool {
        let waiting = self.will_write(agent);
        if !self.write_down(agent) {
            return false;
        }
        // Files change places: what stands in the way of another goes first.
        let mut taken = Vec::new();
        for (id, wanted) in waiting {
            if self.dies(agent) {
                return false;
            }
            let Agent { replica, files, looked_at, .. } = &mut self.agents[agent];
            let path = replica.shown().get(&id).map(|shown| shown.path.clone());
            let old = path.and_then(|path| Some((files.remove(&path)?, path)));
            if let Some((file, path)) = &old {
                if looked_at.remove(path) != Some(file.content) {
                    return self.destroyed(path);
                }
            }
            if wanted.is_some() && old.is_some() {
                replica.took_away(&id);
            }
            taken.push((id, wanted, old.is_some()));
        }
        for (id, wanted, stood) in taken {
            if self.dies(agent) {
                return false;
            }
            let Some((path, version)) = wanted else {
                self.agents[agent].replica.wrote(&id);
                self.changed = true;
                continue;
            };
            let Agent { replica, files, looked_at, stood: stands, .. } = &mut self.agents[agent];
            let below = format!("{path}/");
            let free = !files.contains_key(&path)
                && replica.stands_at(&path).is_none()
                && !files.keys().any(|other| other.starts_with(&below))
                && !directories(&path).any(|directory| files.contains_key(directory));
            if free || self.broken == Broken::BlindWriter {
                let content = (0..=u8::MAX).find(|content| Some(blob(*content)) == version.content).unwrap();
                let replaced = files.insert(path.clone(), File { content, modified_ms: version.modified_ms });
                let seen = looked_at.insert(path.clone(), content);
                if replaced.is_some_and(|file| seen != Some(file.content)) {
                    return self.destroyed(&path);
                }
                replica.wrote(&id);
                stand(replica, stands, id);
                self.changed = true;
            } else {
                replica.left(&id);
                self.changed |= stood;
            }
        }
        self.write_down(agent)
    }

    /// What the agent is going to write to its disk.
    fn will_write(&mut self, agent: usize) -> Vec<(NodeId, Option<(String, Version)>)> {
        let blind = self.is(Broken::BlindWriter);
        let Agent { replica, files, stood, .. } = &mut self.agents[agent];
        let ids: BTreeSet<NodeId> =
            replica.shown().keys().copied().chain(replica.view().tree().into_values()).collect();
        let mut waiting = Vec::new();
        for id in ids {
            let wanted = replica.wanted(&id);
            let have = replica.shown().get(&id).map(|shown| (shown.path.clone(), shown.version.content));
            let on_disk = |path: &String| files.get(path).map(|file| blob(file.content));
            let untouched = have.as_ref().is_none_or(|(path, content)| on_disk(path) == *content);
            if !untouched && !blind {
                continue;
            }
            let same = match (&wanted, &have) {
                (Some((path, version)), Some((have, content))) => path == have && version.content == *content,
                (None, None) => true,
                _ => false,
            };
            if same && untouched {
                replica.shows(&id);
                stand(replica, stood, id);
                continue;
            }
            replica.will_write(&id);
            waiting.push((id, wanted));
        }
        waiting
    }

    fn destroyed(&mut self, path: &str) -> bool {
        self.fail(format!("the writer destroyed what a user had saved at {path}"));
        false
    }
}
