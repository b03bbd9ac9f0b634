//! The world of a schedule: three regions with disks, three instances, one store.

use std::collections::{BTreeMap, BTreeSet};

use super::super::append::{Accepted, Appending, Draft, Greeting, Known, hello};
use super::super::event::{BlobRef, Body, Fields, Strategy, Version};
use super::super::id::{Actor, Dot, EditId, Hash, NodeId, RegionId, Session, SpaceName};
use super::super::log::{ActorRecord, Entry};
use super::super::node::Node;
use super::super::outbox::Standing;
use super::super::path::{Names, RelPath, directories};
use super::super::replica::{Decided, Need, Paged, Replica};
use super::super::state::Astray;
use super::super::vector::VersionVector;
use super::super::view::PathView;
use super::super::{Hlc, Refusal, leader};
use super::Broken;
use super::account::Account;
use super::ops::{Fate, Op, PATHS};
use super::store::{Store, Txn};

const Y2001: u64 = 978_307_200_000;
const Y2026: u64 = 1_767_225_600_000;
const Y2099: u64 = 4_070_908_800_000;
const CLOCKS: [u64; 3] = [Y2001, Y2026, Y2099];

/// A file on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: u8,
    modified_ms: u64,
}

/// A region's agent and its disk.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) region: RegionId,
    pub(super) replica: Replica,
    pub(super) files: BTreeMap<String, File>,
    /// What the agent has seen there, or written.
    looked_at: BTreeMap<String, u8>,
    /// What of each file has ever stood there, and the edit that stands there.
    stood: BTreeMap<NodeId, (VersionVector, Option<EditId>)>,
    backup: Option<Box<Agent>>,
    clock: u64,
    pub(super) up: bool,
    failures: u32,
}

/// What a restored store has forgotten, and which agents still have it.
#[derive(Clone, Debug)]
pub(super) struct Forgotten {
    pub(super) dot: Dot,
    pub(super) edit: EditId,
    pub(super) node: NodeId,
    pub(super) version: Version,
    pub(super) holders: BTreeSet<usize>,
    /// Whether it was said that the store was restored.
    told: bool,
}

pub(crate) struct World {
    pub(super) broken: Broken,
    pub(super) store: Store,
    pub(super) objects: BTreeSet<(Hash, u64)>,
    next_object: u64,
    doomed: Vec<(Hash, u64)>,
    late: Vec<Txn>,
    instances: Vec<Store>,
    pub(super) agents: Vec<Agent>,
    acks: BTreeMap<RegionId, u64>,
    ms: u64,
    coordinator_clock: u64,
    next_id: u64,
    /// Counts on, whatever a restored store forgets: as seconds do.
    epochs: u32,
    /// All that was ever written into the log of this store, trimmed or not.
    pub(super) log: BTreeMap<u64, Entry>,
    /// The edits of regions that were accepted, in order.
    pub(super) accepted: Vec<EditId>,
    /// The edits that regions made, and why some of them need not be anywhere.
    pub(super) made: BTreeMap<EditId, Option<&'static str>>,
    /// The edits that keep what was in doubt in files of their own.
    pub(super) copies: BTreeSet<EditId>,
    /// Other names of an edit, which only what is broken gives.
    pub(super) alias: BTreeMap<EditId, EditId>,
    pub(super) forgotten: Vec<Forgotten>,
    backup: Option<(Store, BTreeMap<u64, Entry>, Vec<EditId>)>,
    pub(super) counted: Account,
    failure: Option<String>,
    changed: bool,
}

pub(super) fn blob(content: u8) -> BlobRef {
    BlobRef { hash: Hash::of_content(&[content]), size: 1 }
}

fn pick(n: u8, of: usize) -> usize {
    usize::from(n) % of.max(1)
}

/// The outbox forgets all sealed edits up to `seq`.
fn drop_sealed(replica: &mut Replica, seq: u64) {
    for event in replica.outbox.folded(seq) {
        replica.refresh(event.event().node);
    }
}

/// That much of the file stands on the disk now.
fn stand(replica: &Replica, stood: &mut BTreeMap<NodeId, (VersionVector, Option<EditId>)>, id: NodeId) {
    if let Some(shown) = replica.shown().get(&id) {
        let entry = stood.entry(id).or_default();
        entry.0.join(&shown.seen);
        let sealed = replica.outbox().of_node(&id).0.filter(|event| shown.seen.contains(event.dot())).last();
        entry.1 = shown.pending.or(sealed.map(|event| event.event().edit));
    }
}

impl World {
    pub(crate) fn new(broken: Broken) -> Self {
        let mut world = Self {
            broken,
            store: Store::new(),
            objects: BTreeSet::new(),
            next_object: 0,
            doomed: Vec::new(),
            late: Vec::new(),
            instances: vec![Store::new(); 3],
            agents: Vec::new(),
            acks: BTreeMap::new(),
            ms: 0,
            coordinator_clock: Y2026,
            next_id: 0,
            epochs: 100,
            log: BTreeMap::new(),
            accepted: Vec::new(),
            made: BTreeMap::new(),
            copies: BTreeSet::new(),
            alias: BTreeMap::new(),
            forgotten: Vec::new(),
            backup: None,
            counted: Account::default(),
            failure: None,
            changed: false,
        };
        for name in ["amsterdam", "beijing", "chicago"] {
            let region = RegionId::new(name).unwrap();
            let space = SpaceName::new("main").unwrap();
            let session = world.session();
            let replica = Replica::new(space, region.clone(), Names::Folded, session);
            let agent = Agent {
                region,
                replica,
                files: BTreeMap::new(),
                looked_at: BTreeMap::new(),
                stood: BTreeMap::new(),
                backup: None,
                clock: Y2026,
                up: true,
                failures: 0,
            };
            world.agents.push(agent);
        }
        world
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    fn fail(&mut self, what: impl Into<String>) {
        self.failure.get_or_insert(what.into());
    }

    fn id(&mut self) -> [u8; 16] {
        self.next_id += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next_id.to_be_bytes());
        id
    }

    fn session(&mut self) -> Session {
        Session::from(self.id())
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == broken
    }

    fn clock(&self, agent: usize) -> u64 {
        self.agents[agent].clock + self.ms
    }

    pub(crate) fn step(&mut self, op: &Op) {
        self.ms += 100;
        match *op {
            Op::Save { agent, path, content } => {
                self.save(self.agent(agent), PATHS[pick(path, PATHS.len())], content)
            }
            Op::Delete { agent, path } => self.delete(self.agent(agent), path),
            Op::Move { agent, from, to } => self.rename(self.agent(agent), from, to),
            Op::Scan { agent } => self.scan(self.agent(agent)),
            Op::Write { agent } => self.write(self.agent(agent)),
            Op::Hello { agent, heard } => self.hello(self.agent(agent), heard),
            Op::Upload { agent } => self.upload(self.agent(agent)),
            Op::Seal { agent, most } => self.seal(self.agent(agent), most.into()),
            Op::Push { agent, instance, most, fate } => {
                self.push(self.agent(agent), pick(instance, 3), most.into(), fate)
            }
            Op::Pull { agent, instance, most } => {
                self.pull(self.agent(agent), Some(pick(instance, 3)), most.into())
            }
            Op::Page { agent, most } => self.page(self.agent(agent), most.into()),
            Op::Ack { agent } => self.ack(self.agent(agent)),
            Op::Restart { agent } => {
                let (agent, session) = (self.agent(agent), self.session());
                self.agents[agent].replica.restarted(session);
            }
            Op::Sync { agent, instance } => self.sync(self.agent(agent), pick(instance, 3)),
            Op::BackUpDisk { agent } => {
                let agent = self.agent(agent);
                let agent = &mut self.agents[agent];
                agent.backup = None;
                agent.backup = Some(Box::new(agent.clone()));
            }
            Op::RestoreDisk { agent } => self.restore_disk(self.agent(agent)),
            Op::CloneDisk { agent } => self.clone_disk(self.agent(agent)),
            Op::Refresh { instance } => self.instances[pick(instance, 3)] = self.store.clone(),
            Op::ApiWrite { instance, node, content, all, fate } => {
                self.api(pick(instance, 3), node, Some(content), all, fate)
            }
            Op::ApiDelete { instance, node, all, fate } => self.api(pick(instance, 3), node, None, all, fate),
            Op::Resolve { instance, node, by, fate } => self.resolve(pick(instance, 3), node, by, fate),
            Op::MakeReal { instance, node, fate } => self.make_real(pick(instance, 3), node, fate),
            Op::Forget { instance, node, fate } => self.forget(pick(instance, 3), node, fate),
            Op::Trim { keep } => self.trim(keep),
            Op::Sweep => self.sweep(),
            Op::Arrive { which } => self.arrive(which),
            Op::BackUpStore => {
                self.backup = Some((self.store.clone(), self.log.clone(), self.accepted.clone()))
            }
            Op::RestoreStore { told } => self.restore_store(told),
            Op::Clock { agent, to } => {
                let agent = self.agent(agent);
                self.agents[agent].clock = CLOCKS[pick(to, 3)];
            }
            Op::CoordinatorClock { to } => self.coordinator_clock = CLOCKS[pick(to, 3)],
        }
    }

    fn agent(&self, agent: u8) -> usize {
        pick(agent, self.agents.len())
    }

    // ---- users ----

    fn save(&mut self, agent: usize, path: &str, content: u8) {
        let modified_ms = self.clock(agent);
        let files = &mut self.agents[agent].files;
        let below = format!("{path}/");
        let fits = !files.keys().any(|other| other.starts_with(&below))
            && !directories(path).any(|directory| files.contains_key(directory));
        if fits {
            files.insert(path.to_owned(), File { content, modified_ms });
        }
    }

    fn path_of(&self, agent: usize, path: u8) -> Option<String> {
        let files = &self.agents[agent].files;
        files.keys().nth(pick(path, files.len())).cloned()
    }

    fn delete(&mut self, agent: usize, path: u8) {
        if let Some(path) = self.path_of(agent, path) {
            self.agents[agent].files.remove(&path);
        }
    }

    fn rename(&mut self, agent: usize, from: u8, to: u8) {
        let Some(from) = self.path_of(agent, from) else { return };
        let Some(file) = self.agents[agent].files.remove(&from) else { return };
        let to = PATHS[pick(to, PATHS.len())];
        self.save(agent, to, file.content);
        match self.agents[agent].files.get_mut(to) {
            Some(moved) if moved.content == file.content => moved.modified_ms = file.modified_ms,
            _ => drop(self.agents[agent].files.insert(from, file)),
        }
    }

    // ---- agents ----

    /// Runs something on an agent, and counts what it adds to its outbox and takes from it.
    fn on<R>(&mut self, agent: usize, run: impl FnOnce(&mut Self) -> R) -> R {
        self.on_agent(agent, false, run)
    }

    fn on_agent<R>(&mut self, agent: usize, scanned: bool, run: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.unfolded(agent);
        let set_aside = self.agents[agent].replica.set_aside().len();
        let result = run(self);
        let after = self.unfolded(agent);
        let set_aside: BTreeMap<EditId, NodeId> = self.agents[agent].replica.set_aside()[set_aside..]
            .iter()
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
    fn look_at_context(&mut self, agent: usize, edit: EditId) {
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
    fn unfolded(&self, agent: usize) -> BTreeMap<EditId, (NodeId, Version)> {
        let outbox = self.agents[agent].replica.outbox();
        let sealed = outbox.sealed_from(0).filter_map(|event| {
            Some((event.event().edit, (event.event().node, event.event().version()?.clone())))
        });
        sealed
            .chain(outbox.pending().map(|(_, edit)| (edit.edit, (edit.node, edit.version.clone()))))
            .collect()
    }

    fn edit(&mut self) -> EditId {
        EditId::from(self.id())
    }

    /// The agent looks at its disk. A file that is gone from one path and stands at another is
    /// known as the same.
    fn scan(&mut self, agent: usize) {
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
    fn write(&mut self, agent: usize) {
        let blind = self.is(Broken::BlindWriter);
        let mut destroyed = None;
        let Agent { replica, files, looked_at, stood, .. } = &mut self.agents[agent];
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
                replica.wrote(&id);
                stand(replica, stood, id);
                continue;
            }
            let old = have.and_then(|(path, _)| {
                let file = files.remove(&path)?;
                let seen = looked_at.remove(&path) == Some(file.content);
                destroyed = destroyed.take().or((!seen).then(|| path.clone()));
                Some((path, file))
            });
            waiting.push((id, wanted, old));
        }
        for (id, wanted, old) in &waiting {
            if wanted.is_some() && old.is_some() {
                replica.took_away(id);
            }
        }
        for (id, wanted, old) in waiting {
            let Some((path, version)) = wanted else {
                replica.wrote(&id);
                self.changed = true;
                continue;
            };
            let below = format!("{path}/");
            let free = !files.contains_key(&path)
                && replica.stands_at(&path).is_none()
                && !files.keys().any(|other| other.starts_with(&below))
                && !directories(&path).any(|directory| files.contains_key(directory));
            if free || blind {
                let content = (0..=u8::MAX).find(|content| Some(blob(*content)) == version.content).unwrap();
                let replaced = files.insert(path.clone(), File { content, modified_ms: version.modified_ms });
                let seen = looked_at.insert(path.clone(), content);
                let unseen = replaced.is_some_and(|file| seen != Some(file.content));
                destroyed = destroyed.take().or(unseen.then_some(path));
                replica.wrote(&id);
                stand(replica, stood, id);
                self.changed = true;
            } else if old.is_some() {
                self.changed = true;
            }
        }
        if let Some(path) = destroyed {
            self.fail(format!("the writer destroyed what a user had saved at {path}"));
        }
    }

    fn hello(&mut self, agent: usize, heard: bool) {
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

    fn rename_doubts(&mut self, agent: usize) {
        let fresh: Vec<EditId> = (0..16).map(|_| self.edit()).collect();
        let outbox = &mut self.agents[agent].replica.outbox;
        for (edit, fresh) in
            outbox.each_pending_mut().filter(|edit| edit.standing == Standing::InDoubt(None)).zip(fresh)
        {
            self.alias.insert(fresh, edit.edit);
            self.made.insert(edit.edit, Some("renamed"));
            self.made.insert(fresh, None);
            edit.edit = fresh;
        }
    }

    fn upload(&mut self, agent: usize) {
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

    fn put_content(&mut self, hash: Hash) {
        if !self.store.contents.contains_key(&hash) {
            self.next_object += 1;
            self.objects.insert((hash, self.next_object));
            self.store.contents.insert(hash, self.next_object);
            self.changed = true;
        }
    }

    fn seal(&mut self, agent: usize, most: usize) {
        let contents = self.store.contents.clone();
        let sealed = self
            .on(agent, |world| world.agents[agent].replica.seal(most, |hash| contents.contains_key(hash)));
        self.changed |= sealed > 0;
    }

    fn received(&self) -> u64 {
        self.coordinator_clock + self.ms
    }

    /// An append by an instance: made of its picture, tried again on a newer one when the head is
    /// another. What it refuses counts when the picture was the store's.
    fn append<R>(
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
                Fate::Lost => return None,
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

    fn apply(&mut self, txn: Txn, late: bool, fate: Fate) -> bool {
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

    fn push(&mut self, agent: usize, instance: usize, most: usize, fate: Fate) {
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

    fn pull(&mut self, agent: usize, instance: Option<usize>, most: usize) {
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

    fn page(&mut self, agent: usize, most: usize) {
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
        let last = page.len() < most;
        self.changed = true;
        self.on(agent, |world| {
            let broken = world.broken;
            let replica = &mut world.agents[agent].replica;
            replica.page(page);
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

    fn ack(&mut self, agent: usize) {
        let Agent { region, replica, up, .. } = &self.agents[agent];
        if *up && replica.need() == Need::Nothing {
            self.acks.insert(region.clone(), replica.base().cursor);
        }
    }

    fn sync(&mut self, agent: usize, instance: usize) {
        self.scan(agent);
        for _ in 0..8 {
            match self.agents[agent].replica.need() {
                Need::Hello => self.hello(agent, true),
                Need::Snapshot => self.page(agent, 1_000),
                Need::Pull | Need::Nothing => self.pull(agent, None, 1_000),
            }
        }
        self.write(agent);
        self.upload(agent);
        self.seal(agent, 1_000);
        self.instances[instance] = self.store.clone();
        self.push(agent, instance, 1_000, Fate::Arrives);
        self.ack(agent);
    }

    fn gone_with_the_disk(&mut self, agent: usize, kept: &BTreeSet<EditId>) {
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

    fn restore_disk(&mut self, agent: usize) {
        let Some(backup) = self.agents[agent].backup.clone() else { return };
        let Agent { replica, files, looked_at, stood, .. } = *backup;
        let kept: BTreeSet<EditId> = {
            let outbox = replica.outbox();
            outbox
                .sealed_from(0)
                .map(|event| event.event().edit)
                .chain(outbox.pending().map(|(_, edit)| edit.edit))
                .collect()
        };
        self.gone_with_the_disk(agent, &kept);
        let session = self.session();
        let it = &mut self.agents[agent];
        (it.replica, it.files, it.looked_at, it.stood) = (replica, files, looked_at, stood);
        it.replica.restarted(session);
        self.counted.disks += 1;
        // What was replaced or taken back since is there again.
        for edit in kept {
            if self.made.get(&edit).is_some_and(Option::is_some) {
                self.made.insert(edit, None);
            }
        }
    }

    fn clone_disk(&mut self, agent: usize) {
        if self.agents.len() < 5 {
            let session = self.session();
            let mut copy = self.agents[agent].clone();
            copy.replica.restarted(session);
            self.agents.push(copy);
            self.counted.clones += 1;
        }
    }

    // ---- callers of the API, and the leader ----

    fn nth_node(&self, instance: usize, node: u8) -> Option<NodeId> {
        let nodes = &self.instances[instance].nodes;
        nodes.keys().nth(pick(node, nodes.len())).copied()
    }

    fn api(&mut self, instance: usize, node: u8, content: Option<u8>, all: bool, fate: Fate) {
        let Some(id) = self.nth_node(instance, node) else { return };
        if let Some(content) = content {
            self.put_content(blob(content).hash);
        }
        let edit = self.edit();
        let (wall, epoch) = (self.received(), self.store.head.epoch);
        self.append(instance, fate, |appending| {
            let Some(node) = appending.node(&id) else { return };
            let Some(visible) = node.visible() else { return };
            let context = if all { node.context.clone() } else { node.seen(&visible) };
            let version = Version {
                content: content.map(blob),
                was: visible.version.content,
                base: Some(visible.version.shows()),
                changed: Fields::CONTENT,
                time: Hlc::after(wall, visible.version.time),
                ..visible.version
            };
            let draft = Draft { edit, node: id, context, body: Body::Write(version) };
            let _ = appending.write(Actor::api(epoch), draft);
        });
    }

    fn lead(&mut self, instance: usize, fate: Fate, drafts: impl Fn(&Store) -> Vec<Draft>) {
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

    fn resolve(&mut self, instance: usize, node: u8, by: Strategy, fate: Fate) {
        let Some(id) = self.nth_node(instance, node) else { return };
        self.lead(instance, fate, |store| {
            store.nodes.get(&id).map(|node| leader::resolve(id, node, by)).unwrap_or_default()
        });
    }

    fn make_real(&mut self, instance: usize, node: u8, fate: Fate) {
        let Some(id) = self.nth_node(instance, node) else { return };
        self.lead(instance, fate, |store| {
            let mut view = PathView::new(Names::Folded);
            store.nodes.iter().for_each(|(id, node)| view.set(*id, Some(node)));
            store.nodes.get(&id).and_then(|node| leader::make_real(id, node, &view)).into_iter().collect()
        });
    }

    fn forget(&mut self, instance: usize, node: u8, fate: Fate) {
        let Some(id) = self.nth_node(instance, node) else { return };
        self.lead(instance, fate, |store| {
            store.nodes.get(&id).and_then(|node| leader::forget(id, node)).into_iter().collect()
        });
    }

    fn trim(&mut self, keep: u8) {
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
        head.floor = floor;
        self.store.revision += 1;
        self.store.log.retain(|last, _| *last > floor);
        // A restore that nobody tells is found by the log alone, and that is gone.
        self.forgotten.retain(|forgotten| forgotten.told);
        self.counted.trims += 1;
    }

    /// Content that no file has any more: its key goes with the head, its object later.
    fn sweep(&mut self) {
        let referenced = self.store.referenced();
        let unused: Vec<(Hash, u64)> = self
            .store
            .contents
            .iter()
            .filter(|(hash, _)| !referenced.contains(hash))
            .map(|(hash, object)| (*hash, *object))
            .collect();
        for (hash, object) in unused {
            self.store.contents.remove(&hash);
            self.store.revision += 1;
            self.doomed.push((hash, object));
            self.counted.swept += 1;
        }
    }

    fn arrive(&mut self, which: u8) {
        if !self.late.is_empty() {
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
    fn restore_store(&mut self, told: bool) {
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
        for instance in &mut self.instances {
            *instance = self.store.clone();
        }
        for agent in &mut self.agents {
            agent.replica.disconnected();
        }
        self.acks.clear();
        self.counted.stores += 1;
    }

    // ---- the end ----

    /// All that is on its way arrives, nothing fails any more, users rest: until nothing changes.
    pub(crate) fn settle(&mut self) {
        while !self.late.is_empty() || !self.doomed.is_empty() {
            self.arrive(0);
        }
        self.coordinator_clock = Y2026;
        // Of two copies of a disk one goes on.
        for agent in 3..self.agents.len() {
            let region = self.agents[agent].region.clone();
            let spoken = self.store.last(&region).and_then(|(_, record)| record.session);
            let original = self.agents.iter().position(|other| other.region == region && other.up).unwrap();
            let copy_speaks = spoken == Some(self.agents[agent].replica.session);
            let refused = if copy_speaks { original } else { agent };
            let kept = self.unfolded(if copy_speaks { agent } else { original }).into_keys().collect();
            self.gone_with_the_disk(refused, &kept);
            self.agents[refused].up = false;
        }
        for round in 0..80 {
            self.changed = false;
            for agent in (0..self.agents.len()).filter(|agent| self.agents[*agent].up).collect::<Vec<_>>() {
                self.ms += 100;
                self.sync(agent, round % 3);
            }
            let ids: Vec<NodeId> = self.store.nodes.keys().copied().collect();
            let count = u8::try_from(ids.len()).unwrap_or(u8::MAX);
            for node in 0..count {
                self.instances[0] = self.store.clone();
                self.resolve(0, node, Strategy::LastWriterWins, Fate::Arrives);
                self.make_real(0, node, Fate::Arrives);
            }
            if self.failure.is_some() {
                return;
            }
            let at_rest = |agent: &&Agent| {
                agent.replica.outbox().is_empty() && agent.replica.base().cursor == self.store.head.position
            };
            if !self.changed && self.agents.iter().filter(|agent| agent.up).all(|agent| at_rest(&agent)) {
                return;
            }
        }
        self.fail("it does not come to rest");
    }
}

/// What an instance knows.
pub(super) struct Picture<'a> {
    pub(super) store: &'a Store,
    blind: bool,
}

impl Known for Picture<'_> {
    fn actor(&self, actor: &Actor) -> Option<ActorRecord> {
        self.store.actor(actor)
    }

    fn node(&self, id: &NodeId) -> Option<Node> {
        self.store.node(id)
    }

    fn has_content(&self, hash: &Hash) -> bool {
        self.blind || self.store.has_content(hash)
    }
}
