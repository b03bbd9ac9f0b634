//! R65 The time in the ids.

use std::time::Duration;

use coord_api::ErrorKind;
use coord_service::uid::IDS_PER_MS;
use coord_testkit::Fixture;
use coord_testkit::wait::eventually;
use tokio::time::{Instant, sleep};

use super::{Day, HOUR, open, unix_ms};

pub(super) async fn clocks_that_are_set_stop_nothing(cx: Fixture) {
    let (day, client) = (Day::new(), cx.client().await);
    let uid = open(&cx, &client, &day).await;
    let mut last = uid.next().unwrap();
    for set in [-HOUR, HOUR, HOUR, -3 * HOUR, 4 * HOUR] {
        day.set_by(set);
        for _ in 0..20 {
            let id = uid.next().unwrap();
            assert!(id > last);
            last = id;
        }
        eventually(cx.soon(), "the ids are not behind the clock", || async {
            let id = uid.next().unwrap();
            (unix_ms(id) + 50 >= day.unix_ms()).then_some(())
        })
        .await;
        last = uid.next().unwrap();
    }
    let (before, began) = (unix_ms(last), Instant::now());
    day.set_by(-HOUR);
    sleep(Duration::from_millis(100)).await;
    let passed = u64::try_from(began.elapsed().as_millis()).unwrap();
    let id = unix_ms(uid.next().unwrap());
    assert!((before + 100..=before + passed + 60).contains(&id), "{before} {id} {passed}");
}

pub(super) async fn an_id_asks_nothing_of_the_store(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let day = Day::new();
    let uid = open(&cx, &client, &day).await;
    let ((), counts) = counter
        .during(async {
            for _ in 0..1_000 {
                uid.next().unwrap();
            }
            uid.next_batch(1_000).unwrap();
        })
        .await;
    assert_eq!(counts.requests(), 0, "{counts:?}");
}

pub(super) async fn a_second_is_borrowed_and_no_more(cx: Fixture) {
    let (day, client) = (Day::new(), cx.client().await);
    let uid = super::builder(&cx, &client, &day).ttl(Duration::from_secs(30)).open().await.unwrap();
    let mut last = 0;
    let error = loop {
        match uid.next_batch(IDS_PER_MS * 20) {
            Ok(batch) => last = batch.last().unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    let now = day.unix_ms();
    assert!(unix_ms(last) <= now + 1_000 && unix_ms(last) + 50 > now + 900, "{} {now}", unix_ms(last));
    // Time passes, and with it there are more.
    let batch = uid.next_batch_wait(IDS_PER_MS * 100).await.unwrap();
    assert!(batch.last().unwrap() > last);
    assert!(uid.next_wait().await.unwrap() > last);
}
