//! Watches that nobody reads.

use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{Value, WatchStart};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::view::ConfigView;
use coord_testkit::wait::within;

use crate::{Follower, Held, SLACK, SOON, TOTAL, provider};

/// Watches that are not read, on one provider.
const STALLED: usize = 50;

/// Changes that each of them is to be told of, and how large each is: more than any window of the
/// connection holds.
const CHANGES: usize = 1_500;
const SIZE: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_watches_that_nobody_reads_harm_nobody_and_are_told_in_the_end() {
    let ttl = Duration::from_secs(3);
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let slow = provider(cluster.endpoints()).await;
    let held = Held::new(&slow, ttl).await;
    let start = slow.config().set_raw("before", Value::from("")).await.unwrap();
    // Of one range and of ranges of their own: the latter share nothing but the connection.
    let mut stalled = Vec::new();
    for n in 0..STALLED {
        let watch = match n % 2 {
            0 => slow.config().watch_prefix_raw("w", WatchStart::After(start)).await.unwrap(),
            _ => slow.config().watch_raw(&format!("w/{}", n % 10), WatchStart::After(start)).await.unwrap(),
        };
        stalled.push((n, watch, ConfigView::after(start)));
    }
    let follower = Follower::start(&slow).await;
    let (mut written, mut last, mut longest) = (Vec::new(), vec![start; 10], Duration::ZERO);
    for n in 0..CHANGES {
        let (key, since) = (n % 10, Instant::now());
        // Written by the very provider that does not read.
        let value = Value::from(format!("{n}{}", "v".repeat(SIZE)));
        let version = slow.config().set_raw(&format!("w/{key}"), value).await.unwrap();
        longest = longest.max(since.elapsed());
        last[key] = version;
        written.push(version);
    }
    assert!(longest < TOTAL / 2 + SLACK, "a write took {longest:?}");
    tokio::time::sleep(ttl * 2).await;
    held.assert_held("while fifty watches are not read");
    assert_eq!(follower.has_told(&written).await, 0, "one that is read is told everything");
    let mut resyncs = 0;
    for (n, mut watch, mut view) in stalled {
        let until = if n % 2 == 0 { *written.last().unwrap() } else { last[n % 10] };
        within(
            SOON,
            "what was not read is told, one by one or as a whole",
            view.follow(&mut watch, until, SOON),
        )
        .await;
        resyncs += view.resyncs();
    }
    println!("a write took {longest:?} at most; {resyncs} resyncs for {STALLED} watches");
    let guard = held.guard;
    within(SOON, "it is given back", guard.unlock()).await.unwrap();
}
