//! Unique ids over the store in memory: losses, crashes, clocks that are set, restarts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use coord::prelude::*;
use coord::store::{Op, Range, Store as _, Txn};
use coord::{ErrorKind, IdOptions, Wait};
use coord_memory::MemoryProvider;
use coord_service::uid::{IDS_PER_MS, MAX_BATCH, MAX_WORKER, Uid, UidBuilder};
use tokio::time::{Instant, advance, sleep, timeout};

const TTL: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(600);
const HOUR: i64 = 3_600_000;
/// When the clocks of day stand at the beginning, in milliseconds since 1970.
const DAY: i64 = 1_790_000_000_000;

/// A clock of day that goes with the virtual time, and can be set.
#[derive(Clone)]
struct Day {
    began: Instant,
    set: Arc<AtomicI64>,
}

impl Day {
    fn new() -> Self {
        Day { began: Instant::now(), set: Arc::default() }
    }

    fn set_by(&self, ms: i64) {
        self.set.fetch_add(ms, Ordering::SeqCst);
    }

    fn unix_ms(&self) -> u64 {
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap();
        u64::try_from(DAY + passed + self.set.load(Ordering::SeqCst)).unwrap()
    }
}

fn builder(provider: &MemoryProvider, day: &Day) -> UidBuilder {
    let day = day.clone();
    UidBuilder::new(provider.core(), provider.allocator(), "orders")
        .clock(move || Duration::from_millis(day.unix_ms()))
}

async fn open(provider: &MemoryProvider, day: &Day) -> Uid {
    builder(provider, day).open().await.unwrap()
}

/// The horizon that is stored for a worker, and when it was written.
async fn horizon(provider: &MemoryProvider, worker: u32) -> Option<(u64, u64)> {
    let found = provider.store().range(Range::key(format!("/uid/orders/{worker}"))).await.unwrap();
    let entry = found.entries.into_iter().next()?;
    assert_eq!(entry.lease, None, "it outlives its writer");
    Some((std::str::from_utf8(&entry.value).unwrap().parse().unwrap(), entry.modified.get()))
}

async fn write(provider: &MemoryProvider, op: Op) {
    provider.store().txn(Txn::new().then(op)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn ids_rise_and_say_who_gave_them_out_and_when() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    assert_eq!((uid.worker(), uid.ready().await.unwrap(), uid.service()), (Some(0), 0, "orders"));
    let mut last = 0;
    for _ in 0..100 {
        let id = uid.next().unwrap();
        assert!(id > last);
        assert_eq!((Uid::parts(id).unix_ms, Uid::parts(id).worker), (day.unix_ms(), 0));
        last = id;
        advance(Duration::from_millis(7)).await;
    }
    let batch = uid.next_batch(10_000).unwrap();
    assert_eq!(batch.len(), 10_000);
    for id in batch {
        assert!(id > last);
        last = id;
    }
    assert!(uid.next_wait().await.unwrap() > last);
    uid.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn generators_of_all_providers_have_numbers_of_their_own() {
    let (one, day) = (MemoryProvider::new(), Day::new());
    let two = one.client();
    let generators = [open(&one, &day).await, open(&two, &day).await, open(&one, &day).await];
    let workers: HashSet<u32> = generators.iter().map(|uid| uid.worker().unwrap()).collect();
    assert_eq!(workers, HashSet::from([0, 1, 2]));
    let ids: HashSet<u64> = (0..3_000).map(|n| generators[n % 3].next().unwrap()).collect();
    assert_eq!(ids.len(), 3_000);
}

#[tokio::test(start_paused = true)]
async fn the_horizon_is_stored_before_the_first_id_and_then_each_third_of_the_ttl() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    let (first, mut written) = horizon(&provider, 0).await.unwrap();
    assert_eq!(first, day.unix_ms() + 20_000);
    let mut writes = 0;
    for _ in 0..605 {
        sleep(Duration::from_millis(100)).await;
        let id = uid.next().unwrap();
        let (stored, modified) = horizon(&provider, 0).await.unwrap();
        assert!(Uid::parts(id).unix_ms < stored);
        assert!(stored >= day.unix_ms() + 9_900, "a third is left at least");
        writes += u32::from(modified != written);
        written = modified;
    }
    assert_eq!(writes, 6, "one in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_set_by_an_hour_stop_nothing() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    let mut last = uid.next().unwrap();
    let mut next = || {
        let id = uid.next().unwrap();
        assert!(id > last);
        last = id;
        Uid::parts(id).unix_ms
    };
    for set in [-HOUR, HOUR, HOUR, -2 * HOUR, 3 * HOUR] {
        day.set_by(set);
        next();
        // The task stores a later horizon where the clock is beyond it.
        for _ in 0..3 {
            sleep(Duration::from_secs(1)).await;
            assert!(next() >= day.unix_ms());
        }
    }
    assert_eq!(next(), day.unix_ms(), "the clock was never later");
    day.set_by(-HOUR);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(next(), day.unix_ms() + u64::try_from(HOUR).unwrap(), "it goes on as time passes");
    assert!(uid.last_error().is_none());
}

#[tokio::test(start_paused = true)]
async fn who_takes_the_number_of_a_crashed_one_begins_above_though_its_clock_is_behind() {
    let (one, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&one, &day).await;
    sleep(Duration::from_secs(95)).await;
    // As far ahead of its time as may be.
    let last =
        uid.next_batch(IDS_PER_MS * 250).unwrap().chain(uid.next_batch(IDS_PER_MS * 250).unwrap()).last();
    let two = one.client();
    one.abandon();
    let other = open(&two, &day).await;
    assert_eq!(other.worker(), Some(1), "for as long as the lease lasts");
    sleep(TTL * 2).await;
    day.set_by(-HOUR);
    let next = open(&two, &day).await;
    assert_eq!(next.worker(), Some(0));
    let ids: Vec<u64> = next.next_batch(10_000).unwrap().collect();
    assert!(ids.iter().all(|id| Some(*id) > last));
}

#[tokio::test(start_paused = true)]
async fn a_number_that_was_lost_is_not_used_from_its_local_deadline_on() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    sleep(Duration::from_secs(3)).await;
    provider.disconnect();
    let mut last = 0;
    // Ids go on, though no horizon can be stored, for as long as the number is held.
    for _ in 0..26 {
        sleep(Duration::from_secs(1)).await;
        let id = uid.next().unwrap();
        assert!(id > last);
        last = id;
    }
    assert_eq!(uid.last_error().map(|error| error.kind()), Some(ErrorKind::Unavailable));
    assert_eq!(uid.worker(), Some(0));
    // The clock alone decides: no task runs between these two.
    advance(Duration::from_secs(1)).await;
    let error = uid.next().unwrap_err();
    assert_eq!(
        (error.kind(), error.key(), error.operation()),
        (ErrorKind::LeaseLost, Some("orders"), "uid.next")
    );
    assert_eq!(uid.worker(), None);
    for error in [uid.next_wait().await.unwrap_err(), uid.next_batch_wait(5).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::LeaseLost);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_it_goes_on_with_a_number_that_is_free_above_all_that_it_gave_out() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    let other = provider.client();
    let mut last = 0;
    for outage in 0..4 {
        last = uid.next_batch(IDS_PER_MS * 200).unwrap().last().unwrap().max(last);
        provider.disconnect();
        sleep(TTL * 2).await;
        assert_eq!(uid.next().unwrap_err().kind(), ErrorKind::LeaseLost);
        // Its number is another's by the time that it comes back.
        let taken = open(&other, &day).await;
        day.set_by(-HOUR);
        provider.reconnect();
        let worker = timeout(LONG, uid.ready()).await.unwrap().unwrap();
        assert_ne!(Some(worker), taken.worker());
        let id = uid.next().unwrap();
        assert!(id > last, "outage {outage}");
        assert_eq!(Uid::parts(id).worker, worker);
        last = id;
        if outage % 2 == 0 {
            taken.close().await.unwrap();
        } else {
            drop(taken);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_that_somebody_took_away_is_noticed_and_replaced() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    let last = uid.next().unwrap();
    write(&provider, Op::delete("/im-infra/allocators/orders/ids/0")).await;
    let (_, before) = horizon(&provider, 0).await.unwrap();
    // By the renewal, or by the horizon that the store refuses, whichever comes first.
    sleep(Duration::from_secs(12)).await;
    assert_eq!(uid.ready().await.unwrap(), 0);
    assert!(horizon(&provider, 0).await.unwrap().1 > before);
    let id = uid.next().unwrap();
    assert!(Uid::parts(id).unix_ms >= Uid::parts(last).unix_ms + 20_000, "above the horizon of before");
}

#[tokio::test(start_paused = true)]
async fn quick_restarts_do_not_add_up() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let mut last = 0;
    for restart in 0..100 {
        let uid = open(&provider, &day).await;
        let id = uid.next().unwrap();
        assert!(id > last);
        last = id;
        if restart % 2 == 0 {
            uid.close().await.unwrap();
        } else {
            // The task gives it back in its own time.
            drop(uid);
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(horizon(&provider, 0).await.unwrap().0, Uid::parts(last).unix_ms + 1);
    }
    assert_eq!(Uid::parts(last).worker, 0);
    assert!(Uid::parts(last).unix_ms <= day.unix_ms() + 100, "a millisecond each, and not 20 s");
}

#[tokio::test(start_paused = true)]
async fn a_second_of_ids_is_borrowed_and_then_there_are_more_as_time_passes() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    let mut taken = 0;
    let error = loop {
        match uid.next_batch(IDS_PER_MS) {
            Ok(batch) => taken += batch.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(taken, 1_001 * IDS_PER_MS as usize);
    assert_eq!((error.kind(), error.key()), (ErrorKind::Exhausted, Some("orders")));
    assert_eq!(uid.next().unwrap_err().kind(), ErrorKind::Exhausted);
    let began = Instant::now();
    let mut last = uid.next_wait().await.unwrap();
    for _ in 0..20 {
        for id in timeout(LONG, uid.next_batch_wait(IDS_PER_MS * 10)).await.unwrap().unwrap() {
            assert!(id > last);
            last = id;
        }
    }
    assert!((200..=202).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_waits_below_the_horizon_goes_on_when_a_later_one_is_stored_or_learns_of_the_loss() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    let use_up = || {
        day.set_by(HOUR);
        while uid.next_batch(IDS_PER_MS).is_ok() {}
        assert_eq!(uid.next().unwrap_err().kind(), ErrorKind::Unavailable);
    };
    use_up();
    let (id, ids) = tokio::join!(uid.next_wait(), uid.next_batch_wait(MAX_BATCH));
    assert!(Uid::parts(id.unwrap()).unix_ms >= day.unix_ms());
    assert_eq!(ids.unwrap().len(), MAX_BATCH as usize);
    provider.disconnect();
    use_up();
    let error = timeout(TTL, uid.next_wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_whole_or_not_given_out() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    assert_eq!(uid.next_batch(0).unwrap().count(), 0);
    let error = uid.next_batch(MAX_BATCH + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let error = uid.next_batch_wait(u32::MAX).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let before = uid.next().unwrap();
    while uid.next_batch(MAX_BATCH).is_ok() {}
    // What did not fit has taken nothing.
    assert!(uid.next_batch(MAX_BATCH / 2).is_ok());
    assert!(uid.next().unwrap() > before);
}

#[tokio::test(start_paused = true)]
async fn the_1025th_worker_is_told_that_none_is_left() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let mut generators = Vec::new();
    for _ in 0..=MAX_WORKER {
        generators.push(open(&provider, &day).await);
    }
    let error = builder(&provider, &day).open().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.key(), error.operation()),
        (ErrorKind::Exhausted, Some("orders"), "uid.open")
    );
    let ids: HashSet<u64> = generators.iter().map(|uid| uid.next().unwrap()).collect();
    assert_eq!(ids.len(), 1_024);
    let waiting = builder(&provider, &day).wait(Wait::For(LONG)).open();
    let (opened, closed) = tokio::join!(waiting, generators[700].close());
    closed.unwrap();
    assert_eq!(opened.unwrap().worker(), Some(700));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_an_invalid_argument_before_any_request() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    provider.disconnect();
    let named = |name: &str| UidBuilder::new(provider.core(), provider.allocator(), name);
    for name in ["", "a/b", "/a", ".", "..", "a\n", &"x".repeat(513)] {
        let error = named(name).open().await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::InvalidArgument, "uid.open"), "{name:?}");
    }
    for wrong in [
        builder(&provider, &day).workers(0..=1_024),
        builder(&provider, &day).workers(0..=0),
        builder(&provider, &day).ttl(Duration::ZERO),
        builder(&provider, &day).ttl(Duration::from_secs(24 * 3_600 + 1)),
    ] {
        let shown = format!("{wrong:?}");
        assert_eq!(wrong.open().await.unwrap_err().kind(), ErrorKind::InvalidArgument, "{shown}");
    }
    let error = builder(&provider, &day).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "the rest asks the store");
}

#[tokio::test(start_paused = true)]
async fn a_range_of_numbers_is_kept_to_and_shared_with_other_ids_of_the_service() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let other = provider.client();
    let held =
        other.allocator().acquire_id_with("orders", IdOptions::default().with_range(7..=9)).await.unwrap();
    assert_eq!(held.id(), 7);
    let uid = builder(&provider, &day).workers(7..=9).open().await.unwrap();
    assert_eq!(uid.worker(), Some(8));
    let error = builder(&provider, &day).workers(0..=3).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "one range for a service");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_horizon_is_left_alone_and_told() {
    for wrong in ["", "soon", "-5", "12", "99999999999999"] {
        let (provider, day) = (MemoryProvider::new(), Day::new());
        write(&provider, Op::put("/uid/orders/0", wrong)).await;
        let error = builder(&provider, &day).open().await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Codec, "uid.open"), "{wrong:?}");
        sleep(Duration::from_secs(1)).await;
        let found = provider.store().range(Range::key("/uid/orders/0")).await.unwrap();
        assert_eq!(found.entries[0].value.as_ref(), wrong.as_bytes());
        let free = provider.allocator().acquire_id_with("orders", IdOptions::default().with_range(0..=1_023));
        assert_eq!(free.await.unwrap().id(), 0, "the number was given back");
    }
}

#[tokio::test(start_paused = true)]
async fn clocks_without_a_sensible_time_are_lived_with() {
    for day_ms in [0, u64::MAX] {
        let provider = MemoryProvider::new();
        let open = || {
            UidBuilder::new(provider.core(), provider.allocator(), "orders")
                .clock(move || Duration::from_millis(day_ms))
                .open()
        };
        let uid = open().await.unwrap();
        let first = uid.next().unwrap();
        sleep(Duration::from_secs(25)).await;
        let second = uid.next().unwrap();
        assert!(Uid::parts(second).unix_ms >= Uid::parts(first).unix_ms + 25_000);
        uid.close().await.unwrap();
        assert!(open().await.unwrap().next().unwrap() > second);
    }
}

#[tokio::test(start_paused = true)]
async fn closed_it_gives_out_nothing_and_its_number_is_free() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    let clone = uid.clone();
    let last = uid.next().unwrap();
    uid.close().await.unwrap();
    clone.close().await.unwrap();
    for error in [
        clone.next().unwrap_err(),
        clone.next_wait().await.unwrap_err(),
        clone.next_batch(1).unwrap_err(),
        clone.ready().await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.key()), (ErrorKind::Closed, Some("orders")));
    }
    let other = open(&provider.client(), &day).await;
    assert_eq!(other.worker(), Some(0));
    assert!(other.next().unwrap() > last);
}

#[tokio::test(start_paused = true)]
async fn where_the_provider_is_closed_first_nothing_is_given_out_and_the_order_is_told() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let other = provider.client();
    let uid = open(&provider, &day).await;
    let last = uid.next().unwrap();
    provider.close().await.unwrap();
    timeout(LONG, async {
        while uid.worker().is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    let error = timeout(LONG, uid.close()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.to_string().contains("close the generator first"), "{error}");
    assert_eq!(uid.next().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(timeout(LONG, uid.ready()).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    let next = open(&other, &day).await;
    assert_eq!(next.worker(), Some(0));
    assert!(next.next().unwrap() > last);
}

#[tokio::test(start_paused = true)]
async fn closing_while_the_store_is_away_says_so_and_ends() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    let uid = open(&provider, &day).await;
    let last = uid.next().unwrap();
    provider.disconnect();
    let error = timeout(LONG, uid.close()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(uid.next().unwrap_err().kind(), ErrorKind::Closed);
    provider.reconnect();
    sleep(TTL * 2).await;
    let next = open(&provider, &day).await;
    assert_eq!(next.worker(), Some(0));
    assert!(next.next().unwrap() > last);
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_is_given_up_leaves_no_number_taken() {
    let (provider, day) = (MemoryProvider::new(), Day::new());
    for polls in 1..40 {
        let mut opening = Box::pin(builder(&provider, &day).open());
        for _ in 0..polls {
            let polled = poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx).is_ready())).await;
            if polled {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(opening);
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(open(&provider, &day).await.worker(), Some(0));
}

/// Real threads, real clocks, and a runtime that has ended.
#[test]
fn many_threads_share_a_generator_that_outlives_the_runtime_that_opened_it() {
    let provider = MemoryProvider::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opening =
        UidBuilder::new(provider.core(), provider.allocator(), "orders").ttl(Duration::from_secs(3));
    let uid = runtime.block_on(opening.open()).unwrap();
    drop(runtime);
    let began = std::time::Instant::now();
    let ids: Vec<u64> = std::thread::scope(|scope| {
        let take = || {
            let mut ids = Vec::new();
            // Longer than its horizon, so that later ones must be stored.
            while began.elapsed() < Duration::from_millis(2_500) {
                ids.extend(uid.next());
                ids.extend(uid.next_batch(3).into_iter().flatten());
                std::thread::sleep(Duration::from_micros(200));
            }
            assert!(ids.is_sorted());
            ids
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    assert!(uid.next().is_ok(), "{:?}", uid.last_error());
}
