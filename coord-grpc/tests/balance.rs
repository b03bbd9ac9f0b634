//! The balanced channel: which endpoint gets a call, and how endpoints come and go.

mod common;

use std::time::Duration;

use common::*;
use coord_api::ErrorKind;
use coord_grpc::{CallOptions, Channel, ChannelOptions, Endpoint, Phase, Policy, Readiness, RetryOptions};
use coord_home::Home;
use tokio::time::Instant;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_spreads_calls_evenly() {
    let (a, b, c) = (Server::start("a").await, Server::start("b").await, Server::start("c").await);
    let channel = channel_to(&[&a, &b, &c], options()).await;
    let tally = tally(&channel, 300).await;
    assert_eq!(
        tally.into_iter().collect::<Vec<_>>(),
        [("a".into(), 100), ("b".into(), 100), ("c".into(), 100)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pick_first_stays_with_the_first_that_is_ready() {
    let (mut a, b) = (Server::start("a").await, Server::start("b").await);
    let channel = channel_to(&[&a, &b], options().with_policy(Policy::PickFirst)).await;
    assert_eq!(tally(&channel, 50).await.into_iter().collect::<Vec<_>>(), [("a".into(), 50)]);
    a.kill();
    eventually("a is out", || phase(&channel, &a.endpoint()) != Some(Phase::Ready)).await;
    assert_eq!(tally(&channel, 50).await.into_iter().collect::<Vec<_>>(), [("b".into(), 50)]);
    let again = Server::start_at("a2", a.address).await;
    eventually("a is back", || phase(&channel, &again.endpoint()) == Some(Phase::Ready)).await;
    assert_eq!(tally(&channel, 50).await.into_iter().collect::<Vec<_>>(), [("a2".into(), 50)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_dead_from_the_start_fails_no_call() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let dead = nobody();
    let channel = Channel::fixed([a.endpoint(), dead.endpoint.clone(), b.endpoint()], options()).unwrap();
    let crowd = Load::start(&channel, 64, 4_000, "", CallOptions::default()).finish().await;
    assert_eq!((crowd.answered, crowd.failures()), (4_000, 0), "{:?}", crowd.failed.concat().first());
    let state = channel.state();
    let dead = state.endpoints.iter().find(|state| state.endpoint == dead.endpoint).unwrap();
    assert_eq!((dead.phase, dead.connections), (Phase::Ejected, 0));
    let failure = dead.failure.as_ref().unwrap();
    assert!(failure.kind() == ErrorKind::Unavailable && failure.message().contains("refused"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_comes_back_by_itself() {
    let (mut a, b) = (Server::start("a").await, Server::start("b").await);
    let channel = channel_to(&[&a, &b], options()).await;
    for round in 0..3 {
        a.kill();
        eventually("a is ejected", || phase(&channel, &a.endpoint()) == Some(Phase::Ejected)).await;
        assert_eq!(tally(&channel, 10).await.len(), 1, "round {round}");
        a = Server::start_at("a", a.address).await;
        all_ready(&channel).await;
        assert_eq!(tally(&channel, 10).await.len(), 2, "round {round}");
    }
    let state = channel.state();
    assert_eq!(state.endpoints.iter().map(|endpoint| endpoint.connections).collect::<Vec<_>>(), [4, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_set_changes_and_what_stays_keeps_its_connection() {
    let (a, b, c) = (Server::start("a").await, Server::start("b").await, Server::start("c").await);
    let (channel, set) = Channel::dynamic(options()).unwrap();
    assert!(channel.state().age.is_none());
    set.replace([a.endpoint(), b.endpoint()]);
    all_ready(&channel).await;
    assert_eq!(tally(&channel, 10).await.into_keys().collect::<Vec<_>>(), ["a", "b"]);
    set.replace([c.endpoint(), b.endpoint()]);
    all_ready(&channel).await;
    assert_eq!(tally(&channel, 10).await.into_keys().collect::<Vec<_>>(), ["b", "c"]);
    let state = channel.state();
    assert_eq!(
        state.endpoints.iter().map(|state| state.endpoint.clone()).collect::<Vec<_>>(),
        [c.endpoint(), b.endpoint()]
    );
    assert!(state.endpoints.iter().all(|endpoint| endpoint.connections == 1), "{state:?}");
    drop(set);
    assert_eq!(tally(&channel, 10).await.len(), 2, "without its handle the set stays as it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_endpoint_finishes_its_calls() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let (channel, set) = Channel::dynamic(options()).unwrap();
    set.replace([a.endpoint()]);
    all_ready(&channel).await;
    let slow = Load::start(&channel, 20, 20, "slow 300", CallOptions::default());
    let mut stream = health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
    eventually("the calls are under way", || a.calls() == 21).await;
    set.replace([b.endpoint()]);
    all_ready(&channel).await;
    assert_eq!(tally(&channel, 20).await.into_keys().collect::<Vec<_>>(), ["b"]);
    let crowd = slow.finish().await;
    assert_eq!((crowd.answered, crowd.failures()), (20, 0));
    assert_eq!(a.calls(), 21);
    for _ in 0..20 {
        stream.message().await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_a_server_before_it_stops_fails_no_call() {
    let (mut a, b) = (Server::start("a").await, Server::start("b").await);
    let (channel, set) = Channel::dynamic(options()).unwrap();
    set.replace([a.endpoint(), b.endpoint()]);
    all_ready(&channel).await;
    let load = Load::start(&channel, 64, u64::MAX, "", CallOptions::default());
    load.more(1_000).await;
    set.replace([b.endpoint()]);
    load.more(1_000).await;
    a.kill();
    load.more(1_000).await;
    let crowd = load.stop().await;
    assert_eq!(crowd.failures(), 0, "{:?}", crowd.failed.concat().first());
}

/// A server that says goodbye under load, ten times: what its calls failed with.
async fn goodbyes(options: ChannelOptions, calls: CallOptions) -> Vec<Code> {
    let mut failed = Vec::new();
    for _ in 0..10 {
        let (a, b) = (Server::start("a").await, Server::start("b").await);
        let channel = channel_to(&[&a, &b], options.clone()).await;
        let load = Load::start(&channel, 64, u64::MAX, "", calls);
        load.more(500).await;
        a.leave();
        eventually("a is out", || phase(&channel, &a.endpoint()) != Some(Phase::Ready)).await;
        load.more(500).await;
        failed.extend(load.stop().await.failed.concat().into_iter().map(|(_, status)| status.code()));
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_goodbye_fails_no_call_that_may_be_repeated() {
    let options = options().with_retry(RetryOptions::default());
    assert_eq!(goodbyes(options, CallOptions::default().with_idempotent()).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_goodbye_leaves_no_call_without_an_answer() {
    // A server that closes with requests unread resets the connection, and with it goes what it
    // said of them, and its last answers: nobody knows then what was looked at. Once or twice in a
    // thousand goodbyes of a busy machine that fails up to 20 calls; and they learn it at once.
    let failed = goodbyes(options(), CallOptions::default()).await;
    assert!(failed.iter().all(|code| *code == Code::Unavailable), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_endpoint_calls_fail_at_once_or_wait_until_their_deadline() {
    let (channel, set) = Channel::dynamic(options()).unwrap();
    set.replace([]);
    let started = Instant::now();
    let failed = ask(&channel).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed}");
    assert!(started.elapsed() < Duration::from_secs(1));

    let mut late = order("", waiting());
    late.set_timeout(Duration::from_millis(200));
    let started = Instant::now();
    let failed = health(&channel).check(late).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded, "{failed}");
    assert!(started.elapsed() >= Duration::from_millis(200));

    let waits = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, "", waiting()).await }
    });
    let server = Server::start("a").await;
    set.replace([server.endpoint()]);
    assert_eq!(waits.await.unwrap().unwrap(), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_the_first_answer_about_an_endpoint_and_no_longer() {
    let server = Server::start("a").await;
    for _ in 0..20 {
        let channel = Channel::fixed([server.endpoint()], options()).unwrap();
        assert_eq!(ask(&channel).await.unwrap(), "a", "made before anything was connected");
    }
    let dead = nobody();
    let channel = Channel::fixed([dead.endpoint.clone()], options()).unwrap();
    let failed = ask(&channel).await.unwrap_err();
    assert!(failed.code() == Code::Unavailable && failed.message().contains("refused"), "{failed}");
    channel.ready(Readiness::FailFast).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_channels_deadline_holds_for_calls_without_one() {
    let server = Server::start("a").await;
    let channel = channel_to(&[&server], options().with_deadline(Duration::from_millis(100))).await;
    let failed = call(&channel, "hang", CallOptions::default()).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    let mut longer = order("slow 200", CallOptions::default());
    longer.set_timeout(SOON);
    health(&channel).check(longer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_channel_ends_its_tasks_and_connections() {
    let server = Server::start("a").await;
    let network = Network::to(server.address).await;
    // A runtime that has nothing but the channel to run, and one task that lives as long as it
    // does.
    let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let tasks = || home.metrics().num_alive_tasks();
    let options = options().with_home(Home::runtime(home.handle().clone()));
    let before = tasks();
    let dead = nobody();
    let channel = Channel::fixed([network.endpoint.clone(), dead.endpoint.clone()], options).unwrap();
    channel.ready(Readiness::Wait).await.unwrap();
    let mut stream = health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
    assert!(tasks() > before && network.open() == 1);
    drop(channel);
    for _ in 0..20 {
        stream.message().await.unwrap().expect("a stream outlives the last handle");
    }
    drop(stream);
    eventually("all tasks end", || tasks() <= before).await;
    eventually("its connection is gone", || network.open() == 0).await;
    home.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_endpoints_are_skipped_and_harm_no_other() {
    let server = Server::start("a").await;
    let read = |text: String| text.parse::<Endpoint>().unwrap();
    let port = server.address.port();
    let channel = Channel::fixed(
        [read(format!("https://127.0.0.1:{port}")), server.endpoint(), server.endpoint()],
        options(),
    )
    .unwrap();
    all_ready(&channel).await;
    assert_eq!(tally(&channel, 10).await.into_iter().collect::<Vec<_>>(), [("a".into(), 10)]);
    let skipped: Vec<_> =
        channel.state().skipped.into_iter().map(|skipped| (skipped.id, skipped.error.kind())).collect();
    let address = format!("127.0.0.1:{port}");
    assert_eq!(skipped, [(address.clone(), ErrorKind::InvalidArgument), (address, ErrorKind::Conflict)]);
}

#[tokio::test]
async fn ipv6_is_reached_with_and_without_brackets() {
    let server = Server::start_at("six", "[::1]:0".parse().unwrap()).await;
    for host in ["::1", "[::1]"] {
        let endpoint = Endpoint::new(host, server.address.port()).unwrap();
        let channel = Channel::fixed([endpoint], options()).unwrap();
        assert_eq!(ask(&channel).await.unwrap(), "six");
    }
}
