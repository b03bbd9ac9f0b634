//! Regions in memory, their disks, and what must hold of them in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coord_api::store::Store;
use coord_global::ledger::{Ledger, Writer};
use coord_global::model::leader;
use coord_global::model::{
    BlobRef, EditId, Hash, Names, NodeId, RegionId, RelPath, Replica, Session, SpaceName, State, Strategy,
};
use coord_global::sync::{Peer, SyncError, Synced, sync};
use coord_memory::MemoryStore;

use coord_global::simulation::Faulty;

pub(crate) fn space() -> SpaceName {
    SpaceName::new("main").unwrap()
}

pub(crate) async fn open(store: &Arc<Faulty>) -> Ledger {
    let store: Arc<dyn Store> = Arc::<Faulty>::clone(store);
    Ledger::open_with_clock(store, space(), Names::Folded, Arc::new(|| 1_000_000)).await.unwrap()
}

/// Ids that are given once in a process.
pub(crate) fn next() -> [u8; 16] {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut id = [0; 16];
    id[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::SeqCst).to_be_bytes());
    id
}

/// A region and its disk.
pub(crate) struct Region {
    pub(crate) replica: Replica,
    pub(crate) files: BTreeMap<String, u8>,
    pub(crate) clock: u64,
}

pub(crate) fn blob(content: u8) -> BlobRef {
    BlobRef { hash: Hash::of_content(&[content]), size: 1 }
}

impl Region {
    pub(crate) fn new(name: &str) -> Self {
        let replica =
            Replica::new(space(), RegionId::new(name).unwrap(), Names::Folded, Session::from(next()));
        Self { replica, files: BTreeMap::new(), clock: 1_000_000 }
    }

    pub(crate) fn save(&mut self, path: &str, content: u8) {
        self.clock += 1;
        self.files.insert(path.to_owned(), content);
        let path = RelPath::new(path).unwrap();
        self.replica.found(&path, blob(content), self.clock, self.clock, EditId::from(next()));
    }

    pub(crate) fn delete(&mut self, path: &str) {
        self.clock += 1;
        if self.files.remove(path).is_some() {
            self.replica.vanished(path, self.clock, EditId::from(next()));
        }
    }

    /// Brings the disk to what it should show.
    pub(crate) fn write(&mut self) {
        let shown: Vec<NodeId> = self.replica.shown().keys().copied().collect();
        let tree = self.replica.view().tree();
        let ids: BTreeSet<NodeId> = shown.into_iter().chain(tree.values().copied()).collect();
        for id in ids {
            self.replica.shows(&id);
        }
        let content = |id: &NodeId| {
            let version = self.replica.node(id).unwrap().visible().unwrap().version;
            (0..=u8::MAX).find(|content| Some(blob(*content)) == version.content).unwrap()
        };
        self.files = tree.iter().map(|(path, id)| (path.clone(), content(id))).collect();
    }

    pub(crate) async fn sync(&mut self, ledger: &Ledger) -> Result<Synced, SyncError> {
        for hash in self.replica.contents() {
            ledger.put_content(&hash, &format!("objects/{hash}")).await?;
        }
        let synced = sync(ledger, &mut self.replica, |_| Peer::Gone, 100, |_| true).await?;
        self.write();
        Ok(synced)
    }
}

pub(crate) fn memory() -> Arc<Faulty> {
    Faulty::sound(Arc::new(MemoryStore::new()))
}

/// All regions and the ledger come to the same.
pub(crate) async fn settle(ledger: &Ledger, regions: &mut [Region]) {
    for _ in 0..20 {
        let before = ledger.head().await.unwrap().position;
        for region in regions.iter_mut() {
            region.sync(ledger).await.unwrap();
        }
        let nodes = regions[0].replica.base().nodes.clone();
        for (id, node) in &nodes {
            let drafts = leader::resolve(*id, node, Strategy::LastWriterWins);
            if !drafts.is_empty() {
                let _ = ledger.write(Writer::Lead, drafts, [(*id, node.position)].into()).await;
            }
        }
        if regions.iter().all(|region| region.replica.outbox().is_empty())
            && ledger.head().await.unwrap().position == before
        {
            return;
        }
    }
    panic!("it does not come to rest");
}

/// The whole log, folded.
pub(crate) async fn state_of(ledger: &Ledger) -> State {
    let head = ledger.head().await.unwrap();
    let mut state = State::new(head.names, head.epoch);
    loop {
        let (_, entries) = ledger.entries(state.cursor, 7).await.unwrap();
        if entries.is_empty() {
            return state;
        }
        for entry in &entries {
            state.fold(entry, usize::MAX).unwrap();
        }
    }
}

pub(crate) async fn check(ledger: &Ledger, regions: &[Region]) {
    let verified = ledger.verify().await.unwrap();
    assert!(verified.holds(), "{verified:?}");
    let tree = regions[0].replica.view().tree();
    for region in regions {
        assert_eq!(region.replica.base().cursor, verified.position);
        assert_eq!(
            region.replica.base().nodes,
            regions[0].replica.base().nodes,
            "{}",
            region.replica.region()
        );
        assert_eq!(region.files, regions[0].files);
        assert_eq!(region.replica.view().tree(), tree);
    }
}
