//! What a cluster says of itself ([`EtcdStore::report`]).

use coord_api::ErrorKind;
use coord_api::store::Store as _;
use coord_etcd::{EtcdOptions, EtcdStore};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::eventually;

use super::{SOON, all_answer, options, put};

#[tokio::test(flavor = "multi_thread")]
async fn each_member_by_itself_also_those_that_no_endpoint_names_and_those_that_do_not_answer() {
    let mut cluster = Cluster::three(&Binary::find(Series::V3_5));
    // Ports are known from the second start on, and advertised then.
    cluster.restart();
    all_answer(&cluster).await;
    let store = EtcdStore::connect(&EtcdOptions::new([cluster.endpoints()[0].clone()])).await.unwrap();
    eventually(SOON, "there is a leader", async || put(&store, "k", "v").await.ok()).await;
    let report = store.report().await.unwrap();
    assert_eq!(report.cluster, store.status().await.unwrap().store_id);
    assert_eq!(report.members.len(), 3, "{report:?}");
    assert!(report.members.is_sorted_by(|a, b| a.name < b.name), "{report:?}");
    let states: Vec<_> = report.members.iter().map(|member| member.state.as_ref().unwrap()).collect();
    assert_eq!(states.iter().filter(|state| state.is_leader).count(), 1, "{report:?}");
    for state in &states {
        assert!(state.version.starts_with("3.5.") && state.db_size >= state.db_size_in_use, "{state:?}");
        assert!(state.db_size > 0 && state.raft_index > 0 && state.raft_applied_index > 0, "{state:?}");
    }
    assert_eq!(report.alarms.unwrap(), []);

    cluster.servers_mut()[2].kill();
    let store = EtcdStore::connect(&options(&cluster)).await.unwrap();
    let silent = eventually(SOON, "the others answer", async || {
        let report = store.report().await.ok()?;
        let (well, ill): (Vec<_>, _) = report.members.iter().partition(|member| member.state.is_ok());
        (well.len() == 2).then(|| ill[0].clone())
    })
    .await;
    let endpoint = &cluster.endpoints()[2];
    assert!(silent.client_urls.iter().any(|url| url.contains(endpoint.trim_start_matches("http://"))));
    assert_eq!(silent.state.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_alarm_names_its_member() {
    for series in [Series::V3_4, Series::V3_5] {
        let cluster = Cluster::single_with(&Binary::find(series), &["--quota-backend-bytes", "4000000"]);
        let store = EtcdStore::connect(&options(&cluster)).await.unwrap();
        let mut n = 0;
        while put(&store, &format!("k/{n}"), "v".repeat(500_000)).await.is_ok() {
            n += 1;
        }
        let report = store.report().await.unwrap();
        let [alarm] = report.alarms.as_deref().unwrap() else { panic!("{report:?}") };
        assert_eq!((alarm.member, alarm.kind), (report.members[0].id, coord_etcd::AlarmKind::NoSpace));
    }
}

#[tokio::test]
async fn the_id_that_every_etcd_with_default_flags_has_is_known() {
    let binary = Binary::find(Series::V3_5);
    // Those of etcd itself. Nobody listens there: it has no peers.
    let defaults = [
        ["--name", "default"],
        ["--initial-advertise-peer-urls", "http://localhost:2380"],
        ["--initial-cluster", "default=http://localhost:2380"],
        ["--initial-cluster-token", "etcd-cluster"],
    ];
    let cluster = Cluster::single_with(&binary, defaults.as_flattened());
    let report = EtcdStore::connect(&options(&cluster)).await.unwrap().report().await.unwrap();
    assert!(report.has_default_id, "{report:?}");
    let other = Cluster::single(&binary);
    let report = EtcdStore::connect(&options(&other)).await.unwrap().report().await.unwrap();
    assert!(!report.has_default_id, "{report:?}");
}

#[tokio::test]
async fn a_client_that_is_closed_asks_nobody() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let store = EtcdStore::connect(&options(&cluster)).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.report().await.unwrap_err().kind(), ErrorKind::Closed);
}
