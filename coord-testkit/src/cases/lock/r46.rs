//! R46 Downgrade.

use coord_api::prelude::*;
use coord_api::{ErrorKind, LockMode, Outcome};

use super::super::leased::{delete, lost_within, queue};
use super::r45::{attempt, is_held_against, share};
use super::stand_in_line;
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{never_within, within};
use crate::wrap::Fault;

pub(super) async fn readers_come_in_and_no_writer(cx: Fixture) {
    let (holder, other) = (cx.provider().await, cx.provider().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    is_held_against(&cx, &other, LockMode::Shared).await;
    guard.downgrade().await.unwrap();
    assert!(guard.is_held() && guard.mode() == LockMode::Shared);
    let tried = attempt(&cx, &other, LockMode::Shared).await.unwrap();
    let waited = within(cx.soon(), "a reader is granted", share(&cx, &other)).await;
    is_held_against(&cx, &other, LockMode::Exclusive).await;
    let mut writer = stand_in_line(&cx, &other, "k").await;
    for guard in [tried, waited, guard] {
        never_within(cx.slack(), "a grant to the writer", &mut writer).await;
        assert!(guard.is_held());
        guard.unlock().await.unwrap();
    }
    assert!(within(cx.soon(), "the writer is granted", writer).await.unwrap().unwrap().is_held());
}

pub(super) async fn readers_that_wait_are_let_in(cx: Fixture) {
    let (holder, other) = (cx.provider().await, cx.provider().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let mut reader = Box::pin(share(&cx, &other));
    never_within(cx.slack(), "a grant to the reader", &mut reader).await;
    guard.downgrade().await.unwrap();
    let reader = within(cx.soon(), "the reader is granted", reader).await;
    assert!(reader.is_held() && guard.is_held());
}

pub(super) async fn a_writer_that_waits_is_not_let_in(cx: Fixture) {
    let (holder, other) = (cx.provider().await, cx.provider().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let mut writer = stand_in_line(&cx, &other, "k").await;
    guard.downgrade().await.unwrap();
    never_within(cx.ttl(), "a grant to the writer", &mut writer).await;
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
    assert!(within(cx.soon(), "the writer is granted", writer).await.unwrap().unwrap().is_held());
}

pub(super) async fn key_place_and_token_stay(cx: Fixture) {
    let (holder, store) = (cx.provider().await, cx.store().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let (token, before) = (guard.fencing_token(), queue(&*store, "k").await);
    guard.downgrade().await.unwrap();
    let after = queue(&*store, "k").await;
    let place = |entries: &[coord_api::store::Entry]| {
        entries.iter().map(|entry| (entry.key.clone(), entry.created, entry.lease)).collect::<Vec<_>>()
    };
    assert_eq!(place(&after), place(&before));
    assert_ne!(after[0].value, before[0].value, "the entry says that it is shared");
    assert_eq!((guard.fencing_token(), guard.key()), (token, "k"));
    // The next renewals find what they look for.
    tokio::time::sleep(cx.ttl() * 2).await;
    assert!(guard.is_held());
}

pub(super) async fn a_shared_guard_stays_as_it_is(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let guard = share(&cx, &client.provider).await;
    let (answer, counts) = counter.during(guard.downgrade()).await;
    answer.unwrap();
    assert_eq!(counts.requests(), 0, "{counts:?}");
    assert!(guard.is_held() && guard.mode() == LockMode::Shared);
    // And one that was downgraded already.
    let other = client.provider.lock().acquire("l", cx.ttl()).await.unwrap();
    other.downgrade().await.unwrap();
    other.downgrade().await.unwrap();
    assert!(other.is_held());
}

pub(super) async fn in_doubt_it_counts_as_shared_and_can_be_repeated(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
        for _ in 0..3 {
            faults.next_put(fault, layout::lock_queue("k"));
        }
        let first = within(cx.soon(), "an answer", guard.downgrade()).await;
        assert_eq!(guard.mode(), LockMode::Shared, "{fault:?}");
        if let Err(error) = first {
            assert!(error.is_transient(), "{fault:?}: {error}");
            let known = fault == Fault::Refuse && error.outcome() == Outcome::NotApplied;
            assert!(known || error.outcome() == Outcome::Unknown, "{fault:?}: {error:?}");
        }
        faults.heal();
        while let Err(error) = within(cx.soon(), "an answer", guard.downgrade()).await {
            assert!(error.is_transient(), "{fault:?}: {error}");
        }
        assert!(guard.is_held(), "{fault:?}");
        let reader = within(cx.soon(), "a reader is granted", share(&cx, &other)).await;
        reader.unlock().await.unwrap();
        guard.unlock().await.unwrap();
        let writer = attempt(&cx, &other, LockMode::Exclusive).await.unwrap();
        writer.unlock().await.unwrap();
    }
}

pub(super) async fn dropped_at_any_await_point_it_can_be_repeated(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    for polls in 1.. {
        let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
        let done = matches!(poll_times(polls, cx.slack(), guard.downgrade()).await, Polled::Done(_));
        assert_eq!(guard.mode(), LockMode::Shared);
        assert!(guard.is_held(), "after {polls} polls");
        if polls % 2 == 0 {
            within(cx.soon(), "an answer", guard.downgrade()).await.unwrap();
            let reader = within(cx.soon(), "a reader is granted", share(&cx, &other)).await;
            assert!(reader.is_held() && guard.is_held());
            reader.unlock().await.unwrap();
        }
        guard.unlock().await.unwrap();
        let next = other.lock().acquire("k", cx.ttl());
        within(cx.soon(), "the lock is free", next).await.unwrap().unlock().await.unwrap();
        if done {
            return;
        }
    }
}

pub(super) async fn a_lost_guard_is_not_downgraded(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    for entry in queue(&*store, "k").await {
        delete(&*store, entry.key).await;
    }
    let next = attempt(&cx, &cx.provider().await, LockMode::Exclusive).await.unwrap();
    let error = within(cx.soon(), "an answer", guard.downgrade()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(next.is_held());
    assert_eq!(queue(&*store, "k").await.len(), 1, "nothing is written for a lost guard");
    lost_within(cx.ttl() + cx.soon(), "the loss is noticed", guard.lost()).await;
    assert_eq!(guard.downgrade().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    next.unlock().await.unwrap();
}

pub(super) async fn applied_late_it_harms_no_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let other = cx.provider().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    faults.next_put(Fault::Hold, layout::lock_queue("k"));
    let _ = within(cx.soon(), "an answer", guard.downgrade()).await;
    guard.unlock().await.unwrap();
    let next = other.lock().acquire("k", cx.ttl()).await.unwrap();
    for late in faults.take_held() {
        let _ = late.apply().await;
    }
    let entries = queue(&*cx.store().await, "k").await;
    assert_eq!(entries.len(), 1, "what was released does not come back: {entries:?}");
    is_held_against(&cx, &other, LockMode::Shared).await;
    assert!(next.is_held() && next.mode() == LockMode::Exclusive);
}
