//! The ledger of the global layer on a real etcd: three instances that race, a server that is
//! killed while they do, and the schedules of the model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coord_api::store::Store;
use coord_etcd::{EtcdOptions, EtcdStore};
use coord_global::ledger::{Ledger, LedgerError};
use coord_global::model::{
    BlobRef, EditId, Hash, Names, NodeId, RegionId, RelPath, Replica, Session, SpaceName,
};
use coord_global::simulation::{Stores, run_over};
use coord_global::sync::{Peer, SyncError, sync};
use coord_memory::MemoryStore;
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::eventually;

use crate::SOON;

/// Edits of each region.
const EDITS: u8 = 30;

async fn ledger(endpoints: Vec<String>) -> Ledger {
    let store: Arc<dyn Store> = EtcdStore::connect_layered(&EtcdOptions::new(endpoints)).await.unwrap();
    Ledger::open(store, SpaceName::new("main").unwrap(), Names::Folded).await.unwrap()
}

/// Ids that are given once in a process.
fn next() -> [u8; 16] {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut id = [0; 16];
    id[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::SeqCst).to_be_bytes());
    id
}

fn region(name: &str) -> Replica {
    let (space, region) = (SpaceName::new("main").unwrap(), RegionId::new(name).unwrap());
    Replica::new(space, region, Names::Folded, Session::from(next()))
}

fn save(region: &mut Replica, path: &str, content: u8, at: u64) {
    let blob = BlobRef { hash: Hash::of_content(&[content]), size: 1 };
    region.found(&RelPath::new(path).unwrap(), blob, at, at, EditId::from(next()));
}

async fn synced(ledger: &Ledger, region: &mut Replica) -> Result<(), SyncError> {
    for hash in region.contents() {
        ledger.put_content(&hash, "an object").await?;
    }
    sync(ledger, region, |_| Peer::Gone, 1, |_| true).await?;
    Ok(())
}

/// Edits of one region, each synced before the next one, whatever fails in between.
async fn work(endpoints: Vec<String>, name: &'static str) -> Replica {
    let ledger = ledger(endpoints).await;
    let mut replica = region(name);
    for edit in 0..EDITS {
        save(&mut replica, &format!("{name}/{}", edit % 5), edit, u64::from(edit) + 1);
        save(&mut replica, "shared", edit, u64::from(edit) + 1);
        let mut tries = 0;
        while let Err(error) = synced(&ledger, &mut replica).await {
            let SyncError::Ledger(LedgerError::Store(store)) = &error else { panic!("{error}") };
            assert!(store.is_transient(), "{error}");
            tries += 1;
            assert!(tries < 100, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What stands on the disk is what is shown, so that the next edit is on top of it.
        let ids: Vec<NodeId> = replica.view().tree().into_values().collect();
        ids.iter().for_each(|id| replica.shows(id));
    }
    replica
}

async fn come_to_the_same(endpoints: Vec<String>, mut replicas: Vec<Replica>) {
    let ledger = ledger(endpoints).await;
    for _ in 0..3 {
        for replica in &mut replicas {
            synced(&ledger, replica).await.unwrap();
        }
    }
    let verified = ledger.verify().await.unwrap();
    assert!(verified.holds(), "{verified:?}");
    let tree: BTreeMap<String, NodeId> = replicas[0].view().tree();
    for replica in &replicas {
        assert!(replica.outbox().is_empty());
        assert_eq!(replica.set_aside().len(), 0);
        assert_eq!(replica.base().cursor, verified.position);
        assert_eq!(replica.base().nodes, replicas[0].base().nodes);
        assert_eq!(replica.view().tree(), tree);
    }
    // One of each save that was synced by itself: of each region its own, and the shared one.
    assert!(verified.position >= 3 * u64::from(EDITS), "{verified:?}");
}

/// G1: positions have no gap, and nothing is written twice.
#[tokio::test(flavor = "multi_thread")]
async fn three_instances_append_to_one_log() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let works = ["a", "b", "c"].map(|name| tokio::spawn(work(cluster.endpoints(), name)));
    let mut replicas = Vec::new();
    for work in works {
        replicas.push(work.await.unwrap());
    }
    come_to_the_same(cluster.endpoints(), replicas).await;
}

async fn killed_and_started(mut cluster: Cluster) -> Cluster {
    let kill = move || {
        cluster.servers_mut()[0].kill();
        cluster.servers_mut()[0].restart();
        cluster
    };
    tokio::task::spawn_blocking(kill).await.unwrap()
}

/// G1, G2: what was in doubt when the server was killed is written once.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_and_doubles_nothing() {
    let mut cluster = Cluster::single_durable(&Binary::find(Series::V3_5));
    let endpoints = cluster.endpoints();
    let works = ["a", "b", "c"].map(|name| tokio::spawn(work(endpoints.clone(), name)));
    let watcher = ledger(endpoints.clone()).await;
    for kill in 1..=2_u64 {
        let somewhere = kill * u64::from(EDITS);
        eventually(SOON, "the log grows", async || {
            let position = watcher.head().await.ok()?.position;
            (position >= somewhere).then_some(())
        })
        .await;
        cluster = killed_and_started(cluster).await;
    }
    let mut replicas = Vec::new();
    for work in works {
        replicas.push(work.await.unwrap());
    }
    come_to_the_same(endpoints, replicas).await;
}

fn regions_in_memory(store: &Arc<dyn Store>, may_fail: bool) -> Stores {
    let local = Arc::new(|| -> Arc<dyn Store> { Arc::new(MemoryStore::new()) });
    Stores { store: Arc::clone(store), local, may_fail }
}

/// G1 to G11, G13 to G15, G17, G21, G22, G25 and G26, as in the model.
#[tokio::test(flavor = "multi_thread")]
async fn the_schedules_of_the_model_hold() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let store: Arc<dyn Store> =
        EtcdStore::connect_layered(&EtcdOptions::new(cluster.endpoints())).await.unwrap();
    let run = move || run_over(|| regions_in_memory(&store, false), 0..40);
    let account = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(account.contains("accepted: "), "{account}");
}

/// The same while the server is killed and started again, over and over.
#[tokio::test(flavor = "multi_thread")]
async fn the_schedules_of_the_model_hold_while_the_server_is_killed() {
    let mut cluster = Cluster::single_durable(&Binary::find(Series::V3_5));
    let store: Arc<dyn Store> =
        EtcdStore::connect_layered(&EtcdOptions::new(cluster.endpoints())).await.unwrap();
    let run = move || run_over(|| regions_in_memory(&store, true), 100..120);
    let run = tokio::task::spawn_blocking(run);
    let mut kills = 0;
    while !run.is_finished() {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster = killed_and_started(cluster).await;
        kills += 1;
    }
    let account = run.await.unwrap();
    assert!(account.contains("accepted: "), "{account}");
    assert!(kills > 2, "the server was killed {kills} times");
}
