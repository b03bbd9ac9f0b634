//! A directory of sled's.
//!
//! One tree: `m` is the store itself, `l` + number a lease, `k` + key a key: its *entries*. A write does not touch them: what it changes is one *record*, `w` + number,
//! because sled takes as long for one insert of a hundred small changes as for one of them. Now and then the records are folded into the entries, in one batch. Every
//! write also writes `m`, so that the counters always fit the rest; what does not fit at opening is damage.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind as IoKind};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use coord_api::store::Lease;
use coord_api::{Error, ErrorKind, LeaseId, Result, Revision};
use parking_lot::Mutex;
use sled::IVec;

use super::{Contents, Mutation, Storage, Write};
use crate::engine::{Counters, LeaseChange, Stored};
use crate::shared::random_id;

const OPERATION: &str = "store.open";
/// The first format had no records.
const FORMATS: RangeInclusive<u8> = 1..=2;
const META: &[u8] = b"m";
const LEASE: u8 = b'l';
const KEY: u8 = b'k';
const RECORD: u8 = b'w';

/// A write with more than this is folded at once: sled keeps larger values in files of their own.
const LARGEST_RECORD: usize = 128 * 1024;

/// When records are folded: writers then wait for as long as sled needs for all entries that changed since, 5 to 10 microseconds each.
const FOLD: Bounds = Bounds { bytes: 16 * 1024 * 1024, entries: 32 * 1024 };

/// Its presence says that the directory holds a store of ours, so that one whose log lost everything is not taken for a new one.
const MARKER: &str = "coord-memory";

/// How long opening waits for a lock that this very process is about to let go of: sled's threads outlive its handle by a little.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// The engine keeps everything in memory; sled's own cache need only hold what is being written.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// A sled database that only we write.
#[derive(Debug)]
pub(crate) struct SledStorage {
    db: sled::Db,
    store_id: String,
    fold: Bounds,
    log: Mutex<Log>,
}

/// How much there is to be folded at most: bytes of records, and entries that they change.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    bytes: usize,
    entries: usize,
}

/// The records that were written since the last fold.
#[derive(Debug, Default)]
struct Log {
    /// The numbers of the first record, and of the one that is written next.
    first: u64,
    next: u64,
    bytes: usize,
    /// What they amount to.
    entries: HashMap<IVec, Option<IVec>>,
}

impl SledStorage {
    /// Opens a directory, making it where there is none, and reads all of it.
    ///
    /// # Errors
    ///
    /// `Unavailable` when it is open already or cannot be read, `PermissionDenied`, `Exhausted` when the disk is full, `Internal` when what it holds
    /// is damaged or not ours.
    pub(crate) fn open(path: &Path) -> Result<(Self, Contents)> {
        // sled panics on some damaged files. Nothing is shared with the closure, so nothing is left half done outside it.
        catch_unwind(AssertUnwindSafe(|| open(path))).unwrap_or_else(|_| Err(damaged(path, "it cannot be read")))
    }

    /// Writes all that changed since the last fold in the place of the records that say so.
    fn fold(&self, log: &mut Log) -> sled::Result<()> {
        let mut batch = sled::Batch::default();
        for (name, value) in log.entries.drain() {
            match value {
                Some(value) => batch.insert(name, value),
                None => batch.remove(name),
            }
        }
        for number in log.first..log.next {
            batch.remove(record_name(number));
        }
        log.first = log.next;
        log.bytes = 0;
        self.db.apply_batch(batch)
    }
}

impl Storage for SledStorage {
    fn write(&self, write: &Write) -> Result<()> {
        let mut log = self.log.lock();
        let mut record = Vec::new();
        for mutation in &write.mutations {
            let (name, value) = entry(mutation);
            log.note(&mut record, name, value);
        }
        let folds = record.len() > LARGEST_RECORD || log.bytes + record.len() > self.fold.bytes || log.entries.len() > self.fold.entries;
        let number = log.next;
        log.next += u64::from(!folds);
        let meta = encode_meta(&self.store_id, write.counters, log.next);
        log.note(&mut record, IVec::from(META), Some(meta.into()));
        let written = if folds {
            self.fold(&mut log)
        } else {
            log.bytes += record.len();
            self.db.insert(record_name(number), record).map(drop)
        };
        let written = written.and_then(|()| self.db.flush());
        written.map(drop).map_err(|fault| storage_error("store", "the store's directory cannot be written; reopen the store", fault))
    }
}

fn open(path: &Path) -> Result<(SledStorage, Contents)> {
    let marker = path.join(MARKER);
    let ours = marker.try_exists().map_err(|fault| io_error(OPERATION, format!("{} cannot be read", path.display()), fault))?;
    let db = open_database(path)?;
    let (contents, log) = match db.contains_key(META).map_err(|fault| unreadable(path, fault))? {
        true => load(path, &db)?,
        false if ours || !db.is_empty() => return Err(damaged(path, "it holds no store, or lost what it held")),
        false => (create(path, &db)?, Log::default()),
    };
    if !ours {
        std::fs::write(&marker, "This directory holds a store of coord-memory.\n")
            .map_err(|fault| io_error(OPERATION, format!("{} cannot be written", path.display()), fault))?;
    }
    Ok((SledStorage { db, store_id: contents.store_id.clone(), fold: FOLD, log: Mutex::new(log) }, contents))
}

fn open_database(path: &Path) -> Result<sled::Db> {
    // We flush ourselves, before anything is acknowledged.
    let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(CACHE_BYTES);
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(fault) if is_locked(&fault) => {
                if Instant::now() >= patience {
                    let message = format!("{} is already open, in another process or in this one", path.display());
                    return Err(Error::new(ErrorKind::Unavailable, OPERATION, message).with_source(fault));
                }
                thread::sleep(Duration::from_millis(5));
            }
            Err(fault) => return Err(unreadable(path, fault)),
        }
    }
}

fn create(path: &Path, db: &sled::Db) -> Result<Contents> {
    let store_id = random_id();
    let counters = Counters { revision: Revision::new(1), next_lease: 1, keys: 0, leases: 0 };
    let written = db.insert(META, encode_meta(&store_id, counters, 0)).and_then(|_| db.flush());
    written.map_err(|fault| unreadable(path, fault))?;
    Ok(Contents { store_id, counters, leases: Vec::new(), keys: Vec::new() })
}

/// Reads the entries, and over them the records, one after the other.
fn load(path: &Path, db: &sled::Db) -> Result<(Contents, Log)> {
    let (mut entries, mut records) = (BTreeMap::new(), Vec::new());
    for item in db.iter() {
        let (name, bytes) = item.map_err(|fault| unreadable(path, fault))?;
        match name.split_first() {
            Some((&RECORD, number)) => records.push((number.try_into().ok().map(u64::from_be_bytes), bytes)),
            _ => drop(entries.insert(name, bytes)),
        }
    }
    let first = entries.get(META).and_then(|meta| decode_meta(meta)).ok_or_else(|| damaged(path, "its head does not decode"))?.next_record;
    let mut log = Log { first, next: first, ..Log::default() };
    for (number, record) in records {
        if number != Some(log.next) {
            return Err(damaged(path, "a record is missing"));
        }
        log.next += 1;
        log.bytes += record.len();
        log.take(&record).ok_or_else(|| damaged(path, "a record does not decode"))?;
    }
    for (name, value) in &log.entries {
        match value {
            Some(value) => entries.insert(name.clone(), value.clone()),
            None => entries.remove(name),
        };
    }
    let meta = entries.get(META).and_then(|meta| decode_meta(meta)).ok_or_else(|| damaged(path, "its head does not decode"))?;
    let mut contents = Contents { store_id: meta.store_id, counters: meta.counters, leases: Vec::new(), keys: Vec::new() };
    for (name, bytes) in &entries {
        let known = match name.split_first() {
            Some((&KEY, key)) => decode_stored(bytes).map(|stored| contents.keys.push((Bytes::copy_from_slice(key), stored))),
            Some((&LEASE, id)) => decode_lease(id, bytes).map(|lease| contents.leases.push(lease)),
            _ => (name == META).then_some(()),
        };
        known.ok_or_else(|| damaged(path, "an entry does not decode"))?;
    }
    let found = (contents.keys.len() as u64, contents.leases.len() as u64);
    if meta.next_record != log.next || found != (contents.counters.keys, contents.counters.leases) {
        return Err(damaged(path, "entries or records are missing"));
    }
    Ok((contents, log))
}

impl Log {
    /// Notes a change of an entry, here and at the end of a record.
    fn note(&mut self, record: &mut Vec<u8>, name: IVec, value: Option<IVec>) {
        put_bytes(record, &name);
        record.put_u8(value.is_some().into());
        put_bytes(record, value.as_deref().unwrap_or_default());
        self.entries.insert(name, value);
    }

    /// Takes what [`note`](Self::note) has put into a record; `None` if that is not what it holds.
    fn take(&mut self, mut record: &[u8]) -> Option<()> {
        while !record.is_empty() {
            let name = IVec::from(take_bytes(&mut record)?);
            let is_there = record.try_get_u8().ok()?;
            let value = take_bytes(&mut record)?;
            self.entries.insert(name, (is_there == 1).then(|| IVec::from(value)));
        }
        Some(())
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Names and values are bounded far below (R4, R6); one that were not would not decode.
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.try_get_u32().ok()?;
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// The entry that a mutation changes, and what it holds then.
fn entry(mutation: &Mutation) -> (IVec, Option<IVec>) {
    match mutation {
        Mutation::Put(key, stored) => (key_name(key), Some(encode_stored(stored))),
        Mutation::Delete(key) => (key_name(key), None),
        Mutation::Lease(LeaseChange::Granted(lease)) => (lease_name(lease.id), Some(IVec::from(&lease.ttl.as_secs().to_be_bytes()))),
        Mutation::Lease(LeaseChange::Gone(id)) => (lease_name(*id), None),
    }
}

fn key_name(key: &[u8]) -> IVec {
    IVec::from([&[KEY], key].concat())
}

fn lease_name(id: LeaseId) -> IVec {
    number_name(LEASE, id.get())
}

fn record_name(number: u64) -> IVec {
    number_name(RECORD, number)
}

fn number_name(kind: u8, number: u64) -> IVec {
    IVec::from([&[kind][..], &number.to_be_bytes()].concat())
}

fn encode_stored(stored: &Stored) -> IVec {
    let mut out = Vec::with_capacity(24 + stored.value.len());
    out.put_u64(stored.created.get());
    out.put_u64(stored.modified.get());
    // Leases count from one.
    out.put_u64(stored.lease.map_or(0, LeaseId::get));
    out.put_slice(&stored.value);
    out.into()
}

fn decode_stored(mut bytes: &[u8]) -> Option<Stored> {
    let created = Revision::new(bytes.try_get_u64().ok()?);
    let modified = Revision::new(bytes.try_get_u64().ok()?);
    let lease = bytes.try_get_u64().ok()?;
    Some(Stored { value: Bytes::copy_from_slice(bytes).into(), created, modified, lease: (lease > 0).then(|| LeaseId::new(lease)) })
}

fn decode_lease(id: &[u8], ttl: &[u8]) -> Option<Lease> {
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some(Lease { id: LeaseId::new(number(id)?), ttl: Duration::from_secs(number(ttl)?) })
}

/// What `m` says.
struct Meta {
    counters: Counters,
    /// The number of the first record that is not in what this stands beside.
    next_record: u64,
    store_id: String,
}

fn encode_meta(store_id: &str, counters: Counters, next_record: u64) -> Vec<u8> {
    let mut out = vec![*FORMATS.end()];
    for number in [counters.revision.get(), counters.next_lease, counters.keys, counters.leases, next_record] {
        out.put_u64(number);
    }
    out.put_slice(store_id.as_bytes());
    out
}

fn decode_meta(mut bytes: &[u8]) -> Option<Meta> {
    let format = bytes.try_get_u8().ok().filter(|format| FORMATS.contains(format))?;
    let revision = Revision::new(bytes.try_get_u64().ok()?);
    let next_lease = bytes.try_get_u64().ok()?;
    let keys = bytes.try_get_u64().ok()?;
    let leases = bytes.try_get_u64().ok()?;
    let next_record = if format == *FORMATS.start() { 0 } else { bytes.try_get_u64().ok()? };
    let counters = Counters { revision, next_lease, keys, leases };
    Some(Meta { counters, next_record, store_id: String::from_utf8(bytes.to_vec()).ok()? })
}

/// What the directory holds is of no use to us.
pub(crate) fn damaged(path: &Path, what: &str) -> Error {
    let message = format!("{}: {what}; move the directory away to start empty, or put a backup in its place", path.display());
    Error::new(ErrorKind::Internal, OPERATION, message)
}

fn unreadable(path: &Path, fault: sled::Error) -> Error {
    match fault {
        sled::Error::Io(fault) => io_error(OPERATION, format!("{} cannot be opened", path.display()), fault),
        fault => damaged(path, "its files are damaged").with_source(fault),
    }
}

fn storage_error(operation: &'static str, message: &'static str, fault: sled::Error) -> Error {
    match fault {
        sled::Error::Io(fault) => io_error(operation, message.to_owned(), fault),
        fault => Error::new(ErrorKind::Unavailable, operation, message).with_source(fault),
    }
}

fn io_error(operation: &'static str, message: String, fault: io::Error) -> Error {
    let kind = match fault.kind() {
        IoKind::StorageFull | IoKind::FileTooLarge | IoKind::QuotaExceeded => ErrorKind::Exhausted,
        IoKind::PermissionDenied | IoKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, operation, message).with_source(fault)
}

/// sled reports a lock that is taken as an error of no kind, so its text must do.
fn is_locked(fault: &sled::Error) -> bool {
    matches!(fault, sled::Error::Io(fault) if fault.kind() == IoKind::Other && fault.to_string().starts_with("could not acquire lock"))
}

#[cfg(test)]
mod tests;
