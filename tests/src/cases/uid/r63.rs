//! R63 No id comes twice.

use std::collections::HashSet;

use coord_service::uid::{IDS_PER_MS, Uid, UidBuilder};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use tokio::time::sleep;

use super::primitives::{Primitives, delete, entries};
use super::{Day, HOUR, builder, open};

pub(super) async fn ids_of_many_generators_are_different_and_rise(cx: Fixture) {
    let day = Day::new();
    let mut generators = Vec::new();
    for client in [cx.client().await, cx.client().await, cx.client().await] {
        for _ in 0..2 {
            generators.push(open(&cx, &client, &day).await);
        }
    }
    let taking = generators.iter().map(|uid| async {
        let mut ids = Vec::new();
        for _ in 0..200 {
            ids.push(uid.next_wait().await.unwrap());
            ids.extend(uid.next_batch_wait(50).await.unwrap());
            tokio::task::yield_now().await;
        }
        assert!(ids.is_sorted_by(|one, two| one < two));
        ids
    });
    let taken = within(cx.soon(), "all have their ids", futures_util::future::join_all(taking)).await;
    let ids: HashSet<u64> = taken.iter().flatten().copied().collect();
    assert_eq!(ids.len(), 6 * 200 * 51);
}

/// What a generator has given out at last, as far ahead of its time as may be.
fn last_of(uid: &Uid) -> u64 {
    // The shortest TTL has room for half a second.
    uid.next_batch(IDS_PER_MS * 200).unwrap().last().unwrap()
}

pub(super) async fn who_has_a_number_after_a_crash_gives_out_greater_ones(cx: Fixture) {
    let day = Day::new();
    let client = cx.client().await;
    let crashes = open(&cx, &client, &day).await;
    let last = last_of(&crashes);
    client.crash().await;
    day.set_by(-HOUR);
    let other = cx.client().await;
    let store = cx.store().await;
    eventually(cx.gone_by(cx.ttl()), "the number is free", || async {
        entries(&*store, "/im-infra/allocators/u/ids/").await.is_empty().then_some(())
    })
    .await;
    let uid = open(&cx, &other, &day).await;
    assert_eq!(uid.worker(), Some(0));
    assert!(uid.next().unwrap() > last);
}

pub(super) async fn who_has_a_number_after_a_release_gives_out_greater_ones(cx: Fixture) {
    let day = Day::new();
    let mut last = 0;
    for client in [cx.client().await, cx.client().await, cx.client().await] {
        let uid = open(&cx, &client, &day).await;
        assert_eq!(uid.worker(), Some(0));
        assert!(uid.next().unwrap() > last);
        last = last_of(&uid);
        uid.close().await.unwrap();
        day.set_by(-HOUR);
    }
}

/// As where a machine stands still: the one that had the number has not noticed yet.
pub(super) async fn of_two_who_believe_to_have_a_number_each_has_ids_of_its_own(cx: Fixture) {
    let (day, store) = (Day::new(), cx.store().await);
    let (one, two) = (cx.client().await, cx.client().await);
    let mine = open(&cx, &one, &day).await;
    delete(&*store, "/im-infra/allocators/u/ids/0").await;
    // Opened at once, so that the first one has not looked yet, on a good machine.
    day.set_by(-HOUR);
    let theirs = open(&cx, &two, &day).await;
    let mut ids = HashSet::new();
    let (mut taken, mut both) = (0, 0);
    for _ in 0..50 {
        let mut at_once = 0;
        for uid in [&mine, &theirs] {
            // The first one may notice at any moment.
            if let Ok(batch) = uid.next_batch(IDS_PER_MS) {
                taken += batch.len();
                at_once += 1;
                ids.extend(batch);
            }
        }
        both += u32::from(at_once == 2);
        sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(ids.len(), taken);
    assert!(both > 0 || !cx.virtual_time(), "nobody believed so");
}

pub(super) async fn services_have_numbers_of_their_own(cx: Fixture) {
    let (day, client) = (Day::new(), cx.client().await);
    let primitives = Primitives::of(&client);
    let other = UidBuilder::new(&primitives.client, primitives.provider.allocator(), "u.other");
    let (one, other) = (builder(&cx, &client, &day).open().await.unwrap(), other.open().await.unwrap());
    assert_eq!((one.worker(), other.worker()), (Some(0), Some(0)));
    assert_eq!((one.service(), other.service()), ("u", "u.other"));
}
