//! R28 Fair.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::prelude::*;
use coord_api::store::Span;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::super::leased::{ONE_SECOND, head, queue};
use super::super::slow::slow_provider;
use super::{acquire, stand_in_line};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, never_within, within};
use crate::wrap::{Counter, Fault, Faults, Request};

pub(super) async fn waiters_are_served_in_the_order_of_their_entries(cx: Fixture) {
    let providers = join_all((0..4).map(|_| cx.provider())).await;
    let holder = providers[0].lock().acquire("k", cx.ttl()).await.unwrap();
    let (served, store) = (Arc::new(Mutex::new(Vec::new())), cx.store().await);
    let waiters: Vec<_> = (0..16)
        .map(|n| {
            let (lock, ttl, served) = (Arc::clone(providers[n % 4].lock()), cx.ttl(), Arc::clone(&served));
            tokio::spawn(async move {
                let guard = lock.acquire("k", ttl).await.unwrap();
                served.lock().unwrap().push(guard.fencing_token().get());
                tokio::time::sleep(Duration::from_millis(1)).await;
                guard.unlock().await.unwrap();
            })
        })
        .collect();
    let line = eventually(cx.soon(), "all stand in the queue", || async {
        let line = queue(&*store, "k").await;
        (line.len() == 17).then_some(line)
    })
    .await;
    holder.unlock().await.unwrap();
    for waiter in waiters {
        within(cx.soon(), "every waiter is served", waiter).await.unwrap();
    }
    let expected: Vec<u64> = line[1..].iter().map(|entry| entry.created.get()).collect();
    assert_eq!(*served.lock().unwrap(), expected);
}

pub(super) async fn each_waiter_is_served_when_its_own_entry_is_the_oldest(cx: Fixture) {
    // Of one provider, so that it might confuse them, and of two.
    for others in [1, 2] {
        let (providers, store) = (join_all((0..others).map(|_| cx.provider())).await, cx.store().await);
        let mut holder = providers[0].lock().acquire("k", cx.ttl()).await.unwrap();
        let mut line = std::collections::VecDeque::new();
        for n in 0..6 {
            line.push_back(stand_in_line(&cx, &providers[n % others], "k").await);
        }
        while let Some(waiter) = line.pop_front() {
            let entries = queue(&*store, "k").await;
            holder.unlock().await.unwrap();
            holder = within(cx.soon(), "who came first is served first", waiter).await.unwrap().unwrap();
            assert_eq!(holder.fencing_token().get(), entries[1].created.get());
            assert!(line.iter().all(|waiter| !waiter.is_finished()));
        }
        holder.unlock().await.unwrap();
    }
}

pub(super) async fn an_unlock_grants_to_the_next_waiter_alone(cx: Fixture) {
    let holder = cx.provider().await.lock().acquire("k", cx.ttl()).await.unwrap();
    let mut first = stand_in_line(&cx, &cx.provider().await, "k").await;
    let mut second = stand_in_line(&cx, &cx.provider().await, "k").await;
    never_within(cx.ttl(), "a grant", &mut first).await;
    holder.unlock().await.unwrap();
    let first = within(cx.soon(), "the first is granted", first).await.unwrap().unwrap();
    never_within(cx.ttl(), "a grant to the second", &mut second).await;
    assert!(first.is_held());
    first.unlock().await.unwrap();
    let _ = within(cx.soon(), "the second is granted", second).await.unwrap().unwrap();
}

pub(super) async fn a_dropped_guard_grants_to_the_next_waiter_alone(cx: Fixture) {
    let holder = cx.provider().await.lock().acquire("k", cx.ttl()).await.unwrap();
    let first = stand_in_line(&cx, &cx.provider().await, "k").await;
    let mut second = stand_in_line(&cx, &cx.provider().await, "k").await;
    drop(holder);
    let first = within(cx.soon(), "the first is granted", first).await.unwrap().unwrap();
    never_within(cx.ttl(), "a grant to the second", &mut second).await;
    drop(first);
    let _ = within(cx.soon(), "the second is granted", second).await.unwrap().unwrap();
}

/// Hands a lock over to `waiters` waiters, one after the other, and says what that cost.
async fn cost_of_hand_overs(cx: &Fixture, waiters: usize) -> usize {
    let clients = join_all((0..4).map(|_| cx.counting())).await;
    let (store, key) = (cx.store().await, "k");
    let holder = clients[0].0.provider.lock().acquire(key, cx.ttl()).await.unwrap();
    let line: Vec<_> = (0..waiters).map(|n| acquire(cx, &clients[n % 4].0.provider, key)).collect();
    eventually(cx.soon() * 6, "all stand in the queue", || async {
        (queue(&*store, key).await.len() > waiters).then_some(())
    })
    .await;
    // They may still be reading who stands before them.
    tokio::time::sleep(cx.slack()).await;
    let asked = |clients: &[(crate::Client, Counter)]| {
        clients.iter().map(|(_, counter)| counter.counts().requests()).sum::<usize>()
    };
    let before = asked(&clients);
    let served: Vec<_> = line
        .into_iter()
        .map(|waiter| tokio::spawn(async move { waiter.await.unwrap().unwrap().unlock().await.unwrap() }))
        .collect();
    holder.unlock().await.unwrap();
    for served in served {
        within(cx.soon() * 3, "every waiter is served", served).await.unwrap();
    }
    assert_eq!(queue(&*store, key).await.len(), 0);
    asked(&clients) - before
}

pub(super) async fn a_hand_over_costs_at_most_two_requests(cx: Fixture) {
    let cost = cost_of_hand_overs(&cx, 20).await;
    // One unlock more than there are hand-overs.
    assert!(cost <= 2 * 20 + 1, "{cost} requests for 20 hand-overs");
}

pub(super) async fn the_cost_of_a_hand_over_does_not_grow_with_the_queue(cx: Fixture) {
    let cost = cost_of_hand_overs(&cx, 300).await;
    assert!(cost <= 2 * 300 + 1, "{cost} requests for 300 hand-overs");
}

/// Notes the watches that a client opens.
fn note_watches(faults: &Faults) -> Arc<Mutex<Vec<Span>>> {
    let noted = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&noted);
    faults.next(Fault::Refuse, move |request| {
        if let Request::Watch(span) = request {
            notes.lock().unwrap().push((*span).clone());
        }
        false
    });
    noted
}

pub(super) async fn many_waiters_of_a_provider_share_one_watch(cx: Fixture) {
    let holder = cx.provider().await.lock().acquire("k", cx.ttl()).await.unwrap();
    let (client, faults) = cx.faulty().await;
    let (noted, start) = (note_watches(&faults), Instant::now());
    for _ in 0..30 {
        stand_in_line(&cx, &client.provider, "k").await;
    }
    let queue = layout::lock_queue("k");
    let opened =
        noted.lock().unwrap().iter().filter(|span| span.start().starts_with(queue.as_bytes())).count();
    // A store may break its watches now and then; each is then opened anew.
    let reconnects = start.elapsed().as_millis() / 100;
    assert!(opened as u128 <= 1 + reconnects, "{opened} watches for 30 waiters, in {:?}", start.elapsed());
    assert!(holder.is_held());
}

pub(super) async fn no_watch_reaches_another_lock(cx: Fixture) {
    let holder = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let noted = note_watches(&faults);
    let keys = ["a", "ab", "a/b", "b"];
    let mut held = Vec::new();
    for key in keys {
        held.push(holder.lock().acquire(key, cx.ttl()).await.unwrap());
        stand_in_line(&cx, &client.provider, key).await;
    }
    for span in noted.lock().unwrap().iter() {
        let reached = keys.iter().filter(|key| {
            let queue = layout::lock_queue(key);
            span.contains(format!("{queue}1-1").as_bytes()) || span.start().starts_with(queue.as_bytes())
        });
        assert!(reached.count() <= 1, "{span:?} reaches more than one lock");
    }
}

pub(super) async fn a_hand_over_inside_a_process_goes_through_the_store(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let first = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let second = stand_in_line(&cx, &provider, "k").await;
    let before = queue(&*store, "k").await;
    assert_eq!(before[0].created.get(), first.fencing_token().get());
    first.unlock().await.unwrap();
    let second = within(cx.soon(), "the second is granted", second).await.unwrap().unwrap();
    assert_eq!(
        queue(&*store, "k").await,
        before[1..],
        "the entry of the first is gone, that of the second stays"
    );
    assert_eq!(before[1].created.get(), second.fencing_token().get());
}

pub(super) async fn no_wake_up_is_lost_with_a_broken_watch(cx: Fixture) {
    let holder = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    for round in 0..4 {
        let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
        let mut waiter = stand_in_line(&cx, &client.provider, "k").await;
        // By then it knows its place: the answer to its own request is not what gets lost.
        never_within(cx.slack(), "a grant while the lock is held", &mut waiter).await;
        if round % 2 == 0 {
            faults.break_watches();
            guard.unlock().await.unwrap();
        } else {
            faults.cut();
            guard.unlock().await.unwrap();
            faults.heal();
        }
        let guard = within(cx.soon(), "the waiter is granted", waiter).await.unwrap().unwrap();
        guard.unlock().await.unwrap();
    }
}

pub(super) async fn no_wake_up_is_lost_between_joining_and_watching(cx: Fixture) {
    let holder = cx.provider().await;
    for seed in 0..5 {
        let provider = slow_provider(&cx, seed).await;
        for ms in 0..20 {
            let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
            let waiter = acquire(&cx, &provider, "k");
            // Unlocked at any moment of its joining and looking around, and never again.
            tokio::time::sleep(Duration::from_millis(ms)).await;
            guard.unlock().await.unwrap();
            let what = format!("the waiter is granted, though the lock was unlocked after {ms} ms");
            let guard = within(ONE_SECOND + cx.slack(), &what, waiter).await.unwrap().unwrap();
            guard.unlock().await.unwrap();
        }
    }
}

pub(super) async fn no_wake_up_is_lost_over_a_compaction(cx: Fixture) {
    let (holder, store) = (cx.provider().await, cx.store().await);
    let (client, faults) = cx.faulty().await;
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    let waiter = stand_in_line(&cx, &client.provider, "k").await;
    faults.hang();
    guard.unlock().await.unwrap();
    let present = head(&*store).await;
    cx.compact(present).await;
    faults.heal();
    let guard = within(cx.soon(), "the waiter is granted", waiter).await.unwrap().unwrap();
    assert!(guard.is_held());
}

pub(super) async fn waiters_keep_their_places_however_long_they_wait(cx: Fixture) {
    let (holder, store) = (cx.provider().await, cx.store().await);
    let guard = holder.lock().acquire("k", cx.ttl()).await.unwrap();
    // Of a client whose link breaks, of the holder's, and of one more.
    let (client, faults) = cx.faulty().await;
    let mut waiters = Vec::new();
    for provider in [&client.provider, &holder, &cx.provider().await, &client.provider] {
        waiters.push(stand_in_line(&cx, provider, "k").await);
    }
    let line = queue(&*store, "k").await;
    assert_eq!(line.len(), 5);
    for disturbance in 0..4 {
        match disturbance {
            0 => faults.break_watches(),
            1 => faults.cut(),
            2 => faults.hang(),
            _ => faults.silence_watches(),
        }
        tokio::time::sleep(cx.ttl() / 4).await;
        faults.heal();
        tokio::time::sleep(cx.ttl()).await;
        assert_eq!(queue(&*store, "k").await, line, "each stands where it stood, by the same entry");
    }
    let mut last = guard;
    for (waiter, entry) in waiters.into_iter().zip(&line[1..]) {
        last.unlock().await.unwrap();
        let what = "the next one is granted";
        last = within(ONE_SECOND + cx.slack(), what, waiter).await.unwrap().unwrap();
        assert_eq!(last.fencing_token().get(), entry.created.get());
    }
    last.unlock().await.unwrap();
}

pub(super) async fn a_waiter_is_served_after_the_holder_crashed(cx: Fixture) {
    let client = cx.client().await;
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let mut waiter = stand_in_line(&cx, &cx.provider().await, "k").await;
    let (crashed, left) = (Instant::now(), guard.ttl());
    client.crash().await;
    // The holder's own deadline is the earliest moment.
    never_within(left.saturating_sub(crashed.elapsed()), "a grant while the holder may work", &mut waiter)
        .await;
    let limit = cx.gone_by(cx.ttl()).saturating_sub(crashed.elapsed()) + ONE_SECOND;
    let _ = within(limit, "the waiter is granted after the holder's lease", waiter).await.unwrap().unwrap();
}

pub(super) async fn what_is_free_is_had_however_short_the_wait(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let now = Duration::ZERO;
    // The first one also makes the session of its TTL.
    let guard = provider.lock().acquire_timeout("k", cx.ttl(), now).await.unwrap();
    let refused =
        within(cx.soon(), "the wait is over at once", other.lock().acquire_timeout("k", cx.ttl(), now))
            .await
            .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Timeout);
    guard.unlock().await.unwrap();
    let guard =
        within(cx.soon(), "nobody stands in the way", other.lock().acquire_timeout("k", cx.ttl(), cx.soon()))
            .await
            .unwrap();
    guard.unlock().await.unwrap();
    assert!(provider.lock().acquire_timeout("k", cx.ttl(), now).await.is_ok());
}
