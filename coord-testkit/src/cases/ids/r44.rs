//! R44 Release.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::{ErrorKind, InstanceId, Loss, Outcome};
use tokio::time::sleep;

use super::super::leased::{ONE_SECOND, delete, entry, lease_of, lost_within};
use super::{acquire, await_one, numbers};
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::histories::{Workload, uphold};
use crate::layout;
use crate::model::{Contract, contract};
use crate::wait::within;
use crate::wrap::Fault;

pub(super) async fn a_released_id_is_free_at_once(cx: Fixture) {
    let (one, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    for (releases, acquires) in [(&one, &other), (&other, &one), (&one, &one)] {
        let id = acquire(&cx, &**releases, 1).await.unwrap();
        id.release().await.unwrap();
        assert_eq!(entry(&*store, layout::id("s", 1)).await, None);
        let next = acquire(&cx, &**acquires, 1).await.unwrap();
        assert!(next.is_held() && !id.is_held());
        next.release().await.unwrap();
    }
}

pub(super) async fn a_released_id_returns_every_time(cx: Fixture) {
    let provider = cx.provider().await;
    let kept = acquire(&cx, &*provider, 3).await.unwrap();
    for _ in 0..20 {
        let id = acquire(&cx, &*provider, 3).await.unwrap();
        assert_eq!(id.id(), 2);
        id.release().await.unwrap();
    }
    assert!(kept.is_held());
}

pub(super) async fn a_second_release_repeats_nothing(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let id = acquire(&cx, &*client.provider, 1).await.unwrap();
    id.release().await.unwrap();
    let (again, counts) = counter.during(id.release()).await;
    again.unwrap();
    assert_eq!(counts.requests(), 0);
    let next = acquire(&cx, &*client.provider, 1).await.unwrap();
    id.release().await.unwrap();
    drop(id);
    sleep(cx.slack()).await;
    assert!(next.is_held());
    assert_eq!(acquire(&cx, &*client.provider, 1).await.unwrap_err().kind(), ErrorKind::Exhausted);
}

pub(super) async fn a_late_release_never_frees_a_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, store) = (cx.provider().await, cx.store().await);
    let ids = [acquire(&cx, &*client.provider, 2).await.unwrap(), acquire(&cx, &*client.provider, 2).await.unwrap()];
    faults.cut();
    let limit = cx.gone_by(cx.ttl()) + cx.soon();
    let next = [
        within(limit, "the ids pass on", await_one(&cx, &*other, 2)).await.unwrap(),
        within(limit, "the ids pass on", await_one(&cx, &*other, 2)).await.unwrap(),
    ];
    let entries = [entry(&*store, layout::id("s", 1)).await, entry(&*store, layout::id("s", 2)).await];
    faults.heal();
    let [first, second] = ids;
    assert_eq!(first.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    drop(second);
    sleep(cx.ttl() * 2).await;
    assert!(next.iter().all(InstanceId::is_held));
    assert_eq!([entry(&*store, layout::id("s", 1)).await, entry(&*store, layout::id("s", 2)).await], entries);
    // Within one provider, too.
    delete(&*store, layout::id("s", 1)).await;
    let last = acquire(&cx, &*other, 2).await.unwrap();
    let error = next.iter().find(|id| id.id() == 1).unwrap().release().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(last.is_held());
    assert!(entry(&*store, layout::id("s", 1)).await.is_some());
}

pub(super) async fn releasing_what_was_lost_is_lease_lost(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let ids = [acquire(&cx, &*provider, 2).await.unwrap(), acquire(&cx, &*provider, 2).await.unwrap()];
    delete(&*store, layout::id("s", 1)).await;
    assert_eq!(ids[0].release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    store.revoke_lease(lease_of(&*store, layout::id("s", 2)).await).await.unwrap();
    let error = within(cx.soon(), "an answer", ids[1].release()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(!ids.iter().any(InstanceId::is_held));
}

pub(super) async fn a_failed_release_is_unknown_and_a_debt(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
        let id = acquire(&cx, &*client.provider, 1).await.unwrap();
        for _ in 0..3 {
            faults.next_delete(fault, layout::id("s", 1));
        }
        let error = within(cx.soon(), "an answer", id.release()).await.unwrap_err();
        assert!(error.is_transient(), "{fault:?}: {error}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{fault:?}");
        assert!(!id.is_held());
        within(cx.ttl(), "the release is repeated", await_one(&cx, &*other, 1)).await.unwrap().release().await.unwrap();
        assert!(kept.is_held());
        kept.unlock().await.unwrap();
    }
}

pub(super) async fn a_release_applied_late_harms_no_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    for same_provider in [true, false] {
        let id = acquire(&cx, &*client.provider, 1).await.unwrap();
        faults.next_delete(Fault::Hold, layout::id("s", 1));
        assert_eq!(id.release().await.unwrap_err().outcome(), Outcome::Unknown);
        let successor = if same_provider { Arc::clone(&client.provider) } else { cx.provider().await };
        let next = within(cx.ttl() * 2, "the release is repeated", await_one(&cx, &*successor, 1)).await.unwrap();
        let held = faults.take_held();
        assert_eq!(held.len(), 1);
        for held in held {
            let _ = held.apply().await;
        }
        // The debt, too, was of the old one alone.
        sleep(cx.ttl()).await;
        assert_eq!(entry(&*store, layout::id("s", 1)).await.unwrap().created.get(), next.generation().get());
        assert!(next.is_held());
        next.release().await.unwrap();
    }
}

pub(super) async fn a_release_dropped_at_any_await_point_frees_the_id(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    for polls in 1.. {
        let id = acquire(&cx, &*provider, 1).await.unwrap();
        let polled = poll_times(polls, cx.slack(), id.release()).await;
        let what = format!("the id is free after a release was dropped after {polls} polls");
        let next = within(ONE_SECOND + cx.slack(), &what, await_one(&cx, &*other, 1)).await.unwrap();
        assert!(!id.is_held());
        let again = id.release().await;
        assert!(again.is_ok() || again.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
        assert!(next.is_held());
        next.release().await.unwrap();
        if matches!(polled, Polled::Done(_)) {
            return;
        }
    }
}

pub(super) async fn one_provider_holds_several_ids(cx: Fixture) {
    let provider = cx.provider().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(acquire(&cx, &*provider, 5).await.unwrap());
    }
    assert_eq!(numbers(&held), [1, 2, 3, 4, 5]);
    held[1].release().await.unwrap();
    sleep(cx.ttl() * 2).await;
    for (n, id) in held.iter().enumerate() {
        assert_eq!(id.is_held(), n != 1);
    }
}

pub(super) async fn lost_fires_on_release(cx: Fixture) {
    let provider = cx.provider().await;
    let id = acquire(&cx, &*provider, 5).await.unwrap();
    let lost = id.lost();
    id.release().await.unwrap();
    assert_eq!(lost_within(cx.slack(), "lost() fires", lost).await.0, Loss::Released);
    let id = acquire(&cx, &*provider, 5).await.unwrap();
    let lost = id.lost();
    drop(id);
    assert_eq!(lost_within(ONE_SECOND, "lost() fires", lost).await.0, Loss::Released);
}

pub(super) async fn in_random_histories_only_the_holder_frees_its_id(cx: Fixture) {
    uphold(&cx, "r44::in_random_histories_only_the_holder_frees_its_id", Workload::Ids, false, &["r44"]).await;
}

pub(super) async fn random_sequences_answer_as_the_model_does(cx: Fixture) {
    contract(&cx, "r44::random_sequences_answer_as_the_model_does", "r44", Contract::Ids).await;
}
