//! Servers start, can be killed and started again, and never outlive the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use coord_servers::etcd::{Binary, Cluster, Series, Signal};

fn listens(endpoint: &str) -> bool {
    TcpStream::connect(endpoint).is_ok()
}

#[test]
fn a_server_of_each_series_serves_and_can_be_started_again() {
    for series in [Series::V3_4, Series::V3_5] {
        let mut cluster = Cluster::single(&Binary::find(series));
        let endpoint = cluster.endpoints()[0].clone();
        assert!(listens(&endpoint), "{series:?}");
        cluster.servers_mut()[0].kill();
        assert!(!listens(&endpoint), "{series:?}");
        cluster.restart();
        assert_eq!(cluster.endpoints()[0], endpoint, "the address stays");
        assert!(listens(&endpoint), "{series:?}");
    }
}

#[test]
fn three_servers_form_a_cluster() {
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let endpoints = cluster.endpoints();
    assert_eq!(endpoints.len(), 3);
    assert!(endpoints.iter().all(|endpoint| listens(endpoint)));
}

#[test]
fn a_panic_leaves_no_server_and_no_data() {
    let mut seen = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let cluster = Cluster::single(&Binary::find(Series::V3_5));
        // One that stands still must go as well.
        cluster.servers()[0].signal(Signal::Stop);
        seen = Some((cluster.endpoints()[0].clone(), cluster.servers()[0].data().to_owned()));
        panic!("as a failed test does");
    }));
    assert!(panicked.is_err());
    let (endpoint, data) = seen.unwrap();
    assert!(!listens(&endpoint));
    assert!(!data.exists());
}

/// The part of the next test that dies.
#[test]
#[ignore = "NOT RUN by itself: the test below runs it in a process of its own"]
fn dies_with_a_server() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    println!("server={} {}", cluster.endpoints()[0], cluster.servers()[0].data().display());
    std::process::abort();
}

#[test]
fn a_killed_test_process_leaves_no_server_and_no_data() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "dies_with_a_server", "--nocapture"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let (endpoint, data) =
        text.lines().find_map(|line| line.split("server=").nth(1)?.split_once(' ')).expect("the server");
    let deadline = Instant::now() + Duration::from_secs(10);
    while listens(endpoint) || Path::new(data).exists() {
        assert!(Instant::now() < deadline, "the server outlived the process that started it");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a member says of itself to its clients, over plain HTTP: it can only be well if it has a
/// leader.
fn is_well(endpoint: &str) -> bool {
    use std::io::{Read, Write};
    let Ok(mut connection) = TcpStream::connect(endpoint) else { return false };
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(connection, "GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).is_ok() && answer.contains(r#""health":"true""#)
}

fn becomes(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn any_member_can_be_cut_off_from_the_others_and_they_go_on() {
    // One of the three leads.
    for (series, members) in [(Series::V3_4, 0..1), (Series::V3_5, 0..3)] {
        let cluster = Cluster::three_with_peer_links(&Binary::find(series));
        let endpoints = cluster.endpoints();
        for member in members {
            becomes("all are well", || endpoints.iter().all(|endpoint| is_well(endpoint)));
            let cut = cluster.cut_off(member);
            becomes("the one that is cut off notices", || !is_well(&endpoints[member]));
            becomes("the others go on", || (0..3).all(|other| other == member || is_well(&endpoints[other])));
            assert!(!is_well(&endpoints[member]), "it is cut off still");
            drop(cut);
        }
        becomes("all are well", || endpoints.iter().all(|endpoint| is_well(endpoint)));
    }
}

#[test]
fn a_member_that_was_started_again_can_be_cut_off_as_well() {
    let mut cluster = Cluster::three_with_peer_links(&Binary::find(Series::V3_5));
    cluster.restart();
    let endpoints = cluster.endpoints();
    becomes("all are well", || endpoints.iter().all(|endpoint| is_well(endpoint)));
    let cut = cluster.cut_off(1);
    becomes("the one that is cut off notices", || !is_well(&endpoints[1]));
    cluster.restart();
    becomes("a restart of all ends the cut", || endpoints.iter().all(|endpoint| is_well(endpoint)));
    drop(cut);
}
