//! What a process gets from [`Boot::start`]: logs and metrics by configuration (K2, K3, K11). It
//! installs both for the whole process, so that this is a program of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use coord::prelude::*;
use coord_service::clog::LogConfig;
use coord_service::health::State;
use coord_service::{Boot, OnUnreachable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const LIMIT: Duration = Duration::from_secs(30);

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Waits until a line of the file has all of `parts`.
async fn line(path: &Path, parts: &[&str]) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().any(|line| parts.iter().all(|part| line.contains(part))) {
            return;
        }
        assert!(Instant::now() < deadline, "no line with {parts:?} in:\n{text}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn logs_and_metrics_are_as_the_config_centre_says_while_the_service_runs() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let output = |name: &str| LogConfig::default().with_output(file(name).display().to_string());
    let boot = Boot::start("gateway").unwrap().with_versions_in_use();
    let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
    let config = coord.provider().config();
    let version = config.set("dev/gateway/clog", &output("one")).await.unwrap();
    config.set_raw("dev/gateway/admin", r#"{"listen": "127.0.0.1:0"}"#.into()).await.unwrap();
    let app = boot.upgrade(&coord).await.unwrap();
    assert!(!app.health().is_ready(), "parts may still come");
    app.started();
    timeout(LIMIT, app.health().wait_for(|state| *state == State::Ready)).await.unwrap();

    // JSON in a file, for nobody looks at it.
    tracing::info!(user = 7, "signed in");
    line(&file("one"), &["\"level\":\"INFO\"", "\"service\":\"gateway\"", "\"user\":7", "signed in"]).await;
    let admin = app.admin().unwrap().current().unwrap().address();
    coord_service::metrics::inc("signed_in_total", &[]);
    assert!(get(admin, "/metrics").await.contains("\nsigned_in_total 1\n"));

    // Which version that was, operators are told (R86).
    let told = async || {
        let uses = coord.inspect().versions_in_use().await.unwrap();
        uses.iter().any(|process| {
            process.versions.get("dev/gateway/clog").is_some_and(|in_use| in_use.version == version)
        })
    };
    let telling = async {
        while !told().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, telling).await.unwrap();

    // A level, in place: at most a second after it was set (K3).
    config.set("dev/gateway/clog", &output("one").with_level("debug")).await.unwrap();
    let deadline = Instant::now() + LIMIT;
    while !tracing::enabled!(tracing::Level::DEBUG) {
        assert!(Instant::now() < deadline, "the level is still that of the start");
        sleep(Duration::from_millis(10)).await;
    }
    tracing::debug!("now heard");
    line(&file("one"), &["\"level\":\"DEBUG\"", "now heard"]).await;

    // What is wrong is named, and changes nothing.
    config.set("dev/gateway/clog", &output("one").with_level("lout")).await.unwrap();
    let named =
        |state: &State| state.why().is_some_and(|why| why.contains("level: ") && why.contains("lout"));
    timeout(LIMIT, app.health().wait_for(named)).await.unwrap();
    config.set("dev/gateway/clog", &output("no/such/directory")).await.unwrap();
    let named = |state: &State| state.why().is_some_and(|why| why.contains("no/such/directory"));
    let state = timeout(LIMIT, app.health().wait_for(named)).await.unwrap();
    assert!(state.is_serving(), "{state}: it can do without that file");
    tracing::info!("still in the old one");
    line(&file("one"), &["still in the old one"]).await;

    // It is tried again, and works as soon as it can.
    std::fs::create_dir_all(file("no/such")).unwrap();
    timeout(LIMIT, app.health().wait_for(|state| *state == State::Ready)).await.unwrap();
    tracing::info!("in the new one");
    line(&file("no/such/directory"), &["in the new one"]).await;

    // The last words are written before it is over.
    tracing::info!("last words");
    assert!(app.end().await.is_clean());
    let text = std::fs::read_to_string(file("no/such/directory")).unwrap();
    assert!(text.contains("last words"), "{text}");
    assert!(TcpStream::connect(admin).await.is_err());

    // Another service of the same process has what the first one has installed.
    let second = Boot::start("second").unwrap();
    let coord = second.connect("memory://", OnUnreachable::Fail).await.unwrap();
    let app = second.upgrade(&coord).await.unwrap();
    assert!(app.admin().is_none());
    assert!(app.end().await.is_clean());
}
