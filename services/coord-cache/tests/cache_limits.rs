//! The exact scope of rate limits on a real Redis (R68, R70).
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::print_stdout, reason = "what was counted")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coord::ErrorKind;
use coord::prelude::*;
use coord_servers::redis::Redis;
use coord_service::ratelimit::{
    ExactAnswer, ExactRequest, ExactScope, LimitRule, LimitScope, Per, RateLimiter,
};
use serde_json::json;
use support::{Service, until};

const BUCKET: &str = "dev/gateway/cache:ratelimit/login/ann";

async fn service(redis: &Redis) -> Service {
    Service::start(Some(json!({"engine": "redis", "redis": {"url": redis.url()}}))).await
}

/// The server's time, in microseconds.
fn server_time(redis: &Redis) -> u64 {
    redis.command(&["EVAL", "local t = redis.call('TIME') return t[1] * 1000000 + t[2]", "0"])[1..]
        .parse()
        .unwrap()
}

async fn decide(scope: &Arc<dyn ExactScope>, count: u32, limit: LimitRule) -> ExactAnswer {
    scope.decide(&ExactRequest::new("login", "ann", count, limit)).await.unwrap()
}

fn waits(answer: ExactAnswer) -> Duration {
    match answer {
        ExactAnswer::Denied { retry_after: Some(wait) } => wait,
        answer => panic!("{answer:?}"),
    }
}

/// Slow enough that nothing comes back while a test runs.
fn per_hour(rate: u32, burst: u32) -> LimitRule {
    LimitRule::new(rate, Per::Hour).with_burst(burst)
}

#[tokio::test]
async fn a_bucket_holds_the_burst_and_says_how_long_to_wait() {
    let redis = Redis::start();
    let service = service(&redis).await;
    let scope = service.cache.exact_scope();
    let limit = per_hour(60, 3);
    assert_eq!(decide(&scope, 2, limit).await, ExactAnswer::Allowed);
    let wait = waits(decide(&scope, 2, limit).await);
    assert!(wait <= Duration::from_secs(60) && wait > Duration::from_secs(30), "{wait:?}");
    assert_eq!(decide(&scope, 1, limit).await, ExactAnswer::Allowed, "a denied one takes nothing");
    assert!(waits(decide(&scope, 1, limit).await) > Duration::from_secs(30));
    let never = ExactAnswer::Denied { retry_after: None };
    assert_eq!(decide(&scope, 4, limit).await, never, "more than the burst");
    // It goes when it is full, and others are others.
    let left: u64 = redis.command(&["PTTL", BUCKET])[1..].parse().unwrap();
    assert!((120_000..=180_000).contains(&left), "{left}");
    let other = scope.decide(&ExactRequest::new("login", "bob", 3, limit)).await.unwrap();
    assert_eq!(other, ExactAnswer::Allowed);
    service.end().await;
}

#[tokio::test]
async fn another_rule_leaves_a_bucket_as_full_as_it_was() {
    let redis = Redis::start();
    let service = service(&redis).await;
    let scope = service.cache.exact_scope();
    assert_eq!(decide(&scope, 50, per_hour(60, 100)).await, ExactAnswer::Allowed);
    // Half full: of ten, five.
    assert_eq!(decide(&scope, 5, per_hour(60, 10)).await, ExactAnswer::Allowed);
    waits(decide(&scope, 1, per_hour(60, 10)).await);
    // Empty: of a thousand, none; nor at another rate, or none that a test could wait for.
    waits(decide(&scope, 10, per_hour(60, 1_000)).await);
    waits(decide(&scope, 1, per_hour(1, 1_000)).await);
    service.end().await;
}

#[tokio::test]
async fn a_bucket_fills_by_the_rule_that_came_though_it_is_asked_all_the_while() {
    let redis = Redis::start();
    let service = service(&redis).await;
    let scope = service.cache.exact_scope();
    assert_eq!(decide(&scope, 1, LimitRule::new(1, Per::Day)).await, ExactAnswer::Allowed);
    // Empty it stays as empty, and is full within half a second, not within a day.
    let limit = LimitRule::per_second(1_000).with_burst(500);
    waits(decide(&scope, 500, limit).await);
    until("it is filled", || async { decide(&scope, 100, limit).await == ExactAnswer::Allowed }).await;
    service.end().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_stops_nothing() {
    let redis = Redis::start();
    let service = service(&redis).await;
    let scope = service.cache.exact_scope();
    let limit = LimitRule::per_second(1_000).with_burst(5);
    // As it was left by a server whose clock was an hour ahead: empty.
    let (ahead, depth) = (server_time(&redis) + 3_600_000_000, 5_000_000);
    let script = format!("return redis.call('SET', KEYS[1], struct.pack('<ddd', {depth}, {ahead}, {depth}))");
    assert_eq!(redis.command(&["EVAL", &script, "1", BUCKET]), "+OK");
    let begun = Instant::now();
    until("it is filled again", || async { decide(&scope, 5, limit).await == ExactAnswer::Allowed }).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "and not after an hour");
    // What somebody else left there is no bucket, and is replaced.
    redis.command(&["SET", BUCKET, "something else"]);
    assert_eq!(decide(&scope, 5, limit).await, ExactAnswer::Allowed);
    service.end().await;
}

/// A limiter of an instance of its own, with a connection of its own.
async fn limiter(redis: &Redis, rule: &LimitRule) -> (Service, RateLimiter) {
    let service = service(redis).await;
    let config = service.coord.provider().config();
    let version = config.set("dev/gateway/ratelimit/login", rule).await.unwrap();
    let limiter = RateLimiter::builder(Arc::clone(config), "gateway")
        .env("dev")
        .exact(service.cache.exact_scope())
        .build()
        .unwrap();
    limiter.start().await;
    limiter.wait_until(version).await.unwrap();
    (service, limiter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_instances_never_admit_more_than_rate_and_burst() {
    let redis = Redis::start();
    // Strict, so that without an answer in time nothing is admitted: what is, the server admitted.
    let rule = LimitRule::per_second(200).with_burst(50).with_scope(LimitScope::Exact).with_strict(true);
    let (mut limiters, mut services) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (service, limiter) = limiter(&redis, &rule).await;
        services.push(service);
        limiters.push(Arc::new(limiter));
    }
    let (admitted, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let begun = server_time(&redis);
    let callers: Vec<_> = limiters
        .iter()
        .flat_map(|limiter| std::iter::repeat_n(limiter, 4))
        .map(|limiter| {
            let (limiter, admitted, asked) = (Arc::clone(limiter), Arc::clone(&admitted), Arc::clone(&asked));
            tokio::spawn(async move {
                let until = Instant::now() + Duration::from_millis(1_500);
                while Instant::now() < until {
                    let allowed = limiter.allow_exact("login", "ann").await.is_allowed();
                    admitted.fetch_add(u64::from(allowed), Ordering::Relaxed);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let elapsed = server_time(&redis) - begun;
    let (admitted, asked) = (admitted.load(Ordering::Relaxed), asked.load(Ordering::Relaxed));
    let in_its_place: u64 = limiters.iter().map(|limiter| limiter.status().exact.in_its_place).sum();
    let most = 50 + 200 * elapsed / 1_000_000;
    println!(
        "exact: {admitted} of {asked} admitted within {elapsed} us, {most} may be; by shares: {in_its_place}"
    );
    assert!(admitted <= most, "{admitted} of {most}");
    assert!(admitted >= 50 && asked > most, "{admitted} of {most}");
    if in_its_place == 0 {
        // All of the burst, and most of what came back.
        assert!(admitted >= most * 8 / 10, "{admitted} of {most}");
    }
    for limiter in limiters {
        limiter.stop().await;
    }
    for service in services {
        service.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_server_the_share_decides_visibly_until_it_is_there_again() {
    let mut redis = Redis::start();
    let rule = per_hour(3_600, 50).with_scope(LimitScope::Exact);
    let (service, limiter) = limiter(&redis, &rule).await;
    assert!(limiter.allow_exact("login", "ann").await.is_allowed());
    assert_eq!((limiter.status().exact.decided, limiter.status().exact.in_its_place), (1, 0));
    redis.kill();
    until("it is seen", || async {
        let _ = limiter.allow_exact_n("login", "k", 51).await;
        !limiter.status().exact.answers
    })
    .await;
    let mut allowed = 0;
    while limiter.allow_exact("login", "bob").await.is_allowed() {
        allowed += 1;
    }
    assert!((50..=60).contains(&allowed), "the share is all of it: {allowed}");
    let status = limiter.status().exact;
    assert!(status.in_its_place >= 50, "{status:?}");
    assert!(status.last_error.as_ref().is_some_and(|error| error.is_transient()), "{status:?}");
    // A server that was started anew has no script, and is sent it.
    redis.restart();
    until("it answers", || async {
        let _ = limiter.allow_exact_n("login", "k", 51).await;
        limiter.status().exact.answers
    })
    .await;
    let decided = limiter.status().exact.decided;
    assert!(limiter.allow_exact("login", "ann").await.is_allowed());
    assert_eq!(limiter.status().exact.decided, decided + 1);
    assert!(redis.command(&["EXISTS", BUCKET]) == ":1", "it was the server that decided");
    // And so is one that was told to forget.
    assert_eq!(redis.command(&["SCRIPT", "FLUSH"]), "+OK");
    let scope = service.cache.exact_scope();
    assert_eq!(decide(&scope, 1, rule).await, ExactAnswer::Allowed);
    // One that stands still is given 50 ms.
    redis.pause();
    until("it is seen", || async {
        let _ = limiter.allow_exact_n("login", "k", 51).await;
        !limiter.status().exact.answers
    })
    .await;
    redis.resume();
    limiter.stop().await;
    service.end().await;
}

#[tokio::test]
async fn an_embedded_cache_decides_for_nobody_else() {
    let service = Service::start(None).await;
    let scope = service.cache.exact_scope();
    let error = scope.decide(&ExactRequest::new("login", "ann", 1, per_hour(1, 1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    service.end().await;
}
