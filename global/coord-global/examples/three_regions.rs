//! Three regions and a coordinator in one process, with no server: users who edit on all sides
//! while the links are cut, a disk that is restored from a copy, a log that is trimmed; and at the
//! end equal trees and an account of every edit.
//!
//!     cargo run -p coord-global --example three_regions [EDITS]

#![allow(clippy::print_stdout, clippy::indexing_slicing, reason = "an example shows")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use coord_global::ledger::{Ledger, Writer};
use coord_global::model::{
    BlobRef, EditId, Hash, Names, NodeId, RegionId, RelPath, Replica, Session, SpaceName, Strategy, leader,
};
use coord_global::sync::{Peer, sync};
use coord_memory::MemoryStore;

/// Content that is at the coordinator: in a real one, files or an object store.
type Contents = BTreeMap<Hash, Vec<u8>>;

/// A region: its state, and its disk.
#[derive(Clone)]
struct Region {
    replica: Replica,
    disk: BTreeMap<String, Vec<u8>>,
    saves: usize,
}

struct World {
    random: fastrand::Rng,
    clock: u64,
    contents: Contents,
}

impl World {
    fn id(&mut self) -> [u8; 16] {
        self.random.u128(..).to_be_bytes()
    }
}

impl Region {
    fn new(world: &mut World, name: &str) -> Result<Self, Box<dyn Error>> {
        let (space, region) = (SpaceName::new("main")?, RegionId::new(name)?);
        let replica = Replica::new(space, region, Names::Folded, Session::from(world.id()));
        Ok(Self { replica, disk: BTreeMap::new(), saves: 0 })
    }

    /// A user saves, deletes or moves a file.
    fn edit(&mut self, world: &mut World) -> Result<(), Box<dyn Error>> {
        world.clock += 1_000;
        let edit = EditId::from(world.id());
        let path = format!("chapter-{}/page-{}.txt", world.random.u8(0..6), world.random.u8(0..8));
        match world.random.u8(0..10) {
            0 if self.disk.remove(&path).is_some() => {
                self.replica.vanished(&path, world.clock, edit);
            }
            1 if self.disk.contains_key(&path) => {
                let to = format!("chapter-{}/moved-{}.txt", world.random.u8(0..6), world.random.u8(0..8));
                if !self.disk.contains_key(&to) {
                    let content = self.disk.remove(&path).unwrap_or_default();
                    self.disk.insert(to.clone(), content);
                    self.replica.moved(&path, &RelPath::new(to)?, world.clock, edit);
                }
            }
            _ => {
                let text = format!("{} wrote this at {}\n", self.replica.region(), world.clock).into_bytes();
                let content = BlobRef { hash: Hash::of_content(&text), size: text.len() as u64 };
                world.contents.insert(content.hash, text.clone());
                self.disk.insert(path.clone(), text);
                self.replica.found(&RelPath::new(path)?, content, world.clock, world.clock, edit);
            }
        }
        self.saves += 1;
        Ok(())
    }

    /// The link is there: all that can be done is done.
    async fn sync(&mut self, ledger: &Ledger, world: &World) -> Result<(), Box<dyn Error>> {
        for hash in self.replica.contents() {
            ledger.put_content(&hash, &hash.to_string()).await?;
        }
        sync(ledger, &mut self.replica, |_| Peer::Gone, 1, |hash| world.contents.contains_key(hash)).await?;
        let tree = self.replica.view().tree();
        let shown: Vec<NodeId> = self.replica.shown().keys().copied().collect();
        for id in shown.into_iter().chain(tree.values().copied()).collect::<BTreeSet<_>>() {
            self.replica.shows(&id);
        }
        let content =
            |id: &NodeId| Some(world.contents.get(&self.replica.wanted(id)?.1.content?.hash)?.clone());
        self.disk = tree.iter().filter_map(|(path, id)| Some((path.clone(), content(id)?))).collect();
        Ok(())
    }
}

/// The leader ends the conflicts that it sees, and lists who lost.
async fn lead(ledger: &Ledger, seen: &Replica) -> Result<usize, Box<dyn Error>> {
    let mut resolved = 0;
    for (id, node) in &seen.base().nodes {
        let drafts = leader::resolve(*id, node, Strategy::LastWriterWins);
        if !drafts.is_empty()
            && ledger.write(Writer::Lead, drafts, [(*id, node.position)].into()).await.is_ok()
        {
            resolved += 1;
        }
    }
    Ok(resolved)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let edits: usize = std::env::args().nth(1).map_or(Ok(3_000), |text| text.parse())?;
    let began = Instant::now();
    let mut world =
        World { random: fastrand::Rng::with_seed(42), clock: 1_767_225_600_000, contents: Contents::new() };
    let ledger = Ledger::open(Arc::new(MemoryStore::new()), SpaceName::new("main")?, Names::Folded).await?;
    let mut regions = Vec::new();
    for name in ["amsterdam", "beijing", "chicago"] {
        regions.push(Region::new(&mut world, name)?);
    }

    println!("{edits} edits in three regions, while their links come and go");
    let (mut backup, mut conflicts) = (regions[1].clone(), 0);
    for step in 1..=edits {
        let at = world.random.usize(0..3);
        regions[at].edit(&mut world)?;
        if world.random.u8(0..20) == 0 {
            let at = world.random.usize(0..3);
            regions[at].sync(&ledger, &world).await?;
            conflicts += lead(&ledger, &regions[at].replica).await?;
        }
        if step == edits / 3 {
            backup = regions[1].clone();
            println!("  the disk of beijing is copied");
        }
        if step == edits / 2 {
            let head = ledger.head().await?;
            let gone = ledger.trim(head.position / 2).await?;
            println!("  the log is trimmed: {gone} entries are gone, and who was behind takes a snapshot");
        }
        if step == edits * 2 / 3 {
            let lost: usize = regions[1].replica.contents().len();
            let saves = regions[1].saves;
            regions[1] = Region { saves, ..backup.clone() };
            regions[1].replica.restarted(Session::from(world.id()));
            println!(
                "  the disk of beijing is restored from the copy; {lost} edits that were on it alone are gone"
            );
        }
    }

    println!("all links are there");
    for round in 1.. {
        let before = ledger.head().await?.position;
        for region in &mut regions {
            region.sync(&ledger, &world).await?;
        }
        conflicts += lead(&ledger, &regions[0].replica).await?;
        let rest = regions.iter().all(|region| region.replica.outbox().is_empty());
        if rest && ledger.head().await?.position == before {
            println!("  at rest after {round} rounds");
            break;
        }
    }

    let (head, verified) = (ledger.head().await?, ledger.verify().await?);
    let tally = head.tally;
    let saves: usize = regions.iter().map(|region| region.saves).sum();
    println!(
        "\n  edits made                {saves:6}  (saves on top of each other before a link came are one)"
    );
    println!("  versions in the log       {:6}", tally.inserted);
    println!("    there                   {:6}", tally.alive());
    println!("    covered by who saw them {:6}", tally.covered);
    println!("    kept by a resolution    {:6}", tally.kept);
    println!("    listed as losers        {:6}", tally.listed);
    println!("    forgotten               {:6}", tally.forgotten);
    println!("  conflicts ended           {conflicts:6}");
    for region in &regions {
        let (copies, aside) = (
            region.disk.keys().filter(|path| path.contains(".conflict-")).count(),
            region.replica.set_aside().len(),
        );
        println!(
            "  {:9} {} files, {copies} of them under conflict names, {aside} edits set aside, incarnation {}",
            region.replica.region(),
            region.disk.len(),
            region.replica.actor().map_or(0, |actor| actor.incarnation()),
        );
    }
    let equal = regions.iter().all(|region| region.disk == regions[0].disk);
    println!(
        "\n  equal trees: {equal}; the tally adds up: {}; {:.1} s",
        verified.holds(),
        began.elapsed().as_secs_f64()
    );
    if equal && verified.holds() {
        Ok(())
    } else {
        Err("the regions differ, or an edit is not accounted for".into())
    }
}
