//! Servers that die, stand still and come back.

use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{HandleState, Value};
use coord_servers::etcd::{Binary, Cluster, Series, Signal};
use coord_testkit::wait::{eventually, within};

use crate::{ATTEMPT, ELECTION, Follower, Held, SLACK, SOON, Writer, provider};

/// The index of the leader.
pub(crate) async fn leader(cluster: &Cluster) -> usize {
    let mut found = None;
    for (index, endpoint) in cluster.endpoints().into_iter().enumerate() {
        let mut client = etcd_client::Client::connect([endpoint], None).await.unwrap();
        let status = client.status().await.unwrap();
        if status.header().unwrap().member_id() == status.leader() {
            found = Some(index);
        }
    }
    found.expect("the cluster has a leader")
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Leader,
    Follower,
}

/// What is held is kept, what is acknowledged is told, and writing goes on within an election, an
/// attempt and half a second.
async fn survives(who: Who, signal: Signal) {
    let mut cluster = Cluster::three(&Binary::find(Series::V3_5));
    let holder = provider(cluster.endpoints()).await;
    let held = Held::new(&holder, Duration::from_secs(10)).await;
    let follower = Follower::start(&provider(cluster.endpoints()).await).await;
    let writer = Writer::start(provider(cluster.endpoints()).await);
    let tokens = (held.guard.fencing_token(), held.id.generation());

    let victim = match who {
        Who::Leader => leader(&cluster).await,
        Who::Follower => (leader(&cluster).await + 1) % 3,
    };
    match signal {
        Signal::Kill => cluster.servers_mut()[victim].kill(),
        _ => cluster.servers()[victim].signal(signal),
    }
    // Longer than an election, and than an unrenewed lease would live.
    tokio::time::sleep(Duration::from_secs(12)).await;
    held.assert_held("while a member is away");
    match signal {
        Signal::Kill => {
            cluster = tokio::task::spawn_blocking(move || {
                cluster.servers_mut()[victim].restart();
                cluster
            })
            .await
            .unwrap();
        }
        _ => cluster.servers()[victim].signal(Signal::Continue),
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (written, gap) = writer.stop().await;
    let promised = ELECTION + ATTEMPT * 2 + Duration::from_millis(500);
    assert!(gap <= promised + SLACK, "{who:?} {signal:?}: nothing was written for {gap:?}");
    assert_eq!(follower.has_told(&written).await, 0, "nothing was lost, so nothing is told anew");
    let rival = provider(cluster.endpoints()).await;
    if matches!((who, signal), (Who::Leader, Signal::Stop)) && !held.guard.is_held() {
        // etcd's own doing: a leader that comes back may revoke, by way of the new one, what was
        // renewed meanwhile (etcd #15247; 2 of 25 times with raw requests to 3.5.30). It must be
        // known, and heal.
        assert_eq!(held.guard.state(), HandleState::Ended(coord_api::Loss::Expired));
        eventually(SOON, "the registration is back", async || {
            held.registration.state().is_held().then_some(())
        })
        .await;
        let next = within(SOON, "the lock is free", rival.lock().acquire("held", Duration::from_secs(10)))
            .await
            .unwrap();
        assert!(next.fencing_token() > tokens.0);
        return;
    }
    held.assert_held("after it came back");
    assert_eq!((held.guard.fencing_token(), held.id.generation()), tokens);
    let held_still = rival.lock().try_acquire("held", Duration::from_secs(10)).await;
    assert_eq!(held_still.unwrap_err().kind(), coord_api::ErrorKind::Conflict);
    held.guard.unlock().await.unwrap();
    assert!(
        rival.lock().try_acquire("held", Duration::from_secs(10)).await.unwrap().fencing_token() > tokens.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_an_election_and_nothing_that_is_held() {
    survives(Who::Leader, Signal::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_costs_an_attempt_and_nothing_that_is_held() {
    survives(Who::Follower, Signal::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stands_still_costs_an_election_and_nothing_that_is_held() {
    survives(Who::Leader, Signal::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stands_still_costs_an_attempt_and_nothing_that_is_held() {
    survives(Who::Follower, Signal::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_for_longer_than_a_ttl_all_is_lost_in_time_and_registrations_come_back() {
    let ttl = Duration::from_secs(3);
    let mut cluster = Cluster::three(&Binary::find(Series::V3_5));
    let holder = provider(cluster.endpoints()).await;
    let held = Held::new(&holder, ttl).await;
    let token = held.guard.fencing_token();
    cluster.servers_mut()[0].kill();
    cluster.servers_mut()[1].kill();
    within(ttl + SLACK, "the lock is lost by the holder's own clock", held.guard.lost()).await;
    assert!(holder.config().get_raw("k").await.unwrap_err().is_transient(), "no stale read");
    assert_eq!(held.registration.state(), HandleState::Lost, "it heals");
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.restart();
        cluster
    })
    .await
    .unwrap();
    let rival = provider(cluster.endpoints()).await;
    let found = async || {
        (rival.registry().discover("held").await.ok()?.items.len() == 1
            && held.registration.state().is_held())
        .then_some(())
    };
    eventually(SOON, "the registration is back", found).await;
    let next = within(SOON, "the lock is free again", rival.lock().acquire("held", ttl)).await.unwrap();
    assert!(next.fencing_token() > token);
    assert!(!held.guard.is_held(), "what was lost stays lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_whole_cluster_takes_nothing_back() {
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let holder = provider(cluster.endpoints()).await;
    let follower = Follower::start(&provider(cluster.endpoints()).await).await;
    let held = Held::new(&holder, Duration::from_secs(20)).await;
    let before = holder.config().set_raw("w/k", Value::from("1")).await.unwrap();
    let cluster = tokio::task::spawn_blocking(move || {
        let mut cluster = cluster;
        cluster.restart();
        cluster
    })
    .await
    .unwrap();
    let start = Instant::now();
    let after =
        eventually(SOON, "a write", async || holder.config().set_raw("w/k", Value::from("2")).await.ok())
            .await;
    assert!(start.elapsed() <= ELECTION * 2 + ATTEMPT * 2 + SLACK, "{:?}", start.elapsed());
    assert!(after > before);
    held.assert_held("after the restart");
    assert_eq!(follower.has_told(&[before, after]).await, 0);
    let rival = provider(cluster.endpoints()).await;
    let held_still = rival.lock().try_acquire("held", Duration::from_secs(10)).await;
    assert_eq!(
        held_still.unwrap_err().kind(),
        coord_api::ErrorKind::Conflict,
        "nobody is granted what is held"
    );
}
