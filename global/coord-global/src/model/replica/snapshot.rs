//! A snapshot, where the log is trimmed behind a region (G10), or another one (G25).

use std::collections::BTreeSet;

use super::super::Refusal;
use super::super::id::{Hash, NodeId};
use super::super::log::{ActorRecord, Head};
use super::super::node::Node;
use super::super::state::State;
use super::super::view::PathView;
use super::Replica;
use super::doubt::Decided;

/// A snapshot that is being taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Filling {
    pub(crate) state: State,
    pub(super) generation: u32,
    /// The files of pages that are not written down yet.
    pub(super) paged: BTreeSet<NodeId>,
    pub(super) record: ActorRecord,
    pub(super) next: Option<NodeId>,
}

/// A file in a page of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paged {
    /// It has not changed since the position that the reader named, and is this there
    /// ([`Node::digest`]).
    Unchanged(Hash),
    /// It is like this.
    Node(Node),
}

impl Replica {
    /// Begins a snapshot of the space at `head`, where this region's actor has come as far as
    /// `record` says. Tells the position of which it has the bodies.
    ///
    /// # Errors
    ///
    /// [`Refusal::Busy`] if another agent speaks for the region: it says
    /// [`Hello`](crate::model::append::Hello) again.
    pub fn begin_snapshot(&mut self, head: &Head, record: ActorRecord) -> Result<u64, Refusal> {
        if let Some(actor) = self.actor.clone().filter(|_| record.session != Some(self.session)) {
            self.welcomed = false;
            return Err(Refusal::Busy { actor });
        }
        let mut state = State::new(head.names, head.epoch);
        (state.cursor, state.chain) = (head.position, head.chain);
        self.generations += 1;
        let generation = self.generations;
        self.filling = Some(Filling { state, generation, paged: BTreeSet::new(), record, next: None });
        Ok(self.snapshot_newer_than())
    }

    /// Whether a snapshot is being taken.
    #[must_use]
    pub const fn is_filling(&self) -> bool {
        self.filling.is_some()
    }

    /// Files that have not changed since this position are the same here: their bodies are not
    /// sent.
    #[must_use]
    pub fn snapshot_newer_than(&self) -> u64 {
        match &self.filling {
            Some(filling) if filling.state.epoch == self.base.epoch => self.base.cursor,
            _ => 0,
        }
    }

    /// The file after which the next page begins.
    #[must_use]
    pub fn snapshot_after(&self) -> Option<NodeId> {
        self.filling.as_ref().and_then(|filling| filling.next)
    }

    /// One page: files in the order of their ids, the next ones after
    /// [`snapshot_after`](Self::snapshot_after). They may be newer than the snapshot began: what
    /// the log has of them is skipped then. `epoch` is the one in which they were read: where that
    /// is another one than the snapshot's, the store was restored meanwhile, and the region says
    /// [`Hello`](crate::model::append::Hello) again.
    pub fn page(&mut self, epoch: u32, page: Vec<(NodeId, Paged)>) {
        let Some(filling) = &mut self.filling else { return };
        if filling.state.epoch != epoch {
            self.disconnected();
            return;
        }
        for (id, paged) in page {
            filling.next = Some(id);
            let node = match paged {
                Paged::Node(node) => node,
                Paged::Unchanged(digest) => {
                    match self.base.nodes.get(&id).filter(|node| node.digest() == digest) {
                        Some(node) => node.clone(),
                        // What was folded here is not what the store has: it was restored (G25).
                        None => {
                            self.astray = true;
                            self.filling = None;
                            return;
                        }
                    }
                }
            };
            filling.paged.insert(id);
            filling.state.nodes.insert(id, node);
        }
    }

    /// The last page has come: the snapshot takes the place of what was folded. Own edits stay.
    pub fn finish_snapshot(&mut self) {
        let Some(Filling { state, generation, paged, record, .. }) = self.filling.take() else { return };
        let restored = state.epoch != self.base.epoch;
        let in_chain = self.is_in_chain(&record);
        let old = std::mem::replace(&mut self.base, state);
        (self.generation, self.folded) = (generation, paged);
        self.trimmed = false;
        if restored {
        } else if in_chain {
            self.own = ActorRecord { session: None, ..record };
            self.outbox.folded(record.seq);
        } else {
            (self.renew, self.skipped) = (true, true);
        }
        if restored {
            self.issue_again(&old);
        } else if self.doubt_until.is_some() {
            self.decide(Decided::SomeOfThem);
        }
        self.refresh_view();
    }

    /// Finds anew where each file is shown.
    pub(super) fn refresh_view(&mut self) {
        let mut view = PathView::new(self.base.names());
        for (id, node) in &self.base.nodes {
            view.set(*id, Some(node));
        }
        self.view = view;
        self.refresh_all();
    }
}
