//! Members that are cut off from their peers, and not from their clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{ConfigEvent, ErrorKind, Result, Value, WatchStart, WatchState};
use coord_etcd::EtcdProvider;
use coord_servers::etcd::{Binary, Cluster, Proxy, Series, Way};
use coord_testkit::wait::{eventually, within};

use crate::servers::leader;
use crate::{ATTEMPT, ELECTION, Follower, Held, SLACK, SOON, TOTAL, Writer, options, provider};

/// A provider that uses this member first: it is the only one that answers when it connects, for
/// the others are named by ways that are closed then.
async fn provider_at(cluster: &Cluster, member: usize) -> (Arc<EtcdProvider>, Vec<Proxy>) {
    let mut ways = Vec::new();
    for (index, endpoint) in cluster.endpoints().iter().enumerate() {
        let way = Proxy::start(endpoint).await.unwrap();
        way.set(if index == member { Way::Open } else { Way::Closed });
        ways.push(way);
    }
    let provider = EtcdProvider::connect(options(ways.iter().map(Proxy::endpoint))).await.unwrap();
    ways.iter().for_each(|way| way.set(Way::Open));
    (provider, ways)
}

/// How long a call takes, whatever comes of it.
async fn took<T>(what: &str, call: impl Future<Output = Result<T>>) -> (Result<T>, Duration) {
    let start = Instant::now();
    let answer = within(SOON, what, call).await;
    (answer, start.elapsed())
}

/// Clients of a member that is cut off move to the others: no call hangs, a silent watch is
/// noticed, and what is held is kept.
async fn moves_away(leads: bool) {
    let cluster = Cluster::three_with_peer_links(&Binary::find(Series::V3_5));
    let leader = leader(&cluster).await;
    let victim = if leads { leader } else { (leader + 1) % 3 };
    // Each of them on the member that will be cut off: one that only watches, one that holds, and
    // one that calls.
    let (watching, _ways) = provider_at(&cluster, victim).await;
    let (holding, _ways2) = provider_at(&cluster, victim).await;
    let (calling, _ways3) = provider_at(&cluster, victim).await;
    let others: Vec<_> = cluster
        .endpoints()
        .into_iter()
        .enumerate()
        .filter(|(index, _)| *index != victim)
        .map(|(_, other)| other)
        .collect();
    let rival = provider(others).await;
    let held = Held::new(&holding, Duration::from_secs(10)).await;
    let follower = Follower::start(&watching).await;
    let start = rival.config().set_raw("start", Value::from("")).await.unwrap();
    let mut noticing = watching.config().watch_prefix_raw("seen", WatchStart::After(start)).await.unwrap();
    let writer = Writer::start(Arc::clone(&rival));

    let cut = cluster.cut_off(victim);
    let since = Instant::now();
    // The one that is asked holds its peace, or knows no leader: each call goes on elsewhere,
    // within its total timeout at most.
    let (read, time) = took("a read", calling.config().get_raw("start")).await;
    assert!(read.is_ok() && time <= TOTAL + SLACK, "leads {leads}: {read:?} after {time:?}");
    let (written, time) = took("a write", calling.config().set_raw("other", Value::from("1"))).await;
    let explained = written.as_ref().err().is_none_or(coord_api::Error::is_transient);
    assert!(explained && time <= TOTAL + SLACK, "leads {leads}: {written:?} after {time:?}");
    // The watch is told of what is written after the others have a leader, by another member,
    // within 3 s and a reconnection.
    let seen = eventually(SOON, "the others write", async || {
        rival.config().set_raw("seen/k", Value::from("1")).await.ok()
    })
    .await;
    let wrote = Instant::now();
    let told = within(SOON, "the watch moves", async {
        loop {
            match noticing.next().await {
                Some(Ok(ConfigEvent::Put { entry, .. })) if entry.version >= seen => break entry.version,
                Some(Ok(_)) => {}
                ended => panic!("the watch goes on: {ended:?}"),
            }
        }
    });
    assert_eq!(told.await, seen);
    let (after_write, after_cut) = (wrote.elapsed(), since.elapsed());
    assert!(
        after_write <= Duration::from_secs(3) + ATTEMPT + SLACK,
        "leads {leads}: the watch was deaf for {after_write:?}"
    );
    println!("leads {leads}: told {after_write:?} after the write, {after_cut:?} after the cut");
    assert_eq!(noticing.state(), WatchState::Live);
    // Longer than an unrenewed lease would live.
    within(SOON, "time passes", tokio::time::sleep(Duration::from_secs(11).saturating_sub(since.elapsed())))
        .await;
    held.assert_held("while the member is cut off");
    drop(cut);
    let member = provider(cluster.endpoints().get(victim)).await;
    eventually(SOON, "the member is one of them again", async || member.config().get_raw("start").await.ok())
        .await;

    let (written, gap) = writer.stop().await;
    let promised = if leads { ELECTION + ATTEMPT * 2 + Duration::from_millis(500) } else { ATTEMPT };
    assert!(gap <= promised + SLACK, "leads {leads}: nothing was written for {gap:?}");
    assert_eq!(follower.has_told(&written).await, 0, "nothing was lost, so nothing is told anew");
    held.assert_held("after the member came back");
    let held_still = rival.lock().try_acquire("held", Duration::from_secs(10)).await;
    assert_eq!(held_still.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_follower_that_is_cut_off_from_its_peers_move_away() {
    moves_away(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_leader_that_is_cut_off_from_its_peers_move_away() {
    moves_away(true).await;
}
