//! R66 The loss of a number.

use std::time::Duration;

use coord_api::ErrorKind;
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use tokio::time::{Instant, sleep};

use super::primitives::{Primitives, delete, entries};
use super::{Day, HOUR, builder, open};

const NUMBER: &str = "/im-infra/allocators/u/ids/0";

pub(super) async fn nothing_is_given_out_from_the_local_deadline_on(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let day = Day::new();
    let uid = open(&cx, &client, &day).await;
    let store = cx.store().await;
    faults.cut();
    let cut = Instant::now();
    let error = eventually(cx.ttl() + cx.slack(), "the number is lost", || async {
        match uid.next() {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::Unavailable => None,
            Err(error) => Some(error),
        }
    })
    .await;
    assert_eq!((error.kind(), error.key()), (ErrorKind::LeaseLost, Some("u")));
    if cx.virtual_time() {
        assert_eq!(entries(&*store, NUMBER).await.len(), 1, "before another one can have it");
    }
    assert!(cut.elapsed() >= cx.ttl() / 2, "not at the first failure");
    assert_eq!(uid.worker(), None);
    for _ in 0..20 {
        sleep(cx.ttl() / 20).await;
        assert_eq!(uid.next().unwrap_err().kind(), ErrorKind::LeaseLost);
    }
}

pub(super) async fn it_goes_on_with_another_number_above_all_before(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let day = Day::new();
    let uid = open(&cx, &client, &day).await;
    let last = uid.next_batch(1_000).unwrap().last().unwrap();
    let store = cx.store().await;
    faults.cut();
    eventually(cx.gone_by(cx.ttl()), "the number is free", || async {
        entries(&*store, NUMBER).await.is_empty().then_some(())
    })
    .await;
    let other = open(&cx, &cx.client().await, &day).await;
    assert_eq!(other.worker(), Some(0));
    day.set_by(-HOUR);
    faults.heal();
    let worker = within(cx.soon(), "it has a number again", uid.ready()).await.unwrap();
    assert_ne!(worker, 0);
    let id = uid.next().unwrap();
    assert!(id > last);
    assert_ne!(other.next().unwrap(), id);
    assert!(uid.last_error().is_none());
}

pub(super) async fn a_number_that_was_taken_away_is_replaced(cx: Fixture) {
    let (client, store) = (cx.client().await, cx.store().await);
    let day = Day::new();
    let uid = open(&cx, &client, &day).await;
    let last = uid.next().unwrap();
    let generation = entries(&*store, NUMBER).await[0].created;
    delete(&*store, NUMBER).await;
    eventually(cx.ttl() / 3 + Duration::from_secs(2) + cx.slack(), "it takes one again", || async {
        entries(&*store, NUMBER).await.first().is_some_and(|entry| entry.created > generation).then_some(())
    })
    .await;
    within(cx.soon(), "and gives out ids of it", uid.ready()).await.unwrap();
    assert!(uid.next().unwrap() > last);
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let (day, primitives) = (Day::new(), Primitives::of(&client));
    let before = counter.counts();
    let named = |name: &str| {
        coord_service::uid::UidBuilder::new(&primitives.client, primitives.provider.allocator(), name)
    };
    let wrong = coord_testkit::bad::segments().into_iter().map(|name| named(&name));
    let options = [
        builder(&cx, &client, &day).workers(0..=1_024),
        builder(&cx, &client, &day).workers(0..=0),
        builder(&cx, &client, &day).ttl(Duration::ZERO),
        builder(&cx, &client, &day).ttl(Duration::from_secs(24 * 3_600 + 1)),
    ];
    for builder in wrong.chain(options) {
        let shown = format!("{builder:?}");
        let error = builder.open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{shown}");
    }
    assert_eq!(counter.counts().since(&before).all(), 0);
}
