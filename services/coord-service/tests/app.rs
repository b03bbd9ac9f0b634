//! A service from its start to its end, on a store in memory (K2, K9, K10).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use coord::prelude::*;
use coord::{ErrorKind, Registration, ServiceInstance};
use coord_service::admin::{Admin, AdminConfig};
use coord_service::health::State;
use coord_service::ratelimit::{LimitRule, RateLimiter};
use coord_service::shutdown::{Phase, ShutdownOptions};
use coord_service::uid::UidReload;
use coord_service::{Boot, LiveComponent, OnUnreachable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

fn boot() -> Boot {
    Boot::bare("gateway").with_shutdown(ShutdownOptions::default().with_linger(Duration::from_millis(10)))
}

/// The status and the body of what is at `path`.
async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn any_port() -> AdminConfig {
    AdminConfig { listen: "127.0.0.1:0".parse().unwrap() }
}

#[tokio::test]
async fn operators_see_the_state_of_each_part_and_the_metrics() {
    let boot = boot();
    let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
    let config = coord.provider().config();
    config.set("dev/gateway/admin", &any_port()).await.unwrap();
    let app = boot.upgrade(&coord).await.unwrap();
    let admin = Admin::new(app.health().clone(), Arc::new(|| "messages_total 5\n".to_owned()));
    let admin =
        app.add(LiveComponent::new(app.config("admin"), admin).with_phase(Phase::Admin)).await.unwrap();
    let db = app.health().register("db", true);
    let first = admin.current().unwrap().address();

    assert_eq!(get(first, "/metrics").await, (200, "messages_total 5\n".to_owned()));
    let (status, body) = get(first, "/readyz").await;
    let told: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &told["state"], &told["why"]),
        (503, &"down".into(), &"service: starting; db: starting".into())
    );
    assert_eq!(get(first, "/healthz").await.0, 200);
    db.set(State::Ready);
    // Parts that were not added yet cannot say that they are not ready.
    let (status, body) = get(first, "/readyz").await;
    assert!(status == 503 && body.contains("service: starting"), "{body}");
    app.started();
    timeout(LIMIT, app.health().wait_for(|state| *state == State::Ready)).await.unwrap();
    assert_eq!(get(first, "/readyz").await.0, 200);

    // It moves, and the old address is left; a document that is refused changes nothing.
    config.set("dev/gateway/admin", &AdminConfig { listen: "127.0.0.2:0".parse().unwrap() }).await.unwrap();
    timeout(LIMIT, admin.wait_for(|status| status.generation == 2 && !status.retiring)).await.unwrap();
    let second = admin.current().unwrap().address();
    assert_ne!(second, first);
    assert_eq!(get(second, "/readyz").await.0, 200);
    assert!(TcpStream::connect(first).await.is_err());
    config.set_raw("dev/gateway/admin", r#"{"listen": "nowhere"}"#.into()).await.unwrap();
    let refused = timeout(LIMIT, app.health().wait_for(|state| *state != State::Ready)).await.unwrap();
    assert!(matches!(&refused, State::Degraded(why) if why.contains("admin configuration")), "{refused}");
    assert_eq!(get(second, "/readyz").await.0, 200, "degraded, and ready all the same");

    assert!(app.end().await.is_clean());
    assert!(TcpStream::connect(second).await.is_err());
    assert_eq!(coord.provider().config().get_raw("a").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_port_that_somebody_else_has_keeps_nothing_from_starting() {
    let boot = boot();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
    let listen = taken.local_addr().unwrap();
    coord.provider().config().set("dev/gateway/admin", &AdminConfig { listen }).await.unwrap();
    let app = boot.upgrade(&coord).await.unwrap();
    let admin = Admin::new(app.health().clone(), Arc::new(String::new));
    let admin = app.add(LiveComponent::new(app.config("admin"), admin).optional()).await.unwrap();
    assert!(admin.current().is_err());
    app.started();
    assert!(matches!(app.health().summary(), State::Degraded(why) if why.contains(&listen.to_string())));
    drop(taken);
    timeout(LIMIT, admin.ready()).await.unwrap();
    assert_eq!(get(listen, "/healthz").await.0, 200);
    app.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_ends_in_order() {
    let boot = boot();
    let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
    let app = boot.upgrade(&coord).await.unwrap();
    let registry = Arc::clone(coord.provider().registry());
    let instance = ServiceInstance::new("i1", "gateway", "localhost", 1234);
    let registration: Registration = registry.register(instance).await.unwrap();
    let (health, seen) = (app.health().clone(), Arc::clone(&registry));
    app.shutdown().on(Phase::Deregister, "registration", async move {
        registration.unregister().await.unwrap();
    });
    let (told, heard) = tokio::sync::oneshot::channel();
    app.shutdown().on(Phase::Servers, "http", async move {
        told.send((health.is_ready(), seen.discover("gateway").await.unwrap().items.len())).unwrap();
    });
    assert!(app.end().await.is_clean());
    assert_eq!(heard.await.unwrap(), (false, 0), "not ready, and not to be found, when the server ends");
    assert_eq!(registry.discover("gateway").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_degrades_the_service_or_takes_it_down() {
    for required in [false, true] {
        let memory = coord::memory::MemoryProvider::new();
        let coord =
            coord::Coord::new(memory.core().clone(), Arc::<coord::memory::MemoryProvider>::clone(&memory));
        let boot = if required { boot().require_coord() } else { boot() };
        let app = boot.upgrade(&coord).await.unwrap();
        app.started();
        app.health().wait_for(|state| *state == State::Ready).await;
        memory.disconnect();
        let state = app.health().wait_for(|state| *state != State::Ready).await;
        assert_eq!(state.is_serving(), !required, "{state}");
        memory.reconnect();
        app.health().wait_for(|state| *state == State::Ready).await;
        app.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn ids_are_a_part_that_waits_for_the_store_and_gives_its_number_back() {
    let memory = coord::memory::MemoryProvider::new();
    let open =
        || coord::Coord::new(memory.core().clone(), Arc::<coord::memory::MemoryProvider>::clone(&memory));
    let app = boot().upgrade(&open()).await.unwrap();
    memory.disconnect();
    let reload = UidReload::new(app.coord(), app.service());
    let part = LiveComponent::new(app.config("uid"), reload).with_phase(Phase::Leases);
    let ids = app.add(part).await.unwrap();
    app.started();
    assert!(ids.current().is_err() && !app.health().is_ready());
    memory.reconnect();
    ids.ready().await;
    let first = ids.current().unwrap().next().unwrap();
    app.health().wait_for(|state| *state == State::Ready).await;

    // Another range needs another process; what is wrong is named.
    let config = memory.config();
    config.set_raw("dev/gateway/uid", r#"{"last_worker": 7}"#.into()).await.unwrap();
    ids.wait_for(|status| status.waits_for_restart.is_some()).await;
    config.set_raw("dev/gateway/uid", r#"{"last_worker": 1024}"#.into()).await.unwrap();
    let named = |state: &State| state.why().is_some_and(|why| why.contains("last_worker: "));
    app.health().wait_for(named).await;
    assert!(ids.current().unwrap().next().unwrap() > first);

    // The last horizon is what the last id needs, which only a clean end writes.
    let last = ids.current().unwrap().next().unwrap();
    assert!(app.end().await.is_clean());
    assert_eq!(ids.current().unwrap_err().kind(), ErrorKind::Closed);
    assert!(last > first);
}

#[tokio::test(start_paused = true)]
async fn limits_are_a_part_that_says_which_rule_is_wrong() {
    let boot = boot();
    let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
    let app = boot.upgrade(&coord).await.unwrap();
    let config = coord.provider().config();
    let limits = RateLimiter::builder(Arc::clone(config), "gateway").rule("login", LimitRule::per_second(1));
    let limits = app.add(limits).await.unwrap();
    app.started();
    app.health().wait_for(|state| *state == State::Ready).await;
    config.set_raw("dev/gateway/ratelimit/login", r#"{"rate": "much"}"#.into()).await.unwrap();
    let named = |state: &State| state.why().is_some_and(|why| why.contains("the rule login is not in use"));
    let state = app.health().wait_for(named).await;
    assert!(state.is_serving(), "{state}: the rule of the program decides");
    assert!(limits.allow("login", "ann").is_allowed() && !limits.allow("login", "ann").is_allowed());
    config.delete("dev/gateway/ratelimit/login").await.unwrap();
    app.health().wait_for(|state| *state == State::Ready).await;
    assert!(app.end().await.is_clean());
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn a_service_starts_while_its_cluster_is_away_unless_it_is_told_not_to() {
    // Nobody listens there: the port was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("etcd://127.0.0.1:{port}?connect_timeout=200ms");
    let boot = boot();
    let error = boot.connect(&url, OnUnreachable::Fail).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let coord = boot.connect(&url, OnUnreachable::Defaults).await.unwrap();
    let app = boot.upgrade(&coord).await.unwrap();
    app.started();
    let told = |state: &State| matches!(state, State::Degraded(why) if why.contains("away"));
    timeout(LIMIT, app.health().wait_for(told)).await.unwrap();
    app.end().await;
}
