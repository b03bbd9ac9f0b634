//! R2 Unknown outcome, for what is leased: doubts are fenced off.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::store::{Range, Store};
use coord_api::{
    Error, ErrorKind, IdOptions, LockOptions, RegisterOptions, Result, ServiceInstance, Takeover, Wait,
};
use futures_util::future::join_all;

use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, within};
use crate::wrap::{Fault, Faults};

/// The faults that leave a write in doubt.
const DOUBTS: [Fault; 3] = [Fault::LoseRequest, Fault::LoseAnswer, Fault::Hold];

/// How often a fault strikes in a row: once, and so often that no attempt gets through.
const STRIKES: [usize; 2] = [1, 3];

async fn count(store: &dyn Store, prefix: &str) -> usize {
    store.range(Range::prefix(prefix.to_owned()).with_keys_only()).await.unwrap().entries.len()
}

async fn let_through(faults: &Faults) {
    for held in faults.take_held() {
        // Whether the store takes it is what the case is about.
        let _ = held.apply().await;
    }
}

fn strike(faults: &Faults, fault: Fault, times: usize, prefix: &str) {
    for _ in 0..times {
        faults.next_put(fault, prefix);
    }
}

/// Strikes a leased write, lets what was stuck through, and checks that the doubt left one entry if
/// the write succeeded, and soon none if it failed; also once what came late has arrived.
async fn one_or_none<T>(cx: &Fixture, prefix: &str, write: impl AsyncFn(Arc<dyn Provider>) -> Result<T>) {
    let watcher = cx.store().await;
    for fault in DOUBTS {
        for times in STRIKES {
            for late in [false, true] {
                let (client, faults) = cx.faulty().await;
                // The session is there, so that the write is the only request.
                let warm = client.provider.lock().acquire("warm", cx.ttl()).await.unwrap();
                strike(&faults, fault, times, prefix);
                let written = within(
                    cx.soon() * 3,
                    "a leased write in doubt ends",
                    write(Arc::clone(&client.provider)),
                )
                .await;
                faults.forget();
                if !late {
                    let_through(&faults).await;
                }
                let what = format!("{fault:?} {times} times, late: {late}");
                match written {
                    Ok(handle) => {
                        let_through(&faults).await;
                        assert_eq!(count(&*watcher, prefix).await, 1, "{what}");
                        drop(handle);
                    }
                    Err(error) => assert_doubt(&error, &what),
                }
                let_through(&faults).await;
                eventually(cx.ttl() + cx.soon(), "a write in doubt leaves nothing behind", async || {
                    (count(&*watcher, prefix).await == 0).then_some(())
                })
                .await;
                assert!(warm.is_held(), "the others of the session are not harmed: {what}");
                client.provider.close().await.unwrap();
            }
        }
    }
}

fn assert_doubt(error: &Error, what: &str) {
    let kinds = [ErrorKind::Timeout, ErrorKind::Unavailable, ErrorKind::LeaseLost];
    assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
}

pub(in crate::cases::general) async fn a_doubtful_acquire_leaves_one_grant_or_none(cx: Fixture) {
    for wait in [Wait::Never, Wait::Forever] {
        let options = LockOptions::default().with_ttl(cx.ttl()).with_wait(wait);
        one_or_none(&cx, &layout::lock_queue("l"), async |provider: Arc<dyn Provider>| {
            provider.lock().acquire_with("l", options).await
        })
        .await;
    }
}

pub(in crate::cases::general) async fn a_doubtful_registration_leaves_one_entry_or_none(cx: Fixture) {
    for takeover in [Takeover::Replace, Takeover::Exclusive] {
        let options = RegisterOptions::default().with_ttl(cx.ttl()).with_takeover(takeover);
        one_or_none(&cx, &layout::service("s", ""), async |provider: Arc<dyn Provider>| {
            provider.registry().register_with(ServiceInstance::new("s", "i", "localhost", 80), options).await
        })
        .await;
    }
}

pub(in crate::cases::general) async fn a_doubtful_id_is_held_once_or_free(cx: Fixture) {
    let options = IdOptions::default().with_range(1..=3).with_ttl(cx.ttl());
    let prefix = format!("{}s/ids/", layout::IDS);
    one_or_none(&cx, &prefix, async |provider: Arc<dyn Provider>| {
        provider.allocator().acquire_id_with("s", options.clone()).await
    })
    .await;
}

pub(in crate::cases::general) async fn a_write_that_was_fenced_off_never_arrives(cx: Fixture) {
    let watcher = cx.store().await;
    let (client, faults) = cx.faulty().await;
    let lock = client.provider.lock();
    let warm = lock.acquire("warm", cx.ttl()).await.unwrap();
    for n in 0..5 {
        let key = format!("l{n}");
        faults.next_put(Fault::Hold, layout::lock_queue(&key));
        let acquired = within(cx.soon() * 3, "an acquire in doubt ends", lock.acquire(&key, cx.ttl())).await;
        if let Ok(guard) = acquired {
            // The grant was made by a second write; the first is still under way and would be a
            // second entry.
            for held in faults.take_held() {
                assert!(
                    !held.apply().await.unwrap_or(false),
                    "the first write was given up, and must not arrive any more"
                );
            }
            assert_eq!(count(&*watcher, &layout::lock_queue(&key)).await, 1);
            guard.unlock().await.unwrap();
        }
        let_through(&faults).await;
        let stranger = cx.provider().await;
        let next =
            within(cx.ttl() + cx.soon(), "no ghost holds the lock", stranger.lock().acquire(&key, cx.ttl()))
                .await
                .unwrap();
        drop(next);
    }
    assert!(warm.is_held());
}

pub(in crate::cases::general) async fn a_write_in_doubt_that_comes_after_the_release_leaves_nothing(
    cx: Fixture,
) {
    let watcher = cx.store().await;
    let (client, faults) = cx.faulty().await;
    let lock = client.provider.lock();
    // It keeps the lease alive: only the fence can stop what comes late.
    let warm = lock.acquire("warm", cx.ttl()).await.unwrap();
    for n in 0..3 {
        let key = format!("l{n}");
        let queue = layout::lock_queue(&key);
        faults.next_put(Fault::Hold, queue.clone());
        let acquired = within(cx.soon() * 3, "an acquire in doubt ends", lock.acquire(&key, cx.ttl())).await;
        if let Ok(guard) = acquired {
            guard.unlock().await.unwrap();
        }
        let_through(&faults).await;
        eventually(cx.ttl() + cx.soon(), "what came late does not stay", async || {
            (count(&*watcher, &queue).await == 0).then_some(())
        })
        .await;
    }
    assert!(warm.is_held());
}

pub(in crate::cases::general) async fn writes_that_met_the_fence_are_sent_again(cx: Fixture) {
    for fault in DOUBTS {
        let (client, faults) = cx.faulty().await;
        let registry = client.provider.registry();
        let options = RegisterOptions::default().with_ttl(cx.ttl()).with_takeover(Takeover::Exclusive);
        let instance = |n: usize| ServiceInstance::new("s", format!("{fault:?}{n}"), "localhost", 80);
        let first = registry.register_with(instance(0), options).await.unwrap();
        // One write in doubt raises the fence while the others are under way.
        faults.next_put(fault, layout::service("s", &format!("{fault:?}3")));
        let results = join_all((1..8).map(|n| registry.register_with(instance(n), options))).await;
        for (n, result) in results.iter().enumerate() {
            if let Err(error) = result {
                assert_eq!(n + 1, 3, "only the one that was struck may fail: {error:?}");
                assert_doubt(error, "the one that was struck");
            }
        }
        assert!(first.state().is_held());
        client.provider.close().await.unwrap();
    }
}
