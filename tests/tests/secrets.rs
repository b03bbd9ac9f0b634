//! No password and no private key is shown: not by `Debug`, not in an error, not in a log of any
//! level. A test program of its own, as it is about everything that is logged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::store::{Op, Range, Store, Txn};
use coord_etcd::{Credentials, EtcdOptions, EtcdProvider, EtcdStore};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::eventually;
use tracing_subscriber::fmt::MakeWriter;

const PASSWORD: &str = "correct horse battery staple";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

#[tokio::test]
async fn no_secret_is_shown_anywhere() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let mut cluster = Cluster::single(&Binary::find(Series::V3_5));
    let mut root = etcd_client::Client::connect(cluster.endpoints(), None).await.unwrap();
    root.user_add("root", PASSWORD, None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    log.0.lock().unwrap().clear();

    let good = EtcdOptions::new(cluster.endpoints()).with_credentials(Credentials::new("root", PASSWORD));
    let wrong = EtcdOptions::new(cluster.endpoints())
        .with_credentials(Credentials::new("root", format!("{PASSWORD}!")));
    let store = EtcdStore::connect(&good).await.unwrap();
    store.txn(Txn::new().then(Op::put("k", "v"))).await.unwrap();
    let refused = EtcdStore::connect(&wrong).await.unwrap_err();
    let provider = EtcdProvider::connect_lazy(wrong.clone()).unwrap();
    cluster.servers_mut()[0].kill();
    let unreachable = store.range(Range::key("k")).await.unwrap_err();
    let mut shown = format!(
        "{good:#?} {wrong:?} {store:?} {provider:#?} {refused} {refused:?} {unreachable} {unreachable:#?}"
    );
    let logged = || String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    // What is logged in the background is written by a thread of its own.
    eventually(Duration::from_secs(20), "something was logged", async || {
        logged().contains("coord_etcd").then_some(())
    })
    .await;
    let logged = logged();
    shown.push_str(&logged);
    assert!(!shown.contains("correct horse"), "{shown}");
}
