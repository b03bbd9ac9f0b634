//! R54 Observe.

use coord_api::{Value, Watch};
use coord_recipes::LeaderEvent;
use coord_testkit::Fixture;
use coord_testkit::wait::{never_within, within};
use coord_testkit::wrap::{Fault, Request};
use futures_util::future::join_all;

use super::primitives::{Primitives, put};
use super::{election, leader_says, options};

/// What an observer is told next: the event, and what the leader says.
async fn next(cx: &Fixture, observer: &mut Watch<LeaderEvent>) -> (&'static str, Option<Value>) {
    let event = within(cx.soon(), "the observer is told", observer.next()).await.unwrap().unwrap();
    let kind = match &event {
        LeaderEvent::State(_) => "state",
        LeaderEvent::Elected(_) => "elected",
        LeaderEvent::Proclaimed(_) => "proclaimed",
        LeaderEvent::Vacant => "vacant",
        _ => "something else",
    };
    (kind, event.leader().map(|leader| leader.value.clone()))
}

/// As [`next`], where a `Resync` may have taken its place: then the state says as much.
async fn is_told(
    cx: &Fixture,
    observer: &mut Watch<LeaderEvent>,
    expected: &'static str,
    says: Option<&str>,
) {
    let says = says.map(|says| Value::from(says.to_owned()));
    loop {
        let (kind, value) = next(cx, observer).await;
        if (kind, &value) == (expected, &says) {
            return;
        }
        assert_eq!(kind, "state", "instead of {expected} {says:?}: {value:?}");
        if value == says {
            return;
        }
    }
}

pub(super) async fn the_leader_is_told_and_every_change(cx: Fixture) {
    let (mine, other) = (election(&cx).await, election(&cx).await);
    let first = mine.campaign("first", options(&cx)).await.unwrap();
    let mut observer = election(&cx).await.observe().await.unwrap();
    is_told(&cx, &mut observer, "state", Some("first")).await;
    first.proclaim("1").await.unwrap();
    is_told(&cx, &mut observer, "proclaimed", Some("1")).await;
    let mut second = Box::pin(other.campaign("second", options(&cx)));
    never_within(cx.slack(), "a second leader", &mut second).await;
    first.resign().await.unwrap();
    is_told(&cx, &mut observer, "elected", Some("second")).await;
    let second = within(cx.soon(), "the next one leads", second).await.unwrap();
    second.proclaim("2").await.unwrap();
    is_told(&cx, &mut observer, "proclaimed", Some("2")).await;
    second.resign().await.unwrap();
    is_told(&cx, &mut observer, "vacant", None).await;
}

pub(super) async fn that_nobody_leads_is_told(cx: Fixture) {
    let mine = election(&cx).await;
    let mut observer = election(&cx).await.observe().await.unwrap();
    is_told(&cx, &mut observer, "state", None).await;
    for round in 0..3 {
        let words = round.to_string();
        let leads = mine.campaign(words.clone(), options(&cx)).await.unwrap();
        is_told(&cx, &mut observer, "elected", Some(&words)).await;
        drop(leads);
        is_told(&cx, &mut observer, "vacant", None).await;
    }
    // And where the leader dies.
    let client = cx.client().await;
    let leads = Primitives::of(&client).election("e").campaign("dies", options(&cx)).await.unwrap();
    is_told(&cx, &mut observer, "elected", Some("dies")).await;
    client.crash().await;
    let gone = within(cx.gone_by(cx.ttl()) + cx.soon(), "its end is told", next(&cx, &mut observer)).await;
    assert!(gone.1.is_none(), "{gone:?}");
    drop(leads);
}

pub(super) async fn a_candidate_that_waits_is_no_leader(cx: Fixture) {
    let (mine, other) = (election(&cx).await, election(&cx).await);
    let leads = mine.campaign("first", options(&cx)).await.unwrap();
    let mut observer = election(&cx).await.observe().await.unwrap();
    is_told(&cx, &mut observer, "state", Some("first")).await;
    for _ in 0..3 {
        let mut waits = Box::pin(other.campaign("waits", options(&cx)));
        never_within(cx.slack(), "a second leader", &mut waits).await;
        leader_says(&other, Some("first")).await;
    }
    leads.proclaim("last").await.unwrap();
    is_told(&cx, &mut observer, "proclaimed", Some("last")).await;
}

pub(super) async fn many_observers_share_one_watch(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let opened = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&opened);
    faults.next(Fault::Refuse, move |request| {
        if matches!(request, Request::Watch(span) if span.start().starts_with(b"/elections/")) {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        false
    });
    let primitives = Primitives::of(&client);
    let start = tokio::time::Instant::now();
    // Each by an election of its own, as separate parts of a program have it.
    let mut observers = Vec::new();
    for _ in 0..50 {
        observers.push(primitives.election("e").observe().await.unwrap());
    }
    let leads = primitives.election("e").campaign("me", options(&cx)).await.unwrap();
    let told = join_all(
        observers
            .iter_mut()
            .map(|observer| async { while next(&cx, observer).await.1 != Some("me".into()) {} }),
    );
    within(cx.soon(), "all are told", told).await;
    // A store may break its watches now and then; each is then opened anew.
    let reconnects = usize::try_from(start.elapsed().as_millis() / 100).unwrap();
    let opened = opened.load(std::sync::atomic::Ordering::SeqCst);
    assert!(opened <= 1 + reconnects, "{opened} watches for 50 observers");
    assert!(leads.is_held());
}

pub(super) async fn a_lost_history_is_told_as_the_state(cx: Fixture) {
    let (mine, store) = (election(&cx).await, cx.store().await);
    let (client, faults) = cx.faulty().await;
    let first = mine.campaign("first", options(&cx)).await.unwrap();
    let mut observer = Primitives::of(&client).election("e").observe().await.unwrap();
    is_told(&cx, &mut observer, "state", Some("first")).await;
    faults.cut();
    first.resign().await.unwrap();
    let second = mine.campaign("second", options(&cx)).await.unwrap();
    for n in 0..3 {
        put(&*store, "other", &n.to_string()).await;
    }
    let head = store.range(coord_api::store::Range::key("other")).await.unwrap().revision;
    cx.compact(head).await;
    faults.heal();
    assert_eq!(next(&cx, &mut observer).await, ("state", Some("second".into())));
    second.proclaim("again").await.unwrap();
    is_told(&cx, &mut observer, "proclaimed", Some("again")).await;
}

pub(super) async fn asking_for_the_leader_sees_the_last_election(cx: Fixture) {
    let elections = join_all((0..3).map(|_| election(&cx))).await;
    for round in 0..12 {
        let words = round.to_string();
        let leads = elections[round % 3].campaign(words.clone(), options(&cx)).await.unwrap();
        for election in &elections {
            let leader = election.leader().await.unwrap().unwrap();
            assert_eq!((leader.value, leader.token), (words.clone().into(), leads.fencing_token()));
        }
        leads.resign().await.unwrap();
        for election in &elections {
            leader_says(election, None).await;
        }
    }
}

pub(super) async fn what_others_left_in_the_directory_leads_nobody(cx: Fixture) {
    let (mine, store) = (election(&cx).await, cx.store().await);
    for n in 0..20 {
        put(&*store, &format!("/elections/e/nested/{n}"), "nobody").await;
    }
    leader_says(&mine, None).await;
    let mut observer = mine.observe().await.unwrap();
    is_told(&cx, &mut observer, "state", None).await;
    let leads = within(cx.soon(), "it leads", mine.campaign("me", options(&cx))).await.unwrap();
    leader_says(&mine, Some("me")).await;
    is_told(&cx, &mut observer, "elected", Some("me")).await;
    leads.resign().await.unwrap();
}
