//! Locks beside a Go client's mutex on the same key: `etcdctl lock` (R45, R46).

use std::future::ready;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Range, Store};
use coord_api::{ErrorKind, LockGuard, LockMode, LockOptions, Result, Wait};
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdStore};
use coord_servers::etcd::{Binary, Cluster, Series, etcdctl};
use coord_testkit::wait::{eventually, never_within, within};
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{SOON, store};

const TTL: Duration = Duration::from_secs(10);

/// How long something that must not happen is waited for.
const A_WHILE: Duration = Duration::from_secs(1);

/// A Go client that wants the lock `k`, or holds it.
struct GoMutex {
    process: Child,
    /// Told once it holds the lock.
    held: oneshot::Receiver<()>,
}

impl GoMutex {
    /// Starts to wait for it.
    fn lock(cluster: &Cluster) -> Self {
        let mut process = go(cluster, &["lock", "--ttl=10", "/locks/k"]);
        let said = process.stdout.take().unwrap();
        let (tell, held) = oneshot::channel();
        std::thread::spawn(move || {
            let mut tell = Some(tell);
            // It says its key once it holds it, and lives on until it is told to end. All of it is
            // read, for it ends where nobody reads.
            for line in BufReader::new(said).lines().map_while(std::io::Result::ok) {
                if line.starts_with("/locks/k/") {
                    tell.take().map(|tell| tell.send(()));
                }
            }
        });
        GoMutex { process, held }
    }

    async fn is_granted(&mut self) {
        within(SOON, "the Go client holds the lock", &mut self.held).await.unwrap();
    }

    async fn is_not_granted(&mut self) {
        never_within(A_WHILE, "a grant to the Go client", &mut self.held).await;
    }

    /// Unlocks as the program does when it is told to end.
    async fn unlock(mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let ended =
            eventually(SOON, "the Go client unlocks", || ready(self.process.try_wait().unwrap())).await;
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for GoMutex {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts etcd's own client.
fn go(cluster: &Cluster, args: &[&str]) -> Child {
    Command::new(etcdctl())
        .arg(format!("--endpoints={}", cluster.endpoints().join(",")))
        .args(args)
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A server, a provider of ours, and a look at what stands in the queue of `k`.
async fn setup() -> (Cluster, Arc<EtcdProvider>, EtcdStore) {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let provider = EtcdProvider::connect(EtcdOptions::new(cluster.endpoints())).await.unwrap();
    let store = store(&cluster).await;
    (cluster, provider, store)
}

/// Waits until so many stand in the queue.
async fn stand(store: &EtcdStore, entries: usize) {
    eventually(SOON, &format!("{entries} stand in the queue"), async || {
        let found = store.range(Range::prefix("/locks/k/")).await.unwrap().entries;
        (found.len() == entries).then_some(())
    })
    .await;
}

async fn attempt(provider: &EtcdProvider, mode: LockMode) -> Result<LockGuard> {
    let options = LockOptions::default().with_ttl(TTL).with_wait(Wait::Never).with_mode(mode);
    provider.lock().acquire_with("k", options).await
}

/// Waits for the lock in a task of its own.
fn wait_for(provider: &Arc<EtcdProvider>, mode: LockMode) -> JoinHandle<LockGuard> {
    let lock = Arc::clone(provider.lock());
    let options = LockOptions::default().with_ttl(TTL).with_mode(mode);
    tokio::spawn(async move { lock.acquire_with("k", options).await.unwrap() })
}

async fn granted(waiter: JoinHandle<LockGuard>) -> LockGuard {
    within(SOON, "our client is granted the lock", waiter).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_clients_mutex_keeps_out_and_is_kept_out() {
    let (cluster, provider, store) = setup().await;
    for mode in [LockMode::Shared, LockMode::Exclusive] {
        let mut first = GoMutex::lock(&cluster);
        first.is_granted().await;
        assert_eq!(attempt(&provider, mode).await.unwrap_err().kind(), ErrorKind::Conflict);
        let mut waits = wait_for(&provider, mode);
        stand(&store, 2).await;
        never_within(A_WHILE, "a grant beside the Go client", &mut waits).await;
        let mut second = GoMutex::lock(&cluster);
        stand(&store, 3).await;
        first.unlock().await;
        let ours = granted(waits).await;
        second.is_not_granted().await;
        // Nobody overtakes who waits, of whatever kind.
        assert_eq!(attempt(&provider, LockMode::Shared).await.unwrap_err().kind(), ErrorKind::Conflict);
        assert!(ours.is_held());
        ours.unlock().await.unwrap();
        second.is_granted().await;
        second.unlock().await;
        stand(&store, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_client_that_waits_while_the_holder_downgrades_is_not_let_in() {
    let (cluster, provider, store) = setup().await;
    let writer = provider.lock().acquire("k", TTL).await.unwrap();
    let mut mutex = GoMutex::lock(&cluster);
    stand(&store, 2).await;
    writer.downgrade().await.unwrap();
    mutex.is_not_granted().await;
    // Who comes now stands behind it.
    let mut reader = wait_for(&provider, LockMode::Shared);
    stand(&store, 3).await;
    never_within(A_WHILE, "a grant past the Go client", &mut reader).await;
    assert!(writer.is_held() && writer.mode() == LockMode::Shared);
    writer.unlock().await.unwrap();
    mutex.is_granted().await;
    never_within(A_WHILE, "a grant beside the Go client", &mut reader).await;
    mutex.unlock().await;
    let reader = granted(reader).await;
    assert!(reader.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_go_client_waits_for_all_readers_that_a_downgrade_has_let_in() {
    let (cluster, provider, store) = setup().await;
    let writer = provider.lock().acquire("k", TTL).await.unwrap();
    let reader = wait_for(&provider, LockMode::Shared);
    stand(&store, 2).await;
    let mut mutex = GoMutex::lock(&cluster);
    stand(&store, 3).await;
    writer.downgrade().await.unwrap();
    let reader = granted(reader).await;
    for guard in [writer, reader] {
        mutex.is_not_granted().await;
        assert!(guard.is_held());
        guard.unlock().await.unwrap();
    }
    mutex.is_granted().await;
    mutex.unlock().await;
}

/// What a writer does is two steps, of which nobody may see the first one alone.
const ADDS_ONE: &str = r#"n=$(cat "$0"); echo half-done >"$0"; sleep 0.02; echo $((n + 1)) >"$0""#;

#[tokio::test(flavor = "multi_thread")]
async fn of_writers_and_readers_of_both_kinds_none_sees_what_is_half_done() {
    const EACH: usize = 6;
    let (cluster, provider, store) = setup().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("number");
    std::fs::write(&file, "0\n").unwrap();
    let path = file.to_str().unwrap();
    let mut processes: Vec<Child> = (0..EACH)
        .map(|_| go(&cluster, &["lock", "--ttl=10", "--", "/locks/k", "sh", "-c", ADDS_ONE, path]))
        .collect();
    let read =
        |file: &std::path::Path| std::fs::read_to_string(file).unwrap().trim().parse::<usize>().unwrap();
    let ours = (0..EACH * 3).map(|number| {
        let (lock, file) = (Arc::clone(provider.lock()), file.clone());
        tokio::spawn(async move {
            let mode = if number % 3 == 0 { LockMode::Exclusive } else { LockMode::Shared };
            let guard =
                lock.acquire_with("k", LockOptions::default().with_ttl(TTL).with_mode(mode)).await.unwrap();
            let before = read(&file);
            if mode == LockMode::Exclusive {
                std::fs::write(&file, "half-done\n").unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                std::fs::write(&file, format!("{}\n", before + 1)).unwrap();
                guard.downgrade().await.unwrap();
                assert_eq!(read(&file), before + 1, "somebody wrote beside a reader");
            }
            let before = read(&file);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(read(&file), before, "somebody wrote beside a reader");
            guard.unlock().await.unwrap();
        })
    });
    for ended in within(SOON * 3, "all are served", join_all(ours)).await {
        ended.unwrap();
    }
    for process in &mut processes {
        let ended = eventually(SOON, "the Go client ends", || ready(process.try_wait().unwrap())).await;
        assert!(ended.success(), "{ended}");
    }
    assert_eq!(read(&file), EACH * 2);
    stand(&store, 0).await;
}
