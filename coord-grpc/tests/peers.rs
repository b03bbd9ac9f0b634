//! Peers that are no good servers, and networks that lead nowhere: the others are unharmed, and the
//! channel's state says what is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use coord_api::{Error, ErrorKind};
use coord_grpc::{CallOptions, Channel, Endpoint, KeepAlive, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// Accepts connections, and answers whatever comes with these bytes; with none it hangs up at once.
async fn peer(answer: Option<&'static [u8]>) -> (Endpoint, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let Some(answer) = answer else { continue };
            tokio::spawn(async move {
                let mut bytes = [0; 1024];
                while matches!(stream.read(&mut bytes).await, Ok(1..)) {
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (endpoint, accepted)
}

/// Puts a peer beside a good server; why it is not ready.
async fn beside_a_good_server(bad: Endpoint) -> Error {
    let server = Server::start("good").await;
    let channel = Channel::fixed(
        [bad.clone(), server.endpoint()],
        options().with_connect_timeout(Duration::from_millis(300)),
    )
    .unwrap();
    let ejected = || {
        phase(&channel, &bad) == Some(Phase::Ejected)
            && phase(&channel, &server.endpoint()) == Some(Phase::Ready)
    };
    eventually("the bad one is ejected, the good one ready", ejected).await;
    assert_eq!(tally(&channel, 50).await.into_iter().collect::<Vec<_>>(), [("good".into(), 50)]);
    let state = channel.state();
    let bad = state.endpoints.iter().find(|state| state.endpoint == bad).unwrap();
    assert_eq!(bad.connections, 0, "it was never ready");
    bad.failure.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_accepts_and_says_nothing_is_never_ready() {
    // What a paused server does: its kernel accepts.
    let failure = beside_a_good_server(peer(Some(b"")).await.0).await;
    assert_eq!(failure.kind(), ErrorKind::Timeout, "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_speaks_http_1_is_named() {
    let failure = beside_a_good_server(peer(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await.0).await;
    assert!(failure.kind() == ErrorKind::Unavailable && failure.message().contains("HTTP/1"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_speaks_something_else_is_named() {
    let failure = beside_a_good_server(peer(Some(b"SSH-2.0-OpenSSH_9.2\r\n")).await.0).await;
    assert!(
        failure.kind() == ErrorKind::Unavailable && failure.message().contains("does not speak HTTP/2"),
        "{failure}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_up_is_tried_with_pauses() {
    let (endpoint, accepted) = peer(None).await;
    let channel = Channel::fixed(
        [endpoint.clone()],
        options().with_backoff(Duration::from_millis(50), Duration::from_secs(60)),
    )
    .unwrap();
    sleep(Duration::from_millis(500)).await;
    // Pauses of at least 50, 100, 200 and 400 ms.
    let tries = accepted.load(Ordering::SeqCst);
    assert!((1..=5).contains(&tries), "{tries} tries");
    assert_eq!(phase(&channel, &endpoint), Some(Phase::Ejected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_found_by_pings() {
    let (far, near) = (Server::start("far").await, Server::start("near").await);
    let network = Network::to(far.address).await;
    let keep_alive = KeepAlive::default()
        .with_interval(Duration::from_millis(50))
        .with_timeout(Duration::from_millis(100))
        .with_while_idle(true);
    let options = options()
        .with_keep_alive(keep_alive)
        .with_connect_timeout(Duration::from_millis(200))
        .with_attempt_timeout(None);
    let channel = Channel::fixed([network.endpoint.clone(), near.endpoint()], options).unwrap();
    all_ready(&channel).await;
    assert_eq!(tally(&channel, 10).await.len(), 2);
    let mut stream = loop {
        // One that runs over the network: it is to end by itself.
        let response = health(&channel).watch(order("", CallOptions::default())).await.unwrap();
        if response.metadata().get(SERVED_BY).unwrap() == "far" {
            break response.into_inner();
        }
    };
    network.swallow_all();
    eventually("it is ejected", || phase(&channel, &network.endpoint) == Some(Phase::Ejected)).await;
    assert_eq!(tally(&channel, 20).await.into_iter().collect::<Vec<_>>(), [("near".into(), 20)]);
    let end = loop {
        match stream.message().await {
            Ok(message) => drop(message.unwrap()),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), tonic::Code::Unavailable, "{end}");
}
