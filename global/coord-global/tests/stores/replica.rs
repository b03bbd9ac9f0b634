//! A region in a local store that fails and is killed at every write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_api::store::{Op, Range, Store, Txn};
use coord_api::{Error, ErrorKind, Outcome};
use coord_global::ledger::Ledger;
use coord_global::model::replica::{Need, Part, REPLICA_FORMAT};
use coord_global::model::{EditId, Names, Refusal, RegionId, RelPath, Replica, Session, SpaceName};
use coord_global::replica::{DurableReplica, Keep, ReplicaError};
use coord_global::sync::{Peer, sync};
use coord_memory::MemoryStore;

use crate::region::{blob, memory, next, open as open_ledger, space};
use coord_global::simulation::{Fate, Faulty};

const ROOT: &str = "/global/replica/main/a/";

async fn open(store: &Arc<Faulty>) -> Result<DurableReplica, ReplicaError> {
    let store: Arc<dyn Store> = Arc::<Faulty>::clone(store);
    DurableReplica::open(store, space(), RegionId::new("a").unwrap(), Names::Folded, Session::from(next()))
        .await
}

/// A user saves that.
async fn save(region: &mut DurableReplica, path: &str, content: u8, at: u64) -> Result<EditId, ReplicaError> {
    let edit = EditId::from(next());
    let path = RelPath::new(path).unwrap();
    region.change(|region| region.found(&path, blob(content), at, at, edit)).await?;
    Ok(edit)
}

/// What a region is, as it would be written down.
fn parts(region: &Replica) -> BTreeSet<String> {
    let mut all = format!("{:?}\n{:?}\n{:?}", region.base(), region.outbox(), region.shown());
    all.push_str(&format!("\n{:?}\n{:?}", region.actor(), region.set_aside().collect::<Vec<_>>()));
    all.lines().map(str::to_owned).collect()
}

async fn keys(store: &Faulty, prefix: &str) -> Vec<String> {
    let found = store.range(Range::prefix(prefix.to_owned())).await.unwrap();
    found.entries.iter().map(|entry| String::from_utf8_lossy(&entry.key).into_owned()).collect()
}

#[tokio::test]
async fn it_is_what_it_was() {
    let (store, ledger) = (memory(), open_ledger(&memory()).await);
    let mut region = open(&store).await.unwrap();
    save(&mut region, "a/b", 1, 1).await.unwrap();
    ledger.put_content(&blob(1).hash, "x").await.unwrap();
    sync(&ledger, &mut region, |_| Peer::Gone, 100, |_| true).await.unwrap();
    save(&mut region, "a/c", 2, 2).await.unwrap();
    assert_eq!(region.need(), Need::Nothing);
    let before = parts(&region);
    let again = open(&store).await.unwrap();
    assert_eq!(parts(&again), before);
    assert_eq!(again.need(), Need::Hello, "it is another run of its agent");
    assert_eq!((again.base().cursor, again.outbox().pending().count()), (1, 1));
}

/// Who was taken over writes no more, not even what is on its way.
#[tokio::test]
async fn one_writes_at_a_time() {
    let store = memory();
    let mut first = open(&store).await.unwrap();
    store.set(|| Fate::Late);
    save(&mut first, "late", 1, 1).await.unwrap_err();
    store.set(|| Fate::Arrives);
    let mut second = open(&store).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    save(&mut second, "b", 2, 2).await.unwrap();
    // The first one looks, and takes it over again: that is what its operator has asked for by
    // letting it run on; then the second one is told.
    save(&mut first, "c", 3, 3).await.unwrap();
    assert_eq!(first.outbox().pending().count(), 2);
    let told = save(&mut second, "d", 4, 4).await.unwrap_err();
    assert!(matches!(&told, ReplicaError::TakenOver { region } if region.as_str() == "a"), "{told}");
}

/// A local store that ends at its n-th write, before or after that is done.
fn ends_at(n: usize, fate: Fate) -> (Arc<Faulty>, Arc<MemoryStore>, Arc<AtomicUsize>) {
    let inner = Arc::new(MemoryStore::new());
    let writes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&writes);
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&inner);
    let store = Faulty::new(store, move || {
        let at = count.fetch_add(1, Ordering::SeqCst);
        if at == n {
            fate
        } else if at > n {
            Fate::Lost
        } else {
            Fate::Arrives
        }
    });
    (store, inner, writes)
}

/// A day of a region: edits one by one and many at once, a push, a pull of what another one wrote,
/// a snapshot. Stops where its store does.
async fn day(
    region: &mut DurableReplica,
    ledger: &Ledger,
    told: &mut Vec<EditId>,
) -> Result<(), Box<dyn std::error::Error>> {
    told.push(save(region, "one", 1, 1).await?);
    sync(ledger, region, |_| Peer::Gone, 100, |_| true).await?;
    // A change that has no room in one transaction.
    let edits: Vec<EditId> = (0..150).map(|_| EditId::from(next())).collect();
    let many = |region: &mut Replica| {
        for (n, edit) in edits.iter().enumerate() {
            region.found(&RelPath::new(format!("many/{n}")).unwrap(), blob(2), 2, 2, *edit);
        }
    };
    region.change(many).await?;
    told.extend(edits);
    sync(ledger, region, |_| Peer::Gone, 100, |_| true).await?;
    told.push(save(region, "last", 3, 3).await?);
    let head = ledger.head().await?;
    ledger.trim(head.position).await?;
    sync(ledger, region, |_| Peer::Gone, 100, |_| true).await?;
    Ok(())
}

async fn day_that_ends_at(n: usize, fate: Fate) -> bool {
    let ledger = open_ledger(&memory()).await;
    for content in 1..4 {
        ledger.put_content(&blob(content).hash, "x").await.unwrap();
    }
    // Another region was there before, and goes on meanwhile.
    let mut other = Replica::new(space(), RegionId::new("b").unwrap(), Names::Folded, Session::from(next()));
    for n in 0..3 {
        let path = RelPath::new(format!("b/{n}")).unwrap();
        other.found(&path, blob(1), 1, 1, EditId::from(next()));
    }
    sync(&ledger, &mut other, |_| Peer::Gone, 100, |_| true).await.unwrap();

    let (store, inner, writes) = ends_at(n, fate);
    let mut told = Vec::new();
    let ended = match open(&store).await {
        Ok(mut region) => day(&mut region, &ledger, &mut told).await.is_err(),
        Err(_) => true,
    };
    let wrote = writes.load(Ordering::SeqCst);
    // The process is gone; the store is what it was.
    let inner: Arc<dyn Store> = inner;
    let store = Faulty::sound(inner);
    let mut region = open(&store).await.unwrap();
    for _ in 0..3 {
        sync(&ledger, &mut region, |_| Peer::Gone, 100, |_| true).await.unwrap();
        sync(&ledger, &mut other, |_| Peer::Gone, 100, |_| true).await.unwrap();
    }
    let head = ledger.head().await.unwrap();
    assert!(region.outbox().is_empty() && region.set_aside().len() == 0, "{n} {fate:?}");
    assert_eq!((region.base().cursor, other.base().cursor), (head.position, head.position), "{n} {fate:?}");
    assert_eq!(region.base().nodes, other.base().nodes, "{n} {fate:?}");
    assert!(ledger.verify().await.unwrap().holds(), "{n} {fate:?}");
    // Each edit that was told is a file of its own: it is there, and once.
    let files = region.base().nodes.len();
    assert_eq!(region.base().alive() as usize, files, "{n} {fate:?}: something was written twice");
    assert!(files >= 3 + told.len(), "{n} {fate:?}: {files} files, {} edits were told", told.len());
    // Nothing that was begun is left.
    assert_eq!(keys(&store, &format!("{ROOT}redo/")).await, [] as [String; 0], "{n} {fate:?}");
    for _ in 0..4 {
        region.change(|_| ()).await.unwrap();
    }
    let (base, filling) = region.generations_in_use();
    assert_eq!(filling, None);
    for key in keys(&store, &format!("{ROOT}node/")).await {
        let part: Part = key[ROOT.len()..].parse().unwrap();
        assert!(matches!(part, Part::Node { generation, .. } if generation == base), "{n} {fate:?}: {key}");
    }
    assert_eq!(keys(&store, &format!("{ROOT}node/")).await.len(), files);
    assert_eq!(ended, wrote > n, "{n} {fate:?}");
    ended
}

/// G3, G4, G10: killed at each of its writes, before it is done and after, a region goes on from
/// there; nothing that was told is lost, and nothing is written twice.
#[tokio::test]
async fn it_goes_on_from_each_of_its_writes() {
    for fate in [Fate::Lost, Fate::AnswerLost] {
        let mut n = 0;
        while day_that_ends_at(n, fate).await {
            n += 1;
        }
        assert!(n > 25, "a day has {n} writes");
    }
}

/// A change whose caller goes away in the middle of it is written or not, and the next one begins
/// with what was.
#[tokio::test]
async fn a_change_may_be_given_up() {
    let store = memory();
    let mut region = open(&store).await.unwrap();
    let mut names = BTreeMap::new();
    for polls in 0..40 {
        let many = polls % 2 == 0;
        let edits: Vec<EditId> = (0..if many { 140 } else { 1 }).map(|_| EditId::from(next())).collect();
        let paths: Vec<RelPath> =
            (0..edits.len()).map(|n| RelPath::new(format!("{polls}/{n}")).unwrap()).collect();
        let mut change = Box::pin(region.change(|region| {
            for (path, edit) in paths.iter().zip(&edits) {
                region.found(path, blob(1), 1, 1, *edit);
            }
        }));
        let mut done = false;
        for _ in 0..polls {
            tokio::select! {
                biased;
                result = &mut change => { result.unwrap(); done = true; break }
                () = std::future::ready(()) => {}
            }
        }
        drop(change);
        names.insert(polls, (edits.len(), done));
    }
    save(&mut region, "end", 1, 1).await.unwrap();
    let again = open(&store).await.unwrap();
    assert_eq!(parts(&again), parts(&region));
    let tree = region.view().tree();
    for (polls, (count, done)) in names {
        let there = tree.keys().filter(|path| path.starts_with(&format!("{polls}/"))).count();
        assert!(there == count || there == 0 && !done, "{polls}: {there} of {count}");
    }
}

/// G23: a full disk drops nothing, and the same change is made when there is room.
#[tokio::test]
async fn a_full_disk_drops_nothing() {
    let store = memory();
    let mut region = open(&store).await.unwrap();
    save(&mut region, "a", 1, 1).await.unwrap();
    store.set(|| Fate::Full);
    let full = save(&mut region, "b", 2, 2).await.unwrap_err();
    assert!(full.is_full(), "{full}");
    assert!(!ReplicaError::from(Error::new(ErrorKind::Unavailable, "x", "y")).is_full());
    store.set(|| Fate::Arrives);
    save(&mut region, "b", 2, 2).await.unwrap();
    assert_eq!(region.view().tree().into_keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(region.outbox().pending().count(), 2);
}

/// G26, and what is damaged: an error that names the key, and nothing is overwritten.
#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let store = memory();
    let mut region = open(&store).await.unwrap();
    save(&mut region, "a", 1, 1).await.unwrap();
    drop(region);
    let all = store.range(Range::prefix(ROOT)).await.unwrap().entries;
    assert!(all.len() > 3);
    for entry in &all {
        for broken in [&b""[..], b"{", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
            store.txn(Txn::new().then(Op::put(entry.key.clone(), broken.to_vec()))).await.unwrap();
            let error = open(&store).await.unwrap_err();
            let ReplicaError::Unreadable { key, why } = &error else { panic!("{error}") };
            let name = String::from_utf8_lossy(&entry.key[ROOT.len()..]).into_owned();
            assert!(key.starts_with(ROOT) && format!("{key} {why}").contains(&name), "{error}");
            store.txn(Txn::new().then(Op::put(entry.key.clone(), entry.value.clone()))).await.unwrap();
        }
    }
    store.txn(Txn::new().then(Op::put(format!("{ROOT}what"), "x"))).await.unwrap();
    assert!(matches!(open(&store).await, Err(ReplicaError::Unreadable { .. })));
    store.txn(Txn::new().then(Op::delete(format!("{ROOT}what")))).await.unwrap();
    let state = all.iter().find(|entry| entry.key.ends_with(b"/state")).unwrap();
    let text = std::str::from_utf8(&state.value).unwrap();
    let newer = text.replace("\"format\":1", "\"format\":9");
    store.txn(Txn::new().then(Op::put(state.key.clone(), newer))).await.unwrap();
    let error = open(&store).await.unwrap_err();
    assert!(
        matches!(error, ReplicaError::Refused(Refusal::Format { found: 9, known: REPLICA_FORMAT })),
        "{error}"
    );
    store.txn(Txn::new().then(Op::put(state.key.clone(), state.value.clone()))).await.unwrap();
    assert_eq!(open(&store).await.unwrap().outbox().pending().count(), 1);

    let other: Arc<dyn Store> = Arc::<Faulty>::clone(&store);
    let session = Session::from(next());
    let names =
        DurableReplica::open(other, space(), RegionId::new("a").unwrap(), Names::Exact, session).await;
    let Err(ReplicaError::Store(error)) = names else { panic!("{names:?}") };
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied));
}

/// Regions and spaces in one store are apart.
#[tokio::test]
async fn two_regions_in_a_store_share_nothing() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut regions = Vec::new();
    for (space, name) in [("main", "a"), ("main", "a-1"), ("other", "a")] {
        let (space, name) = (SpaceName::new(space).unwrap(), RegionId::new(name).unwrap());
        let session = Session::from(next());
        regions.push(
            DurableReplica::open(Arc::clone(&store), space, name, Names::Folded, session).await.unwrap(),
        );
    }
    for (n, region) in (1..).zip(&mut regions) {
        save(region, "f", n, 1).await.unwrap();
    }
    for region in &regions {
        assert_eq!(region.outbox().pending().count(), 1);
    }
}

/// A long log comes down in changes that are cut, and stays there when the store is opened again.
#[tokio::test]
async fn a_region_on_sled_takes_a_log_of_many() {
    let ledger = open_ledger(&memory()).await;
    ledger.put_content(&blob(1).hash, "x").await.unwrap();
    let mut other = Replica::new(space(), RegionId::new("b").unwrap(), Names::Folded, Session::from(next()));
    for n in 0..700 {
        other.found(&RelPath::new(format!("f/{n}")).unwrap(), blob(1), 1, 1, EditId::from(next()));
    }
    sync(&ledger, &mut other, |_| Peer::Gone, 100, |_| true).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::open_async(directory.path()).await.unwrap());
        let session = Session::from(next());
        let mut region = DurableReplica::open(
            Arc::clone(&store),
            space(),
            RegionId::new("a").unwrap(),
            Names::Folded,
            session,
        )
        .await
        .unwrap();
        if round == 0 {
            let synced = sync(&ledger, &mut region, |_| Peer::Gone, 100, |_| true).await.unwrap();
            assert_eq!(synced.pulled, 700);
        }
        assert_eq!(region.base().nodes, other.base().nodes);
        drop(region);
        store.close().await.unwrap();
    }
}
