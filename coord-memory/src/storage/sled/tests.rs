use std::sync::Arc;

use tempfile::TempDir;

use super::*;

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
        let mut checked = Checked { dir, storage: None, fold, counters, keys: BTreeMap::new(), leases: BTreeMap::new() };
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
                Mutation::Lease(LeaseChange::Granted(lease)) => drop(self.leases.insert(lease.id.get(), lease.ttl)),
                Mutation::Lease(LeaseChange::Gone(id)) => drop(self.leases.remove(&id.get())),
            }
        }
        let revision = Revision::new(self.counters.revision.get() + 1);
        let (keys, leases) = (self.keys.len() as u64, self.leases.len() as u64);
        self.counters = Counters { revision, next_lease: 100, keys, leases };
        self.storage().write(&Write { mutations, counters: self.counters }).unwrap();
    }

    /// Opens the directory again and compares what it holds.
    fn reopen(&mut self) {
        self.storage = None;
        let (storage, contents) = SledStorage::open(self.dir.path()).unwrap();
        self.storage = Some(SledStorage { fold: self.fold, ..storage });
        assert_eq!(contents.counters, self.counters);
        assert_eq!(contents.keys.into_iter().collect::<BTreeMap<_, _>>(), self.keys);
        let leases: BTreeMap<_, _> = contents.leases.iter().map(|lease| (lease.id.get(), lease.ttl)).collect();
        assert_eq!(leases, self.leases);
    }

    /// How many records wait to be folded.
    fn records(&self) -> u64 {
        let log = self.storage().log.lock();
        log.next - log.first
    }

    /// Changes the closed database, and says why it does not open then.
    fn damage(&mut self, damage: impl FnOnce(&sled::Db)) -> Error {
        self.storage = None;
        let db = open_database(self.dir.path()).unwrap();
        damage(&db);
        db.flush().unwrap();
        drop(db);
        SledStorage::open(self.dir.path()).unwrap_err()
    }
}

fn put(key: &str, value: &[u8], revision: u64) -> Mutation {
    let revision = Revision::new(revision);
    let stored = Stored { value: value.to_vec().into(), created: revision, modified: revision, lease: Some(LeaseId::new(7)) };
    Mutation::Put(Bytes::from(key.to_owned()), Arc::new(stored))
}

fn granted(id: u64) -> Mutation {
    Mutation::Lease(LeaseChange::Granted(Lease { id: LeaseId::new(id), ttl: Duration::from_secs(id) }))
}

const NEVER: Bounds = Bounds { bytes: usize::MAX, entries: usize::MAX };

#[test]
fn whatever_was_folded_and_whatever_was_not_is_there() {
    for fold in
        [NEVER, Bounds { bytes: 2_000, entries: usize::MAX }, Bounds { bytes: usize::MAX, entries: 12 }, Bounds { bytes: 0, entries: 0 }]
    {
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
        assert_eq!(most < 300, bounded, "{fold:?}: {most} records");
        assert_eq!(store.storage().db.iter().count() < 300, bounded, "and those that were folded are gone");
    }
}

#[test]
fn a_large_write_is_folded_at_once() {
    let mut store = Checked::new(NEVER);
    store.write(vec![put("small", b"1", 2)]);
    assert_eq!(store.records(), 1);
    let large = vec![b'v'; 1024 * 1024];
    store.write((0..16).map(|n| put(&format!("large/{n}"), &large, 3)).collect());
    assert_eq!(store.records(), 0);
    store.write(vec![Mutation::Delete("large/3".into())]);
    store.reopen();
    assert_eq!((store.records(), store.keys.len()), (1, 16));
}

#[test]
fn what_does_not_fit_is_damage() {
    let with_records = || {
        let mut store = Checked::new(NEVER);
        (0..3).for_each(|n| store.write(vec![put("k", b"v", n), granted(n + 1)]));
        store
    };
    type Damage = fn(&sled::Db);
    let damages: [(&str, Damage); 5] = [
        ("the first is gone", |db| drop(db.remove(record_name(0)).unwrap())),
        ("one between is gone", |db| drop(db.remove(record_name(1)).unwrap())),
        ("one is cut off", |db| drop(db.insert(record_name(2), &[0, 0, 0, 9, b'k'][..]).unwrap())),
        ("one is of something else", |db| drop(db.insert(record_name(2), &b"\xff\xff\xff\xff"[..]).unwrap())),
        ("a number that is none", |db| drop(db.insert([RECORD, 1], &b""[..]).unwrap())),
    ];
    for (what, damage) in damages {
        let error = with_records().damage(damage);
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Internal, OPERATION), "{what}");
    }
}

#[test]
fn the_first_format_is_still_read() {
    let mut store = Checked::new(NEVER);
    store.storage = None;
    let db = open_database(store.dir.path()).unwrap();
    let mut meta = encode_meta("0123", Counters { revision: Revision::new(1), next_lease: 1, keys: 0, leases: 0 }, 0);
    meta[0] = *FORMATS.start();
    meta.drain(33..41);
    db.insert(META, meta).unwrap();
    db.flush().unwrap();
    drop(db);
    store.reopen();
    assert_eq!(store.storage().store_id, "0123");
    store.write(vec![put("k", b"v", 2)]);
    store.reopen();
}
