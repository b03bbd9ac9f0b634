use std::sync::Arc;
use std::time::Duration;

use coord_api::store::Lease;
use coord_api::{Error, ErrorKind, LeaseId};
use tempfile::TempDir;

use super::format::{encode_meta, record_name};
use super::*;
use crate::engine::{LeaseChange, Stored};
use crate::storage::Mutation;

/// A storage that folds often, and what it should hold.
struct Checked {
    dir: TempDir,
    storage: Option<SledStorage>,
    fold: Bounds,
    counters: Counters,
    keys: BTreeMap<Bytes, Stored>,
    leases: BTreeMap<u64, Duration>,
}

impl Checked {
    fn new(fold: Bounds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let counters = Counters { revision: Revision::new(1), next_lease: 1, keys: 0, leases: 0 };
        let mut checked =
            Checked { dir, storage: None, fold, counters, keys: BTreeMap::new(), leases: BTreeMap::new() };
        checked.reopen();
        checked
    }

    fn storage(&self) -> &SledStorage {
        self.storage.as_ref().unwrap()
    }

    fn write(&mut self, mutations: Vec<Mutation>) {
        for mutation in &mutations {
            match mutation {
                Mutation::Put(key, stored) => drop(self.keys.insert(key.clone(), Stored::clone(stored))),
                Mutation::Delete(key) => drop(self.keys.remove(key)),
                Mutation::Lease(LeaseChange::Granted(lease)) => {
                    self.leases.insert(lease.id.get(), lease.ttl);
                }
                Mutation::Lease(LeaseChange::Gone(id)) => drop(self.leases.remove(&id.get())),
            }
        }
        let revision = Revision::new(self.counters.revision.get() + 1);
        let (keys, leases) = (self.keys.len() as u64, self.leases.len() as u64);
        self.counters = Counters { revision, next_lease: 100, keys, leases };
        self.storage().write(&StorageWrite { mutations, counters: self.counters }).unwrap();
    }

    /// Opens the directory again and compares what it holds.
    fn reopen(&mut self) {
        self.close();
        let (storage, contents) = SledStorage::open(self.dir.path(), OpenPatience::Own).unwrap();
        self.storage = Some(SledStorage { fold: self.fold, ..storage });
        assert_eq!(contents.counters, self.counters);
        assert_eq!(contents.keys.into_iter().collect::<BTreeMap<_, _>>(), self.keys);
        let leases: BTreeMap<_, _> =
            contents.leases.iter().map(|lease| (lease.id.get(), lease.ttl)).collect();
        assert_eq!(leases, self.leases);
    }

    fn close(&mut self) {
        if let Some(storage) = self.storage.take() {
            storage.let_go();
        }
    }

    /// The closed database, as sled sees it.
    fn database(&mut self) -> sled::Db {
        self.close();
        open_database(self.dir.path(), OpenPatience::Own).unwrap().0
    }

    /// How many records wait to be folded.
    fn records(&self) -> u64 {
        let written = self.storage().written.lock();
        written.0.next - written.0.first
    }

    /// Changes the closed database, and says why it does not open then.
    fn damage(&mut self, damage: impl FnOnce(&sled::Db)) -> Error {
        let db = self.database();
        damage(&db);
        db.flush().unwrap();
        directory::let_go(self.dir.path());
        drop(db);
        SledStorage::open(self.dir.path(), OpenPatience::Own).unwrap_err()
    }
}

fn put(key: &str, value: &[u8], revision: u64) -> Mutation {
    let revision = Revision::new(revision);
    let stored = Stored {
        value: value.to_vec().into(),
        created: revision,
        modified: revision,
        lease: Some(LeaseId::new(7)),
    };
    Mutation::Put(Bytes::from(key.to_owned()), Arc::new(stored))
}

fn granted(id: u64) -> Mutation {
    Mutation::Lease(LeaseChange::Granted(Lease { id: LeaseId::new(id), ttl: Duration::from_secs(id) }))
}

const NEVER: Bounds = Bounds { bytes: usize::MAX, entries: usize::MAX };

#[test]
fn whatever_was_folded_and_whatever_was_not_is_there() {
    for fold in [
        NEVER,
        Bounds { bytes: 2_000, entries: usize::MAX },
        Bounds { bytes: usize::MAX, entries: 12 },
        Bounds { bytes: 0, entries: 0 },
    ] {
        let mut store = Checked::new(fold);
        let (mut random, mut most) = (fastrand::Rng::with_seed(1), 0);
        for n in 0..300 {
            let mutations = (0..random.usize(0..4)).map(|_| {
                let key = format!("k{}", random.u8(0..20));
                match random.u8(0..6) {
                    0 => granted(random.u64(1..9)),
                    1 => Mutation::Lease(LeaseChange::Gone(LeaseId::new(random.u64(1..9)))),
                    2 => Mutation::Delete(key.into()),
                    _ => put(&key, &vec![b'v'; random.usize(0..200)], n),
                }
            });
            let mutations = mutations.collect();
            store.write(mutations);
            most = most.max(store.records());
            if random.u8(0..10) == 0 {
                store.reopen();
            }
        }
        store.reopen();
        let bounded = fold.bytes < usize::MAX || fold.entries < usize::MAX;
        assert_eq!(most < 25, bounded, "{fold:?}: {most} records");
        assert_eq!(store.records(), 0, "opening folds them");
    }
}

/// Values of every size around those that are parted otherwise.
fn sizes() -> impl Iterator<Item = usize> {
    [0, 1, 6_000, 6_100, 6_119, 6_120, 6_121, 6_144, 12_000, 12_256, 12_257, 131_072, 1024 * 1024].into_iter()
}

#[test]
fn an_entry_of_any_size_is_there_however_often_it_changes_its_size() {
    for fold in [NEVER, Bounds { bytes: 2_000_000, entries: usize::MAX }, Bounds { bytes: 0, entries: 0 }] {
        let mut store = Checked::new(fold);
        let long = "k".repeat(1_000);
        for (n, size) in (2..).zip(sizes().chain(sizes().collect::<Vec<_>>().into_iter().rev())) {
            store.write(vec![
                put("k", &vec![b'v'; size], n),
                put(&long, &vec![b'l'; size / 2], n),
                put(&format!("own/{size}"), &vec![b'o'; size], n),
            ]);
            if n % 4 == 0 {
                store.reopen();
            }
        }
        store.reopen();
        for size in sizes() {
            store.write(vec![
                Mutation::Delete(format!("own/{size}").into()),
                Mutation::Delete(long.clone().into()),
            ]);
        }
        store.reopen();
        assert_eq!(store.keys.len(), 1);
        if fold.bytes == 0 {
            assert_eq!(store.storage().db.iter().count(), 2, "what is deleted leaves no part behind");
        }
    }
}

#[test]
fn a_write_as_large_as_all_that_is_folded_is_folded_at_once() {
    let mut store = Checked::new(FOLD);
    store.write(vec![put("small", b"1", 2)]);
    assert_eq!(store.records(), 1);
    let large = vec![b'v'; 1024 * 1024];
    store.write((0..16).map(|n| put(&format!("large/{n}"), &large, 3)).collect());
    assert_eq!(store.records(), 0);
    store.write(vec![Mutation::Delete("large/3".into())]);
    store.reopen();
    assert_eq!((store.records(), store.keys.len()), (0, 16));
}

/// sled frees what it writes to a file of its own late, and never when the process ends before.
#[test]
fn nothing_is_so_large_that_sled_keeps_it_in_a_file_of_its_own() {
    let mut store = Checked::new(Bounds { bytes: 4_000_000, entries: 300 });
    let mut random = fastrand::Rng::with_seed(2);
    for n in 2..600 {
        // Keys that differ at their ends, at their beginnings, and that are as long as an entry's
        // name may be.
        let key = match random.u8(0..3) {
            0 => format!("{}{:03}", "k".repeat(random.usize(1..260)), random.u8(0..200)),
            1 => format!("{:03}{}", random.u8(0..200), "k".repeat(random.usize(240..260))),
            _ => format!("k{:03}", random.u8(0..200)),
        };
        let largest = if random.u8(0..10) == 0 { 300_000 } else { 7_000 };
        let mut writes = vec![put(&key, &vec![b'v'; random.usize(0..largest)], n)];
        if random.u8(0..4) == 0 {
            writes.push(Mutation::Delete(format!("k{:03}", random.u8(0..200)).into()));
        }
        store.write(writes);
        if n % 100 == 0 {
            store.reopen();
        }
        assert_eq!(std::fs::read_dir(store.dir.path().join("blobs")).unwrap().count(), 0, "after {n} writes");
    }
    store.reopen();
}

/// `kill -9` between any two steps of a fold: the tree may have what is still in the records, and
/// never less.
#[test]
fn a_fold_that_was_not_finished_is_of_no_matter() {
    let mut store = Checked::new(NEVER);
    (2..5).for_each(|n| store.write(vec![put("k", &[b'v'; 20_000], n), put(&n.to_string(), b"v", n)]));
    store.close();
    let records = |store: &Checked| std::fs::read(store.dir.path().join("records")).unwrap();
    let unfolded = records(&store);
    store.reopen();
    store.close();
    assert!(records(&store).len() < 100, "opening has folded them");
    std::fs::write(store.dir.path().join("records"), &unfolded).unwrap();
    store.reopen();
    store.write(vec![put("k", b"later", 5)]);
    store.reopen();
    // The records of later do not go with the tree of before.
    store.close();
    let error = {
        let dir = tempfile::tempdir().unwrap();
        let mut other = Checked { dir, ..Checked::new(NEVER) };
        other.reopen();
        other.close();
        std::fs::copy(store.dir.path().join("records"), other.dir.path().join("records")).unwrap();
        SledStorage::open(other.dir.path(), OpenPatience::Own).unwrap_err()
    };
    assert!(
        error.kind() == ErrorKind::Internal && error.message().contains("lost what they held last"),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_is_damage() {
    let mut store = Checked::new(NEVER);
    (0..3).for_each(|n| store.write(vec![put("k", b"v", n), granted(n + 1)]));
    store.reopen();
    store.close();
    let records = store.dir.path().join("records");
    std::fs::remove_file(&records).unwrap();
    let error = SledStorage::open(store.dir.path(), OpenPatience::Own).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Internal && error.message().contains("records are missing"),
        "{error}"
    );
    for entry in [&b"kk"[..], &[LEASE, 0, 0, 0, 0, 0, 0, 0, 1]] {
        let mut store = Checked::new(NEVER);
        (0..3).for_each(|n| store.write(vec![put("k", b"v", n), granted(n + 1)]));
        store.reopen();
        let error = store.damage(|db| drop(db.remove(entry).unwrap().unwrap()));
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Internal, OPERATION));
    }
}

#[test]
fn a_part_that_is_missing_is_damage() {
    for part in 0..4 {
        let mut store = Checked::new(Bounds { bytes: 0, entries: 0 });
        store.write(vec![put("k", &[b'v'; 20_000], 2), put("l", &[b'v'; 20_000], 2)]);
        let error = store.damage(|db| drop(db.remove(format::part_name(0, part)).unwrap().unwrap()));
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Internal, OPERATION), "part {part}");
    }
}

#[test]
fn the_first_format_is_still_read() {
    let mut store = Checked::new(NEVER);
    let db = store.database();
    let mut meta =
        encode_meta("0123", Counters { revision: Revision::new(1), next_lease: 1, keys: 0, leases: 0 }, 0);
    meta[0] = *FORMATS.start();
    meta.drain(33..41);
    db.insert(META, meta).unwrap();
    db.flush().unwrap();
    directory::let_go(store.dir.path());
    drop(db);
    store.reopen();
    assert_eq!(store.storage().store_id, "0123");
    store.write(vec![put("k", b"v", 2)]);
    store.reopen();
}

/// It had records in one piece each, and entries of any size under their own names.
#[test]
fn the_second_format_is_still_read_and_becomes_the_present_one() {
    let mut store = Checked::new(NEVER);
    let db = store.database();
    let long = "k".repeat(1_000);
    let writes = [
        vec![put("whole", &[b'w'; 200_000], 2), put("small", b"s", 2), put(&long, b"l", 2)],
        vec![put("recorded", &[b'r'; 50_000], 3), Mutation::Delete("small".into())],
        vec![granted(5)],
    ];
    let counters = Counters { revision: Revision::new(4), next_lease: 6, keys: 3, leases: 1 };
    let meta = |counters, next| {
        let mut meta = encode_meta("0123", counters, next);
        meta[0] = 2;
        meta
    };
    for mutation in &writes[0] {
        let (name, value) = format::entry(mutation);
        db.insert(name, value.unwrap()).unwrap();
    }
    db.insert(META, meta(counters, 7)).unwrap();
    for (number, record) in (7..).zip(&writes[1..]) {
        let mut bytes = Vec::new();
        let mut log = RecordLog::default();
        for mutation in record {
            let (name, value) = format::entry(mutation);
            log.note(&mut bytes, name, value);
        }
        log.note(&mut bytes, IVec::from(META), Some(meta(counters, number + 1).into()));
        db.insert(record_name(number), bytes).unwrap();
    }
    db.flush().unwrap();
    directory::let_go(store.dir.path());
    drop(db);
    for mutation in writes.into_iter().flatten() {
        match mutation {
            Mutation::Put(key, stored) => drop(store.keys.insert(key, Stored::clone(&stored))),
            Mutation::Delete(key) => drop(store.keys.remove(&key)),
            Mutation::Lease(LeaseChange::Granted(lease)) => {
                store.leases.insert(lease.id.get(), lease.ttl);
            }
            Mutation::Lease(LeaseChange::Gone(_)) => {}
        }
    }
    store.counters = counters;
    store.reopen();
    assert_eq!(store.records(), 0);
    for item in store.storage().db.iter() {
        let (name, value) = item.unwrap();
        assert!(format::fits(&name, &value), "{} bytes of {name:?}", value.len());
    }
    store.reopen();
    store.write(vec![put("k", b"v", 5)]);
    store.write(vec![put("whole", b"not any more", 6), Mutation::Delete(long.into())]);
    store.reopen();
}

#[test]
fn sled_writes_the_conf_that_we_know() {
    let dir = tempfile::tempdir().unwrap();
    drop(sled::open(dir.path()).unwrap());
    assert_eq!(std::fs::read(dir.path().join("conf")).unwrap(), directory::CONF);
}
