//! R7 TTL.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, IdOptions, LockOptions, RegisterOptions, ServiceInstance, Wait};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Held, contents, held_by_anyone};
use crate::bad;
use crate::fixture::Fixture;

pub(super) async fn a_bad_ttl_is_an_invalid_argument_before_any_io(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let store = cx.store().await;
    let provider = &client.provider;
    for ttl in bad::TTLS {
        let (kinds, counts) = counter
            .during(async {
                let instance = ServiceInstance::new("s", "i", "localhost", 80);
                let lock = LockOptions::default().with_ttl(ttl);
                [
                    provider.lock().acquire_with("l", lock).await.unwrap_err().kind(),
                    provider.lock().acquire_with("l", lock.with_wait(Wait::Never)).await.unwrap_err().kind(),
                    provider
                        .registry()
                        .register_with(instance, RegisterOptions::default().with_ttl(ttl))
                        .await
                        .unwrap_err()
                        .kind(),
                    provider
                        .allocator()
                        .acquire_id_with("s", IdOptions::default().with_ttl(ttl))
                        .await
                        .unwrap_err()
                        .kind(),
                ]
            })
            .await;
        assert_eq!((kinds, counts.all()), ([ErrorKind::InvalidArgument; 4], 0), "{ttl:?}");
    }
    assert_eq!(contents(&*store).await, []);
}

pub(super) async fn fractions_of_a_second_are_rounded_up(cx: Fixture) {
    let (provider, stranger) = (cx.provider().await, cx.provider().await);
    let short = provider.lock().acquire("short", Duration::from_nanos(1)).await.unwrap();
    let fraction = provider.lock().acquire("fraction", Duration::from_millis(2_500)).await.unwrap();
    // 3 s, without the margin of the local deadline.
    assert!(fraction.ttl() > Duration::from_millis(2_500), "{:?} left", fraction.ttl());
    assert!(short.ttl() > Duration::from_millis(500), "{:?} left", short.ttl());
    sleep(Duration::from_secs(5)).await;
    assert!(short.is_held() && fraction.is_held(), "both are renewed");
    for key in ["short", "fraction"] {
        assert_eq!(stranger.lock().try_acquire(key, cx.ttl()).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
}

pub(super) async fn the_longest_ttl_is_legal(cx: Fixture) {
    let longest = Duration::from_secs(9_000_000_000);
    let (provider, stranger) = (cx.provider().await, cx.provider().await);
    let guard = provider.lock().acquire("l", longest).await.unwrap();
    assert!(guard.is_held() && guard.ttl() <= longest && guard.ttl() + Duration::from_secs(60) > longest);
    assert_eq!(stranger.lock().try_acquire("l", longest).await.unwrap_err().kind(), ErrorKind::Conflict);
    guard.unlock().await.unwrap();
    let guard = stranger.lock().try_acquire("l", longest).await.unwrap();
    drop(guard);
    provider.close().await.unwrap();
    stranger.close().await.unwrap();
}

pub(super) async fn a_crashed_clients_things_last_their_ttl_and_no_longer(cx: Fixture) {
    let (client, stranger) = (cx.client().await, cx.provider().await);
    // Nothing was granted before this, so that nothing may expire before a TTL after it.
    let before = Instant::now();
    let held = Held::new(&client.provider, cx.ttl()).await;
    let crashed = Instant::now();
    client.crash().await;
    sleep_until(before + cx.ttl() - cx.ttl() / 20).await;
    if Instant::now() < before + cx.ttl() {
        let seen = held_by_anyone(&stranger, cx.ttl()).await;
        assert!(seen == [true; 3] || Instant::now() >= before + cx.ttl(), "gone too early: {seen:?}");
    }
    // It has sent nothing since.
    sleep_until(crashed + cx.ttl()).await;
    assert!(!held.any_held(), "the crashed client believes in it for longer than its TTL");
    sleep_until(crashed + cx.gone_by(cx.ttl())).await;
    assert_eq!(held_by_anyone(&stranger, cx.ttl()).await, [false; 3], "gone too late");
    assert!(!held.any_held());
}

pub(super) async fn every_call_has_the_ttl_that_it_asks_for(cx: Fixture) {
    let provider = cx.provider().await;
    let (mut guards, mut registrations, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    // Longer ones and shorter ones than the first, of each contract.
    for (n, times) in [3, 1, 5].into_iter().enumerate() {
        let ttl = cx.ttl() * times;
        guards.push((ttl, provider.lock().acquire(&format!("k{n}"), ttl).await.unwrap()));
        let instance = ServiceInstance::new("s", format!("i{n}"), "localhost", 80);
        let options = RegisterOptions::default().with_ttl(ttl);
        registrations.push((ttl, provider.registry().register_with(instance, options).await.unwrap()));
        let options = IdOptions::default().with_range(1..=9).with_ttl(ttl);
        ids.push((ttl, provider.allocator().acquire_id_with("s", options).await.unwrap()));
    }
    let left = guards.iter().map(|(ttl, guard)| (*ttl, guard.ttl()));
    let left = left.chain(registrations.iter().map(|(ttl, registration)| (*ttl, registration.ttl())));
    for (ttl, left) in left.chain(ids.iter().map(|(ttl, id)| (*ttl, id.ttl()))) {
        assert!(left <= ttl && left >= ttl / 2, "{left:?} left of {ttl:?}");
    }
}
