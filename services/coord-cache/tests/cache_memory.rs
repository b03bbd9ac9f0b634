//! The embedded cache as a part of a service (K1, K2, K10).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coord::prelude::*;
use coord::{Error, ErrorKind, Outcome};
use coord_cache::{MAX_TTL, MemoryEntry};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use serde_json::json;
use support::{Service, until};
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn values_are_set_got_and_deleted() {
    let service = Service::start(None).await;
    let cache = &service.cache;
    assert_eq!(cache.get::<String>("k").await.unwrap(), None);
    cache.set("k", "v", LONG).await.unwrap();
    cache.set("list", &[1, 2], None).await.unwrap();
    cache.set_bytes("bytes", &b"\xff\x00"[..], LONG).await.unwrap();
    assert_eq!(cache.get::<String>("k").await.unwrap().unwrap(), "v");
    assert_eq!(cache.get::<Vec<u8>>("list").await.unwrap().unwrap(), [1, 2]);
    assert_eq!(cache.get_bytes("k").await.unwrap().unwrap(), &br#""v""#[..]);
    assert_eq!(cache.get_bytes("bytes").await.unwrap().unwrap(), &b"\xff\x00"[..]);
    // What is no such value says so, shows none of it, and stays.
    let error = cache.get::<u64>("k").await.unwrap_err();
    assert_eq!((error.kind(), error.key(), error.operation()), (ErrorKind::Codec, Some("k"), "cache.get"));
    assert_eq!(cache.get::<u64>("bytes").await.unwrap_err().kind(), ErrorKind::Codec);
    assert!(cache.del("k").await.unwrap() && !cache.del("k").await.unwrap());
    assert_eq!(cache.get::<String>("k").await.unwrap(), None);
    // The native client is the same cache.
    cache.moka().unwrap().insert("native".into(), MemoryEntry::new("1", LONG));
    assert_eq!(cache.get::<u8>("native").await.unwrap(), Some(1));
    #[cfg(feature = "redis")]
    assert_eq!(cache.redis().unwrap_err().kind(), ErrorKind::InvalidArgument);
    let closed = cache.clone();
    service.end().await;
    assert_eq!(closed.get::<u8>("native").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused_before_anything_is_done() {
    let service = Service::start(Some(json!({"max_value_bytes": 10}))).await;
    let cache = &service.cache;
    let long = "k".repeat(1_025);
    for key in ["", long.as_str()] {
        for error in [
            cache.get::<u8>(key).await.unwrap_err(),
            cache.set(key, &1, LONG).await.unwrap_err(),
            cache.del(key).await.unwrap_err(),
            cache.get_or_load(key, LONG, || async { Ok(1) }).await.unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied));
        }
    }
    cache.set(&"k".repeat(1_024), &1, LONG).await.unwrap();
    for ttl in [Duration::ZERO, MAX_TTL + Duration::from_nanos(1)] {
        assert_eq!(cache.set("k", &1, ttl).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
        let error = cache.get_or_load("k", ttl, || async { Ok(1) }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    cache.set("k", &1, MAX_TTL).await.unwrap();
    cache.set_bytes("k", vec![0; 10], LONG).await.unwrap();
    let error = cache.set_bytes("k", vec![0; 11], LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("max_value_bytes"), "{error}");
    assert_eq!(cache.get_bytes("k").await.unwrap().unwrap().len(), 10, "the one before is there");
    // A value that is loaded is returned all the same.
    let loaded = cache.get_or_load_bytes("big", LONG, || async { Ok(vec![0; 11].into()) }).await.unwrap();
    assert_eq!((loaded.len(), cache.get_bytes("big").await.unwrap()), (11, None));
    // One that JSON cannot give back is no value.
    let error = cache.set("k", &f64::INFINITY, LONG).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Codec, "cache.set"));
    service.end().await;
}

#[tokio::test]
async fn an_entry_lives_as_long_as_it_was_given() {
    let service = Service::start(Some(json!({"default_ttl_ms": 40}))).await;
    let cache = &service.cache;
    let set_at = Instant::now();
    cache.set("own", &1, Duration::from_micros(40_500)).await.unwrap();
    cache.set("default", &1, None).await.unwrap();
    cache.set("long", &1, LONG).await.unwrap();
    until("both are over", || async {
        cache.get::<u8>("own").await.unwrap().is_none() && cache.get::<u8>("default").await.unwrap().is_none()
    })
    .await;
    assert!(set_at.elapsed() >= Duration::from_millis(41), "a part of a millisecond is a whole one");
    assert_eq!(cache.get::<u8>("long").await.unwrap(), Some(1));
    // In place: the next one lives longer, and what is there stays.
    service.put(json!({"default_ttl_ms": 600_000})).await;
    until("the new time", || async {
        cache.set("default", &2, None).await.unwrap();
        let left = cache.moka().unwrap().get("default").unwrap().expires() - Instant::now();
        left > Duration::from_secs(60)
    })
    .await;
    assert_eq!((cache.status().generation, cache.get::<u8>("long").await.unwrap()), (1, Some(1)));
    service.end().await;
}

/// Calls that want one key at the same time: how many loads, and what each gets.
async fn herd(service: &Service, fails: bool) -> (usize, Vec<coord::Result<u64>>) {
    let (loads, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (cache, loads, go) = (service.cache.clone(), Arc::clone(&loads), Arc::clone(&go));
            tokio::spawn(async move {
                let load = || async {
                    let load = loads.fetch_add(1, Ordering::SeqCst) + 1;
                    go.notified().await;
                    match fails {
                        true => Err(Error::new(ErrorKind::Internal, "db", "no table")),
                        false => Ok(load as u64),
                    }
                };
                cache.get_or_load("herd", LONG, load).await
            })
        })
        .collect();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    go.notify_one();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    (loads.load(Ordering::SeqCst), answers)
}

#[tokio::test]
async fn of_all_who_want_a_key_one_loads() {
    let service = Service::start(None).await;
    let (loads, answers) = herd(&service, true).await;
    assert_eq!((loads, answers.len()), (1, 50));
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().message() == "no table"));
    // A failure is not kept.
    let (loads, answers) = herd(&service, false).await;
    assert_eq!(loads, 1);
    assert!(answers.into_iter().all(|answer| answer.unwrap() == 1));
    assert_eq!(service.cache.get::<u64>("herd").await.unwrap(), Some(1));
    let (loads, answers) = herd(&service, false).await;
    assert_eq!(loads, 0, "it is there");
    assert!(answers.into_iter().all(|answer| answer.unwrap() == 1));
    service.end().await;
}

#[tokio::test]
async fn a_load_that_is_dropped_or_late_holds_nobody_up() {
    let service = Service::start(Some(json!({"load_timeout_ms": 300}))).await;
    let cache = &service.cache;
    let first = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_load::<u8, _>("k", LONG, std::future::pending).await }
    });
    tokio::task::yield_now().await;
    let second = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_load("k", LONG, || async { Ok(2) }).await }
    });
    tokio::task::yield_now().await;
    first.abort();
    assert_eq!(second.await.unwrap().unwrap(), 2, "it takes over");
    // One that hangs is given up, and those who wait for it wait no longer either.
    let (one, other) = tokio::join!(
        cache.get_or_load::<u8, _>("hangs", LONG, std::future::pending),
        cache.get_or_load::<u8, _>("hangs", LONG, std::future::pending),
    );
    let (one, other) = (one.unwrap_err(), other.unwrap_err());
    assert_eq!((one.kind(), other.kind()), (ErrorKind::Timeout, ErrorKind::Timeout));
    assert!(one.message().contains("load_timeout_ms"), "{one}");
    assert_eq!(cache.get_or_load("hangs", LONG, || async { Ok(3) }).await.unwrap(), 3);
    service.end().await;
}

#[tokio::test]
async fn what_is_there_and_is_no_such_value_is_loaded_anew() {
    let service = Service::start(None).await;
    let cache = &service.cache;
    cache.set("k", "a string of an older version", LONG).await.unwrap();
    assert_eq!(cache.get_or_load("k", LONG, || async { Ok(7) }).await.unwrap(), 7);
    assert_eq!(cache.get::<u8>("k").await.unwrap(), Some(7));
    // That there is none is a value.
    let none = cache.get_or_load("none", LONG, || async { Ok(None::<u8>) }).await.unwrap();
    assert_eq!(none, None);
    let kept = cache.get_or_load("none", LONG, || async { Ok(Some(1_u8)) }).await.unwrap();
    assert_eq!(kept, None);
    service.end().await;
}

#[tokio::test]
async fn what_was_read_before_a_key_was_deleted_is_not_kept() {
    let service = Service::start(None).await;
    let cache = &service.cache;
    let (read, written) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let reader = tokio::spawn({
        let (cache, read, written) = (cache.clone(), Arc::clone(&read), Arc::clone(&written));
        async move {
            let load = || async {
                read.notify_one();
                written.notified().await;
                Ok("old".to_owned())
            };
            cache.get_or_load("row", LONG, load).await
        }
    });
    read.notified().await;
    // The row is changed here.
    assert!(!cache.del("row").await.unwrap());
    let after = cache.get_or_load("row", LONG, || async { Ok("new".to_owned()) }).await.unwrap();
    written.notify_one();
    assert_eq!((reader.await.unwrap().unwrap(), after), ("old".to_owned(), "new".to_owned()));
    assert_eq!(cache.get::<String>("row").await.unwrap().unwrap(), "new");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_capacity_fails_no_call_and_loses_no_entry() {
    let service = Arc::new(Service::start(Some(json!({"engine": "memory"}))).await);
    for n in 0..2_000 {
        service.cache.set(&format!("kept-{n}"), &n, LONG).await.unwrap();
    }
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let (cache, stop, calls) = (service.cache.clone(), Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                // Each has keys of its own, and knows what must be there.
                let key = format!("own-{caller}");
                for n in 0_u64.. {
                    cache.set(&key, &n, LONG).await.unwrap();
                    assert_eq!(cache.get::<u64>(&key).await.unwrap(), Some(n), "what was set is there");
                    assert!(cache.del(&key).await.unwrap());
                    assert_eq!(cache.get::<u64>(&key).await.unwrap(), None, "what was deleted is gone");
                    calls.fetch_add(4, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for swap in 2..=21_u64 {
        let capacity = 64 * 1024 * 1024 + swap * 1024;
        service.put(json!({"engine": "memory", "memory": {"capacity_bytes": capacity}})).await;
        service.generation(swap).await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(calls.load(Ordering::Relaxed) > 64 * 4 * 20, "they called all the time");
    for n in 0..2_000 {
        assert_eq!(service.cache.get::<u64>(&format!("kept-{n}")).await.unwrap(), Some(n));
    }
    let moka = service.cache.moka().unwrap();
    assert_eq!(moka.policy().max_capacity(), Some(64 * 1024 * 1024 + 21 * 1024));
}

#[tokio::test]
async fn a_wrong_document_is_named_and_changes_nothing() {
    let service = Service::start(Some(json!({"default_ttl_ms": 1_000}))).await;
    service.cache.set("k", &1, LONG).await.unwrap();
    for (text, named) in [
        ("{\n  \"timeout_ms\": \"soon\"\n}", "line 2, column 22, at `timeout_ms`"),
        ("{\n  \"time_out\": 3\n}", "at `time_out`: there is no such field"),
        ("{\n\n  \"engine\": \"memcached\"\n}", "at `engine`: "),
        ("{\"memory\": {\"capacity_bytes\": 0}}", "memory.capacity_bytes: it must be"),
    ] {
        service.coord.provider().config().set_raw(support::DOCUMENT, text.into()).await.unwrap();
        until(text, || async { service.health("cache configuration").contains(named) }).await;
        let health = service.health("cache configuration");
        assert!(health.starts_with("degraded"), "{health}");
        assert_eq!((service.cache.status().generation, service.cache.get("k").await.unwrap()), (1, Some(1)));
    }
    service.put(json!({})).await;
    until("it is taken", || async { service.health("cache configuration") == "ready" }).await;
    service.end().await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn an_engine_that_was_chosen_waits_for_a_restart() {
    let service = Service::start(Some(json!({"engine": "memory"}))).await;
    service.cache.set("k", &1, LONG).await.unwrap();
    service.put(json!({"engine": "redis", "timeout_ms": 1})).await;
    service.until("the field", |status| status.waits_for_restart == Some("engine")).await;
    assert_eq!(service.health("cache"), "degraded: engine waits for a restart");
    assert_eq!(service.cache.get::<u8>("k").await.unwrap(), Some(1));
    service.put(json!({"engine": "memory"})).await;
    service.until("none", |status| status.waits_for_restart.is_none()).await;
    service.end().await;
}

#[test]
fn what_is_promised_to_be_counted_is_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let service = Service::start(None).await;
            let cache = &service.cache;
            cache.set("k", "text", LONG).await.unwrap();
            cache.get::<String>("k").await.unwrap();
            cache.get::<String>("none").await.unwrap();
            cache.get::<u8>("k").await.unwrap_err();
            cache.get_or_load("k", LONG, || async { Ok(1_u8) }).await.unwrap();
            let failed = Error::new(ErrorKind::Internal, "db", "gone");
            cache.get_or_load::<u8, _>("x", LONG, || async { Err(failed) }).await.unwrap_err();
            service.end().await;
        });
    });
    let mut counted = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
        if let (DebugValue::Counter(count), true) = (value, key.key().name().starts_with("coord_cache")) {
            counted.push((format!("{} {}", key.key().name(), labels.join(" ")), count));
        }
    }
    counted.sort();
    let counted: Vec<_> = counted.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(
        counted,
        [
            ("coord_cache_errors_total cache get codec", 1),
            ("coord_cache_errors_total cache load codec", 1),
            ("coord_cache_hits_total cache", 3),
            ("coord_cache_loads_total cache failed", 1),
            ("coord_cache_loads_total cache loaded", 1),
            ("coord_cache_misses_total cache", 2),
        ]
    );
}
