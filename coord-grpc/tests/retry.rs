//! What is sent again, and what never is.

mod common;

use std::time::Duration;

use common::*;
use coord_grpc::{CallOptions, Channel, ChannelOptions, Readiness, RetryOptions};
use tokio::time::Instant;
use tonic::Code;

fn retrying() -> ChannelOptions {
    options().with_retry(RetryOptions::default())
}

fn idempotent() -> CallOptions {
    CallOptions::default().with_idempotent()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotent_calls_survive_a_killed_server() {
    let (mut a, b, c) = (Server::start("a").await, Server::start("b").await, Server::start("c").await);
    let channel = channel_to(&[&a, &b, &c], retrying()).await;
    let load = Load::start(&channel, 64, u64::MAX, "", idempotent());
    load.more(500).await;
    for _ in 0..5 {
        a.kill();
        load.more(500).await;
        a = Server::start_at("a", a.address).await;
        all_ready(&channel).await;
        load.more(500).await;
    }
    let crowd = load.stop().await;
    assert_eq!(crowd.failures(), 0, "{:?}", crowd.failed.concat().first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_calls_are_sent_once() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let channel = channel_to(&[&a, &b], retrying()).await;
    assert_eq!(
        call(&channel, "unavailable", CallOptions::default()).await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(a.calls() + b.calls(), 1);
    let impatient = CallOptions::default().with_attempt_timeout(Duration::from_millis(100));
    assert_eq!(call(&channel, "hang", impatient).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(a.calls() + b.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_is_repeated_elsewhere_and_the_last_refusal_is_the_servers_own() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let channel = channel_to(&[&a, &b], retrying()).await;
    let refused = call(&channel, "unavailable", idempotent()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "as ordered"));
    assert!(refused.metadata().contains_key(SERVED_BY));
    assert_eq!((a.calls().min(b.calls()), a.calls() + b.calls()), (1, 3), "never twice in a row on the same");
    assert_eq!(call(&channel, "internal", idempotent()).await.unwrap_err().code(), Code::Internal);
    assert_eq!(a.calls() + b.calls(), 4, "an error that is no matter of where is not repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_can_be_declared_idempotent_by_their_path() {
    let server = Server::start("a").await;
    let options = retrying().with_idempotent_methods(|path| path == "/grpc.health.v1.Health/Check");
    let channel = channel_to(&[&server], options).await;
    call(&channel, "unavailable", CallOptions::default()).await.unwrap_err();
    assert_eq!(server.calls(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unanswered_call_is_repeated_within_its_deadline() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let channel = channel_to(&[&a, &b], retrying().with_attempt_timeout(Duration::from_millis(200))).await;
    a.be_deaf(true);
    for _ in 0..10 {
        assert_eq!(call(&channel, "", idempotent()).await.unwrap(), "b");
    }
    b.be_deaf(true);
    let mut bounded = order("", idempotent());
    bounded.set_timeout(Duration::from_millis(300));
    let started = Instant::now();
    assert_eq!(health(&channel).check(bounded).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&started.elapsed()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_does_not_multiply_the_load() {
    let server = Server::start("a").await;
    // In the window of 10 s: 20 by reserve, and one for each ten calls.
    let retry = RetryOptions::default().with_budget(0.1).with_reserve_per_second(2);
    let channel = channel_to(&[&server], options().with_retry(retry)).await;
    for _ in 0..200 {
        call(&channel, "unavailable", idempotent()).await.unwrap_err();
    }
    let repeated = server.calls() - 200;
    assert!((20..=41).contains(&repeated), "{repeated} repetitions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_beyond_the_bound_is_sent_once() {
    let server = Server::start("a").await;
    let channel =
        channel_to(&[&server], options().with_retry(RetryOptions::default().with_buffer(100))).await;
    let long = format!("unavailable {}", "x".repeat(200));
    assert_eq!(call(&channel, &long, idempotent()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.calls(), 1);
    call(&channel, &"x".repeat(200), idempotent()).await.expect("it works all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_outlives_the_only_server() {
    let mut server = Server::start("a").await;
    let channel = channel_to(&[&server], retrying()).await;
    let slow = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, "slow 300", idempotent().with_readiness(Readiness::Wait)).await }
    });
    eventually("the call is under way", || server.calls() == 1).await;
    server.kill();
    let again = Server::start_at("again", server.address).await;
    assert_eq!(slow.await.unwrap().unwrap(), "again");
    drop(again);
}

#[tokio::test]
async fn a_request_that_never_left_goes_elsewhere_unmarked() {
    let (mut a, b) = (Server::start("a").await, Server::start("b").await);
    let channel: Channel = channel_to(&[&a, &b], options()).await;
    a.kill();
    // In a runtime of one thread nothing has noticed that `a` is gone: the call itself finds out,
    // or is cut off under way.
    let first = ask(&channel).await;
    let second = ask(&channel).await;
    let failed: Vec<_> = [first, second].into_iter().filter_map(Result::err).collect();
    assert!(
        failed.len() <= 1 && failed.iter().all(|status| status.code() == Code::Unavailable),
        "{failed:?}"
    );
    assert_eq!(tally(&channel, 20).await.into_keys().collect::<Vec<_>>(), ["b"]);
}
