//! Which cluster it is, and who its members are.

use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::prelude::*;
use coord_etcd::{EtcdOptions, EtcdProvider};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::eventually;

use super::{SOON, options};

const TTL: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_two_clusters_never_give_two_holders() {
    let binary = Binary::find(Series::V3_5);
    let (one, two) = (Cluster::single(&binary), Cluster::single(&binary));
    let endpoints = [one.endpoints(), two.endpoints()].concat();
    let (mut clients, mut guards) = (Vec::new(), Vec::new());
    for n in 0..12 {
        let options = EtcdOptions::new(&endpoints);
        let client = match n % 2 {
            0 => EtcdProvider::connect(options).await.unwrap(),
            _ => EtcdProvider::connect_lazy(options).unwrap(),
        };
        match client.lock().try_acquire("the-only-one", TTL).await {
            Ok(guard) => guards.push(guard),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "client {n}: {error}"),
        }
        clients.push(client);
    }
    assert_eq!(guards.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_members_were_all_replaced_is_still_reached() {
    let mut cluster = Cluster::three(&Binary::find(Series::V3_5));
    // Ports are known from the second start on, and advertised then.
    cluster.restart();
    let provider = EtcdProvider::connect(options(&cluster)).await.unwrap();
    let guard = eventually(SOON, "there is a leader", async || {
        provider.lock().acquire("l", Duration::from_secs(20)).await.ok()
    })
    .await;
    for _ in 0..3 {
        // The oldest one leaves, and a new one has come before.
        let newcomer = cluster.newcomer();
        let peer = newcomer.peer().to_owned();
        let told =
            async || Box::pin(super::raw(&cluster, None)).await.member_add([peer.clone()], None).await.ok();
        eventually(SOON, "the newcomer is announced", told).await;
        cluster = tokio::task::spawn_blocking(move || {
            cluster.join(newcomer);
            cluster
        })
        .await
        .unwrap();
        // Longer than the client takes to hear of it.
        tokio::time::sleep(Duration::from_secs(16)).await;
        let oldest = cluster.servers()[0].endpoint().to_owned();
        let gone = async || {
            let mut raw = Box::pin(super::raw(&cluster, None)).await;
            let members = raw.member_list().await.ok()?;
            let is_oldest =
                |member: &&etcd_client::Member| member.client_urls().iter().any(|url| url.ends_with(&oldest));
            match members.members().iter().find(is_oldest) {
                Some(member) => raw.member_remove(member.id()).await.ok().map(drop),
                None => Some(()),
            }
        };
        eventually(SOON, "the oldest one is removed", gone).await;
        cluster.leave(0);
        eventually(SOON, "the others are asked", async || provider.config().set("k", &1).await.ok()).await;
    }
    provider.config().set("k", &2).await.unwrap();
    assert!(guard.is_held(), "and nothing was lost");
    guard.unlock().await.unwrap();
    provider.close().await.unwrap();
}
