//! More endpoints than a channel, or a process, can connect.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use coord_grpc::{Channel, ChannelOptions, Endpoint, Phase, Policy, Resolver};
use coord_home::Home;
use tokio::time::{Instant, sleep};

fn endpoints(range: std::ops::Range<usize>, port: u16) -> Vec<Endpoint> {
    range.map(|n| Endpoint::new(&format!("e{n}"), port).unwrap()).collect()
}

fn by(names: Arc<Names>, options: ChannelOptions) -> ChannelOptions {
    let resolver: Arc<dyn Resolver> = names;
    options.with_resolver(resolver)
}

/// Which endpoints a channel uses.
fn used(channel: &Channel) -> BTreeSet<String> {
    let endpoints = channel.state().endpoints.into_iter().filter(|state| state.phase != Phase::Idle);
    endpoints.map(|state| state.endpoint.host().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_more_endpoints_than_it_may_connect_a_channel_uses_a_part() {
    let server = Server::start("a").await;
    let network = Network::to(server.address).await;
    let port = network.endpoint.port();
    let (channel, set) =
        Channel::dynamic(by(Names::all_at(server.address), options().with_max_connections(8))).unwrap();
    set.replace(endpoints(0..40, port));
    let settled = || channel.state().ready() == 8 && network.open() == 8;
    eventually("its part is ready", settled).await;
    let first = used(&channel);
    assert_eq!((first.len(), channel.state().endpoints.len(), network.connections()), (8, 40, 8));
    assert_eq!(tally(&channel, 20).await.into_iter().collect::<Vec<_>>(), [("a".into(), 20)]);

    // One of the others goes, and comes: nothing changes.
    let other = (0..40).find(|n| !first.contains(&format!("e{n}"))).unwrap();
    set.replace(endpoints(0..40, port).into_iter().filter(|endpoint| endpoint.host() != format!("e{other}")));
    set.replace(endpoints(0..40, port));
    assert_eq!(used(&channel), first);
    // One of them goes: another takes its place, and the rest keep their connections.
    let gone = first.first().unwrap();
    set.replace(endpoints(0..40, port).into_iter().filter(|endpoint| endpoint.host() != gone));
    eventually("another takes its place", settled).await;
    assert_eq!(used(&channel).intersection(&first).count(), 7);
    assert_eq!(network.connections(), 9);
    // It comes back: the place is its own.
    set.replace(endpoints(0..40, port));
    eventually("it is back", settled).await;
    assert_eq!((used(&channel), network.connections()), (first, 10));
    // No more are there than it may connect: all are used.
    set.replace(endpoints(0..5, port));
    eventually("all are ready", || channel.state().ready() == 5 && network.open() == 5).await;
}

#[tokio::test]
async fn channels_spread_over_all_endpoints() {
    const CHANNELS: u64 = 100;
    let silent = Names::of("another", &[]);
    let home = Home::thread("test");
    let mut users = BTreeMap::<String, usize>::new();
    let mut open = Vec::new();
    for seed in 0..CHANNELS {
        let options = by(
            Arc::clone(&silent),
            options().with_jitter_seed(seed).with_max_connections(10).with_home(home.clone()),
        );
        let channel = Channel::fixed(endpoints(0..50, 80), options).unwrap();
        let part = used(&channel);
        assert_eq!(part.len(), 10);
        for endpoint in part {
            *users.entry(endpoint).or_default() += 1;
        }
        open.push(channel);
    }
    // Twenty each on average.
    assert_eq!(users.len(), 50);
    assert!(users.values().all(|users| (6..=40).contains(users)), "{users:?}");
    let same = Channel::fixed(
        endpoints(0..50, 80),
        by(silent, options().with_jitter_seed(3).with_max_connections(10)),
    )
    .unwrap();
    assert_eq!(used(&same), used(&open[3]), "a seed repeats the choice");
}

#[tokio::test]
async fn pick_first_uses_the_first_ones() {
    let options =
        by(Names::of("another", &[]), options().with_policy(Policy::PickFirst).with_max_connections(3));
    let channel = Channel::fixed(endpoints(0..10, 80), options).unwrap();
    assert_eq!(used(&channel).into_iter().collect::<Vec<_>>(), ["e0", "e1", "e2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_that_it_uses_are_dead_it_finds_another() {
    let server = Server::start_at("a", "127.0.0.3:0".parse().unwrap()).await;
    let port = server.address.port();
    // Nobody listens at 127.0.0.2.
    let names = Names::all_at(([127, 0, 0, 2], port).into());
    let (channel, set) = Channel::dynamic(by(Arc::clone(&names), options().with_max_connections(2))).unwrap();
    set.replace(endpoints(0..20, port));
    let first = used(&channel);
    let alive = (0..20).map(|n| format!("e{n}")).find(|name| !first.contains(name)).unwrap();
    names.set(&alive, vec![server.address.ip()]);
    assert_eq!(call(&channel, "", waiting()).await.unwrap(), "a");
    assert!(used(&channel).contains(&alive) && used(&channel).len() == 2);
    // It stays with it, whatever else comes and goes.
    for more in 21..25 {
        set.replace(endpoints(0..more, port));
        assert_eq!(ask(&channel).await.unwrap(), "a");
    }
    let state = channel.state();
    let alive = state.endpoints.iter().find(|state| state.endpoint.host() == alive).unwrap();
    assert_eq!((alive.phase, alive.connections), (Phase::Ready, 1));
}

#[test]
fn by_default_a_channel_has_at_most_128_connections() {
    assert_eq!(ChannelOptions::default().max_connections, 128);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_files_gets_some_back() {
    let server = Server::start("a").await;
    let child = std::env::current_exe().unwrap();
    let port = server.address.port().to_string();
    let run = move || {
        Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
            .arg(child)
            .args(["--ignored", "--exact", "--nocapture", "process_with_few_files"])
            .env("SERVER_PORT", port)
            .output()
            .unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Not a test by itself: it may open few files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process of another test; it starts it with a limit"]
async fn process_with_few_files() {
    let port: u16 = std::env::var("SERVER_PORT").unwrap().parse().unwrap();
    let names = Names::all_at(([127, 0, 0, 1], port).into());
    // Where no file is left for the one who looks up names, it says so.
    let home = Home::thread("test");
    home.ready().unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| File::open(std::env::current_exe().unwrap()).ok()).collect();
    let without =
        Channel::fixed([Endpoint::new("localhost", port).unwrap()], options().with_home(home)).unwrap();
    eventually("it fails", || without.state().endpoints[0].failure.is_some()).await;
    let failure = without.state().endpoints[0].failure.clone().unwrap();
    assert!(failure.message().contains("open files"), "{failure}");
    Channel::fixed([], options()).expect_err("not even a home is to be had");
    drop(taken);
    eventually("it is ready", || without.state().ready() == 1).await;

    let channel =
        |range, options| Channel::fixed(endpoints(range, port), by(Arc::clone(&names), options)).unwrap();
    let large = channel(0..100, options());
    eventually("it makes do with less", || {
        large.state().endpoints.iter().any(|state| state.phase == Phase::Idle)
    })
    .await;
    // There is room for others as soon as what it gives back is closed, and it stays.
    let room = || (0..4).map(|_| File::open(std::env::current_exe().unwrap())).collect::<Result<Vec<_>, _>>();
    eventually("there is room", || room().is_ok()).await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        room().expect("files for others");
        sleep(Duration::from_millis(5)).await;
    }
    assert!(large.state().ready() >= 20, "{:?}", large);
    assert_eq!(tally(&large, 20).await.len(), 1);

    // A second one takes what is left; the first one gives back again, so that a small one is not
    // left without.
    let second = channel(100..200, options());
    eventually("it gets its share", || second.state().ready() >= 4).await;
    let small = channel(200..202, options());
    eventually("it is ready", || small.state().ready() == 2).await;
    assert_eq!(tally(&small, 10).await.len(), 1);
    eventually("there is room", || room().is_ok()).await;
}
