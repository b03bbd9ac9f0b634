//! A channel lives on a thread of its own: it neither dies nor stands still with the runtime that
//! made it, or with one that calls over it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::time::Duration;

use common::*;
use coord_api::prelude::*;
use coord_api::{ErrorKind, ServiceInstance, WatchState};
use coord_grpc::{CallOptions, Channel, Phase, Readiness, RegistryChannelExt};
use coord_home::Home;
use coord_memory::MemoryProvider;
use tokio::runtime::{Builder, Runtime};
use tonic::Code;

/// A runtime as synchronous code and tests make them.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_channel_made_outside_of_any_runtime_works_in_all() {
    let servers = runtime();
    let server = servers.block_on(Server::start("a"));
    let channel = Channel::fixed([server.endpoint()], options()).unwrap();
    for _ in 0..3 {
        assert_eq!(runtime().block_on(ask(&channel)).unwrap(), "a");
    }
    assert_eq!(channel.state().endpoints[0].connections, 1, "the runtimes share its connection");
}

#[test]
fn a_channel_made_in_a_temporary_runtime_goes_on_in_another() {
    let mut server = runtime().block_on(Server::start("a"));
    let channel = runtime().block_on(async {
        let channel = Channel::fixed([server.endpoint()], options()).unwrap();
        ask(&channel).await.unwrap();
        channel
    });
    let later = runtime();
    assert_eq!(later.block_on(ask(&channel)).unwrap(), "a");
    // It connects anew as well.
    server.kill();
    let again = later.block_on(Server::start_at("b", server.address));
    later.block_on(async {
        eventually("it is connected anew", || channel.state().endpoints[0].connections == 2).await;
        assert_eq!(ask(&channel).await.unwrap(), "b");
    });
    drop(again);
}

#[test]
fn a_stream_begun_in_a_temporary_runtime_goes_on_in_another() {
    let server = runtime().block_on(Server::start("a"));
    let (channel, mut stream) = runtime().block_on(async {
        let channel = Channel::fixed([server.endpoint()], options()).unwrap();
        let stream = health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
        (channel, stream)
    });
    for _ in 0..20 {
        runtime().block_on(stream.message()).unwrap().unwrap();
    }
    drop(channel);
    runtime().block_on(stream.message()).unwrap().expect("also after the channel was dropped");
}

#[test]
fn a_channel_follows_the_registry_after_its_runtime() {
    let coord = MemoryProvider::new();
    let (a, b) = runtime().block_on(async { (Server::start("a").await, Server::start("b").await) });
    let instance = |id: &str, server: &Server| {
        ServiceInstance::new("s", id, server.address.ip().to_string(), server.address.port())
    };
    let first = runtime().block_on(coord.registry().register(instance("a", &a))).unwrap();
    let channel = runtime().block_on(async {
        let channel = coord.registry().channel_with("s", options()).unwrap();
        assert_eq!(ask(&channel).await.unwrap(), "a");
        channel
    });
    let _second = runtime().block_on(coord.registry().register(instance("b", &b))).unwrap();
    runtime().block_on(first.unregister()).unwrap();
    runtime().block_on(async {
        eventually("the change is seen", || {
            phase(&channel, &b.endpoint()) == Some(Phase::Ready) && channel.state().endpoints.len() == 1
        })
        .await;
        assert_eq!(ask(&channel).await.unwrap(), "b");
        let state = channel.state();
        assert!(state.discovery.unwrap().watch == WatchState::Live && state.age.unwrap() < SOON);
    });
}

#[test]
fn a_runtime_that_stands_still_holds_up_no_other() {
    let servers = runtime();
    let server = servers.block_on(Server::start("a"));
    let (channel, stop, stopped) = {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let endpoint = server.endpoint();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let channel = Channel::fixed([endpoint], options()).unwrap();
                // One call is under way, one is asked for, when everything stops here.
                let mut stream =
                    health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
                stream.message().await.unwrap().unwrap();
                let mut waits = Box::pin(call(&channel, "slow 50", CallOptions::default()));
                assert!(futures_util::poll!(&mut waits).is_pending());
                tell.send(channel.clone()).unwrap();
                let _ = stopped.recv();
                waits.await.expect("it goes on where it was");
            });
        });
        (told.recv().unwrap(), stop, thread)
    };
    let other = runtime();
    for _ in 0..100 {
        assert_eq!(other.block_on(ask(&channel)).unwrap(), "a");
    }
    drop(stop);
    stopped.join().unwrap();
}

#[test]
fn calls_need_no_timers_and_no_runtime() {
    let servers = runtime();
    let server = servers.block_on(Server::start("a"));
    let options = options().with_attempt_timeout(Duration::from_millis(100));
    let hasty =
        Channel::fixed([server.endpoint()], options.clone().with_deadline(Duration::from_millis(100)))
            .unwrap();
    let channel = Channel::fixed([server.endpoint()], options).unwrap();
    let without_timers = Builder::new_current_thread().build().unwrap();
    let calls = async {
        let mut client = health(&channel);
        client.check(order("", CallOptions::default().with_attempt_timeout(SOON))).await.unwrap();
        assert_eq!(
            client.check(order("hang", CallOptions::default())).await.unwrap_err().code(),
            Code::DeadlineExceeded
        );
        // The channel's own deadline, of which the server knows nothing.
        let late =
            health(&hasty).check(order("hang", CallOptions::default().with_attempt_timeout(None))).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    };
    without_timers.block_on(calls);
    let mut client = health(&channel);
    futures_executor::block_on(client.check(order("", CallOptions::default().with_attempt_timeout(SOON))))
        .unwrap();
}

/// Where the clock was paused, which the servers do not know, the timeouts are real.
#[tokio::test(start_paused = true)]
async fn under_a_paused_clock_answers_come_before_timeouts() {
    let server = runtime_thread_server();
    let channel = Channel::fixed([server.endpoint()], options()).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(
        health(&channel).check(order("slow 50", CallOptions::default())).await.unwrap().into_inner().status,
        1
    );
    assert!(begun.elapsed() >= Duration::from_millis(50));
}

fn runtime_thread_server() -> Server {
    std::thread::spawn(|| runtime().block_on(Server::start("a"))).join().unwrap()
}

#[tokio::test]
async fn dropped_anywhere_it_leaves_no_connection() {
    let server = Server::start("a").await;
    let network = Network::to(server.address).await;
    let connected = || async {
        let channel = Channel::fixed([network.endpoint.clone()], options()).unwrap();
        channel.ready(Readiness::Wait).await.unwrap();
        assert_eq!(network.open(), 1);
        channel
    };
    let gone = || eventually("its connection is gone", || network.open() == 0);

    drop(connected().await);
    gone().await;
    let channel = connected().await;
    std::thread::spawn(move || drop(channel)).join().unwrap();
    gone().await;
    let home = Home::thread("test");
    let channel = Channel::fixed([network.endpoint.clone()], options().with_home(home.clone())).unwrap();
    channel.ready(Readiness::Wait).await.unwrap();
    home.spawn(async move { drop(channel) }).unwrap().await.unwrap();
    gone().await;
    // On its own thread, which ends with it.
    let channel = connected().await;
    let home_of_its_own = Home::thread("test");
    let second =
        Channel::fixed([network.endpoint.clone()], options().with_home(home_of_its_own.clone())).unwrap();
    second.ready(Readiness::Wait).await.unwrap();
    home_of_its_own.clone().spawn(async move { drop((second, home_of_its_own, channel)) }).unwrap();
    gone().await;
    // With a call under way, which is left alone.
    let channel = connected().await;
    let mut call = Box::pin(async move { call(&channel, "hang", CallOptions::default()).await });
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    gone().await;
}

#[test]
fn a_given_runtime_that_ends_tells_everyone_who_waits() {
    let servers = runtime();
    let server = servers.block_on(Server::start("a"));
    let coord = MemoryProvider::new();
    let given = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let home = || options().with_home(Home::runtime(given.handle().clone()));
    let channel = Channel::fixed([server.endpoint()], home()).unwrap();
    let nobody = nobody();
    let waiting = Channel::fixed([nobody.endpoint.clone()], home()).unwrap();
    let following = coord.registry().channel_with("s", home()).unwrap();
    let callers = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let failures = callers.block_on(async {
        assert_eq!(ask(&channel).await.unwrap(), "a");
        let begin = |channel: &Channel, order: &'static str| {
            let channel = channel.clone();
            tokio::spawn(
                async move { call(&channel, order, waiting_without_end()).await.unwrap_err().code() },
            )
        };
        let calls = [begin(&channel, "hang"), begin(&waiting, ""), begin(&following, "")];
        eventually("the call is under way", || server.calls() == 2).await;
        given.shutdown_background();
        let mut codes = Vec::new();
        for call in calls {
            codes.push(call.await.unwrap());
        }
        codes
    });
    assert_eq!(failures, [Code::Unavailable; 3]);
    assert_eq!(following.state().discovery.unwrap().watch, WatchState::Ended);
    assert_eq!(
        callers.block_on(ask(&channel)).unwrap_err().code(),
        Code::Unavailable,
        "nor is there any later"
    );
}

fn waiting_without_end() -> CallOptions {
    CallOptions::default().with_readiness(Readiness::Wait).with_attempt_timeout(None)
}

#[test]
fn a_home_that_has_ended_is_an_error() {
    let given = runtime();
    let home = Home::runtime(given.handle().clone());
    drop(given);
    let error = Channel::fixed([], options().with_home(home)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = Channel::fixed([], options().with_home(Home::callers())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
}

#[test]
fn channels_may_share_a_home() {
    let servers = runtime();
    let server = servers.block_on(Server::start("a"));
    let home = Home::thread("shared");
    let channels: Vec<_> = (0..10)
        .map(|_| Channel::fixed([server.endpoint()], options().with_home(home.clone())).unwrap())
        .collect();
    let caller = runtime();
    for channel in &channels {
        assert_eq!(caller.block_on(ask(channel)).unwrap(), "a");
    }
    let name = |id: u64| std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
            .filter(|id| name(*id).trim() == "shared")
            .count()
    };
    if cfg!(target_os = "linux") {
        assert_eq!(threads(), 1);
    }
}
