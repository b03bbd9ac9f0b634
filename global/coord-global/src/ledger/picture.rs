//! What an instance knows of a space: its head at a revision, and files and actors as they are
//! there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coord_api::Revision;
use coord_api::store::{Entry as Found, Op, OpReply, Range, RangeReply, Span};
use serde::de::DeserializeOwned;

use super::error::{LedgerError, Result};
use super::keys::Keys;
use crate::model::append::{Append, Known};
use crate::model::log::LOG_FORMAT;
use crate::model::{Actor, ActorRecord, EditId, Entry, Hash, Head, Node, NodeId, Refusal, fold};

/// How many entries of the log are read to come up to date, 8 MiB at most; where there are more,
/// all that is known of files is read anew when it is needed.
const CATCH_UP: usize = 16;

/// How many files are kept at most. Beyond it all are forgotten, and read when they are needed.
const NODES_KEPT: usize = 100_000;

/// What an append needs to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    pub(super) actors: BTreeSet<Actor>,
    pub(super) nodes: BTreeSet<NodeId>,
    pub(super) contents: BTreeSet<Hash>,
    /// Writes of the API, which may have been answered before. Mostly they were not: so they are
    /// compared, and read only when that fails.
    pub(super) requests: BTreeSet<EditId>,
    /// What nothing in the index of paths must begin with.
    pub(super) free: BTreeSet<Bytes>,
}

impl Needs {
    /// How many keys it takes to read all of it, with the head and the log.
    pub(super) fn keys(&self) -> usize {
        let paths = self.requests.len() + self.free.len();
        2 + self.actors.len() + self.nodes.len() + self.contents.len() + paths
    }

    /// As much of it as one read may ask for, and the rest. An edit may name more actors than that.
    pub(super) fn split(&self, most: usize) -> (Self, Self) {
        let mut left = most.saturating_sub(2);
        let mut first = || {
            left = left.checked_sub(1)?;
            Some(())
        };
        let (mut head, mut rest) = (Self::default(), Self::default());
        for actor in &self.actors {
            let part = if first().is_some() { &mut head } else { &mut rest };
            part.actors.insert(actor.clone());
        }
        for node in &self.nodes {
            let part = if first().is_some() { &mut head } else { &mut rest };
            part.nodes.insert(*node);
        }
        for hash in &self.contents {
            let part = if first().is_some() { &mut head } else { &mut rest };
            part.contents.insert(*hash);
        }
        for edit in &self.requests {
            let part = if first().is_some() { &mut head } else { &mut rest };
            part.requests.insert(*edit);
        }
        for prefix in &self.free {
            let part = if first().is_some() { &mut head } else { &mut rest };
            part.free.insert(prefix.clone());
        }
        (head, rest)
    }
}

/// An append that was sent, and of which it is not known whether it was written.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    /// The revision of the head that it compares.
    pub(super) revision: Revision,
    pub(super) append: Append,
    /// That it was written, when it is known: it is asked once the head is another one, for then it
    /// can no longer arrive.
    pub(super) is_written: bool,
}

/// What is known. Everything in it is as it is at the head's revision; what is not in it is not
/// known.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) head: Head,
    pub(super) revision: Revision,
    actors: BTreeMap<Actor, Option<ActorRecord>>,
    nodes: BTreeMap<NodeId, Option<Node>>,
    contents: BTreeMap<Hash, bool>,
    /// What was answered to writes of the API, as far as it was looked for.
    requests: BTreeMap<EditId, Option<Vec<u64>>>,
    /// Whether nothing in the index of paths begins with that.
    free: BTreeMap<Bytes, bool>,
    /// What was sent and not answered. Kept here, so that it outlives a caller who goes away.
    pub(super) doubts: Vec<Doubt>,
}

impl Known for Picture {
    fn actor(&self, actor: &Actor) -> Option<ActorRecord> {
        self.actors.get(actor).copied().flatten()
    }

    fn node(&self, id: &NodeId) -> Option<Node> {
        self.nodes.get(id).cloned().flatten()
    }

    fn has_content(&self, hash: &Hash) -> bool {
        self.contents.get(hash).copied().unwrap_or(false)
    }
}

/// Reads a value that is bytes for programs.
pub(crate) fn binary<T: DeserializeOwned>(found: &Found) -> Result<T> {
    bcs::from_bytes(&found.value).map_err(|error| unreadable(found, &error))
}

/// Reads a head: its format first, for of a later one nothing else may be as it is here (G26).
pub(crate) fn head(found: &Found) -> Result<Head> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u8,
    }
    let Format { format } = json(found)?;
    if format > LOG_FORMAT {
        return Err(Refusal::Format { found: format, known: LOG_FORMAT }.into());
    }
    json(found)
}

/// Reads a value that is JSON, for people too.
pub(crate) fn json<T: DeserializeOwned>(found: &Found) -> Result<T> {
    serde_json::from_slice(&found.value).map_err(|error| unreadable(found, &error))
}

fn unreadable(found: &Found, error: &dyn std::fmt::Display) -> LedgerError {
    LedgerError::Unreadable { key: String::from_utf8_lossy(&found.key).into_owned(), why: error.to_string() }
}

impl Picture {
    pub(super) fn new(head: Head, revision: Revision) -> Self {
        Self {
            head,
            revision,
            actors: BTreeMap::new(),
            nodes: BTreeMap::new(),
            contents: BTreeMap::new(),
            requests: BTreeMap::new(),
            free: BTreeMap::new(),
            doubts: Vec::new(),
        }
    }

    /// What of `needs` is not known. Content that was not there is looked for again.
    pub(super) fn unknown(&self, needs: &Needs) -> Needs {
        Needs {
            actors: needs.actors.iter().filter(|actor| !self.actors.contains_key(actor)).cloned().collect(),
            nodes: needs.nodes.iter().filter(|node| !self.nodes.contains_key(node)).copied().collect(),
            // That something was there does not mean that it is: an append compares it.
            contents: needs.contents.iter().filter(|hash| !self.has_content(hash)).copied().collect(),
            requests: BTreeSet::new(),
            free: needs.free.iter().filter(|prefix| !self.free.contains_key(*prefix)).cloned().collect(),
        }
    }

    /// Whether all of `needs` has been looked at, found or not.
    pub(super) fn knows(&self, needs: &Needs) -> bool {
        needs.actors.iter().all(|actor| self.actors.contains_key(actor))
            && needs.nodes.iter().all(|node| self.nodes.contains_key(node))
            && needs.contents.iter().all(|hash| self.contents.contains_key(hash))
            && needs.free.iter().all(|prefix| self.free.contains_key(prefix))
    }

    /// What reads the head, the log since, and `needs`, at one revision.
    pub(super) fn reads(&self, keys: &Keys, needs: &Needs) -> Vec<Op> {
        let log =
            Range::prefix(keys.log()).with_after_key(keys.entry(self.head.position)).with_limit(CATCH_UP);
        let mut ops = vec![Op::Range(Range::key(keys.head())), Op::Range(log)];
        ops.extend(needs.actors.iter().map(|actor| Op::Range(Range::key(keys.actor(actor)))));
        ops.extend(needs.nodes.iter().map(|node| Op::Range(Range::key(keys.node(node)))));
        let exists = |hash| Range::new(Span::Key(keys.content(hash))).with_keys_only();
        ops.extend(needs.contents.iter().map(|hash| Op::Range(exists(hash))));
        ops.extend(needs.requests.iter().map(|edit| Op::Range(Range::key(keys.request(edit)))));
        let first = |prefix: &Bytes| Range::prefix(prefix.clone()).with_limit(1).with_keys_only();
        ops.extend(needs.free.iter().map(|prefix| Op::Range(first(prefix))));
        ops
    }

    /// Takes in what those reads found.
    pub(super) fn read(&mut self, keys: &Keys, needs: &Needs, replies: &[OpReply]) -> Result<()> {
        let missing = || LedgerError::Unreadable {
            key: String::from_utf8_lossy(&keys.head()).into_owned(),
            why: "it is gone".to_owned(),
        };
        let mut found = replies.iter().map(|reply| match reply {
            OpReply::Range(range) => Some(range),
            _ => None,
        });
        let mut next = || found.next().flatten().ok_or_else(missing);
        let head = next()?.entries.first().ok_or_else(missing)?;
        let log = next()?;
        if head.modified != self.revision {
            self.catch_up(self::head(head)?, head.modified, log)?;
        }
        for actor in &needs.actors {
            let record = next()?.entries.first().map(json).transpose()?;
            self.actors.insert(actor.clone(), record);
        }
        for node in &needs.nodes {
            let found = next()?.entries.first().map(binary).transpose()?;
            self.nodes.insert(*node, found);
        }
        for hash in &needs.contents {
            self.contents.insert(*hash, !next()?.entries.is_empty());
        }
        for edit in &needs.requests {
            let answered = next()?.entries.first().map(json).transpose()?;
            self.requests.insert(*edit, answered);
        }
        for prefix in &needs.free {
            self.free.insert(prefix.clone(), next()?.entries.is_empty());
        }
        if self.nodes.len() > NODES_KEPT {
            let needed = needs.nodes.iter().filter_map(|id| Some((*id, self.nodes.remove(id)?))).collect();
            self.nodes = needed;
        }
        Ok(())
    }

    /// Takes in a newer head and what the log has behind the one that was known.
    fn catch_up(&mut self, head: Head, revision: Revision, log: &RangeReply) -> Result<()> {
        // Hello writes actors with the head alone, so that of those nothing is known any more; and
        // content is swept with the head.
        self.actors.clear();
        self.contents.clear();
        self.requests.clear();
        self.free.clear();
        let mut position = self.head.position;
        for found in &log.entries {
            let entry: Entry = binary(found)?;
            if entry.first != position + 1 || entry.chain != self.head.chain || head.epoch != self.head.epoch
            {
                break;
            }
            for (at, event) in (entry.first..).zip(&entry.events) {
                position = at;
                self.head.chain = crate::model::log::chained(self.head.chain, event);
                let id = event.event().node;
                if let Some(node) = self.nodes.remove(&id) {
                    let folded = fold(head.names, node, at, entry.received_ms, event.event()).0;
                    self.nodes.insert(id, folded);
                }
            }
        }
        if (position, self.head.chain, self.head.epoch) != (head.position, head.chain, head.epoch) {
            self.nodes.clear();
        }
        (self.head, self.revision) = (head, revision);
        Ok(())
    }

    /// An append was written at that revision.
    pub(super) fn written(&mut self, append: Append, revision: Revision) {
        (self.head, self.revision) = (append.head, revision);
        self.requests.clear();
        self.free.clear();
        self.nodes.extend(append.nodes);
        self.actors.extend(append.actors.into_iter().map(|(actor, record)| (actor, Some(record))));
    }

    /// What was answered to a write of the API, if it was made before.
    pub(super) fn answered(&self, edit: &EditId) -> Option<&Vec<u64>> {
        self.requests.get(edit)?.as_ref()
    }

    /// Whether it was looked for what was answered to a write of the API.
    pub(super) fn was_looked_for(&self, edit: &EditId) -> bool {
        self.requests.contains_key(edit)
    }

    /// Whether nothing in the index of paths begins with that, as far as it is known.
    pub(super) fn is_free(&self, prefix: &Bytes) -> bool {
        self.free.get(prefix).copied().unwrap_or(false)
    }

    /// Content was uploaded.
    pub(super) fn has_now(&mut self, hash: Hash) {
        self.contents.insert(hash, true);
    }

    /// Content that was compared is gone, or may be.
    pub(super) fn forget_contents(&mut self) {
        self.contents.clear();
    }
}
