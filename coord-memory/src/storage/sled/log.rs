//! The records that were written since the last fold, and how what they amount to is folded.

use std::collections::HashMap;
use std::ops::Range;

use sled::IVec;

use super::format::{self, PART};

/// What has still to be folded, and where the entries lie that are in parts.
#[derive(Debug, Default)]
pub(super) struct RecordLog {
    /// The numbers of the first record, and of the one that is written next.
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) bytes: usize,
    /// What the records amount to.
    pub(super) entries: HashMap<IVec, Option<IVec>>,
    /// Where the entries are that lie in parts.
    parted: HashMap<IVec, Parted>,
    next_parted: u64,
    /// The records of an earlier format, which lie in the tree.
    pub(super) old_records: Range<u64>,
}

/// The number of an entry in parts, and how many these are.
#[derive(Clone, Copy, Debug)]
struct Parted {
    number: u64,
    parts: u32,
}

impl RecordLog {
    /// Notes a change of an entry, here and at the end of a record.
    pub(super) fn note(&mut self, record: &mut Vec<u8>, name: IVec, value: Option<IVec>) {
        format::put_bytes(record, &name);
        record.push(value.is_some().into());
        format::put_bytes(record, value.as_deref().unwrap_or_default());
        self.entries.insert(name, value);
    }

    /// Takes what [`note`](Self::note) has put into a record; `None` if that is not what it holds.
    pub(super) fn take(&mut self, mut record: &[u8]) -> Option<()> {
        while !record.is_empty() {
            let name = IVec::from(format::take_bytes(&mut record)?);
            let (is_there, rest) = record.split_first()?;
            record = rest;
            let value = format::take_bytes(&mut record)?;
            self.entries.insert(name, (*is_there == 1).then(|| IVec::from(value)));
        }
        Some(())
    }

    /// Notes where an entry lies.
    pub(super) fn found_in_parts(&mut self, name: IVec, number: u64, parts: u32) {
        self.parted.insert(name, Parted { number, parts });
        self.next_parted = self.next_parted.max(number.saturating_add(1));
    }

    /// Everything that changed since the last fold. Once it is written, the records that say so can
    /// go.
    pub(super) fn fold(&mut self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (name, value) in std::mem::take(&mut self.entries) {
            self.fold_entry(&mut batch, name, value);
        }
        for number in std::mem::take(&mut self.old_records) {
            batch.remove(format::record_name(number));
        }
        self.first = self.next;
        self.bytes = 0;
        batch
    }

    fn fold_entry(&mut self, batch: &mut sled::Batch, name: IVec, value: Option<IVec>) {
        let before = self.parted.remove(&name);
        let mut parts = 0;
        let number = before.map_or(self.next_parted, |before| before.number);
        match value {
            Some(value) if format::fits(&name, &value) => batch.insert(name, value),
            Some(value) => {
                for part in format::entry_parts(&name, &value) {
                    batch.insert(format::part_name(number, parts), part);
                    parts += 1;
                }
                if before.is_none() {
                    // It may have been in one piece.
                    batch.remove(name.clone());
                }
                self.found_in_parts(name, number, parts);
            }
            None if before.is_none() => batch.remove(name),
            None => {}
        }
        for part in parts..before.map_or(0, |before| before.parts) {
            batch.remove(format::part_name(number, part));
        }
    }
}

/// Puts entries together again from their parts, which come in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    number: u64,
    parts: u32,
    bytes: Vec<u8>,
}

impl Assembly {
    /// Takes the next part. When it is the first one of the next entry, the entry before is handed
    /// to `done`. `None` for a part that is out of place, or of an entry that is not whole.
    pub(super) fn take(
        &mut self,
        name: &[u8],
        part: &[u8],
        done: impl FnOnce(IVec, IVec, u64, u32) -> Option<()>,
    ) -> Option<()> {
        let (&PART, numbers) = name.split_first()? else { return None };
        let (number, part_number) = format::decode_part_name(numbers)?;
        if part_number == 0 {
            self.finish(done)?;
            self.number = number;
        }
        if (number, part_number) != (self.number, self.parts) {
            return None;
        }
        self.parts += 1;
        self.bytes.extend_from_slice(part);
        Some(())
    }

    /// Hands the last entry to `done`, if there is one.
    pub(super) fn finish(&mut self, done: impl FnOnce(IVec, IVec, u64, u32) -> Option<()>) -> Option<()> {
        let parts = std::mem::take(&mut self.parts);
        if parts == 0 {
            return Some(());
        }
        let (name, value) = format::decode_parts(&std::mem::take(&mut self.bytes))?;
        done(name, value, self.number, parts)
    }
}
