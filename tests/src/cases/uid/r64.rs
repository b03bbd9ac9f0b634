//! R64 The horizon.

use std::time::Duration;

use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use coord_testkit::wrap::Fault;
use tokio::time::{Instant, sleep};

use super::primitives::entries;
use super::{Day, HOUR, builder, horizon, open, span, unix_ms};

const HORIZONS: &str = "/uid/u/";

pub(super) async fn the_horizon_is_stored_before_the_first_id(cx: Fixture) {
    let (day, store) = (Day::new(), cx.store().await);
    let before = day.unix_ms();
    let uid = open(&cx, &cx.client().await, &day).await;
    let (stored, entry) = horizon(&*store, 0).await;
    assert_eq!(entry.lease, None, "it outlives whoever wrote it");
    assert!((before + span(&cx)..=day.unix_ms() + span(&cx)).contains(&stored), "{stored}");
    assert!(unix_ms(uid.next().unwrap()) < stored);
}

pub(super) async fn a_later_horizon_is_stored_in_time(cx: Fixture) {
    let (day, store) = (Day::new(), cx.store().await);
    let uid = open(&cx, &cx.client().await, &day).await;
    let (mut stored, began) = (horizon(&*store, 0).await.0, Instant::now());
    let mut writes = 0;
    while began.elapsed() < cx.ttl() * 2 {
        sleep(cx.ttl() / 60).await;
        let id = uid.next().unwrap();
        let now = horizon(&*store, 0).await.0;
        assert!(unix_ms(id) < now && now >= stored);
        writes += u32::from(now > stored);
        stored = now;
    }
    assert!((3..=9).contains(&writes), "one each third of the TTL: {writes}");
}

pub(super) async fn a_start_is_four_requests(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let day = Day::new();
    let (first, counts) = counter.during(open(&cx, &client, &day)).await;
    // With the grant of the lease and the session's key.
    assert!(counts.requests() <= 2 + 3, "{counts:?}");
    let keeps_the_session = open(&cx, &client, &day).await;
    first.close().await.unwrap();
    let (again, counts) = counter.during(open(&cx, &client, &day)).await;
    assert_eq!(again.worker(), Some(0));
    assert!(counts.requests() <= 4, "{counts:?}");
    drop(keeps_the_session);
}

pub(super) async fn giving_back_stores_the_time_after_the_last_id(cx: Fixture) {
    let (day, store, client) = (Day::new(), cx.store().await, cx.client().await);
    for closes in [true, false, true, false] {
        let uid = open(&cx, &client, &day).await;
        let last = uid.next().unwrap();
        if closes {
            uid.close().await.unwrap();
        } else {
            drop(uid);
            eventually(cx.soon(), "it is given back", || async {
                entries(&*store, "/im-infra/allocators/u/ids/").await.is_empty().then_some(())
            })
            .await;
        }
        assert_eq!(horizon(&*store, 0).await.0, unix_ms(last) + 1);
    }
}

pub(super) async fn a_first_horizon_whose_answer_was_lost_is_ones_own(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (day, store) = (Day::new(), cx.store().await);
    faults.next_put(Fault::LoseAnswer, HORIZONS);
    let uid = open(&cx, &client, &day).await;
    assert_eq!(faults.unused(), 0);
    assert!(unix_ms(uid.next().unwrap()) <= day.unix_ms(), "it did not begin at its own horizon");
    assert!(horizon(&*store, 0).await.0 <= day.unix_ms() + span(&cx));
}

pub(super) async fn a_horizon_that_was_lost_on_its_way_is_stored_anew(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (day, store) = (Day::new(), cx.store().await);
    faults.next_put(Fault::LoseRequest, HORIZONS);
    let uid = open(&cx, &client, &day).await;
    let first = horizon(&*store, 0).await.0;
    for _ in 0..2 {
        faults.next_put(Fault::Refuse, HORIZONS);
    }
    eventually(cx.ttl(), "a later horizon is stored", || async {
        (horizon(&*store, 0).await.0 > first).then_some(())
    })
    .await;
    assert_eq!(faults.unused(), 0);
    assert!(uid.next().is_ok());
}

pub(super) async fn a_last_horizon_that_comes_late_changes_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (day, store) = (Day::new(), cx.store().await);
    let uid = open(&cx, &client, &day).await;
    let last = uid.next().unwrap();
    for _ in 0..2 {
        faults.next_put(Fault::Hold, HORIZONS);
    }
    within(cx.soon(), "it is closed", uid.close()).await.unwrap();
    day.set_by(-HOUR);
    let next = open(&cx, &cx.client().await, &day).await;
    assert_eq!(next.worker(), Some(0));
    let id = next.next().unwrap();
    assert!(id > last);
    let before = horizon(&*store, 0).await;
    let held = faults.take_held();
    assert!(!held.is_empty());
    for held in held {
        assert!(!held.apply().await.unwrap(), "a late horizon was stored");
    }
    assert_eq!(horizon(&*store, 0).await, before);
}

pub(super) async fn nothing_is_given_out_where_the_first_horizon_is_not_stored(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (day, store) = (Day::new(), cx.store().await);
    faults.next_put(Fault::Deny, HORIZONS);
    let error = builder(&cx, &client, &day).open().await.unwrap_err();
    assert_eq!(error.kind(), coord_api::ErrorKind::PermissionDenied);
    assert_eq!((error.operation(), error.key()), ("uid.open", Some("u")));
    eventually(cx.soon(), "the number is given back", || async {
        entries(&*store, "/im-infra/allocators/u/ids/").await.is_empty().then_some(())
    })
    .await;
    sleep(Duration::from_millis(10)).await;
    assert!(entries(&*store, HORIZONS).await.is_empty());
}
