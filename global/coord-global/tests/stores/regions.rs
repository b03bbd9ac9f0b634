//! The registry of regions, their heartbeats and their acks, on a store that fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use coord_api::store::{Op, Range, Store, Txn};
use coord_api::{ErrorKind, Outcome};
use coord_global::model::{Head, Names, RegionId, SpaceName};
use coord_global::regions::{
    Ack, Asker, Health, Heartbeat, INFO_MAX, RegionInfo, RegionState, Regions, RegionsError, Retention,
    floor, held_by,
};
use coord_global::simulation::{Fate, Faulty};
use coord_memory::MemoryStore;

use crate::region::{memory, space};

const OWNER: &str = "alice";

fn open(store: &Arc<Faulty>) -> Regions {
    let store: Arc<dyn Store> = Arc::<Faulty>::clone(store);
    Regions::of(store, space())
}

fn id(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

fn info(name: &str) -> RegionInfo {
    RegionInfo {
        id: id(name),
        name: name.to_uppercase(),
        endpoint: format!("https://{name}.example.org"),
        location: "NL".into(),
        labels: BTreeMap::from([("tier".into(), "edge".into())]),
        claimed_state: RegionState::Active,
    }
}

fn ack(incarnation: u32, folded: u64, content: u64) -> Ack {
    Ack { incarnation, folded, content, at_ms: 1_000 }
}

fn heartbeat(name: &str, ack: Option<Ack>) -> Heartbeat {
    Heartbeat { region: id(name), at_ms: 5, state: RegionState::Active, ack }
}

async fn keys(store: &Faulty) -> Vec<String> {
    let found = store.range(Range::prefix("/global/")).await.unwrap();
    found.entries.iter().map(|entry| String::from_utf8_lossy(&entry.key).into_owned()).collect()
}

#[tokio::test]
async fn a_region_is_registered_by_its_owner_again() {
    let store = memory();
    let regions = open(&store);
    assert!(!regions.is_registered(&id("a")).await.unwrap());
    assert!(
        matches!(regions.get(&id("a")).await, Err(RegionsError::NotFound { region }) if region == id("a"))
    );
    let first = regions.register(OWNER, &info("a")).await.unwrap();
    assert_eq!((&first.info, first.owner.as_str(), first.drained), (&info("a"), OWNER, false));
    regions.set_drained(&id("a"), true).await.unwrap();
    let moved = RegionInfo { location: "DE".into(), claimed_state: RegionState::Degraded, ..info("a") };
    let again = regions.register(OWNER, &moved).await.unwrap();
    assert!(again.drained && again.info == moved, "what an operator has decided stays");
    assert_eq!(regions.get(&id("a")).await.unwrap(), again);

    // As it was: nothing is written.
    store.set(|| panic!("nothing is to be written"));
    assert_eq!(regions.register(OWNER, &moved).await.unwrap(), again);
    let other = regions.register("bob", &moved).await.unwrap_err();
    assert!(matches!(&other, RegionsError::NotTheOwner { region } if *region == id("a")), "{other}");
    let other = regions.deregister(&id("a"), Asker::Owner("bob")).await.unwrap_err();
    assert!(matches!(other, RegionsError::NotTheOwner { .. }), "{other}");
    let never = regions.deregister(&id("b"), Asker::Operator).await.unwrap_err();
    assert!(matches!(never, RegionsError::NotFound { .. }), "{never}");
    let never = regions.set_drained(&id("b"), true).await.unwrap_err();
    assert!(matches!(never, RegionsError::NotFound { .. }), "{never}");
    assert_eq!(keys(&store).await, ["/global/region/a"]);
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let regions = open(&memory());
    let large = RegionInfo { location: "x".repeat(INFO_MAX), ..info("a") };
    let owner = "x".repeat(INFO_MAX + 1);
    for (owner, info) in [("", &info("a")), (OWNER, &large), (&owner, &info("a"))] {
        let Err(RegionsError::Store(error)) = regions.register(owner, info).await else { panic!("{info:?}") };
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied));
    }
}

/// G17: what was deregistered holds nothing, is heard no more, and may come back.
#[tokio::test]
async fn a_region_that_is_deregistered_is_gone() {
    let store = memory();
    let regions = open(&store);
    for name in ["a", "b"] {
        regions.register(OWNER, &info(name)).await.unwrap();
        regions.heartbeat(&heartbeat(name, Some(ack(1, 5, 5)))).await.unwrap();
    }
    regions.ack(&id("b"), ack(1, 9, 9)).await.unwrap();
    let floor_of = |members: Vec<RegionId>, acks: &BTreeMap<RegionId, Ack>| {
        let head = Head { position: 9, ..Head::new(Names::Folded) };
        floor(&head, held_by(&members, acks), [], Retention { at_least: 0, at_most: 100 })
    };
    let members = || async {
        let members = regions.members().await.unwrap();
        members.into_iter().map(|region| region.info.id).collect::<Vec<_>>()
    };
    assert_eq!(floor_of(members().await, &regions.acks().await.unwrap()), 5);
    regions.set_drained(&id("a"), true).await.unwrap();
    assert_eq!(floor_of(members().await, &regions.acks().await.unwrap()), 9, "who is drained holds nothing");
    regions.set_drained(&id("a"), false).await.unwrap();
    assert_eq!(floor_of(members().await, &regions.acks().await.unwrap()), 5);

    for asker in [Asker::Owner(OWNER), Asker::Owner(OWNER), Asker::Operator] {
        regions.deregister(&id("a"), asker).await.unwrap();
        assert!(!regions.is_registered(&id("a")).await.unwrap());
    }
    assert_eq!(floor_of(members().await, &regions.acks().await.unwrap()), 9);
    let refused = regions.heartbeat(&heartbeat("a", Some(ack(1, 6, 6)))).await.unwrap_err();
    assert!(matches!(refused, RegionsError::NotFound { .. }), "{refused}");
    let refused = regions.ack(&id("a"), ack(1, 6, 6)).await.unwrap_err();
    assert!(matches!(refused, RegionsError::NotFound { .. }), "{refused}");
    let left = ["/global/region/a", "/global/region/b", "/global/s/main/ack/b", "/global/status/b"];
    assert_eq!(keys(&store).await, left);
    // Anybody may take the name then, and what it was is forgotten.
    assert!(!regions.register("bob", &info("a")).await.unwrap().drained);
    let heard = regions.heartbeat(&heartbeat("a", Some(ack(1, 2, 2)))).await.unwrap();
    assert_eq!((heard.counter, heard.ack), (Some(1), Some(ack(1, 2, 2))));
}

#[tokio::test]
async fn regions_are_listed_page_by_page() {
    let regions = open(&memory());
    let name = |n: usize| format!("r{n:02}");
    for n in 0..30 {
        regions.register(OWNER, &info(&name(n))).await.unwrap();
    }
    for n in (0..30).filter(|n| n % 3 != 0) {
        regions.deregister(&id(&name(n)), Asker::Operator).await.unwrap();
    }
    let expected: Vec<RegionId> = (0..30).step_by(3).map(|n| id(&name(n))).collect();
    for most in [1, 3, 4, 10, 11, usize::MAX] {
        let (mut listed, mut after): (Vec<RegionId>, Option<RegionId>) = (Vec::new(), None);
        loop {
            let page = regions.list(after.as_ref(), most).await.unwrap();
            listed.extend(page.iter().map(|region| region.info.id.clone()));
            after = listed.last().cloned();
            if page.len() < most {
                break;
            }
        }
        assert_eq!(listed, expected, "{most}");
    }
    regions.set_drained(&id("r00"), true).await.unwrap();
    assert_eq!(regions.members().await.unwrap().len(), 9);

    // Active is who is a member and was heard.
    let members: Vec<RegionId> = regions.members().await.unwrap().into_iter().map(|r| r.info.id).collect();
    let mut health = Health::new(0);
    health.members(&members, 0);
    for now in (0..=70_000).step_by(10_000) {
        regions.heartbeat(&heartbeat("r06", None)).await.unwrap();
        for (region, status) in regions.statuses().await.unwrap() {
            health.seen(&region, status.counter, now);
        }
        health.tick(now);
    }
    let active = regions.active(&health).await.unwrap();
    assert_eq!(active.iter().map(|region| region.info.id.as_str()).collect::<Vec<_>>(), ["r06"]);
}

#[tokio::test]
async fn a_heartbeat_and_its_ack_are_one() {
    let store = memory();
    let regions = open(&store);
    regions.register(OWNER, &info("a")).await.unwrap();
    for n in 1..5 {
        store.requests();
        let heard = regions.heartbeat(&heartbeat("a", Some(ack(1, n, n)))).await.unwrap();
        assert_eq!((heard.counter, heard.ack), (Some(n), Some(ack(1, n, n))));
        assert_eq!(store.requests(), 2);
    }
    store.set(|| Fate::Lost);
    regions.heartbeat(&heartbeat("a", Some(ack(1, 9, 9)))).await.unwrap_err();
    assert_eq!(regions.statuses().await.unwrap()[&id("a")].counter, 4);
    assert_eq!(regions.acks().await.unwrap()[&id("a")], ack(1, 4, 4));
    store.set(|| Fate::AnswerLost);
    regions.heartbeat(&heartbeat("a", Some(ack(1, 9, 9)))).await.unwrap_err();
    assert_eq!(regions.statuses().await.unwrap()[&id("a")].counter, 5);
    assert_eq!(regions.acks().await.unwrap()[&id("a")], ack(1, 9, 9));
    store.set(|| Fate::Arrives);
    // Without an ack, with a late one, and with one of a disk as it was before.
    let heard = regions.heartbeat(&heartbeat("a", None)).await.unwrap();
    assert_eq!((heard.counter, heard.ack), (Some(6), Some(ack(1, 9, 9))));
    let heard = regions.heartbeat(&heartbeat("a", Some(ack(1, 3, 3)))).await.unwrap();
    assert_eq!((heard.counter, heard.ack), (Some(7), Some(ack(1, 9, 9))));
    let heard = regions.heartbeat(&heartbeat("a", Some(ack(2, 3, 0)))).await.unwrap();
    assert_eq!((heard.counter, heard.ack), (Some(8), Some(ack(2, 3, 0))));
    let heard = regions.heartbeat(&heartbeat("a", Some(ack(1, 9, 9)))).await.unwrap();
    assert_eq!((heard.counter, heard.ack), (Some(8), Some(ack(2, 3, 0))), "it is not the region");
    let degraded = Heartbeat { state: RegionState::Degraded, at_ms: 77, ..heartbeat("a", None) };
    regions.heartbeat(&degraded).await.unwrap();
    let status = regions.statuses().await.unwrap()[&id("a")];
    assert_eq!((status.counter, status.at_ms, status.state), (9, 77, RegionState::Degraded));
}

/// What arrives late finds other revisions: no ack goes back, nobody is registered again, nobody
/// loses what was written since.
#[tokio::test]
async fn what_is_late_changes_nothing() {
    let store = memory();
    let regions = open(&store);
    let late = || store.set(|| Fate::Late);
    let sound = || store.set(|| Fate::Arrives);

    // A registration is repeated, ended, and then the first one arrives.
    late();
    regions.register(OWNER, &info("a")).await.unwrap_err();
    sound();
    regions.register(OWNER, &info("a")).await.unwrap();
    regions.deregister(&id("a"), Asker::Operator).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert!(!regions.is_registered(&id("a")).await.unwrap());

    // The end of a registration is late, and it is registered anew meanwhile.
    regions.register(OWNER, &info("a")).await.unwrap();
    late();
    regions.deregister(&id("a"), Asker::Operator).await.unwrap_err();
    sound();
    regions.deregister(&id("a"), Asker::Operator).await.unwrap();
    regions.register(OWNER, &info("a")).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert!(regions.is_registered(&id("a")).await.unwrap());

    // Acks, heartbeats and drains.
    regions.ack(&id("a"), ack(1, 1, 1)).await.unwrap();
    late();
    regions.ack(&id("a"), ack(1, 2, 2)).await.unwrap_err();
    regions.heartbeat(&heartbeat("a", Some(ack(1, 3, 3)))).await.unwrap_err();
    regions.set_drained(&id("a"), true).await.unwrap_err();
    sound();
    regions.heartbeat(&heartbeat("a", Some(ack(1, 5, 5)))).await.unwrap();
    regions.register(OWNER, &RegionInfo { location: "DE".into(), ..info("a") }).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert_eq!(regions.acks().await.unwrap()[&id("a")], ack(1, 5, 5));
    assert_eq!(regions.statuses().await.unwrap()[&id("a")].counter, 1);
    assert!(!regions.get(&id("a")).await.unwrap().drained);

    // One that is deregistered is not heard by what was on its way.
    late();
    regions.heartbeat(&heartbeat("a", Some(ack(1, 6, 6)))).await.unwrap_err();
    regions.ack(&id("a"), ack(1, 7, 7)).await.unwrap_err();
    sound();
    regions.deregister(&id("a"), Asker::Operator).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert!(regions.acks().await.unwrap().is_empty() && regions.statuses().await.unwrap().is_empty());
    // Nor by the first that it ever sent, which finds no other one there.
    regions.register(OWNER, &info("new")).await.unwrap();
    late();
    regions.heartbeat(&heartbeat("new", Some(ack(1, 6, 6)))).await.unwrap_err();
    regions.ack(&id("new"), ack(1, 7, 7)).await.unwrap_err();
    sound();
    regions.deregister(&id("new"), Asker::Operator).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert!(regions.acks().await.unwrap().is_empty() && regions.statuses().await.unwrap().is_empty());
    // Nor once it is registered anew.
    regions.register(OWNER, &info("a")).await.unwrap();
    assert_eq!(regions.heartbeat(&heartbeat("a", None)).await.unwrap().ack, None);
}

/// A write whose answer is lost may be repeated.
#[tokio::test]
async fn a_repeat_is_ok() {
    let store = memory();
    let regions = open(&store);
    for fate in [Fate::AnswerLost, Fate::Lost, Fate::Late, Fate::Full] {
        let kind = if fate == Fate::Full { ErrorKind::Exhausted } else { ErrorKind::Timeout };
        macro_rules! twice {
            ($call:expr) => {{
                store.set(move || fate);
                let Err(RegionsError::Store(error)) = $call.await else { panic!("{fate:?}") };
                assert_eq!(error.kind(), kind);
                store.set(|| Fate::Arrives);
                let result = $call.await.unwrap();
                assert_eq!(store.arrive().await.unwrap(), 0, "{fate:?}");
                result
            }};
        }
        assert_eq!(twice!(regions.register(OWNER, &info("a"))).info, info("a"));
        assert!(twice!(regions.set_drained(&id("a"), true)).drained);
        assert_eq!(twice!(regions.ack(&id("a"), ack(1, 3, 3))), ack(1, 3, 3));
        let heard = twice!(regions.heartbeat(&heartbeat("a", Some(ack(1, 4, 4)))));
        assert_eq!(heard.ack, Some(ack(1, 4, 4)));
        assert!(heard.counter.is_some_and(|counter| (1..=2).contains(&counter)));
        twice!(regions.deregister(&id("a"), Asker::Owner(OWNER)));
        assert!(!regions.is_registered(&id("a")).await.unwrap());
    }
}

/// Two instances take acks and heartbeats of one region at the same time: what was answered to
/// either holds, and no heartbeat is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_race() {
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let instances = [(); 2].map(|()| open(&Faulty::sound(Arc::clone(&inner))));
    instances[0].register(OWNER, &info("a")).await.unwrap();
    for round in 0..50_u64 {
        let first = round * 10;
        let acks = [ack(1, first + 7, first + 2), ack(1, first + 3, first + 5)];
        let barrier = Arc::new(tokio::sync::Barrier::new(2));
        let tasks: Vec<_> = (0..2)
            .map(|n| {
                let (regions, ack, barrier) = (instances[n].clone(), acks[n], Arc::clone(&barrier));
                tokio::spawn(async move {
                    barrier.wait().await;
                    let heard = regions.heartbeat(&heartbeat("a", Some(ack))).await.unwrap();
                    let acked = regions.ack(&id("a"), ack).await.unwrap();
                    (heard, acked)
                })
            })
            .collect();
        let mut counters = Vec::new();
        for (task, sent) in tasks.into_iter().zip(acks) {
            let (heard, acked) = task.await.unwrap();
            counters.extend(heard.counter);
            for held in [heard.ack.unwrap(), acked] {
                assert!(
                    held.folded >= sent.folded && held.content >= sent.content,
                    "{held:?} after {sent:?}"
                );
            }
        }
        counters.sort_unstable();
        assert_eq!(counters, [2 * round + 1, 2 * round + 2]);
        for regions in &instances {
            assert_eq!(regions.acks().await.unwrap()[&id("a")], ack(1, first + 7, first + 5));
        }
    }
}

/// Two owners race for a name: one has it, and the other is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_race() {
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let instances = [(); 2].map(|()| open(&Faulty::sound(Arc::clone(&inner))));
    for round in 0..50 {
        let name = format!("r{round}");
        let barrier = Arc::new(tokio::sync::Barrier::new(2));
        let tasks: Vec<_> = ["alice", "bob"]
            .into_iter()
            .zip(&instances)
            .map(|(owner, regions)| {
                let (regions, info, barrier) = (regions.clone(), info(&name), Arc::clone(&barrier));
                tokio::spawn(async move {
                    barrier.wait().await;
                    regions.register(owner, &info).await
                })
            })
            .collect();
        let (mut owners, mut told) = (Vec::new(), 0);
        for task in tasks {
            match task.await.unwrap() {
                Ok(region) => owners.push(region.owner),
                Err(RegionsError::NotTheOwner { .. }) => told += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((owners.len(), told), (1, 1));
        assert_eq!(instances[0].get(&id(&name)).await.unwrap().owner, owners[0]);
    }
}

/// What is damaged is named, and nothing is written over it.
#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let store = memory();
    let regions = open(&store);
    regions.register(OWNER, &info("a")).await.unwrap();
    regions.heartbeat(&heartbeat("a", Some(ack(1, 1, 1)))).await.unwrap();
    for key in keys(&store).await {
        let found = store.range(Range::key(key.clone())).await.unwrap().entries.remove(0);
        store.txn(Txn::new().then(Op::put(key.clone(), "{"))).await.unwrap();
        let error = regions.heartbeat(&heartbeat("a", Some(ack(1, 2, 2)))).await.unwrap_err();
        assert!(matches!(&error, RegionsError::Unreadable { key: named, .. } if *named == key), "{error}");
        let reads =
            [regions.list(None, 9).await.err(), regions.acks().await.err(), regions.statuses().await.err()];
        assert_eq!(reads.iter().flatten().count(), 1, "{key}");
        store.txn(Txn::new().then(Op::put(key, found.value))).await.unwrap();
    }
    store.txn(Txn::new().then(Op::put("/global/status/A", "{}"))).await.unwrap();
    let error = regions.statuses().await.unwrap_err();
    assert!(matches!(&error, RegionsError::Unreadable { key, .. } if key == "/global/status/A"), "{error}");
    assert_eq!(regions.acks().await.unwrap().len(), 1);
}

/// One registry for all spaces, and an ack for each.
#[tokio::test]
async fn acks_are_of_a_space() {
    let store = memory();
    let main = open(&store);
    let inner: Arc<dyn Store> = Arc::<Faulty>::clone(&store);
    let other = Regions::of(inner, SpaceName::new("other").unwrap());
    main.register(OWNER, &info("a")).await.unwrap();
    assert!(other.is_registered(&id("a")).await.unwrap());
    main.heartbeat(&heartbeat("a", Some(ack(1, 5, 5)))).await.unwrap();
    let heard = other.heartbeat(&heartbeat("a", Some(ack(1, 2, 2)))).await.unwrap();
    assert_eq!((heard.counter, heard.ack), (Some(2), Some(ack(1, 2, 2))));
    assert_eq!(main.acks().await.unwrap(), BTreeMap::from([(id("a"), ack(1, 5, 5))]));
}

/// Many regions are read in pages.
#[tokio::test]
async fn more_than_a_page() {
    let regions = open(&memory());
    for n in 0..1_005 {
        let name = format!("r{n}");
        regions.register(OWNER, &info(&name)).await.unwrap();
        regions.ack(&id(&name), ack(1, n, n)).await.unwrap();
    }
    assert_eq!(regions.acks().await.unwrap().len(), 1_005);
    assert_eq!(regions.members().await.unwrap().len(), 1_005);
}
