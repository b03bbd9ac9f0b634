//! R43 Unique.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use coord_api::InstanceId;
use coord_api::prelude::*;
use futures_util::future::{join, join_all};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::super::leased::{Lasting, entry};
use super::super::slow::slow_provider;
use super::{acquire, await_one};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, within};
use crate::wrap::{Fault, Request};

pub(super) async fn no_two_live_handles_share_an_id(cx: Fixture) {
    let (cx, live) = (&cx, &Mutex::new(BTreeMap::new()));
    let providers = &join_all((0..3).map(|client| slow_provider(cx, client))).await;
    join_all((0..9).map(|task: usize| async move {
        for round in 0..8 {
            let id = await_one(cx, &*providers[task % 3], 5).await.unwrap();
            let before = live.lock().unwrap().insert(id.id(), task);
            assert_eq!(before, None, "id {} is held twice", id.id());
            sleep(Duration::from_millis(1)).await;
            assert!(id.is_held());
            live.lock().unwrap().remove(&id.id());
            if (task + round) % 2 == 0 {
                id.release().await.unwrap();
            }
        }
    }))
    .await;
}

pub(super) async fn a_claim_in_doubt_grants_only_what_is_in_the_store(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let _kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    // A claim of one id was given up, and is still on its way.
    let unfenced = Lasting::begin(&faults, Fault::Refuse, |request| request.puts(layout::SESSIONS));
    faults.next_put(Fault::Hold, layout::IDS);
    acquire(&cx, &*client.provider, 9).await.unwrap_err();
    let given_up = faults.take_held().pop().expect("the claim is on its way");
    // A claim of two has seen that all are free, and is lost; meanwhile the first one arrives.
    let (looking, looks) = oneshot::channel();
    let mut looking = Some(looking);
    faults.next(Fault::LateAnswer(Duration::from_millis(50)), move |request| {
        matches!(request, Request::Range(_)) && looking.take().is_some_and(|looking| looking.send(()).is_ok())
    });
    let two = join(acquire(&cx, &*client.provider, 9), acquire(&cx, &*client.provider, 9));
    let meanwhile = async {
        let _ = timeout(cx.slack(), looks).await;
        faults.hang();
        sleep(Duration::from_millis(100)).await;
        let _ = given_up.apply().await;
        unfenced.end();
        faults.heal();
    };
    let ((first, second), ()) = within(cx.soon(), "an answer", join(two, meanwhile)).await;
    for id in [&first, &second].into_iter().flatten() {
        let entry = entry(&*store, layout::id("s", id.id())).await.expect("what is granted is in the store");
        assert_eq!(id.generation(), entry.created.into());
        assert!(id.is_held());
    }
    let (first, second) = (first.map(|id| id.id()).ok(), second.map(|id| id.id()).ok());
    assert!(first.is_none() || first != second, "{first:?} twice");
}

pub(super) async fn newcomers_at_once_share_no_id(cx: Fixture) {
    let store = cx.store().await;
    for round in 0..5 {
        // Each its first call, with sessions of their own.
        let providers = join_all((0..6).map(|client| slow_provider(&cx, round * 10 + client))).await;
        let held = join_all(providers.iter().map(|provider| acquire(&cx, &**provider, 6))).await;
        let held: Vec<InstanceId> = held.into_iter().map(Result::unwrap).collect();
        let ids: BTreeSet<u32> = held.iter().map(InstanceId::id).collect();
        assert_eq!(ids, (1..=6).collect(), "six at once of six ids");
        let mut leases = BTreeSet::new();
        for id in &held {
            let entry = entry(&*store, layout::id("s", id.id())).await.expect("what is held is there");
            assert_eq!(entry.created.get(), id.generation().get(), "and it is this one's");
            leases.insert(entry.lease);
        }
        assert_eq!(leases.len(), 6);
        sleep(cx.ttl() / 2).await;
        assert!(held.iter().all(InstanceId::is_held));
        for id in &held {
            id.release().await.unwrap();
        }
    }
}

pub(super) async fn each_grant_has_a_larger_generation(cx: Fixture) {
    let providers = join_all((0..3).map(|_| cx.provider())).await;
    let mut last = BTreeMap::new();
    for round in 0..5 {
        let held = join_all(providers.iter().map(|provider| acquire(&cx, &**provider, 3))).await;
        for id in held.into_iter().map(Result::unwrap) {
            let generation = id.generation();
            let before = last.insert(id.id(), generation);
            assert!(before < Some(generation), "{generation} of id {} after {before:?}", id.id());
            if round % 2 == 0 {
                id.release().await.unwrap();
            }
        }
        // The dropped ones go by themselves.
        let store = cx.store().await;
        eventually(cx.soon(), "all are free", || async {
            super::super::leased::entries(&*store, layout::IDS.to_owned()).await.is_empty().then_some(())
        })
        .await;
    }
    assert_eq!(last.len(), 3);
}

pub(super) async fn the_generation_is_the_keys_create_revision(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    for id in join_all((0..5).map(|_| acquire(&cx, &*provider, 5))).await.into_iter().map(Result::unwrap) {
        let entry = entry(&*store, layout::id("s", id.id())).await.unwrap();
        assert_eq!(id.generation().get(), entry.created.get());
        assert!(entry.lease.is_some(), "it hangs on a lease");
    }
}
