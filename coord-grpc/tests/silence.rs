//! Endpoints that stay connected and do not answer.

mod common;

use std::time::Duration;

use common::*;
use coord_api::ErrorKind;
use coord_grpc::{CallOptions, Channel, Phase};
use tokio::time::Instant;
use tonic::Code;

/// How long an answer may take: no good one takes as long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_timeout_ejects_an_endpoint_where_others_answer() {
    let (far, near) = (Server::start("far").await, Server::start("near").await);
    let network = Network::to(far.address).await;
    let options = options().with_attempt_timeout(PATIENCE).with_connect_timeout(PATIENCE);
    let channel = Channel::fixed([network.endpoint.clone(), near.endpoint()], options).unwrap();
    all_ready(&channel).await;
    assert_eq!(tally(&channel, 10).await.len(), 2);
    network.swallow_all();
    let mut failed = Vec::new();
    for _ in 0..50 {
        failed.extend(ask(&channel).await.err());
    }
    assert_eq!(
        failed.iter().map(tonic::Status::code).collect::<Vec<_>>(),
        [Code::DeadlineExceeded],
        "one, and no more"
    );
    let state = channel.state();
    assert_eq!(state.endpoints[0].phase, Phase::Ejected);
    assert_eq!(state.endpoints[0].failure.as_ref().unwrap().kind(), ErrorKind::Timeout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ejected_also_by_callers_who_do_not_wait_that_long() {
    let (far, near) = (Server::start("far").await, Server::start("near").await);
    let network = Network::to(far.address).await;
    let channel =
        Channel::fixed([network.endpoint.clone(), near.endpoint()], options().with_connect_timeout(PATIENCE))
            .unwrap();
    all_ready(&channel).await;
    network.swallow_all();
    // Callers with deadlines of their own, far below the attempt timeout of 5 s; some just go away.
    let since = Instant::now();
    while phase(&channel, &network.endpoint) == Some(Phase::Ready) {
        let mut hasty = order("", CallOptions::default());
        hasty.set_timeout(Duration::from_millis(100));
        let _ = health(&channel).check(hasty).await;
        let _ = tokio::time::timeout(Duration::from_millis(100), ask(&channel)).await;
        assert!(since.elapsed() < SOON);
    }
    assert!(since.elapsed() < Duration::from_secs(5), "within one attempt timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_calls_do_not_eject_an_endpoint_that_answers_others() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let channel = channel_to(&[&a, &b], options().with_attempt_timeout(PATIENCE)).await;
    let load = Load::start(&channel, 4, u64::MAX, "", CallOptions::default());
    for _ in 0..6 {
        assert_eq!(
            call(&channel, "hang", CallOptions::default()).await.unwrap_err().code(),
            Code::DeadlineExceeded
        );
    }
    let patient = CallOptions::default().with_attempt_timeout(None);
    call(&channel, "slow 1500", patient).await.expect("a call may be patient");
    assert_eq!(load.stop().await.failures(), 0);
    let state = channel.state();
    assert!(
        state.endpoints.iter().all(|endpoint| endpoint.connections == 1 && endpoint.phase == Phase::Ready),
        "{state:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_endpoint_stays_and_is_connected_anew() {
    let server = Server::start("far").await;
    let network = Network::to(server.address).await;
    let channel =
        Channel::fixed([network.endpoint.clone()], options().with_attempt_timeout(PATIENCE)).unwrap();
    all_ready(&channel).await;
    network.swallow_present();
    assert_eq!(ask(&channel).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(phase(&channel, &network.endpoint), Some(Phase::Ready), "it is all there is");
    eventually("a new connection", || channel.state().endpoints[0].connections == 2).await;
    assert_eq!(tally(&channel, 20).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_at_a_time_tries_an_endpoint_that_was_silent() {
    let (deaf, good) = (Server::start("deaf").await, Server::start("good").await);
    let channel = channel_to(&[&deaf, &good], options().with_attempt_timeout(PATIENCE)).await;
    deaf.be_deaf(true);
    let load = Load::start(&channel, 16, u64::MAX, "", CallOptions::default());
    let connections = || channel.state().endpoints[0].connections;
    eventually("it was tried five times", || connections() >= 6).await;
    let crowd = load.stop().await;
    let tried = usize::try_from(connections()).unwrap();
    // Its HTTP/2 answers, so it is connected anew each time; but it costs one call a time, after
    // the first wave.
    let most = 16 + tried;
    assert!((5..=most).contains(&crowd.failures()), "{} failures, {tried} connections", crowd.failures());
    assert!(crowd.answered > 100);
    deaf.be_deaf(false);
    let load = Load::start(&channel, 16, u64::MAX, "", CallOptions::default());
    let before = deaf.calls();
    eventually("it takes its share again", || deaf.calls() > before + 500).await;
    load.stop().await;
}
