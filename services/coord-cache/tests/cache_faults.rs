//! Faults of a real Redis under load, counted (K7).
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::print_stdout, reason = "what was counted")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coord::{ErrorKind, Outcome};
use coord_cache::Cache;
use coord_servers::redis::Redis;
use coord_service::live::LiveStatus;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Service, until};
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(600);

/// How long a call may take, and how much longer on a machine that has other things to do. The
/// client's own way takes seconds.
const TIMEOUT: Duration = Duration::from_millis(200);
const SLACK: Duration = Duration::from_millis(600);

fn document(redis: &Redis) -> Value {
    let timeout = u64::try_from(TIMEOUT.as_millis()).unwrap();
    json!({
        "engine": "redis", "timeout_ms": timeout,
        "redis": {"url": redis.url(), "connect_timeout_ms": timeout},
    })
}

/// What became of calls.
#[derive(Debug, Default)]
struct Seen {
    done: AtomicUsize,
    wrong: AtomicUsize,
    late: AtomicUsize,
    longest: Mutex<Duration>,
    errors: Mutex<BTreeMap<&'static str, usize>>,
}

impl Seen {
    fn saw<T>(&self, begun: Instant, answer: coord::Result<T>) -> Option<T> {
        let took = begun.elapsed();
        let mut longest = self.longest.lock();
        *longest = took.max(*longest);
        if took > TIMEOUT + SLACK {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        match answer {
            Ok(value) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                Some(value)
            }
            Err(error) => {
                *self.errors.lock().entry(error.kind().as_str()).or_default() += 1;
                None
            }
        }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    fn failed(&self) -> usize {
        self.errors.lock().values().sum()
    }

    /// Waits until as many more calls have ended as `count` says.
    async fn more(&self, what: &str, count: fn(&Seen) -> usize) {
        let before = count(self);
        until(what, || async { count(self) >= before + 500 }).await;
    }
}

/// 64 callers, each with a key of its own, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(cache: &Cache) -> Load {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let callers = (0..64)
            .map(|caller| call(cache.clone(), format!("key-{caller}"), Arc::clone(&stop), Arc::clone(&seen)))
            .map(tokio::spawn)
            .collect();
        Load { stop, seen, callers }
    }

    async fn end(self, what: &str) -> Arc<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
        let seen = self.seen;
        println!(
            "{what}: {} done, failed {:?}, longest {:?}, beyond {TIMEOUT:?} + {SLACK:?}: {}, wrong values: {}",
            seen.done(),
            *seen.errors.lock(),
            *seen.longest.lock(),
            seen.late.load(Ordering::Relaxed),
            seen.wrong.load(Ordering::Relaxed),
        );
        assert_eq!(seen.late.load(Ordering::Relaxed), 0, "calls beyond their deadline");
        assert_eq!(seen.wrong.load(Ordering::Relaxed), 0, "values that nobody set");
        let transient = ["timeout", "unavailable"];
        assert!(seen.errors.lock().keys().all(|kind| transient.contains(kind)), "{:?}", seen.errors);
        seen
    }
}

async fn call(cache: Cache, key: String, stop: Arc<AtomicBool>, seen: Arc<Seen>) {
    for n in 0_u64.. {
        let begun = Instant::now();
        let set = seen.saw(begun, cache.set(&key, &n, LONG).await);
        let begun = Instant::now();
        if let (Some(()), Some(got)) = (set, seen.saw(begun, cache.get::<u64>(&key).await)) {
            // It may be gone, with the server; it is never another one.
            if got.is_some_and(|got| got != n) {
                seen.wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again() {
    let mut redis = Redis::start();
    let service = Service::start(Some(document(&redis))).await;
    let load = Load::start(&service.cache);
    load.seen.more("calls before", Seen::done).await;
    for _ in 0..3 {
        redis.kill();
        load.seen.more("failures", Seen::failed).await;
        until("it is down", || async { service.health("cache").starts_with("down") }).await;
        redis.restart();
        load.seen.more("calls after", Seen::done).await;
        until("it is ready", || async { service.health("cache") == "ready" }).await;
    }
    load.end("killed 3 times").await;
    assert_eq!(service.cache.status().generation, 1, "it is the same client all the time");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standing_still() {
    let redis = Redis::start();
    let service = Service::start(Some(document(&redis))).await;
    let load = Load::start(&service.cache);
    load.seen.more("calls before", Seen::done).await;
    redis.pause();
    load.seen.more("failures", Seen::failed).await;
    // It is known by now that it does not answer, so that nobody waits for it.
    let begun = Instant::now();
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(service.cache.get::<u64>("key-0").await.is_err());
    }
    assert!(begun.elapsed() < 20 * TIMEOUT, "100 calls waited for {:?}", begun.elapsed());
    assert_eq!(failed, 100);
    // The cache is not needed for what is loaded.
    assert_eq!(service.cache.get_or_load("x", LONG, || async { Ok(7) }).await.unwrap(), 7);
    redis.resume();
    load.seen.more("calls after", Seen::done).await;
    until("it is ready", || async { service.health("cache") == "ready" }).await;
    load.end("stood still").await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_client_of_a_server_that_stands_still_is_not_used() {
    let (first, second) = (Redis::start(), Redis::start());
    let service = Service::start(Some(document(&first))).await;
    let load = Load::start(&service.cache);
    load.seen.more("calls before", Seen::done).await;
    second.pause();
    service.put(document(&second)).await;
    let again = |status: &LiveStatus| status.fault.as_ref().is_some_and(|it| it.times == 3);
    let fault = service.until("three faults", again).await.fault.unwrap();
    assert_eq!(fault.error.kind(), ErrorKind::Timeout, "{fault}");
    second.resume();
    service.generation(2).await;
    load.seen.more("calls after", Seen::done).await;
    let seen = load.end("moved to one that stood still").await;
    assert_eq!(seen.failed(), 0);
    service.end().await;
}

#[tokio::test]
async fn out_of_memory() {
    let redis = Redis::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    let service = Service::start(Some(document(&redis))).await;
    let cache = &service.cache;
    cache.set("before", &1, LONG).await.unwrap();
    let mut stored = 0;
    let error = loop {
        match cache.set_bytes(&format!("fill-{stored}"), vec![0; 100_000], LONG).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 1_000, "it is never full");
    };
    println!("out of memory after {stored} values of 100 kB");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Exhausted, Outcome::NotApplied));
    // What is there can be read, and what is loaded is returned, though it is not kept.
    assert_eq!(cache.get::<u8>("before").await.unwrap(), Some(1));
    assert_eq!(cache.get_or_load("x", LONG, || async { Ok(7) }).await.unwrap(), 7);
    assert_eq!(cache.get::<u8>("x").await.unwrap(), None);
    assert_eq!(service.health("cache"), "ready");
    assert!(cache.del("fill-0").await.unwrap() && cache.del("fill-1").await.unwrap());
    until("there is room again", || async { cache.set("x", &8, LONG).await.is_ok() }).await;
    service.end().await;
}

#[tokio::test]
async fn connections_that_are_closed_are_made_anew_before_the_next_call() {
    let redis = Redis::start();
    let service = Service::start(Some(document(&redis))).await;
    let cache = &service.cache;
    cache.set("k", &1, LONG).await.unwrap();
    for _ in 0..5 {
        // Servers and proxies close connections that nobody uses.
        let closed = redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert_ne!(closed, ":0");
        // Either the end was not seen yet, or the call waits for the new one.
        until("it is there again", || async { cache.get::<u8>("k").await.is_ok() }).await;
    }
    service.end().await;
}

#[tokio::test]
async fn a_write_in_doubt_says_so() {
    let redis = Redis::start();
    let service = Service::start(Some(document(&redis))).await;
    let cache = &service.cache;
    cache.set("k", &1, LONG).await.unwrap();
    // Changed in place, for the next call.
    let mut longer = document(&redis);
    longer["timeout_ms"] = 301.into();
    service.put(longer).await;
    until("the new timeout", || async { format!("{:?}", cache.redis()).contains("301ms") }).await;
    redis.pause();
    let set = cache.set("k", &2, LONG).await.unwrap_err();
    assert_eq!((set.kind(), set.outcome(), set.key()), (ErrorKind::Timeout, Outcome::Unknown, Some("k")));
    assert!(set.message().contains("301ms") && service.cache.status().generation == 1, "{set}");
    let known = |error: coord::Error| error.outcome() == Outcome::NotApplied;
    until("it is known", || async { cache.set("k", &3, LONG).await.is_err_and(known) }).await;
    redis.resume();
    // What was sent before is done, late.
    until("one of them", || async { matches!(cache.get::<u8>("k").await, Ok(Some(2 | 3))) }).await;
    service.end().await;
}
