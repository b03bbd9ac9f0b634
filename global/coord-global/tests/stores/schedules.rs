//! The schedules of the model over the ledger and the regions themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_api::store::Store;
use coord_global::simulation::{Stores, run_over};
use coord_memory::MemoryStore;

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

/// How many seeds the gate runs; more by `COORD_GLOBAL_SEEDS`.
fn seeds(most: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let from = number("COORD_GLOBAL_FIRST_SEED").unwrap_or(0);
    from..from + number("COORD_GLOBAL_SEEDS").unwrap_or(most)
}

/// A schedule in which something never happens says nothing about it.
fn has_seen_everything(account: &str) {
    for what in
        ["accepted", "listed", "late", "snapshots", "renewed", "busy", "killed", "trims", "swept", "stores"]
    {
        assert!(!account.contains(&format!("{what}: 0,")), "{what} never happened: {account}");
        assert!(account.contains(&format!("{what}: ")), "{what} is not counted: {account}");
    }
}

/// G1 to G11, G13 to G15, G17, G21, G22, G25 and G26, as in the model.
#[test]
fn schedules_hold_over_memory() {
    let store = memory();
    let stores = || Stores { store: Arc::clone(&store), local: Arc::new(memory), may_fail: false };
    has_seen_everything(&run_over(stores, seeds(200)));
}

/// The same where the ledger and each region is on a disk.
#[test]
fn schedules_hold_over_sled() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: std::path::PathBuf| -> Arc<dyn Store> { Arc::new(MemoryStore::open(path).unwrap()) };
    let store = at(directory.path().join("coordinator"));
    let regions = Arc::new(AtomicUsize::new(0));
    let root = directory.path().to_owned();
    let local: Arc<dyn Fn() -> Arc<dyn Store> + Send + Sync> = Arc::new(move || {
        let number = regions.fetch_add(1, Ordering::SeqCst);
        at(root.join(format!("region-{number}")))
    });
    let stores = || Stores { store: Arc::clone(&store), local: Arc::clone(&local), may_fail: false };
    let account = run_over(stores, seeds(30));
    assert!(account.contains("accepted: "), "{account}");
}
