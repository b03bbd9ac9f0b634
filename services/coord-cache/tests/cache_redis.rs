//! The cache on a real Redis: what it does there, and how it is changed (K1, K2).
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::print_stdout, reason = "what was counted")]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use coord::prelude::*;
use coord::{ErrorKind, Outcome};
use coord_cache::redis::AsyncCommands;
use coord_servers::redis::Redis;
use coord_service::live::LiveStatus;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Service, shown, until};

const LONG: Duration = Duration::from_secs(600);

fn document(redis: &Redis) -> Value {
    json!({"engine": "redis", "timeout_ms": 5_000, "redis": {"url": redis.url(), "connect_timeout_ms": 5_000}})
}

fn with_password(redis: &Redis, password: &str) -> Value {
    let mut document = document(redis);
    document["redis"]["password"] = password.into();
    document
}

#[tokio::test]
async fn what_is_set_lies_on_the_server_for_its_time() {
    let redis = Redis::start();
    let service = Service::start(Some(document(&redis))).await;
    let cache = &service.cache;
    assert_eq!(cache.get::<String>("k").await.unwrap(), None);
    cache.set("k", "v", Duration::from_millis(90_001)).await.unwrap();
    cache.set_bytes("bytes", &b"\xff\x00\r\n"[..], None).await.unwrap();
    assert_eq!(cache.get::<String>("k").await.unwrap().unwrap(), "v");
    assert_eq!(cache.get_bytes("bytes").await.unwrap().unwrap(), &b"\xff\x00\r\n"[..]);
    // Where the document lies is where the entries are, and others read them.
    assert_eq!(redis.command(&["GET", "dev/gateway/cache:k"]), r#""v""#);
    let left = |key| redis.command(&["PTTL", key])[1..].parse::<u64>().unwrap();
    assert!((60_000..=90_001).contains(&left("dev/gateway/cache:k")));
    assert!((500_000..=600_000).contains(&left("dev/gateway/cache:bytes")));
    cache.set("short", &1, Duration::from_millis(5)).await.unwrap();
    until("it is over", || async { cache.get::<u8>("short").await.unwrap().is_none() }).await;
    assert!(cache.del("k").await.unwrap() && !cache.del("k").await.unwrap());
    assert_eq!(cache.get_or_load("k", LONG, || async { Ok(7) }).await.unwrap(), 7);
    assert_eq!(cache.get::<u8>("k").await.unwrap(), Some(7));

    // The native connection has every other command.
    let mut native = cache.redis().unwrap();
    let members: usize = native.sadd("set", &["a", "b"]).await.unwrap();
    assert_eq!((members, redis.command(&["SCARD", "set"]).as_str()), (2, ":2"));
    assert_eq!(cache.moka().unwrap_err().kind(), ErrorKind::InvalidArgument);
    redis.command(&["SADD", "dev/gateway/cache:set", "a"]);
    let error = cache.get::<u8>("set").await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Codec, Some("set")));
    drop(native);
    service.end().await;
}

#[tokio::test]
async fn it_is_reached_by_a_socket_as_a_user_in_a_database() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("redis.sock").to_str().unwrap().to_owned();
    let redis = Redis::start_with(&["--unixsocket", &socket]);
    let user = ["ACL", "SETUSER", "ann", "on", ">pass:word/?", "~p:*", "+get", "+set", "+select"];
    assert_eq!(redis.command(&user), "+OK");
    let mut document = json!({"engine": "redis", "prefix": "p:"});
    document["redis"] = json!({
        "url": format!("unix://{socket}?db=3"), "username": "ann", "password": "pass:word/?",
    });
    let service = Service::start(Some(document)).await;
    let cache = &service.cache;
    cache.set("k", &1, LONG).await.unwrap();
    assert_eq!(cache.get::<u8>("k").await.unwrap(), Some(1));
    // What this user may not do; not even to ask whether the server is there.
    let error = cache.del("k").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::PermissionDenied, Outcome::NotApplied));
    assert_eq!(service.health("cache"), "ready");
    service.end().await;
}

#[tokio::test]
async fn a_prefix_is_kept_until_a_restart() {
    let redis = Redis::start();
    let mut named = document(&redis);
    named["prefix"] = "p/".into();
    let service = Service::start(Some(named.clone())).await;
    service.cache.set("k", &1, LONG).await.unwrap();
    assert_eq!(redis.command(&["GET", "p/k"]), "1");
    named["prefix"] = "q/".into();
    service.put(named).await;
    service.until("the field", |status| status.waits_for_restart == Some("prefix")).await;
    assert_eq!(service.cache.get::<u8>("k").await.unwrap(), Some(1));
    service.end().await;
}

#[tokio::test]
async fn an_engine_that_nobody_chose_is_left_when_one_is_chosen() {
    let redis = Redis::start();
    let service = Service::start(None).await;
    service.cache.set("k", &1, LONG).await.unwrap();
    service.put(document(&redis)).await;
    service.generation(2).await;
    service.cache.set("k", &2, LONG).await.unwrap();
    assert_eq!(redis.command(&["GET", "dev/gateway/cache:k"]), "2");
    service.put(json!({})).await;
    service.until("the field", |status| status.waits_for_restart == Some("engine")).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_passwords_under_64_callers_fail_no_call() {
    let mut redis = Redis::start();
    redis.add_password("password-1");
    let service = Service::start(Some(with_password(&redis, "password-1"))).await;
    service.generation(1).await;
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let (cache, stop, calls) = (service.cache.clone(), Arc::clone(&stop), Arc::clone(&calls));
            let failed = Arc::clone(&failed);
            tokio::spawn(async move {
                let key = format!("key-{caller}");
                for n in 0_u64.. {
                    let set = cache.set(&key, &n, LONG).await;
                    let got = cache.get::<u64>(&key).await;
                    calls.fetch_add(2, Ordering::Relaxed);
                    if set.is_err() || !matches!(got, Ok(Some(got)) if got == n) {
                        failed.lock().push(format!("{set:?} {got:?}, wanted {n}"));
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            })
        })
        .collect();
    for n in 2..=101_u64 {
        let (new, old) = (format!("password-{n}"), format!("password-{}", n - 1));
        redis.add_password(&new);
        service.put(with_password(&redis, &new)).await;
        service.generation(n).await;
        redis.remove_password(&old);
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let (calls, failed) = (calls.load(Ordering::Relaxed), std::mem::take(&mut *failed.lock()));
    println!("100 swaps, 64 callers: {calls} calls, {} failed", failed.len());
    assert!(calls > 64 * 2 * 10, "they called all the time: {calls}");
    assert!(failed.is_empty(), "{} of {calls}: {:?}", failed.len(), failed.first());
    // Each old connection is gone.
    service.until("the last one is retired", |status| !status.retiring).await;
    let ours =
        || redis.command(&["CLIENT", "LIST"]).lines().filter(|line| !line.contains("cmd=client")).count();
    until("one connection", || async { ours() == 1 }).await;
    service.end().await;
    until("none", || async { ours() == 0 }).await;
}

#[tokio::test]
async fn another_server_is_used_when_it_answers_and_not_before() {
    let (first, mut second) = (Redis::start(), Redis::start());
    let service = Service::start(Some(document(&first))).await;
    let cache = &service.cache;
    cache.set("k", &1, LONG).await.unwrap();
    second.kill();
    service.put(document(&second)).await;
    let status = service.until("a fault", |status| status.fault.is_some()).await;
    assert_eq!(status.fault.unwrap().error.kind(), ErrorKind::Unavailable);
    assert_eq!(cache.get::<u8>("k").await.unwrap(), Some(1), "the old one is in use");
    assert!(service.health("cache").starts_with("degraded"), "{}", service.health("cache"));
    second.restart();
    service.generation(2).await;
    assert_eq!(cache.get::<u8>("k").await.unwrap(), None);
    cache.set("k", &2, LONG).await.unwrap();
    assert_eq!(second.command(&["GET", "dev/gateway/cache:k"]), "2");
    service.end().await;
}

#[tokio::test]
async fn a_service_starts_while_its_cache_is_away() {
    let mut redis = Redis::start();
    redis.kill();
    let service = Service::start(Some(document(&redis))).await;
    let cache = &service.cache;
    let error = cache.get::<u8>("k").await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unavailable, "cache.get"));
    assert!(shown(&error).contains("refused"), "{}", shown(&error));
    assert!(service.health("cache").starts_with("down"), "{}", service.health("cache"));
    assert!(service.app.health().summary().is_serving(), "the service can do without it");
    assert_eq!(cache.get_or_load("k", LONG, || async { Ok(7) }).await.unwrap(), 7);
    redis.restart();
    service.generation(1).await;
    cache.set("k", &1, LONG).await.unwrap();
    assert_eq!(cache.get::<u8>("k").await.unwrap(), Some(1));
    service.end().await;
}

/// What was logged in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_wrong_password_is_shown_nowhere() {
    const SECRETS: [&str; 3] = ["hunter2", "hunter3", "hunter4"];
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // The only one of this process; the other tests write into it as well.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let mut redis = Redis::start();
    redis.add_password("right");
    let service = Service::start(Some(with_password(&redis, SECRETS[0]))).await;
    let fault = service.until("a fault", |status| status.fault.is_some()).await.fault.unwrap();
    assert_eq!(fault.error.kind(), ErrorKind::Unauthenticated, "{fault}");
    let mut text = format!("{fault} {fault:?} {:?}", service.cache);
    let called = service.cache.get::<u8>("k").await.unwrap_err();
    for error in [&fault.error, &called, &service.cache.redis().unwrap_err()] {
        text += &shown(error);
    }
    text += &format!("{:?} {:?}", service.app.health().summary(), service.app.health().parts());
    // In the URL, of a user.
    let port = redis.address().port();
    let url = format!("redis://ann:{}@127.0.0.1:{port}/1", SECRETS[1]);
    service.put(json!({"engine": "redis", "redis": {"url": url}})).await;
    let of_the_url = |status: &LiveStatus| {
        status.fault.as_ref().is_some_and(|it| it.error.key().is_some_and(|key| key.ends_with("/1")))
    };
    let fault = service.until("the next fault", of_the_url).await.fault.unwrap();
    text += &format!("{fault} {fault:?} {}", shown(&fault.error));
    // In a URL that is none.
    service.put(json!({"engine": "redis", "redis": {"url": format!("redis://a:{}@h:x", SECRETS[2])}})).await;
    until("it is refused", || async { service.health("cache configuration").contains("redis.url") }).await;
    text += &service.health("cache configuration");
    // A document with a wrong field beside a password.
    let raw = format!("{{\n\"redis\": {{\"password\": \"{}\", \"timeout\": 1}}}}", SECRETS[2]);
    service.coord.provider().config().set_raw(support::DOCUMENT, raw.into()).await.unwrap();
    until("it is refused", || async { service.health("cache configuration").contains("line 2") }).await;
    text += &service.health("cache configuration");
    // None at all where one is needed.
    service.put(document(&redis)).await;
    let needs =
        |status: &LiveStatus| status.fault.as_ref().is_some_and(|it| it.error.to_string().contains("NOAUTH"));
    service.until("that one is needed", needs).await;
    // And the right one.
    service.put(with_password(&redis, "right")).await;
    service.generation(1).await;
    service.end().await;
    let logged = String::from_utf8_lossy(&log.0.lock()).into_owned();
    assert!(logged.contains("coord_cache") || logged.contains("coord_service"), "it was logged");
    for secret in SECRETS.into_iter().chain(["right@", "\"right\""]) {
        assert!(!text.contains(secret), "{secret}: {text}");
        for line in logged.lines() {
            assert!(!line.contains(secret), "{secret}: {line}");
        }
    }
}
