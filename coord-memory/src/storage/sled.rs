//! A directory of sled's.
//!
//! One tree: `m` is the store itself, `l` + number a lease, `k` + key a key. Every write also writes `m`, so that the counters always fit the
//! rest; what does not fit at opening is damage.

use std::io::{self, ErrorKind as IoKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use coord_api::store::Lease;
use coord_api::{Error, ErrorKind, LeaseId, Result, Revision};

use super::{Contents, Mutation, Storage, Write};
use crate::engine::{Counters, LeaseChange, Stored};
use crate::shared::random_id;

const OPERATION: &str = "store.open";
const FORMAT: u8 = 1;
const META: &[u8] = b"m";
const LEASE: u8 = b'l';
const KEY: u8 = b'k';

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
}

impl Storage for SledStorage {
    fn write(&self, write: &Write) -> Result<()> {
        let mut batch = sled::Batch::default();
        for mutation in &write.mutations {
            match mutation {
                Mutation::Put(key, stored) => batch.insert(key_name(key), encode_stored(stored)),
                Mutation::Delete(key) => batch.remove(key_name(key)),
                Mutation::Lease(LeaseChange::Granted(lease)) => batch.insert(lease_name(lease.id), &lease.ttl.as_secs().to_be_bytes()),
                Mutation::Lease(LeaseChange::Gone(id)) => batch.remove(lease_name(*id)),
            }
        }
        batch.insert(META, encode_meta(&self.store_id, write.counters));
        let written = self.db.apply_batch(batch).and_then(|()| self.db.flush());
        written.map(drop).map_err(|fault| storage_error("store", "the store's directory cannot be written; reopen the store", fault))
    }
}

fn open(path: &Path) -> Result<(SledStorage, Contents)> {
    let marker = path.join(MARKER);
    let ours = marker.try_exists().map_err(|fault| io_error(OPERATION, format!("{} cannot be read", path.display()), fault))?;
    let db = open_database(path)?;
    let contents = match db.get(META).map_err(|fault| unreadable(path, fault))? {
        Some(meta) => load(path, &db, &meta)?,
        None if ours || !db.is_empty() => return Err(damaged(path, "it holds no store, or lost what it held")),
        None => create(path, &db)?,
    };
    if !ours {
        std::fs::write(&marker, "This directory holds a store of coord-memory.\n")
            .map_err(|fault| io_error(OPERATION, format!("{} cannot be written", path.display()), fault))?;
    }
    Ok((SledStorage { db, store_id: contents.store_id.clone() }, contents))
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
    let written = db.insert(META, encode_meta(&store_id, counters)).and_then(|_| db.flush());
    written.map_err(|fault| unreadable(path, fault))?;
    Ok(Contents { store_id, counters, leases: Vec::new(), keys: Vec::new() })
}

fn load(path: &Path, db: &sled::Db, meta: &[u8]) -> Result<Contents> {
    let (store_id, counters) = decode_meta(meta).ok_or_else(|| damaged(path, "its head does not decode"))?;
    let mut contents = Contents { store_id, counters, leases: Vec::new(), keys: Vec::new() };
    for item in db.iter() {
        let (name, bytes) = item.map_err(|fault| unreadable(path, fault))?;
        let known = match name.split_first() {
            Some((&KEY, key)) => decode_stored(&bytes).map(|stored| contents.keys.push((Bytes::copy_from_slice(key), stored))),
            Some((&LEASE, id)) => decode_lease(id, &bytes).map(|lease| contents.leases.push(lease)),
            _ => (name == META).then_some(()),
        };
        known.ok_or_else(|| damaged(path, "an entry does not decode"))?;
    }
    let found = (contents.keys.len() as u64, contents.leases.len() as u64);
    if found != (counters.keys, counters.leases) {
        return Err(damaged(path, "entries are missing"));
    }
    Ok(contents)
}

fn key_name(key: &[u8]) -> Vec<u8> {
    [&[KEY], key].concat()
}

fn lease_name(id: LeaseId) -> Vec<u8> {
    [&[LEASE][..], &id.get().to_be_bytes()].concat()
}

fn encode_stored(stored: &Stored) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + stored.value.len());
    out.put_u64(stored.created.get());
    out.put_u64(stored.modified.get());
    // Leases count from one.
    out.put_u64(stored.lease.map_or(0, LeaseId::get));
    out.put_slice(&stored.value);
    out
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

fn encode_meta(store_id: &str, counters: Counters) -> Vec<u8> {
    let mut out = vec![FORMAT];
    for number in [counters.revision.get(), counters.next_lease, counters.keys, counters.leases] {
        out.put_u64(number);
    }
    out.put_slice(store_id.as_bytes());
    out
}

fn decode_meta(mut bytes: &[u8]) -> Option<(String, Counters)> {
    if bytes.try_get_u8().ok()? != FORMAT {
        return None;
    }
    let revision = Revision::new(bytes.try_get_u64().ok()?);
    let next_lease = bytes.try_get_u64().ok()?;
    let keys = bytes.try_get_u64().ok()?;
    let leases = bytes.try_get_u64().ok()?;
    Some((String::from_utf8(bytes.to_vec()).ok()?, Counters { revision, next_lease, keys, leases }))
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
