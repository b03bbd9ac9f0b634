//! What of a region stands where in its local store, and how it gets there.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Compare, MAX_TXN_OPS, Op, Range, Store, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Revision, Value};
use serde::{Deserialize, Serialize};

use super::OPERATION;
use super::error::{ReplicaError, Result};
use crate::model::replica::{Change, Part};
use crate::model::{Refusal, RegionId, Replica, SpaceName};

/// How many bytes of values are written at once: less than a transaction may have.
const BYTES_MAX: usize = 1 << 20;

/// How many bytes a part of a redo has, about.
const REDO_BYTES: usize = 256 << 10;

/// How many keys are read at once.
const PAGE: usize = 500;

/// How often a store is tried that others open at the same time.
const TRIES: usize = 8;

/// Who writes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Writer {
    /// How often the region was opened.
    opened: u64,
    /// How many parts the redo has that is to be carried out.
    redo: u32,
}

/// The place of a region in a store.
pub(crate) struct Local {
    store: Arc<dyn Store>,
    region: RegionId,
    root: String,
    writer: Writer,
    /// The revision of the writer's key: who has it writes.
    claim: Revision,
    /// The state, as it is written.
    state: Vec<u8>,
    /// Generations whose files are to be removed.
    stale: BTreeSet<u32>,
}

impl Local {
    pub(crate) fn new(store: Arc<dyn Store>, space: &SpaceName, region: &RegionId) -> Self {
        Self {
            store,
            region: region.clone(),
            root: format!("/global/replica/{space}/{region}/"),
            writer: Writer::default(),
            claim: Revision::ZERO,
            state: Vec::new(),
            stale: BTreeSet::new(),
        }
    }

    fn key(&self, part: &Part) -> Bytes {
        format!("{}{part}", self.root).into()
    }

    fn writer_key(&self) -> Bytes {
        format!("{}writer", self.root).into()
    }

    fn redo_key(&self, number: u32) -> Bytes {
        format!("{}redo/{number:010}", self.root).into()
    }

    fn unreadable(&self, key: &[u8], why: &dyn std::fmt::Display) -> ReplicaError {
        ReplicaError::Unreadable { key: String::from_utf8_lossy(key).into_owned(), why: why.to_string() }
    }

    /// Takes the region over, so that nobody who had it before writes any more, not even what is on
    /// its way; carries out what was begun; and reads the region.
    pub(crate) async fn claim_and_read(&mut self) -> Result<Option<Replica>> {
        self.claim().await?;
        if self.writer.redo > 0 {
            self.carry_out().await?;
        }
        self.read().await
    }

    async fn claim(&mut self) -> Result<()> {
        for _ in 0..TRIES {
            let key = self.writer_key();
            let found = self.store.range(Range::key(key.clone())).await?;
            let (compare, writer) = match found.entries.first() {
                None => (Compare::Absent(key.clone()), Writer::default()),
                Some(found) => {
                    let writer: Writer =
                        serde_json::from_slice(&found.value).map_err(|why| self.unreadable(&key, &why))?;
                    (Compare::Modified(key.clone(), found.modified), writer)
                }
            };
            let writer = Writer { opened: writer.opened.saturating_add(1), ..writer };
            let reply = self.store.txn(Txn::new().when(compare).then(self.put_writer(writer)?)).await?;
            if reply.succeeded {
                (self.writer, self.claim) = (writer, reply.revision);
                return Ok(());
            }
        }
        Err(self.taken_over())
    }

    fn taken_over(&self) -> ReplicaError {
        ReplicaError::TakenOver { region: self.region.clone() }
    }

    fn put_writer(&self, writer: Writer) -> Result<Op> {
        let value = serde_json::to_vec(&writer).map_err(|error| unwritable(&error))?;
        Ok(Op::put(self.writer_key(), value))
    }

    /// One transaction of the one who writes.
    async fn txn(&self, ops: Vec<Op>) -> Result<TxnReply> {
        let txn = Txn::new().when(Compare::Modified(self.writer_key(), self.claim));
        let reply = self.store.txn(ops.into_iter().fold(txn, Txn::then)).await?;
        if reply.succeeded { Ok(reply) } else { Err(self.taken_over()) }
    }

    async fn set_redo(&mut self, redo: u32) -> Result<()> {
        let writer = Writer { redo, ..self.writer };
        let reply = self.txn(vec![self.put_writer(writer)?]).await?;
        (self.writer, self.claim) = (writer, reply.revision);
        Ok(())
    }

    /// Writes all of the changes down, or nothing.
    pub(crate) async fn write(&mut self, mut changes: Vec<Change>) -> Result<()> {
        changes.retain(|(part, value)| *part != Part::State || value.as_ref() != Some(&self.state));
        let state =
            changes.iter().find(|(part, _)| *part == Part::State).and_then(|(_, value)| value.clone());
        if changes.len() <= MAX_TXN_OPS && size(&changes) <= BYTES_MAX {
            if !changes.is_empty() {
                self.apply(&changes).await?;
            }
        } else {
            let parts = parts_of(&changes);
            for (number, part) in (0..).zip(&parts) {
                let part: Vec<(String, &Option<Vec<u8>>)> =
                    part.iter().map(|(part, value)| (part.to_string(), value)).collect();
                let value = bcs::to_bytes(&part).map_err(|error| unwritable(&error))?;
                self.txn(vec![Op::put(self.redo_key(number), value)]).await?;
            }
            // From here on it counts.
            self.set_redo(u32::try_from(parts.len()).unwrap_or(u32::MAX)).await?;
            for part in parts {
                self.apply(part).await?;
            }
            self.carried_out().await?;
        }
        if let Some(state) = state {
            self.state = state;
        }
        Ok(())
    }

    async fn apply(&self, changes: &[Change]) -> Result<()> {
        let ops = changes.iter().map(|(part, value)| match value {
            Some(value) => Op::put(self.key(part), value.clone()),
            None => Op::delete(self.key(part)),
        });
        self.txn(ops.collect()).await?;
        Ok(())
    }

    /// Carries out a redo that is complete; what of it was carried out before is written again.
    async fn carry_out(&mut self) -> Result<()> {
        for number in 0..self.writer.redo {
            let key = self.redo_key(number);
            let found = self.store.range(Range::key(key.clone())).await?;
            let found = found.entries.first().ok_or_else(|| self.unreadable(&key, &"it is missing"))?;
            let changes: Vec<(String, Option<Vec<u8>>)> =
                bcs::from_bytes(&found.value).map_err(|why| self.unreadable(&key, &why))?;
            let changes = changes.into_iter().map(|(part, value)| Ok((part.parse()?, value)));
            let changes = changes.collect::<std::result::Result<Vec<Change>, Refusal>>();
            self.apply(&changes.map_err(|why| self.unreadable(&key, &why))?).await?;
        }
        self.carried_out().await
    }

    async fn carried_out(&mut self) -> Result<()> {
        let keys: Vec<Bytes> = (0..self.writer.redo).map(|number| self.redo_key(number)).collect();
        self.set_redo(0).await?;
        self.delete(&keys).await
    }

    async fn delete(&self, keys: &[Bytes]) -> Result<()> {
        for keys in keys.chunks(MAX_TXN_OPS) {
            self.txn(keys.iter().cloned().map(Op::delete).collect()).await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Option<Replica>> {
        let mut parts: Vec<(Part, Value)> = Vec::new();
        // Parts of a redo that was never complete.
        let mut leftover = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let mut range = Range::prefix(self.root.clone()).with_limit(PAGE);
            if let Some(after) = after.take() {
                range = range.with_after_key(after);
            }
            let found = self.store.range(range).await?.entries;
            let Some(last) = found.last() else { break };
            after = Some(last.key.clone());
            for entry in found {
                let text = std::str::from_utf8(&entry.key).ok().and_then(|key| key.strip_prefix(&self.root));
                match text {
                    Some("writer") => {}
                    Some(text) if text.starts_with("redo/") => leftover.push(entry.key),
                    Some(text) => {
                        let part = text.parse().map_err(|why: Refusal| self.unreadable(&entry.key, &why))?;
                        parts.push((part, entry.value));
                    }
                    None => return Err(self.unreadable(&entry.key, &"it is no text")),
                }
            }
        }
        self.delete(&leftover).await?;
        if parts.is_empty() {
            return Ok(None);
        }
        let state = parts.iter().find(|(part, _)| *part == Part::State).map(|(_, value)| value.to_vec());
        let generations = parts.iter().filter_map(|(part, _)| match part {
            Part::Node { generation, .. } => Some(*generation),
            _ => None,
        });
        let generations: BTreeSet<u32> = generations.collect();
        let replica = Replica::restore(parts).map_err(|why| match why {
            Refusal::Encoding(why) => self.unreadable(self.root.as_bytes(), &why),
            other => other.into(),
        })?;
        let (base, filling) = replica.generations_in_use();
        self.stale = generations;
        self.stale.remove(&base);
        filling.map(|filling| self.stale.remove(&filling));
        self.state = state.unwrap_or_default();
        Ok(Some(replica))
    }

    /// Files of generations that are not in use any more are removed, some with each change. What
    /// fails is tried again with the next one.
    pub(crate) async fn clear(&mut self, before: (u32, Option<u32>), now: (u32, Option<u32>)) {
        let in_use = |generation: u32| generation == now.0 || Some(generation) == now.1;
        self.stale.extend([Some(before.0), before.1].into_iter().flatten().filter(|old| !in_use(*old)));
        let Some(generation) = self.stale.first().copied() else { return };
        let files = Range::prefix(format!("{}node/{generation:010}/", self.root));
        let Ok(found) = self.store.range(files.with_limit(MAX_TXN_OPS).with_keys_only()).await else {
            return;
        };
        let keys: Vec<Bytes> = found.entries.into_iter().map(|entry| entry.key).collect();
        if keys.is_empty() {
            self.stale.remove(&generation);
        } else {
            let _ = self.delete(&keys).await;
        }
    }
}

fn size(changes: &[Change]) -> usize {
    changes.iter().map(|(_, value)| value.as_ref().map_or(0, Vec::len) + 128).sum()
}

/// Parts of a change that have room in a transaction each.
fn parts_of(changes: &[Change]) -> Vec<&[Change]> {
    let (mut parts, mut rest) = (Vec::new(), changes);
    while !rest.is_empty() {
        let (mut count, mut bytes) = (0, 0);
        for change in rest.iter().take(MAX_TXN_OPS) {
            bytes += size(std::slice::from_ref(change));
            if count > 0 && bytes > REDO_BYTES {
                break;
            }
            count += 1;
        }
        let (part, left) = rest.split_at(count);
        parts.push(part);
        rest = left;
    }
    parts
}

fn unwritable(error: &dyn std::fmt::Display) -> ReplicaError {
    Error::new(ErrorKind::Internal, OPERATION, format!("a value cannot be written: {error}")).into()
}
