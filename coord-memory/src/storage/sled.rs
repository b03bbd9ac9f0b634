//! A directory of sled's, and a file beside it.
//!
//! One tree: `m` is the store itself, `l` + number a lease, `k` + key a key: its *entries*. An
//! entry that is too large to lie under its own name lies in parts, named `x`, number and part. A
//! write does not touch them: what it changes is one *record*, at the end of a file of ours,
//! because sled takes far longer for each small change. Now and then the records are folded into
//! the entries, in one batch, and the file begins anew. Every write also writes `m`, so that the
//! counters always fit the rest; what does not fit at opening is damage.

mod directory;
mod format;
mod log;
mod records;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use coord_api::{Result, Revision};
use parking_lot::Mutex;
use sled::IVec;

pub(crate) use self::directory::{OpenPatience, damaged};
use self::directory::{open_database, storage_error, unreadable};
use self::format::{FORMATS, KEY, LEASE, META, PART, RECORD};
use self::log::{Assembly, RecordLog};
use self::records::{Records, RecordsError};
use super::{Contents, Storage, StorageWrite, new_store_id};
use crate::engine::Counters;

const OPERATION: &str = "store.open";

/// When records are folded: writers then wait for as long as sled needs for all entries that
/// changed since, 5 to 10 microseconds each.
const FOLD: Bounds = Bounds { bytes: 16 * 1024 * 1024, entries: 32 * 1024 };

/// A sled database that only we write.
#[derive(Debug)]
pub(crate) struct SledStorage {
    db: sled::Db,
    path: PathBuf,
    store_id: String,
    fold: Bounds,
    written: Mutex<(RecordLog, Records)>,
}

/// How much there is to be folded at most: bytes of records, and entries that they change.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    bytes: usize,
    entries: usize,
}

impl SledStorage {
    /// Opens a directory, making it where there is none, and reads all of it. Blocks.
    ///
    /// # Errors
    ///
    /// `Unavailable` when it is open already or cannot be read, `PermissionDenied`, `Exhausted`
    /// when the disk is full, `Internal` when what it holds is damaged or not ours.
    pub(crate) fn open(path: &Path, patience: OpenPatience) -> Result<(Self, Contents)> {
        // sled panics on some damaged files. Nothing is shared with the closure, so nothing is left
        // half done outside it.
        catch_unwind(AssertUnwindSafe(|| open(path, patience))).unwrap_or_else(|_| {
            directory::let_go(path);
            Err(damaged(path, "it cannot be read"))
        })
    }
}

impl Storage for SledStorage {
    fn write(&self, write: &StorageWrite) -> Result<()> {
        let failed = |fault| {
            storage_error("store", "the store's directory cannot be written; reopen the store", fault)
        };
        let mut written = self.written.lock();
        let (log, records) = &mut *written;
        let mut record = Vec::new();
        for mutation in &write.mutations {
            let (name, value) = format::entry(mutation);
            log.note(&mut record, name, value);
        }
        let folds = log.bytes + record.len() > self.fold.bytes || log.entries.len() > self.fold.entries;
        let number = log.next;
        log.next += u64::from(!folds);
        let meta = format::encode_meta(&self.store_id, write.counters, log.next);
        log.note(&mut record, IVec::from(META), Some(meta.into()));
        if folds {
            fold(&self.db, log, records).map_err(failed)
        } else {
            log.bytes += record.len();
            records.append(number, &record).map_err(|fault| failed(fault.into()))
        }
    }

    fn let_go(&self) {
        directory::let_go(&self.path);
    }
}

fn open(path: &Path, patience: OpenPatience) -> Result<(SledStorage, Contents)> {
    let (db, ours) = open_database(path, patience)?;
    let opened = read_or_create(path, &db, ours);
    if opened.is_err() {
        directory::let_go(path);
    }
    let (contents, log, records) = opened?;
    let storage = SledStorage {
        db,
        path: directory::identity(path),
        store_id: contents.store_id.clone(),
        fold: FOLD,
        written: Mutex::new((log, records)),
    };
    Ok((storage, contents))
}

fn read_or_create(path: &Path, db: &sled::Db, ours: bool) -> Result<(Contents, RecordLog, Records)> {
    let read = match db.contains_key(META).map_err(|fault| unreadable(path, fault))? {
        true => load(path, db)?,
        false if ours || !db.is_empty() => {
            return Err(damaged(path, "it holds no store, or lost what it held"));
        }
        false => create(path, db)?,
    };
    if !ours {
        directory::mark(path)?;
    }
    Ok(read)
}

fn create(path: &Path, db: &sled::Db) -> Result<(Contents, RecordLog, Records)> {
    // The records first: a store without them has lost them.
    let records = Records::create(path, 0).map_err(|fault| unreadable(path, fault.into()))?;
    let store_id = new_store_id();
    let counters = Counters { revision: Revision::new(1), next_lease: 1, keys: 0, leases: 0 };
    let written = db.insert(META, format::encode_meta(&store_id, counters, 0)).and_then(|_| db.flush());
    written.map_err(|fault| unreadable(path, fault))?;
    Ok((Contents { store_id, counters, leases: Vec::new(), keys: Vec::new() }, RecordLog::default(), records))
}

/// Writes all that changed since the last fold into the tree, and begins the records anew. Whatever
/// is done of it when the process ends: what is in the tree by then is not taken from the records
/// again.
fn fold(db: &sled::Db, log: &mut RecordLog, records: &mut Records) -> sled::Result<()> {
    db.apply_batch(log.fold())?;
    db.flush()?;
    Ok(records.restart(log.first)?)
}

/// Reads the entries, and over them the records, one after the other. These are folded then, so
/// that what the next opening has to read is the tree.
fn load(path: &Path, db: &sled::Db) -> Result<(Contents, RecordLog, Records)> {
    let mut log = RecordLog::default();
    let (mut entries, old_records) = read_tree(path, db, &mut log)?;
    let meta = entries
        .get(META)
        .and_then(|meta| format::decode_meta(meta))
        .ok_or_else(|| damaged(path, "its head does not decode"))?;
    (log.first, log.next) = (meta.next_record, meta.next_record);
    let outdated = meta.format < *FORMATS.end();
    let opened = Records::open(path).map_err(|fault| match fault {
        RecordsError::Io(fault) => unreadable(path, fault.into()),
        RecordsError::Damaged(what) => damaged(path, what),
    })?;
    let (mut records, found) = match opened {
        Some((records, found)) => (records, Some(found)),
        None if outdated => (Records::create(path, 0).map_err(|fault| unreadable(path, fault.into()))?, None),
        None => return Err(damaged(path, "its records are missing")),
    };
    if found.as_ref().is_some_and(|found| found.first > log.next) {
        return Err(damaged(path, "its files lost what they held last"));
    }
    let found = found.map(|found| found.records).unwrap_or_default();
    log.old_records = log.first..log.first;
    for (number, record) in old_records {
        if !outdated || number != Some(log.next) {
            return Err(damaged(path, "a record is missing"));
        }
        log.next += 1;
        log.old_records.end = log.next;
        log.take(&record).ok_or_else(|| damaged(path, "a record does not decode"))?;
    }
    // What comes before was folded already.
    for (number, record) in found {
        if number == log.next {
            log.next += 1;
            log.take(&record).ok_or_else(|| damaged(path, "a record does not decode"))?;
        }
    }
    if outdated {
        // What does not fit the present format is folded like what changed.
        for (name, value) in entries.iter().filter(|(name, value)| !format::fits(name, value)) {
            log.entries.entry(name.clone()).or_insert_with(|| Some(value.clone()));
        }
    }
    for (name, value) in &log.entries {
        match value {
            Some(value) => entries.insert(name.clone(), value.clone()),
            None => entries.remove(name),
        };
    }
    let contents = decode_entries(path, &entries, log.next)?;
    if outdated || log.next > log.first {
        let meta = format::encode_meta(&contents.store_id, contents.counters, log.next);
        log.entries.insert(IVec::from(META), Some(meta.into()));
        fold(db, &mut log, &mut records).map_err(|fault| unreadable(path, fault))?;
    }
    Ok((contents, log, records))
}

type OldRecords = Vec<(Option<u64>, IVec)>;

/// Everything in the tree: the entries, and the records of an earlier format.
fn read_tree(path: &Path, db: &sled::Db, log: &mut RecordLog) -> Result<(BTreeMap<IVec, IVec>, OldRecords)> {
    let (mut entries, mut records, mut assembly) = (BTreeMap::new(), Vec::new(), Assembly::default());
    let mut assembled = |entries: &mut BTreeMap<IVec, IVec>, name: IVec, value, number, parts| {
        log.found_in_parts(name.clone(), number, parts);
        entries.insert(name, value).is_none().then_some(())
    };
    let missing_part = || damaged(path, "a part of an entry is missing");
    for item in db.iter() {
        let (name, bytes) = item.map_err(|fault| unreadable(path, fault))?;
        match name.split_first() {
            Some((&RECORD, number)) => records.push((format::decode_number(number), bytes)),
            Some((&PART, _)) => {
                let done = |name, value, number, parts| assembled(&mut entries, name, value, number, parts);
                assembly.take(&name, &bytes, done).ok_or_else(missing_part)?;
            }
            _ => drop(entries.insert(name, bytes)),
        }
    }
    assembly
        .finish(|name, value, number, parts| assembled(&mut entries, name, value, number, parts))
        .ok_or_else(missing_part)?;
    Ok((entries, records))
}

fn decode_entries(path: &Path, entries: &BTreeMap<IVec, IVec>, next_record: u64) -> Result<Contents> {
    let meta = entries
        .get(META)
        .and_then(|meta| format::decode_meta(meta))
        .ok_or_else(|| damaged(path, "its head does not decode"))?;
    let mut contents =
        Contents { store_id: meta.store_id, counters: meta.counters, leases: Vec::new(), keys: Vec::new() };
    for (name, bytes) in entries {
        let known = match name.split_first() {
            Some((&KEY, key)) => format::decode_stored(bytes)
                .map(|stored| contents.keys.push((Bytes::copy_from_slice(key), stored))),
            Some((&LEASE, id)) => format::decode_lease(id, bytes).map(|lease| contents.leases.push(lease)),
            _ => (name == META).then_some(()),
        };
        known.ok_or_else(|| damaged(path, "an entry does not decode"))?;
    }
    let found = (contents.keys.len() as u64, contents.leases.len() as u64);
    if meta.next_record != next_record || found != (contents.counters.keys, contents.counters.leases) {
        return Err(damaged(path, "entries or records are missing"));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests;
