//! What is read of a ledger.

use std::collections::BTreeMap;

use coord_api::store::{Entry as Stored, MAX_TXN_OPS, Op, Range, Txn};
use coord_api::{Error, ErrorKind};

use super::error::{LedgerError, Result};
use super::picture::{binary, head as head_in, json};
use super::{Ledger, OPERATION, Shared};
use crate::model::replica::Paged;
use crate::model::{Actor, ActorRecord, Dot, EditId, Entry, Head, Node, NodeId, Sibling};

/// How many entries the first request for them asks for: 8 MiB at most.
const FIRST_ENTRIES: usize = 16;

/// How many bytes of entries the second one asks for, by the size of the first.
const FURTHER_BYTES: usize = 4 << 20;

/// The most files of one page.
pub const PAGE_MAX: usize = 1_000;

/// Something that a resolution lists (G6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where its resolution lies, and the how-manieth of that it is.
    pub at: (u64, usize),
    /// The file.
    pub node: NodeId,
    /// The edit that lost.
    pub dot: Dot,
    /// What it had left.
    pub sibling: Sibling,
}

/// What [`Ledger::verify`] found. Each number must be what stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The head's position.
    pub position: u64,
    /// How many versions the tally says are there.
    pub tally_alive: u64,
    /// How many there are.
    pub alive: u64,
    /// Whether the entries from the floor on have no gap, and the chain ends at the head's.
    pub dense: bool,
    /// Files whose last event lies beyond the head: none may.
    pub beyond: usize,
}

impl Verified {
    /// Whether all adds up.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.dense && self.tally_alive == self.alive && self.beyond == 0
    }
}

impl Ledger {
    /// The head, as it is now.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Store`], [`LedgerError::Unreadable`], and
    /// [`Refusal::Format`](crate::model::Refusal::Format) for a log that this build cannot read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn head(&self) -> Result<Head> {
        let Shared { store, keys, .. } = &*self.shared;
        let found = store.range(Range::key(keys.head())).await?;
        let head = found.entries.first().map(head_in).transpose()?.ok_or_else(no_head)?;
        Ok(head)
    }

    /// The entries behind `cursor`, at most `most` of them and some 12 MiB, and the head with which
    /// they were read; the last of them may be newer than that.
    /// Reading removes nothing (G4). The first may begin before the cursor, which then lies inside
    /// of it.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Trimmed`] where the log behind the cursor is gone; else as
    /// [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn entries(&self, cursor: u64, most: usize) -> Result<(Head, Vec<Entry>)> {
        let Shared { store, keys, .. } = &*self.shared;
        let most = most.clamp(1, PAGE_MAX);
        let log =
            |after: u64, limit| Range::prefix(keys.log()).with_after_key(keys.entry(after)).with_limit(limit);
        let first = most.min(FIRST_ENTRIES);
        let txn = Txn::new().then(Op::Range(Range::key(keys.head()))).then(Op::Range(log(cursor, first)));
        let reply = store.txn(txn).await?;
        let head = reply.range(0).and_then(|range| range.entries.first()).map(head_in).transpose()?;
        let head = head.ok_or_else(no_head)?;
        if head.floor > cursor {
            return Err(LedgerError::Trimmed { floor: head.floor });
        }
        let found = reply.range(1).map_or(&[][..], |range| &range.entries);
        let mut entries: Vec<Entry> = found.iter().map(binary).collect::<Result<_>>()?;
        // Further ones by their size, so that many small ones are one request and large ones no
        // more than fits.
        let size = found.iter().map(|found| found.value.len()).sum::<usize>() / found.len().max(1);
        let further = (FURTHER_BYTES / size.max(1)).min(most - entries.len());
        if let Some(last) = entries.last().filter(|_| found.len() == first && further > 0) {
            let found = store.range(log(last.last(), further)).await?;
            for found in &found.entries {
                entries.push(binary(found)?);
            }
        }
        Ok((head, entries))
    }

    /// What a snapshot begins with: the head, and how far the reader's own actor has come there.
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn begin_snapshot(&self, actor: &Actor) -> Result<(Head, ActorRecord)> {
        let Shared { store, keys, .. } = &*self.shared;
        let txn = Txn::new()
            .then(Op::Range(Range::key(keys.head())))
            .then(Op::Range(Range::key(keys.actor(actor))));
        let reply = store.txn(txn).await?;
        let first = |index: usize| reply.range(index).and_then(|range| range.entries.first());
        let head: Head = first(0).map(head_in).transpose()?.ok_or_else(no_head)?;
        Ok((head, first(1).map(json).transpose()?.unwrap_or_default()))
    }

    /// A page of a snapshot: at most `most` files after `after`, in the order of their ids, as they
    /// are now; those that have not changed since `newer_than` by their hash alone; and the epoch
    /// in which they were read. An empty page is the last. Others may write meanwhile (G10).
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn page(
        &self,
        after: Option<&NodeId>,
        newer_than: u64,
        most: usize,
    ) -> Result<(u32, Vec<(NodeId, Paged)>)> {
        let Shared { store, keys, .. } = &*self.shared;
        let head = Op::Range(Range::key(keys.head()));
        let reply = store.txn(Txn::new().then(head).then(Op::Range(self.nodes_after(after, most)))).await?;
        let head = reply.range(0).and_then(|range| range.entries.first()).map(head_in).transpose()?;
        let nodes = self.nodes_in(reply.range(1).map_or(&[][..], |range| &range.entries))?;
        let paged = nodes.into_iter().map(|(id, node)| {
            let paged =
                if node.position <= newer_than { Paged::Unchanged(node.digest()) } else { Paged::Node(node) };
            (id, paged)
        });
        Ok((head.ok_or_else(no_head)?.epoch, paged.collect()))
    }

    fn nodes_after(&self, after: Option<&NodeId>, most: usize) -> Range {
        let keys = &self.shared.keys;
        let range = Range::prefix(keys.nodes()).with_limit(most.clamp(1, PAGE_MAX));
        match after {
            Some(after) => range.with_after_key(keys.node(after)),
            None => range,
        }
    }

    async fn nodes(&self, after: Option<&NodeId>, most: usize) -> Result<Vec<(NodeId, Node)>> {
        let found = self.shared.store.range(self.nodes_after(after, most)).await?;
        self.nodes_in(&found.entries)
    }

    fn nodes_in(&self, found: &[Stored]) -> Result<Vec<(NodeId, Node)>> {
        let keys = &self.shared.keys;
        let nodes = found.iter().filter_map(|found| Some((keys.node_in(&found.key)?, found)));
        nodes.map(|(id, found)| Ok((id, binary(found)?))).collect()
    }

    /// A file, as it is now; a deleted one too.
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn node(&self, id: &NodeId) -> Result<Option<Node>> {
        let Shared { store, keys, .. } = &*self.shared;
        let found = store.range(Range::key(keys.node(id))).await?;
        found.entries.first().map(binary).transpose()
    }

    /// The files that want a path, the one that claimed it first at the front (G14).
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn at_path(&self, path: &str) -> Result<Vec<NodeId>> {
        let Shared { store, keys, .. } = &*self.shared;
        let folded = self.folded(path).await;
        let found = store.range(Range::prefix(keys.at_path(&folded))).await?;
        let claim = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        let mut claims: Vec<(Option<u64>, NodeId)> = found
            .entries
            .iter()
            .filter_map(|found| Some((claim(&found.value), keys.in_path(&found.key)?)))
            .collect();
        claims.sort_unstable();
        Ok(claims.into_iter().map(|(_, id)| id).collect())
    }

    /// Whether a write of the API with that edit was answered, in the last hour at least.
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn was_answered(&self, edit: &EditId) -> Result<bool> {
        let Shared { store, keys, .. } = &*self.shared;
        let found = store.range(Range::key(keys.request(edit)).with_keys_only()).await?;
        Ok(!found.entries.is_empty())
    }

    /// How far an actor has come.
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn actor(&self, actor: &Actor) -> Result<Option<ActorRecord>> {
        let Shared { store, keys, .. } = &*self.shared;
        let found = store.range(Range::key(keys.actor(actor))).await?;
        found.entries.first().map(json).transpose()
    }

    /// The files that want a path below a directory, at any depth, in the order of their folded
    /// paths: at most `most`, and 1,000, of those behind `after`, which the one before returned as
    /// its last. An empty directory is the whole space. Files are read with
    /// [`read`](Self::read).
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn below(
        &self,
        directory: &str,
        after: Option<&(String, NodeId)>,
        most: usize,
    ) -> Result<Vec<(String, NodeId)>> {
        let Shared { store, keys, .. } = &*self.shared;
        let folded = self.folded(directory).await;
        let mut range =
            Range::prefix(keys.below(&folded)).with_limit(most.clamp(1, PAGE_MAX)).with_keys_only();
        if let Some((path, id)) = after {
            range = range.with_after_key(keys.path(path, id));
        }
        let found = store.range(range).await?;
        // What wants the path of the directory itself is not below it.
        let claims = found.entries.iter().filter_map(|found| keys.claim_in(&found.key));
        Ok(claims.filter(|(path, _)| *path != folded).map(|(path, id)| (path.to_owned(), id)).collect())
    }

    pub(crate) async fn folded(&self, path: &str) -> String {
        self.shared.picture.lock().await.head.names.fold(path)
    }

    /// Several files, 128 of them at one moment, as they are now; deleted ones too. Those that are
    /// not there are left out.
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn read(&self, ids: &[NodeId]) -> Result<BTreeMap<NodeId, Node>> {
        let Shared { store, keys, .. } = &*self.shared;
        let mut nodes = BTreeMap::new();
        for ids in ids.chunks(MAX_TXN_OPS) {
            let read = |txn: Txn, id| txn.then(Op::Range(Range::key(keys.node(id))));
            let reply = store.txn(ids.iter().fold(Txn::new(), read)).await?;
            for (index, id) in ids.iter().enumerate() {
                if let Some(found) = reply.range(index).and_then(|range| range.entries.first()) {
                    nodes.insert(*id, binary(found)?);
                }
            }
        }
        Ok(nodes)
    }

    /// What was listed by resolutions, the oldest first: at most `most`, and 1,000, of those behind
    /// `after`.
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn listed(&self, after: Option<(u64, usize)>, most: usize) -> Result<Vec<Listed>> {
        let Shared { store, keys, .. } = &*self.shared;
        let mut range = Range::prefix(keys.losers()).with_limit(most.clamp(1, PAGE_MAX));
        if let Some((position, number)) = after {
            range = range.with_after_key(keys.loser(position, number));
        }
        let found = store.range(range).await?;
        let losers = found.entries.iter().filter_map(|found| Some((keys.loser_in(&found.key)?, found)));
        let listed = losers.map(|(at, found)| {
            let (node, dot, sibling) = binary(found)?;
            Ok(Listed { at, node, dot, sibling })
        });
        listed.collect()
    }

    /// Goes through the whole space and counts. It holds only while nobody writes.
    ///
    /// # Errors
    ///
    /// As [`head`](Self::head).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn verify(&self) -> Result<Verified> {
        let head = self.head().await?;
        let (mut cursor, mut chain, mut dense) = (head.floor, None, true);
        loop {
            let (_, entries) = self.entries(cursor, PAGE_MAX).await?;
            let Some(last) = entries.last().map(Entry::last) else { break };
            for entry in &entries {
                // The first may begin below the floor.
                dense &= chain.is_none_or(|chain| entry.chain == chain && entry.first == cursor + 1)
                    && entry.first <= cursor + 1;
                chain = Some(entry.events.iter().fold(entry.chain, crate::model::log::chained));
                cursor = entry.last();
            }
            if last >= head.position {
                break;
            }
        }
        dense &= cursor == head.position && chain.is_none_or(|chain| chain == head.chain);
        let (mut alive, mut beyond, mut after) = (0, 0, None);
        loop {
            let nodes = self.nodes(after.as_ref(), PAGE_MAX).await?;
            let Some((last, _)) = nodes.last() else { break };
            after = Some(*last);
            alive += nodes.iter().map(|(_, node)| node.siblings.len() as u64).sum::<u64>();
            beyond += nodes.iter().filter(|(_, node)| node.position > head.position).count();
        }
        Ok(Verified { position: head.position, tally_alive: head.tally.alive(), alive, dense, beyond })
    }
}

pub(super) fn no_head() -> LedgerError {
    Error::new(ErrorKind::Internal, OPERATION, "the space has no head").into()
}
