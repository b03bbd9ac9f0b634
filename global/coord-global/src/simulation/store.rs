//! The coordinator's store, and an instance's picture of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::append::{Append, Known};
use crate::model::id::{Actor, Hash, NodeId, RegionId};
use crate::model::log::{ActorRecord, Entry, Head};
use crate::model::node::Node;
use crate::model::path::Names;

/// What the store holds. An instance has an older one as its picture.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// Counts the writes of the head.
    pub(crate) revision: u64,
    pub(crate) head: Head,
    pub(crate) log: BTreeMap<u64, Entry>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) actors: BTreeMap<Actor, ActorRecord>,
    /// By the hash, the object that has the content.
    pub(crate) contents: BTreeMap<Hash, u64>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            revision: 1,
            head: Head::new(Names::Folded),
            log: BTreeMap::new(),
            nodes: BTreeMap::new(),
            actors: BTreeMap::new(),
            contents: BTreeMap::new(),
        }
    }

    /// The last incarnation of a region.
    pub(crate) fn last(&self, region: &RegionId) -> Option<(u32, ActorRecord)> {
        let of_region = self.actors.iter().filter(|(actor, _)| actor.of_region() == Some(region));
        of_region
            .map(|(actor, record)| (actor.incarnation(), *record))
            .max_by_key(|(incarnation, _)| *incarnation)
    }

    /// The first entry that has something after `cursor`.
    pub(crate) fn entry_after(&self, cursor: u64) -> Option<&Entry> {
        self.log.range(cursor + 1..).next().map(|(_, entry)| entry)
    }

    pub(crate) fn referenced(&self) -> BTreeSet<Hash> {
        let versions = self.nodes.values().flat_map(|node| node.siblings.values());
        versions.filter_map(|sibling| sibling.version.content).map(|content| content.hash).collect()
    }
}

impl Known for Store {
    fn actor(&self, actor: &Actor) -> Option<ActorRecord> {
        self.actors.get(actor).copied()
    }

    fn node(&self, id: &NodeId) -> Option<Node> {
        self.nodes.get(id).cloned()
    }

    fn has_content(&self, hash: &Hash) -> bool {
        self.contents.contains_key(hash)
    }
}

/// A transaction on its way.
#[derive(Clone, Debug)]
pub(crate) struct Txn {
    pub(crate) revision: u64,
    pub(crate) append: Append,
}
