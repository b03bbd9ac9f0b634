//! R51 Leadership.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Wait, WriteOptions};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, never_within, within};
use futures_util::future::join_all;

use super::primitives::{Primitives, entries};
use super::{election, leader_says, options};

const QUEUE: &str = "/elections/e/";

pub(super) async fn one_leads_and_the_others_wait_in_order(cx: Fixture) {
    let (elections, store) = (join_all((0..3).map(|_| election(&cx))).await, cx.store().await);
    let mut leads = elections[0].campaign("0", options(&cx)).await.unwrap();
    let mut waiting = std::collections::VecDeque::new();
    for n in 1..7 {
        let (election, options) = (elections[n % 3].clone(), options(&cx));
        waiting.push_back(tokio::spawn(async move { election.campaign(n.to_string(), options).await }));
        eventually(cx.soon(), "the candidate stands in the queue", || async {
            (entries(&*store, QUEUE).await.len() == n + 1).then_some(())
        })
        .await;
    }
    for n in 1..7 {
        let mut next = waiting.pop_front().unwrap();
        never_within(cx.slack(), "a second leader", &mut next).await;
        let token = leads.fencing_token();
        leads.resign().await.unwrap();
        leads = within(cx.soon(), "who came first leads first", next).await.unwrap().unwrap();
        assert!(leads.is_held() && leads.fencing_token() > token);
        leader_says(&elections[0], Some(&n.to_string())).await;
        assert!(waiting.iter().all(|waiter| !waiter.is_finished()));
    }
}

pub(super) async fn a_candidate_whose_lease_died_runs_anew(cx: Fixture) {
    let (leader, other, store) = (election(&cx).await, election(&cx).await, cx.store().await);
    let leads = leader.campaign("first", options(&cx)).await.unwrap();
    let mut candidate = Box::pin(other.campaign("second", options(&cx)));
    never_within(cx.slack(), "a second leader", &mut candidate).await;
    let own = entries(&*store, QUEUE).await.pop().unwrap();
    store.revoke_lease(own.lease.unwrap()).await.unwrap();
    let again = async {
        eventually(cx.soon(), "it runs anew", || async {
            let last = entries(&*store, QUEUE).await.pop()?;
            (last.created > own.created && last.value == "second".into()).then_some(())
        })
        .await;
    };
    tokio::select! {
        lead = &mut candidate => panic!("it leads while another one does: {lead:?}"),
        () = again => {}
    }
    assert!(leads.is_held());
    leads.resign().await.unwrap();
    let second = within(cx.soon(), "it leads", candidate).await.unwrap();
    let stands = entries(&*store, QUEUE).await;
    assert_eq!(stands.len(), 1, "nothing is left of the entry that died");
    assert_eq!(stands[0].created.get(), second.fencing_token().get(), "it leads by an entry that is there");
}

pub(super) async fn a_candidate_that_goes_away_leaves_no_ghost(cx: Fixture) {
    let (leader, other, store) = (election(&cx).await, election(&cx).await, cx.store().await);
    let leads = leader.campaign("first", options(&cx)).await.unwrap();
    let mut dropped = Box::pin(other.campaign("dropped", options(&cx)));
    never_within(cx.slack(), "a second leader", &mut dropped).await;
    drop(dropped);
    let for_a_moment = options(&cx).with_wait(Wait::For(cx.slack()));
    let late = within(cx.soon(), "an answer", other.campaign("late", for_a_moment)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
    eventually(Duration::from_secs(1) + cx.slack(), "nothing of them is left", || async {
        (entries(&*store, QUEUE).await.len() == 1).then_some(())
    })
    .await;
    leads.resign().await.unwrap();
    leader_says(&leader, None).await;
}

pub(super) async fn without_waiting_another_leader_is_a_conflict(cx: Fixture) {
    let (leader, other, store) = (election(&cx).await, election(&cx).await, cx.store().await);
    let at_once = options(&cx).with_wait(Wait::Never);
    let leads = leader.campaign("first", at_once).await.unwrap();
    for election in [&leader, &other] {
        assert_eq!(election.campaign("second", at_once).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(entries(&*store, QUEUE).await.len(), 1, "a try leaves no entry");
    leads.resign().await.unwrap();
    assert!(other.campaign("second", at_once).await.unwrap().is_held());
}

pub(super) async fn a_campaign_and_a_resignation_are_one_request_each(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let election = Primitives::of(&client).election("e");
    election.campaign("warm", options(&cx)).await.unwrap().resign().await.unwrap();
    for _ in 0..5 {
        let (leads, counts) = counter.during(election.campaign("me", options(&cx))).await;
        let leads = leads.unwrap();
        assert_eq!((counts.requests(), counts.watch), (1, 0), "{counts:?}");
        let (resigned, counts) = counter.during(leads.resign()).await;
        resigned.unwrap();
        assert_eq!(counts.requests(), 1, "{counts:?}");
    }
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let primitives = Primitives::of(&client);
    let kind = |error: coord_api::Error| error.kind();
    let wrong = async {
        for name in coord_testkit::bad::keys() {
            let election = primitives.election(&name);
            assert_eq!(
                election.campaign("me", options(&cx)).await.map_err(kind).unwrap_err(),
                ErrorKind::InvalidArgument
            );
            assert_eq!(election.leader().await.map_err(kind).unwrap_err(), ErrorKind::InvalidArgument);
            assert_eq!(election.observe().await.map_err(kind).unwrap_err(), ErrorKind::InvalidArgument);
        }
        let election = primitives.election("e");
        for ttl in [Duration::ZERO, Duration::from_secs(9_000_000_001)] {
            let error = election.campaign("me", options(&cx).with_ttl(ttl)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{ttl:?}");
        }
        let error = election.campaign(vec![b'x'; (1 << 20) + 1], options(&cx)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    };
    let ((), counts) = counter.during(wrong).await;
    assert_eq!(counts.requests(), 0, "{counts:?}");
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let primitives = Primitives::of(&cx.client().await);
    let mut leads = Vec::new();
    for name in ["a", "a/b", "a%2Fb", "a%b", "/c"] {
        let election = primitives.election(name);
        leads.push(election.campaign(name, options(&cx).with_wait(Wait::Never)).await.unwrap());
        leader_says(&election, Some(name)).await;
    }
    assert!(leads.iter().all(coord_recipes::Leadership::is_held));
    leader_says(&primitives.election("c"), Some("/c")).await;
}

pub(super) async fn its_fence_outlives_what_it_proclaims(cx: Fixture) {
    let (election, provider) = (election(&cx).await, cx.provider().await);
    let leadership = election.campaign("me", options(&cx)).await.unwrap();
    let fence = leadership.fence();
    for says in ["one", "two"] {
        leadership.proclaim(says).await.unwrap();
        let fenced = WriteOptions::default().with_fence(fence.clone()).with_fence(leadership.fence());
        provider.config().set_with("k", says, fenced).await.unwrap();
    }
    leadership.resign().await.unwrap();
    let fenced = WriteOptions::default().with_fence(fence);
    let error = provider.config().set_with("k", "three", fenced).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
}
