//! R32 Loss.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, HandleState, LockGuard};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::leased::{
    Lasting, ONE_SECOND, at_the_deadline, delete, lost_within, note_renewals, on_a_machine_in_time, queue,
};
use crate::fixture::Fixture;
use crate::wait::{eventually, never_within};
use crate::wrap::{Counts, Fault, Request};

/// Asserts that a guard is over, and stays so for ever.
fn is_over(guard: &LockGuard) {
    assert!(!guard.is_held());
    assert!(matches!(guard.state(), HandleState::Ended(_)));
    assert_eq!(guard.ttl(), Duration::ZERO);
}

pub(super) async fn lost_fires_at_the_local_deadline_while_the_store_hangs(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let guards = [
        client.provider.lock().acquire("k", cx.ttl()).await.unwrap(),
        client.provider.lock().acquire("l", cx.ttl()).await.unwrap(),
        client.provider.lock().acquire("m", cx.ttl() * 2).await.unwrap(),
    ];
    sleep(cx.ttl() * 3 / 2).await;
    faults.hang();
    let start = Instant::now();
    assert!(guards.iter().all(LockGuard::is_held));
    let lefts = guards.each_ref().map(LockGuard::ttl);
    for (guard, left) in guards.iter().zip(lefts) {
        lost_within(cx.ttl() * 2 + cx.soon(), "lost() fires", guard.lost()).await;
        at_the_deadline(&cx, start.elapsed(), left);
        is_over(guard);
    }
}

pub(super) async fn renewals_whose_answers_are_lost_do_not_count(cx: Fixture) {
    // The store renews and nobody hears of it: what is not known may not be believed.
    let (client, faults) = cx.faulty().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let _deaf =
        Lasting::begin(&faults, Fault::LoseAnswer, |request| matches!(request, Request::KeepAlive(_)));
    let left = guard.ttl();
    let (_, elapsed) = lost_within(cx.ttl() + cx.soon(), "lost() fires", guard.lost()).await;
    at_the_deadline(&cx, elapsed, left);
    is_over(&guard);
}

/// When a removed entry is noticed at the latest.
fn removal_noticed(cx: &Fixture) -> Duration {
    cx.ttl() / 3 + ONE_SECOND + cx.slack()
}

pub(super) async fn a_removed_entry_is_noticed_among_many(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let keys: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    let mut guards = Vec::new();
    for key in &keys {
        guards.push(provider.lock().acquire(key, cx.ttl()).await.unwrap());
    }
    // Acquired later than a round, removed together, released meanwhile.
    sleep(cx.ttl() / 2).await;
    for key in &keys[10..20] {
        delete(&*store, queue(&*store, key).await[0].key.to_vec()).await;
    }
    guards[30].unlock().await.unwrap();
    sleep(removal_noticed(&cx)).await;
    for (n, guard) in guards.iter().enumerate() {
        assert_eq!(guard.is_held(), !(10..20).contains(&n) && n != 30, "{n}");
    }
}

pub(super) async fn one_look_a_round_serves_all_handles(cx: Fixture) {
    let (few, many) = (cx.counting().await, cx.counting().await);
    let mut guards = vec![few.0.provider.lock().acquire("k", cx.ttl()).await.unwrap()];
    for n in 0..50 {
        guards.push(many.0.provider.lock().acquire(&format!("k{n}"), cx.ttl()).await.unwrap());
    }
    let (few_before, many_before) = (few.1.counts(), many.1.counts());
    sleep(cx.ttl() * 4).await;
    let cost = |counts: Counts| counts.range + counts.txn + counts.keep_alive + counts.lease;
    let (few, many) = (cost(few.1.counts().since(&few_before)), cost(many.1.counts().since(&many_before)));
    // One round more or less falls into the time.
    assert!(many <= few + 2, "{many} requests for 50 handles, {few} for one");
    assert!(guards.iter().all(LockGuard::is_held));
}

pub(super) async fn a_short_cut_loses_nothing(cx: Fixture) {
    on_a_machine_in_time(async || loses_nothing_by_short_cuts(&cx).await).await;
}

/// Asserts that cuts of two fifths of the TTL lose nothing. Says whether they were that short.
async fn loses_nothing_by_short_cuts(cx: &Fixture) -> bool {
    let (client, faults) = cx.faulty().await;
    let noted = note_renewals(&faults);
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let mut lost = guard.lost();
    for hang in [true, false, true, false] {
        let seen = noted.lock().unwrap().len();
        let renewal = eventually(cx.ttl() + cx.soon(), "a renewal", || async {
            (noted.lock().unwrap().len() > seen || !guard.is_held()).then_some(())
        });
        renewal.await;
        sleep(cx.ttl() / 20).await;
        let cut = Instant::now();
        if hang {
            faults.hang()
        } else {
            faults.cut()
        }
        sleep_until(cut + cx.ttl() * 2 / 5).await;
        faults.heal();
        // As much again is left to the pauses between tries.
        if cut.elapsed() > cx.ttl() / 2 {
            return false;
        }
    }
    never_within(cx.ttl() * 2, "a loss", &mut lost).await;
    assert!(guard.is_held());
    let other = cx.provider().await;
    assert_eq!(other.lock().try_acquire("k", cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
    true
}
