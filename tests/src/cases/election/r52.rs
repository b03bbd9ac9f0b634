//! R52 Proclaim.

use coord_api::{ErrorKind, Outcome};
use coord_testkit::Fixture;
use coord_testkit::wait::within;
use coord_testkit::wrap::Fault;
use futures_util::future::join_all;

use super::primitives::{Primitives, delete, entries};
use super::{election, leader_says, options};

const QUEUE: &str = "/elections/e/";

pub(super) async fn what_the_leader_says_is_replaced_in_place(cx: Fixture) {
    let (mine, other, store) = (election(&cx).await, election(&cx).await, cx.store().await);
    let leads = mine.campaign("first", options(&cx)).await.unwrap();
    let before = entries(&*store, QUEUE).await;
    let mut version = other.leader().await.unwrap().unwrap().version;
    for words in ["second", "", "second"] {
        leads.proclaim(words).await.unwrap();
        let leader = other.leader().await.unwrap().unwrap();
        assert_eq!((leader.value, leader.token), (words.into(), leads.fencing_token()));
        assert!(leader.version > version, "each is a write of its own");
        version = leader.version;
    }
    let after = entries(&*store, QUEUE).await;
    assert_eq!((after.len(), &after[0].key, after[0].created), (1, &before[0].key, before[0].created));
    assert_eq!(after[0].lease, before[0].lease);
    tokio::time::sleep(cx.ttl() * 2).await;
    assert!(leads.is_held(), "the next renewals find what they look for");
    leads.resign().await.unwrap();
    leader_says(&other, None).await;
}

pub(super) async fn who_does_not_lead_any_more_says_nothing(cx: Fixture) {
    let (mine, other, store) = (election(&cx).await, election(&cx).await, cx.store().await);
    let resigned = mine.campaign("first", options(&cx)).await.unwrap();
    resigned.resign().await.unwrap();
    let removed = mine.campaign("second", options(&cx)).await.unwrap();
    for entry in entries(&*store, QUEUE).await {
        delete(&*store, entry.key).await;
    }
    let leads = other.campaign("third", options(&cx)).await.unwrap();
    for late in [&resigned, &removed] {
        let error = within(cx.soon(), "an answer", late.proclaim("late")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseLost);
    }
    leader_says(&mine, Some("third")).await;
    assert_eq!(entries(&*store, QUEUE).await.len(), 1);
    assert!(leads.is_held());
}

pub(super) async fn a_proclamation_in_doubt_is_unknown_and_can_be_repeated(cx: Fixture) {
    let other = election(&cx).await;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        let leads = Primitives::of(&client).election("e").campaign("first", options(&cx)).await.unwrap();
        for _ in 0..3 {
            faults.next_put(fault, QUEUE.to_owned());
        }
        if let Err(error) = within(cx.soon(), "an answer", leads.proclaim("second")).await {
            let known = fault == Fault::Refuse && error.outcome() == Outcome::NotApplied;
            assert!(known || error.outcome() == Outcome::Unknown, "{fault:?}: {error:?}");
            assert!(error.is_transient(), "{fault:?}: {error}");
        }
        faults.heal();
        while let Err(error) = within(cx.soon(), "an answer", leads.proclaim("third")).await {
            assert!(error.is_transient(), "{fault:?}: {error}");
        }
        assert!(leads.is_held(), "{fault:?}");
        leader_says(&other, Some("third")).await;
        leads.resign().await.unwrap();
    }
}

pub(super) async fn a_late_proclamation_changes_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).election("e"), election(&cx).await);
    let leads = mine.campaign("first", options(&cx)).await.unwrap();
    faults.next_put(Fault::Hold, QUEUE.to_owned());
    let held_up = within(cx.soon(), "an answer", leads.proclaim("late")).await;
    leads.proclaim("newer").await.unwrap();
    for late in faults.take_held() {
        let _ = late.apply().await;
    }
    leader_says(&other, Some("newer")).await;
    assert!(held_up.is_ok() || leads.is_held());
    leads.resign().await.unwrap();
    leader_says(&other, None).await;
}

pub(super) async fn of_proclamations_at_once_one_comes_after_the_other(cx: Fixture) {
    let (client, other) = (cx.delayed(1).await, election(&cx).await);
    let leads = Primitives::of(&client).election("e").campaign("first", options(&cx)).await.unwrap();
    let words: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    let said = join_all(words.iter().map(|words| leads.proclaim(words.clone()))).await;
    assert!(said.iter().all(Result::is_ok), "{said:?}");
    let last = other.leader().await.unwrap().unwrap().value;
    assert!(words.iter().any(|words| last == words.clone().into()), "{last:?}");
    leads.proclaim("last").await.unwrap();
    leader_says(&other, Some("last")).await;
}
