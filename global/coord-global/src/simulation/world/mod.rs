//! The world of a schedule: three regions with disks, three instances, one store.

mod accounting;
mod coordinator;
mod disk;
mod link;
mod local;
mod over;

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use super::account::Account;
use super::faulty::Fate;
use super::ops::{Op, PATHS};
use super::store::{Store, Txn};
use crate::model::append::Known;
use crate::model::event::{BlobRef, Strategy, Version};
use crate::model::id::{Actor, Dot, EditId, Hash, NodeId, RegionId, Session, SpaceName};
use crate::model::log::{ActorRecord, Entry};
use crate::model::node::Node;
use crate::model::path::Names;
use crate::model::replica::{Part, Replica};
use crate::model::vector::VersionVector;

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
    /// The replica, as it is written down.
    local: BTreeMap<Part, Vec<u8>>,
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
    /// The real thing, where the schedule runs over that.
    over: Option<Box<over::Over>>,
    /// The agent of the next step is killed after that many points at which it may be.
    killed_after: Option<u8>,
}

pub(super) fn blob(content: u8) -> BlobRef {
    BlobRef { hash: Hash::of_content(&[content]), size: 1 }
}

fn pick(n: u8, of: usize) -> usize {
    usize::from(n) % of.max(1)
}

impl World {
    fn empty(broken: Broken) -> Self {
        Self {
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
            killed_after: None,
            over: None,
        }
    }

    pub(crate) fn new(broken: Broken) -> Self {
        let mut world = Self::empty(broken);
        world.populate();
        world
    }

    fn populate(&mut self) {
        for name in ["amsterdam", "beijing", "chicago"] {
            let region = RegionId::new(name).unwrap();
            let space = SpaceName::new("main").unwrap();
            let session = self.session();
            let replica = Replica::new(space, region.clone(), Names::Folded, session);
            let agent = Agent {
                region,
                replica,
                local: BTreeMap::new(),
                files: BTreeMap::new(),
                looked_at: BTreeMap::new(),
                stood: BTreeMap::new(),
                backup: None,
                clock: Y2026,
                up: true,
                failures: 0,
            };
            self.agents.push(agent);
            self.write_down(self.agents.len() - 1);
        }
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
        if let Op::Kill { after } = *op {
            self.killed_after = Some(after);
            return;
        }
        self.take(op);
        if let Some(agent) = op.agent().map(|agent| self.agent(agent)) {
            self.write_down(agent);
            self.killed_after = None;
        }
    }

    fn take(&mut self, op: &Op) {
        match *op {
            Op::Save { agent, path, content } => {
                self.save(self.agent(agent), PATHS[pick(path, PATHS.len())], content)
            }
            Op::Delete { agent, path } => self.delete(self.agent(agent), path),
            Op::Move { agent, from, to } => self.rename(self.agent(agent), from, to),
            Op::Scan { agent } => self.scan(self.agent(agent)),
            Op::Write { agent } => {
                self.write(self.agent(agent));
            }
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
                self.is_as_written_down(self.agent(agent));
                self.restart(self.agent(agent));
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
                self.backup = Some((self.store.clone(), self.log.clone(), self.accepted.clone()));
                if self.over.is_some() {
                    self.back_up_over();
                }
            }
            Op::RestoreStore { told } => self.restore_store(told),
            Op::Clock { agent, to } => {
                let agent = self.agent(agent);
                self.agents[agent].clock = CLOCKS[pick(to, 3)];
            }
            Op::CoordinatorClock { to } => self.coordinator_clock = CLOCKS[pick(to, 3)],
            Op::Kill { .. } => {}
        }
    }

    /// How many transactions are on their way.
    fn late(&self) -> usize {
        self.over.as_ref().map_or(self.late.len(), |over| over.late())
    }

    fn agent(&self, agent: u8) -> usize {
        pick(agent, self.agents.len())
    }

    fn edit(&mut self) -> EditId {
        EditId::from(self.id())
    }

    // ---- the end ----

    /// All that is on its way arrives, nothing fails any more, users rest: until nothing changes.
    pub(crate) fn settle(&mut self) {
        while self.late() > 0 || !self.doomed.is_empty() {
            self.arrive(0);
        }
        self.coordinator_clock = Y2026;
        if self.over.is_some() {
            self.repeat_over(0);
        }
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
