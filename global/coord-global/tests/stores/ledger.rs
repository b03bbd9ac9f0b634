//! The ledger over a store: what one transaction writes, who races, what is in doubt.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_api::store::{Op, Range, Store, Txn};
use coord_api::{ErrorKind, Fence};
use coord_global::ledger::{Given, Ledger, LedgerError, Writer};
use coord_global::model::append::{Accepted, Draft};
use coord_global::model::leader;
use coord_global::model::{
    Body, EditId, Names, Node, NodeId, PathView, Refusal, RegionId, RelPath, Session, SpaceName, Strategy,
    Version,
};
use coord_global::sync::{Peer, SyncError, sync};
use coord_memory::MemoryStore;

use crate::region::{Region, blob, check, memory, next, open, settle, space, state_of};
use coord_global::simulation::{Fate, Faulty};

#[tokio::test]
async fn regions_meet_over_it() {
    let ledger = open(&memory()).await;
    let mut regions = [Region::new("a"), Region::new("b"), Region::new("c")];
    regions[0].save("docs/x", 1);
    regions[1].save("docs/y", 2);
    regions[2].save("DOCS/X", 3);
    settle(&ledger, &mut regions).await;
    check(&ledger, &regions).await;
    assert_eq!(regions[0].files.len(), 3);
    // G14: the index tells who wants a path, in the order of their claims.
    let first = ledger.at_path("docs/x").await.unwrap();
    assert_eq!(first.len(), 2);
    assert_eq!(regions[0].replica.view().owner("docs/x"), Some(first[0]));
    regions[1].delete("docs/y");
    settle(&ledger, &mut regions).await;
    check(&ledger, &regions).await;
    assert_eq!(ledger.at_path("docs/y").await.unwrap(), []);
}

/// G6: what lost is listed, with what it was.
#[tokio::test]
async fn losers_are_listed() {
    let ledger = open(&memory()).await;
    let mut regions = [Region::new("a"), Region::new("b")];
    regions[0].save("f", 1);
    settle(&ledger, &mut regions).await;
    regions[0].save("f", 2);
    regions[1].clock += 10;
    regions[1].save("f", 3);
    settle(&ledger, &mut regions).await;
    check(&ledger, &regions).await;
    assert_eq!(regions[0].files["f"], 3);
    let listed = ledger.listed(None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].sibling.version.content, Some(blob(2)));
    assert_eq!(ledger.listed(Some(listed[0].at), 10).await.unwrap(), []);
}

/// One request an append where what it needs is known, one more after a race.
#[tokio::test]
async fn an_append_is_one_request() {
    let store = memory();
    let (ledger, other) = (open(&store).await, open(&store).await);
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&ledger).await.unwrap();
    let update = |ledger: Ledger, region: &mut Region, content: u8| {
        region.save("f", content);
        region.replica.seal(usize::MAX, |_| true);
        let events: Vec<_> = region.replica.to_push().cloned().collect();
        let session = region.replica.session();
        async move { ledger.push(session, events).await.unwrap() }
    };
    for content in 2..5 {
        ledger.put_content(&blob(content).hash, "x").await.unwrap();
    }
    region.sync(&ledger).await.unwrap();
    store.requests();
    let pushed = update(ledger.clone(), &mut region, 2).await;
    assert!(matches!(pushed.taken[..], [Accepted::At(2)]));
    assert_eq!(store.requests(), 1);
    // Another instance writes.
    region.replica.answered(pushed.record);
    let id = *region.replica.base().nodes.keys().next().unwrap();
    let node = other.node(&id).await.unwrap().unwrap();
    let version = node.visible().unwrap().version;
    let draft =
        Draft { edit: EditId::from(next()), node: id, context: node.context, body: Body::Write(version) };
    other.write(Writer::Api, vec![draft], Given::default()).await.unwrap();
    store.requests();
    let pushed = update(ledger, &mut region, 3).await;
    assert!(matches!(pushed.taken[..], [Accepted::At(4)]));
    assert_eq!(store.requests(), 2);
}

/// G1: three instances race; positions have no gap, nothing is written twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_instances_race() {
    let store = memory();
    let mut tasks = Vec::new();
    for name in ["a", "b", "c"] {
        let ledger = open(&store).await;
        tasks.push(tokio::spawn(async move {
            let mut region = Region::new(name);
            for round in 0..40_u8 {
                region.save(&format!("{name}/{}", round % 7), round);
                region.save("shared", round);
                region.sync(&ledger).await.unwrap();
            }
            region
        }));
    }
    let mut regions = Vec::new();
    for task in tasks {
        regions.push(task.await.unwrap());
    }
    let ledger = open(&store).await;
    settle(&ledger, &mut regions).await;
    check(&ledger, &regions).await;
    assert!(ledger.head().await.unwrap().position >= 120);
}

/// Those that wait at one instance share an append; one who goes away in the middle of it leaves
/// nobody behind.
#[tokio::test]
async fn who_goes_away_holds_nobody_up() {
    let store = memory();
    let ledger = open(&store).await;
    let mut pushes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let mut region = Region::new(name);
        region.sync(&ledger).await.unwrap();
        region.save(name, 1);
        ledger.put_content(&blob(1).hash, "x").await.unwrap();
        region.replica.seal(usize::MAX, |_| true);
        pushes.push((region.replica.session(), region.replica.to_push().cloned().collect::<Vec<_>>()));
    }
    for polls in 0..12 {
        let mut first = Box::pin(ledger.push(pushes[0].0, pushes[0].1.clone()));
        for _ in 0..polls {
            tokio::select! {
                biased;
                _ = &mut first => break,
                () = std::future::ready(()) => {}
            }
        }
        drop(first);
        for (session, events) in &pushes {
            let pushed = ledger.push(*session, events.clone()).await.unwrap();
            assert_eq!(pushed.refused, None);
            assert_eq!(pushed.taken.len(), 1);
        }
    }
    assert_eq!(ledger.head().await.unwrap().position, 4);
    assert!(ledger.verify().await.unwrap().holds());
}

/// What is in doubt is known by the actor's record, and by the id of an edit of the API: it is
/// written once, also where the first of two arrives late.
#[tokio::test]
async fn what_is_in_doubt_is_written_once() {
    for fate in [Fate::AnswerLost, Fate::Lost, Fate::Late] {
        let store = memory();
        let ledger = open(&store).await;
        let mut region = Region::new("a");
        region.save("f", 1);
        region.sync(&ledger).await.unwrap();
        let once = move || {
            let mut first = true;
            move || if std::mem::take(&mut first) { fate } else { Fate::Arrives }
        };
        region.save("f", 2);
        ledger.put_content(&blob(2).hash, "x").await.unwrap();
        store.set(once());
        sync(&ledger, &mut region.replica, |_| Peer::Gone, 100, |_| true).await.unwrap();
        assert_eq!(store.arrive().await.unwrap(), 0, "{fate:?}: the second one was written over it");

        let id = *region.replica.base().nodes.keys().next().unwrap();
        let node = ledger.node(&id).await.unwrap().unwrap();
        let version = node.visible().unwrap().version;
        let body = Body::Write(version);
        let draft = Draft { edit: EditId::from(next()), node: id, context: node.context.clone(), body };
        store.set(once());
        let written = ledger.write(Writer::Api, vec![draft], [(id, node.position)].into()).await.unwrap();
        assert_eq!(written.positions, [3], "{fate:?}");
        assert_eq!(store.arrive().await.unwrap(), 0);
        assert_eq!(ledger.head().await.unwrap().position, 3, "{fate:?}");
        assert!(ledger.verify().await.unwrap().holds());
    }
}

fn ledger_refuses<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> Refusal {
    match result {
        Err(LedgerError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// A write of the API that is asked for again is the same one: also at another instance, and where
/// somebody who saw it has edited the file since.
#[tokio::test]
async fn a_write_that_is_asked_for_again_does_nothing() {
    let store = memory();
    let (one, other) = (open(&store).await, open(&store).await);
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&one).await.unwrap();
    for content in 1..5 {
        one.put_content(&blob(content).hash, "x").await.unwrap();
    }
    let (id, node) = state_of(&one).await.nodes.pop_first().unwrap();
    let version = Version { content: Some(blob(2)), ..node.visible().unwrap().version };
    let draft = |version: &Version, node: &Node| Draft {
        edit: EditId::from(next()),
        node: id,
        context: node.context.clone(),
        body: Body::Write(version.clone()),
    };
    let asked = vec![draft(&version, &node)];
    let write = |ledger: Ledger, drafts: Vec<Draft>| async move {
        ledger.write(Writer::Api, drafts, Given::default()).await.unwrap().positions
    };
    // Twice at once is once.
    let both = tokio::join!(write(one.clone(), asked.clone()), write(one.clone(), asked.clone()));
    assert_eq!(both, (vec![2], vec![2]));
    assert_eq!(write(other.clone(), asked.clone()).await, [2]);
    let node = one.node(&id).await.unwrap().unwrap();
    let after = Version { content: Some(blob(3)), ..version };
    assert_eq!(write(other.clone(), vec![draft(&after, &node)]).await, [3]);
    for ledger in [&one, &other, &open(&store).await] {
        assert_eq!(write(ledger.clone(), asked.clone()).await, [2], "it was answered before");
    }
    // Also where what it was decided by is so no longer: it is not refused.
    let given = || Given { free: [RelPath::new("f").unwrap()].into(), ..Given::from([(id, 1)]) };
    for ledger in [&one, &other] {
        let again = ledger.write(Writer::Api, asked.clone(), given()).await.unwrap();
        assert_eq!(again.positions, [2]);
    }
    let new = ledger_refuses(one.write(Writer::Api, vec![draft(&after, &node)], given()).await);
    assert!(matches!(new, Refusal::Changed { .. }), "{new}");
    let node = one.node(&id).await.unwrap().unwrap();
    assert_eq!((node.siblings.len(), node.visible().unwrap().version.content), (1, Some(blob(3))));
    assert_eq!(one.head().await.unwrap().position, 3);

    // What was answered hangs on a lease of its own, and where that was ended there is another.
    let requests = store.range(Range::prefix("/global/s/main/req/")).await.unwrap().entries;
    assert_eq!(requests.len(), 2);
    for found in &requests {
        let lease = found.lease.expect("it ends by itself");
        assert!(store.lease(lease).await.unwrap().unwrap().remaining > Duration::from_secs(3600));
        store.revoke_lease(lease).await.unwrap();
    }
    let node = one.node(&id).await.unwrap().unwrap();
    assert_eq!(write(one.clone(), vec![draft(&after, &node)]).await, [4]);
    assert!(one.verify().await.unwrap().holds());
}

/// A leader that decided by an older state writes nothing.
#[tokio::test]
async fn who_decided_by_something_older_looks_again() {
    let ledger = open(&memory()).await;
    let mut regions = [Region::new("a"), Region::new("b")];
    regions[0].save("f", 1);
    settle(&ledger, &mut regions).await;
    regions[0].save("f", 2);
    regions[1].save("f", 3);
    regions[0].sync(&ledger).await.unwrap();
    regions[1].sync(&ledger).await.unwrap();
    let (id, node) = state_of(&ledger).await.nodes.pop_first().unwrap();
    let drafts = leader::resolve(id, &node, Strategy::LastWriterWins);
    let seen = [(id, node.position)];
    ledger.write(Writer::Lead, drafts.clone(), seen.into()).await.unwrap();
    // Another leader, which was asleep: G13.
    match ledger.write(Writer::Lead, drafts, seen.into()).await {
        Err(LedgerError::Refused(Refusal::Changed { node })) => assert_eq!(node, id),
        other => panic!("{other:?}"),
    }
    settle(&ledger, &mut regions).await;
    check(&ledger, &regions).await;
}

/// G13, G15: who leads works under the fence of its election. Who was deposed writes nothing more,
/// not even what was on its way; and holds up nobody whose work shares its append.
#[tokio::test]
async fn who_was_deposed_writes_nothing() {
    let store = memory();
    let ledger = open(&store).await;
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&ledger).await.unwrap();
    let (id, node) = state_of(&ledger).await.nodes.pop_first().unwrap();
    let draft = |node: &Node| {
        let body = Body::Write(node.visible().unwrap().version);
        vec![Draft { edit: EditId::from(next()), node: id, context: node.context.clone(), body }]
    };
    // An entry of a leader, as an election makes it.
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap().id;
    let entry = Txn::new().then(Op::put_leased("/election/global/1", "a", lease));
    let created = store.txn(entry).await.unwrap().revision;
    let id_of_store = store.status().await.unwrap().store_id;
    let leads = Arc::new(AtomicBool::new(true));
    let held = Arc::clone(&leads);
    let fence =
        Fence::new(id_of_store, "/election/global/1", created, lease, move || held.load(Ordering::SeqCst));
    let given = || Given { fences: vec![fence.clone()], ..Given::default() };
    let written = ledger.write(Writer::Lead, draft(&node), given()).await.unwrap();
    assert_eq!(written.positions, [2]);

    // What was sent while it led arrives after it was deposed.
    store.set(|| Fate::Late);
    ledger.write(Writer::Lead, draft(&node), given()).await.unwrap_err();
    store.set(|| Fate::Arrives);
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    let (deposed, other) = tokio::join!(
        ledger.write(Writer::Lead, draft(&node), given()),
        ledger.write(Writer::Api, draft(&node), Given::default()),
    );
    let lost = |result: Result<_, LedgerError>| match result {
        Err(LedgerError::Store(error)) => assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}"),
        other => panic!("{other:?}"),
    };
    lost(deposed.map(drop));
    assert_eq!(other.unwrap().positions, [3]);
    // Who knows it does not ask.
    leads.store(false, Ordering::SeqCst);
    store.requests();
    lost(ledger.write(Writer::Lead, draft(&node), given()).await.map(drop));
    assert_eq!(store.requests(), 0);
    assert!(ledger.verify().await.unwrap().holds());
}

/// G10, G17: a reader that is behind the floor is told, takes a snapshot while others write, and
/// keeps its own edits.
#[tokio::test]
async fn behind_the_floor_there_is_a_snapshot() {
    let ledger = open(&memory()).await;
    let mut regions = [Region::new("a"), Region::new("b")];
    regions[0].save("old", 1);
    settle(&ledger, &mut regions).await;
    regions[1].save("mine", 9);
    for n in 0..30 {
        regions[0].save(&format!("f{}", n % 10), n);
        regions[0].sync(&ledger).await.unwrap();
    }
    let position = ledger.head().await.unwrap().position;
    assert!(ledger.trim(position - 3).await.unwrap() > 20);
    assert_eq!(ledger.head().await.unwrap().floor, position - 3);
    match ledger.entries(1, 10).await {
        Err(LedgerError::Trimmed { floor }) => assert_eq!(floor, position - 3),
        other => panic!("{other:?}"),
    }
    let synced = regions[1].sync(&ledger).await.unwrap();
    assert_eq!((synced.snapshots, synced.pushed), (1, 1));
    settle(&ledger, &mut regions).await;
    check(&ledger, &regions).await;
    assert_eq!(regions[0].files["mine"], 9);
    // The floor never goes back.
    assert_eq!(ledger.trim(1).await.unwrap(), 0);
    assert_eq!(ledger.head().await.unwrap().floor, position - 3);
}

/// G21: content that was swept is uploaded again, and the edit goes through then.
#[tokio::test]
async fn swept_content_is_asked_for_again() {
    let ledger = open(&memory()).await;
    let mut region = Region::new("a");
    region.save("f", 1);
    ledger.put_content(&blob(1).hash, "first").await.unwrap();
    // Known to be there, sealed, and then gone.
    sync(&ledger, &mut region.replica, |_| Peer::Gone, 100, |_| false).await.unwrap();
    region.replica.seal(usize::MAX, |_| true);
    match ledger.forget_content(&blob(1).hash, 7).await {
        Err(LedgerError::Refused(Refusal::Moved { position })) => assert_eq!(position, 0),
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.forget_content(&blob(1).hash, 0).await.unwrap().as_deref(), Some("first"));
    let synced = sync(&ledger, &mut region.replica, |_| Peer::Gone, 100, |_| true).await.unwrap();
    assert_eq!((synced.pushed, synced.lacks), (0, [blob(1).hash].into()));
    assert_eq!(ledger.put_content(&blob(1).hash, "second").await.unwrap(), "second");
    let synced = sync(&ledger, &mut region.replica, |_| Peer::Gone, 100, |_| true).await.unwrap();
    assert_eq!(synced.pushed, 1);
    assert!(region.replica.outbox().is_empty());
    assert_eq!(ledger.put_content(&blob(1).hash, "third").await.unwrap(), "second", "who was first stays");
}

/// G9: of two agents on copies of one disk, the second one is told.
#[tokio::test]
async fn of_two_copies_of_a_disk_one_goes_on() {
    let ledger = open(&memory()).await;
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&ledger).await.unwrap();
    let mut copy = region.replica.clone();
    copy.restarted(Session::from(next()));
    region.replica.restarted(Session::from(next()));
    region.sync(&ledger).await.unwrap();
    let refused = sync(&ledger, &mut copy, |_| Peer::Alive, 100, |_| true).await;
    assert!(
        matches!(refused, Err(SyncError::Ledger(LedgerError::Refused(Refusal::Busy { .. })))),
        "{refused:?}"
    );
    // When the other one is gone, it goes on, as another incarnation.
    sync(&ledger, &mut copy, |_| Peer::Gone, 100, |_| true).await.unwrap();
    assert_eq!(copy.actor().unwrap().incarnation(), 2);
}

/// The paths of a space are one in one way, for good.
#[tokio::test]
async fn a_space_keeps_its_names() {
    let store: Arc<dyn Store> = memory();
    Ledger::open(Arc::clone(&store), space(), Names::Exact).await.unwrap();
    match Ledger::open(store, space(), Names::Folded).await {
        Err(LedgerError::Store(error)) => assert_eq!(error.kind(), ErrorKind::InvalidArgument),
        other => panic!("{other:?}"),
    }
}

/// Several spaces of one store have nothing in common.
#[tokio::test]
async fn spaces_are_apart() {
    let store: Arc<dyn Store> = memory();
    let one = Ledger::open(Arc::clone(&store), space(), Names::Folded).await.unwrap();
    let other = Ledger::open(store, SpaceName::new("main-2").unwrap(), Names::Folded).await.unwrap();
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&one).await.unwrap();
    assert_eq!(one.head().await.unwrap().position, 1);
    assert_eq!(other.head().await.unwrap().position, 0);
    assert_eq!(other.at_path("f").await.unwrap(), []);
}

/// Users of three regions, over a store that loses answers and delivers late, with trims in
/// between: all come to the same.
#[tokio::test]
async fn regions_meet_over_a_store_that_fails() {
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let store = memory();
        let ledgers = [open(&store).await, open(&store).await, open(&store).await];
        let mut regions = [Region::new("a"), Region::new("b"), Region::new("c")];
        let mut fates = fastrand::Rng::with_seed(seed + 1_000);
        store.set(move || match fates.u8(0..10) {
            0 => Fate::AnswerLost,
            1 => Fate::Lost,
            2 => Fate::Late,
            _ => Fate::Arrives,
        });
        for _ in 0..60 {
            let region = &mut regions[rng.usize(0..3)];
            let path = ["a", "A", "d/x", "d/y"][rng.usize(0..4)];
            match rng.u8(0..10) {
                0..4 => region.save(path, rng.u8(0..5)),
                4 => region.delete(path),
                5 => drop(store.arrive().await.unwrap()),
                6 => {
                    let position = ledgers[0].head().await.unwrap().position;
                    drop(ledgers[rng.usize(0..3)].trim(position.saturating_sub(rng.u64(0..5))).await);
                }
                // It may fail; what it did is done.
                _ => drop(region.sync(&ledgers[rng.usize(0..3)]).await),
            }
        }
        store.set(|| Fate::Arrives);
        store.arrive().await.unwrap();
        ledgers[0].trim(0).await.unwrap();
        settle(&ledgers[0], &mut regions).await;
        check(&ledgers[0], &regions).await;
    }
}

/// S6: what was acknowledged is there after a restart of the store, and the ledger goes on.
#[tokio::test]
async fn it_goes_on_after_a_restart_of_its_store() {
    let directory = tempfile::tempdir().unwrap();
    let mut regions = [Region::new("a"), Region::new("b")];
    for round in 0..3_u8 {
        let store = Faulty::sound(Arc::new(MemoryStore::open_async(directory.path()).await.unwrap()));
        let ledger = open(&store).await;
        regions[usize::from(round % 2)].save(&format!("f{round}"), round);
        settle(&ledger, &mut regions).await;
        check(&ledger, &regions).await;
        assert_eq!(ledger.head().await.unwrap().position, u64::from(round) + 1);
        drop(ledger);
        store.close().await.unwrap();
    }
}

/// The view that is made of all files is that of the index.
#[tokio::test]
async fn the_index_of_paths_is_that_of_the_files() {
    let ledger = open(&memory()).await;
    let mut region = Region::new("a");
    let mut rng = fastrand::Rng::with_seed(7);
    for n in 0..80 {
        let path = ["a", "b/c", "B/d", "b"][rng.usize(0..4)];
        if rng.u8(0..4) == 0 {
            region.delete(path);
        } else if !region
            .files
            .keys()
            .any(|other| other.starts_with(&format!("{path}/")) || path.starts_with(&format!("{other}/")))
        {
            region.save(path, n);
        }
        region.sync(&ledger).await.unwrap();
    }
    let state = state_of(&ledger).await;
    let mut view = PathView::new(Names::Folded);
    state.nodes.iter().for_each(|(id, node)| view.set(*id, Some(node)));
    for path in ["a", "b/c", "B/d", "b"] {
        let there: BTreeSet<NodeId> = ledger.at_path(path).await.unwrap().into_iter().collect();
        let wanted = state.nodes.iter().filter(|(_, node)| {
            let visible = node.visible().unwrap();
            !visible.is_deleted()
                && Names::Folded.fold(visible.version.path.as_str()) == Names::Folded.fold(path)
        });
        assert_eq!(there, wanted.map(|(id, _)| *id).collect(), "{path}");
    }
}

/// A caller of the API who goes away while the store has not answered: what it shared with others
/// is written once.
#[tokio::test]
async fn who_goes_away_in_doubt_doubles_nothing() {
    let mut gone = 0;
    let fates = [Fate::Arrives, Fate::AnswerLost, Fate::Lost, Fate::Late];
    for (polls, fate) in (0..12).flat_map(|polls| fates.map(|fate| (polls, fate))) {
        let store = memory();
        let ledger = open(&store).await;
        let mut region = Region::new("a");
        region.save("f", 1);
        region.sync(&ledger).await.unwrap();
        let id = *region.replica.base().nodes.keys().next().unwrap();
        let draft = |node: &Node| {
            let version = node.visible().unwrap().version;
            let body = Body::Write(version);
            Draft { edit: EditId::from(next()), node: id, context: node.context.clone(), body }
        };
        let node = ledger.node(&id).await.unwrap().unwrap();
        let (first, second) = (draft(&node), draft(&node));
        // Both wait; the first one appends for both, and goes away.
        let edits = [first.edit, second.edit];
        let mut fates = [fate, Fate::Arrives].into_iter();
        store.set(move || fates.next().unwrap_or(Fate::Arrives));
        let mut one = Box::pin(ledger.write(Writer::Api, vec![first], Given::default()));
        let mut other = Box::pin(ledger.write(Writer::Api, vec![second], Given::default()));
        // The other one is in the queue before the first one looks into it.
        let _ = futures_util::poll!(&mut one);
        let _ = futures_util::poll!(&mut other);
        let mut is_there = true;
        for _ in 0..polls {
            is_there = is_there && futures_util::poll!(&mut one).is_pending();
        }
        drop(one);
        other.await.unwrap();
        store.arrive().await.unwrap();
        let (_, entries) = ledger.entries(0, 100).await.unwrap();
        let events = entries.iter().flat_map(|entry| &entry.events);
        let count = |edit| events.clone().filter(|event| event.event().edit == edit).count();
        assert_eq!(count(edits[1]), 1, "{fate:?} after {polls}");
        assert!(count(edits[0]) <= 1, "{fate:?} after {polls}");
        assert!(ledger.verify().await.unwrap().holds());
        gone += usize::from(is_there);
    }
    assert!(gone >= 8, "{gone} went away in the middle");
}

/// What one caller asks for, and no store can do, holds nobody else up: too much at once, and a
/// context that names more actors than one request may ask for.
#[tokio::test]
async fn what_one_asks_for_holds_nobody_else_up() {
    let ledger = open(&memory()).await;
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&ledger).await.unwrap();
    let (id, node) = state_of(&ledger).await.nodes.pop_first().unwrap();
    let version = node.visible().unwrap().version;
    let draft = |n: u8| {
        let body = Body::Write(version.clone());
        let node = NodeId::from([n; 16]);
        Draft { edit: EditId::from(next()), node, context: Default::default(), body }
    };
    let many: Vec<Draft> = (0..200).map(draft).collect();
    let actors: Vec<_> =
        (1..=150).map(|n| coord_global::model::Actor::region(RegionId::new("b").unwrap(), n)).collect();
    let mut wide = draft(201);
    wide.context = actors.iter().map(|actor| coord_global::model::Dot::new(actor.clone(), 1)).collect();
    let (too_much, future, fine) = tokio::join!(
        ledger.write(Writer::Api, many, Given::default()),
        ledger.write(Writer::Api, vec![wide], Given::default()),
        ledger.write(Writer::Api, vec![draft(202)], [(id, node.position)].into()),
    );
    assert!(matches!(too_much, Err(LedgerError::Refused(Refusal::TooLarge { .. }))), "{too_much:?}");
    assert!(matches!(future, Err(LedgerError::Refused(Refusal::Future { .. }))), "{future:?}");
    assert_eq!(fine.unwrap().positions, [2]);
}

/// What an instance remembers is no reason to refuse: another one has greeted the region since.
#[tokio::test]
async fn what_is_refused_is_refused_as_things_are_now() {
    let store = memory();
    let (one, other) = (open(&store).await, open(&store).await);
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&one).await.unwrap();
    region.replica.restarted(Session::from(next()));
    region.sync(&other).await.unwrap();
    region.save("f", 2);
    one.put_content(&blob(2).hash, "x").await.unwrap();
    region.replica.seal(usize::MAX, |_| true);
    let events = region.replica.to_push().cloned().collect();
    let pushed = one.push(region.replica.session(), events).await.unwrap();
    assert_eq!((pushed.refused, pushed.taken.len()), (None, 1));
}

/// G21: content that is swept by another instance in the very moment in which it is found to be
/// there is not taken for there.
#[tokio::test]
async fn content_that_is_swept_while_it_is_looked_for_is_missing() {
    let store = memory();
    let (one, other) = (open(&store).await, open(&store).await);
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&one).await.unwrap();
    one.put_content(&blob(2).hash, "x").await.unwrap();
    // An append of ours is on its way, so that what is said to be there is taken in behind it.
    let (id, node) = state_of(&one).await.nodes.pop_first().unwrap();
    let body = Body::Write(node.visible().unwrap().version);
    let draft = Draft { edit: EditId::from(next()), node: id, context: node.context, body };
    let mut append = Box::pin(one.write(Writer::Api, vec![draft], Given::default()));
    assert!(futures_util::poll!(&mut append).is_pending());
    let hash = blob(2).hash;
    let mut put = Box::pin(one.put_content(&hash, "y"));
    while futures_util::poll!(&mut put).is_pending() && store.requests() > 0 {}
    assert_eq!(other.forget_content(&hash, 1).await.unwrap().as_deref(), Some("x"));
    append.await.unwrap();
    put.await.unwrap();
    region.save("f", 2);
    region.replica.seal(usize::MAX, |_| true);
    let events = region.replica.to_push().cloned().collect();
    let pushed = one.push(region.replica.session(), events).await.unwrap();
    assert!(matches!(pushed.refused, Some((_, Refusal::ContentMissing { .. }))), "{pushed:?}");
}

/// Of a queue that is full, callers are told.
#[tokio::test]
async fn a_queue_has_an_end() {
    let ledger = open(&memory()).await;
    let mut region = Region::new("a");
    region.sync(&ledger).await.unwrap();
    region.save("f", 1);
    ledger.put_content(&blob(1).hash, "x").await.unwrap();
    region.replica.seal(usize::MAX, |_| true);
    let (session, events) = (region.replica.session(), region.replica.to_push().cloned().collect());
    // It has the store's ear, and is not polled again; all others wait behind it.
    let mut first = Box::pin(ledger.push(session, events));
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut waiting = Vec::new();
    for _ in 0..1_000 {
        let mut push = Box::pin(ledger.push(session, Vec::new()));
        assert!(futures_util::poll!(&mut push).is_pending());
        waiting.push(push);
    }
    let refused = ledger.push(session, Vec::new()).await;
    assert!(matches!(refused, Err(LedgerError::Full { waiting: 1_000 })), "{refused:?}");
    first.await.unwrap();
    for push in waiting {
        push.await.unwrap();
    }
    assert_eq!(ledger.push(session, Vec::new()).await.unwrap().taken, []);
}

/// G26: a log of a later format is not read, nor written, and its reader says so.
#[tokio::test]
async fn a_log_of_a_later_format_stops_its_reader() {
    let store = memory();
    let ledger = open(&store).await;
    let mut region = Region::new("a");
    region.save("f", 1);
    region.sync(&ledger).await.unwrap();
    let later = br#"{"format": 200, "anything": "else"}"#.to_vec();
    let txn = Txn::new().then(Op::put("/global/s/main/head", later));
    store.txn(txn).await.unwrap();
    let refused = |error: LedgerError| {
        assert!(matches!(error, LedgerError::Refused(Refusal::Format { found: 200, .. })), "{error}");
    };
    region.save("f", 2);
    match region.sync(&ledger).await {
        Err(SyncError::Ledger(error)) => refused(error),
        other => panic!("{other:?}"),
    }
    refused(ledger.head().await.unwrap_err());
    refused(ledger.trim(1).await.unwrap_err());
    region.replica.seal(usize::MAX, |_| true);
    let events = region.replica.to_push().cloned().collect();
    refused(ledger.push(region.replica.session(), events).await.unwrap_err());
    assert!(!region.replica.outbox().is_empty(), "nothing of it is lost");
}
