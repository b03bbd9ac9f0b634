//! A region: its fold of the log, its own edits on top of that, and what of it stands on its disk.
//!
//! This is a state machine: it does no I/O and reads no clock. Whoever drives it writes it down
//! after each call, as one transaction, and only then acts on what it says.

mod disk;
mod doubt;
mod link;
mod record;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::event::{Body, Event, FORMAT, Sealed, Version};
use super::id::{Actor, Dot, EditId, Hash, NodeId, RegionId, Session, SpaceName};
use super::log::{ActorRecord, Head};
use super::node::{Node, fold};
use super::outbox::Outbox;
use super::path::Names;
use super::state::State;
use super::tracked::Tracked;
use super::vector::VersionVector;
use super::view::PathView;

#[cfg(any(test, feature = "simulation"))]
pub(crate) use doubt::Decided;
pub use record::{Change, Part, REPLICA_FORMAT};
use snapshot::Filling;
pub use snapshot::Paged;

/// Positions of a region's own edits on top of its fold: behind any of the log.
const LOCAL: u64 = 1 << 62;
/// No clock is ahead of this.
const NO_CAP_MS: u64 = 1 << 62;

/// What stands on the disk of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Where it stands.
    pub path: String,
    /// As what it was written, or read.
    pub version: Version,
    /// What of it who looks there has seen.
    pub(crate) seen: VersionVector,
    /// The pending edit that is part of what stands there.
    pub(crate) pending: Option<EditId>,
}

/// An edit that was not taken (G22): it is kept and listed, and holds nothing up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// The save.
    pub edit: EditId,
    /// The file.
    pub node: NodeId,
    /// The file as the save left it.
    pub version: Version,
    /// Why.
    pub reason: Refusal,
}

/// What a region has to do before it can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it may seal, push and pull.
    Nothing,
    /// To say [`Hello`](crate::model::append::Hello).
    Hello,
    /// A snapshot.
    Snapshot,
    /// To pull: edits of an incarnation before are in doubt until the log has been read up to where
    /// it was when this one began.
    Pull,
}

/// A region.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    space: SpaceName,
    region: RegionId,
    pub(crate) base: State,
    /// Under which the files of the base are written down: a snapshot is another one.
    generation: u32,
    /// The last generation that there was.
    generations: u32,
    /// The files of the base that were changed since they were written down.
    folded: BTreeSet<NodeId>,
    view: PathView,
    actor: Option<Actor>,
    /// The epoch in which it was welcomed. Its fold is of an older one until it has a snapshot.
    pub(crate) epoch: u32,
    /// The last of its own edits that is in the base.
    pub(crate) own: ActorRecord,
    /// How far its edits are known to be accepted.
    pub(crate) accepted: u64,
    pub(crate) outbox: Outbox,
    pub(crate) shown: Tracked<NodeId, Shown>,
    disk: BTreeMap<String, NodeId>,
    /// What the disk may show of a file since it was decided to write that; `None`: nothing.
    writing: Tracked<NodeId, Option<Shown>>,
    set_aside: Tracked<u64, SetAside>,
    /// How many there ever were.
    last_set_aside: u64,
    pub(crate) session: Session,
    before: Option<Session>,
    welcomed: bool,
    pub(crate) renew: bool,
    pub(crate) astray: bool,
    /// The log is read up to here before what is in doubt is decided.
    pub(crate) doubt_until: Option<u64>,
    /// How far the incarnation before had come, if that is known for sure: then nothing of it is in
    /// doubt but what has not been folded yet.
    pub(crate) settled: Option<u64>,
    /// Edits that are here and that the log has under the name of another copy of this disk.
    found: Tracked<EditId, Dot>,
    /// A snapshot went over a part of the log in which edits that are in doubt may be.
    skipped: bool,
    pub(crate) trimmed: bool,
    pub(crate) filling: Option<Filling>,
}

impl Replica {
    /// A region that knows nothing yet.
    #[must_use]
    pub fn new(space: SpaceName, region: RegionId, names: Names, session: Session) -> Self {
        Self {
            space,
            region,
            base: State::new(names, 0),
            generation: 0,
            generations: 0,
            folded: BTreeSet::new(),
            view: PathView::new(names),
            actor: None,
            epoch: 0,
            own: ActorRecord::default(),
            accepted: 0,
            outbox: Outbox::default(),
            shown: Tracked::default(),
            disk: BTreeMap::new(),
            writing: Tracked::default(),
            set_aside: Tracked::default(),
            last_set_aside: 0,
            session,
            before: None,
            welcomed: false,
            renew: false,
            astray: false,
            doubt_until: None,
            settled: None,
            found: Tracked::default(),
            skipped: false,
            trimmed: false,
            filling: None,
        }
    }

    /// Its agent starts again, as another run.
    pub fn restarted(&mut self, session: Session) {
        if self.welcomed {
            self.before = Some(self.session);
        }
        self.session = session;
        self.welcomed = false;
        self.filling = None;
    }

    /// Its connection ended: it says Hello again, as the same run.
    pub fn disconnected(&mut self) {
        self.welcomed = false;
        self.filling = None;
    }

    /// Compares itself with the head, before it reads the log.
    pub fn compare(&mut self, head: &Head) {
        let here = self.base.cursor;
        if head.epoch != self.epoch {
            self.welcomed = false;
        } else if head.position < here || head.position == here && head.chain != self.base.chain {
            self.astray = true;
        } else if head.floor > here {
            self.trimmed = true;
        }
    }

    /// Its fold of the log.
    #[must_use]
    pub const fn base(&self) -> &State {
        &self.base
    }

    /// Where each file is shown, with its own edits.
    #[must_use]
    pub const fn view(&self) -> &PathView {
        &self.view
    }

    /// Its own edits that are not folded yet.
    #[must_use]
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The edits that were not taken, which whoever lists them keeps from now on.
    pub fn take_set_aside(&mut self) -> Vec<SetAside> {
        self.set_aside.take().into_values().collect()
    }

    /// The edits that were not taken. They stay until they are
    /// [taken](Self::take_set_aside): there is no more of them than there were edits.
    pub fn set_aside(&self) -> impl ExactSizeIterator<Item = &SetAside> {
        self.set_aside.values()
    }

    fn put_aside(&mut self, edit: SetAside) {
        self.last_set_aside += 1;
        self.set_aside.insert(self.last_set_aside, edit);
    }

    /// The region.
    #[must_use]
    pub const fn region(&self) -> &RegionId {
        &self.region
    }

    /// This run of its agent.
    #[must_use]
    pub const fn session(&self) -> Session {
        self.session
    }

    /// The content that its own edits have, as far as they are not folded: what has to be at the
    /// coordinator.
    #[must_use]
    pub fn contents(&self) -> BTreeSet<Hash> {
        let sealed = self.outbox.sealed_from(0).filter_map(|event| event.event().version());
        let versions = sealed.chain(self.outbox.pending().map(|(_, pending)| &pending.version));
        versions.filter_map(|version| version.content).map(|content| content.hash).collect()
    }

    /// Who it is.
    #[must_use]
    pub const fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// What stands on its disk.
    #[must_use]
    pub fn shown(&self) -> &BTreeMap<NodeId, Shown> {
        &self.shown
    }

    /// What it needs before it can go on.
    #[must_use]
    pub const fn need(&self) -> Need {
        if !self.welcomed || self.renew || self.astray {
            Need::Hello
        } else if self.trimmed {
            Need::Snapshot
        } else if self.doubt_until.is_some() {
            Need::Pull
        } else {
            Need::Nothing
        }
    }

    /// Whether the last edit that the coordinator has of its actor is one of those that are here.
    fn is_in_chain(&self, record: &ActorRecord) -> bool {
        let mine = if record.seq == self.own.seq {
            Some(self.own.hash)
        } else {
            self.outbox.sealed(record.seq).map(Sealed::hash)
        };
        mine == Some(record.hash)
    }

    /// A file with its own edits on top.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<Node> {
        let mut node = self.base.nodes.get(id).cloned();
        if !self.outbox.has_node(id) {
            return node;
        }
        let names = self.base.names();
        let (sealed, pending) = self.outbox.of_node(id);
        for event in sealed {
            node = fold(names, node, LOCAL + event.dot().seq, NO_CAP_MS, event.event()).0;
        }
        for (order, pending) in pending {
            let mut event = Event {
                format: FORMAT,
                dot: Dot::new(self.unnamed(), order),
                edit: pending.edit,
                node: *id,
                context: pending.context.clone(),
                body: Body::Write(pending.version.clone()),
                prev: Hash::ZERO,
            };
            // What it was made on top of has no name that its context could have.
            if let Some((below, _)) = pending.on_top_of.and_then(|below| self.outbox.by_edit(id, below)) {
                event.context.insert(&Dot::new(self.unnamed(), below));
            }
            node = fold(names, node, LOCAL * 2 + order, NO_CAP_MS, &event).0;
        }
        node
    }

    /// Stands for the names that pending edits do not have yet.
    pub(crate) fn unnamed(&self) -> Actor {
        Actor::region(self.region.clone(), 0)
    }

    pub(crate) fn refresh(&mut self, id: NodeId) {
        let node = self.node(&id);
        self.view.set(id, node.as_ref());
    }
}
