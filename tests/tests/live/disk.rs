//! A disk that is slow: everything waits for it, and nothing else goes wrong.
//!
//! `strace` holds up each `fsync` of the server. Where it is missing, or may not attach, the test
//! fails: what was not tried does not hold.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{ErrorKind, Value, Version};
use coord_etcd::EtcdProvider;
use coord_servers::etcd::{Binary, Cluster, Series, Server};
use coord_testkit::wait::{eventually, within};

use super::held::Held;
use super::{SOON, options};

/// How long each `fsync` takes.
const DELAY: Duration = Duration::from_millis(300);
/// What the README advises for locks. Before it renews a lease, etcd makes sure that it still
/// leads, by way of its disk, and a renewal is given up after a fifth of the TTL: a disk that is as
/// slow as this, and busy, is too slow for a TTL of 3 s.
const TTL: Duration = Duration::from_secs(10);

/// Holds up the `fsync`s of a server until it is dropped.
struct SlowDisk(Child);

impl SlowDisk {
    fn of(server: &Server) -> Self {
        let mut strace = Command::new(strace());
        strace.args(["-f", "-e", "trace=fdatasync,fsync", "-o", "/dev/null", "-e"]);
        strace
            .arg(format!("inject=fdatasync,fsync:delay_exit={}", DELAY.as_micros()))
            .args(["-p", &server.pid().to_string()]);
        let mut child = strace
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace can be run");
        // It says that it attached, or why not.
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let said = lines.find(|line| line.contains("attach"));
        // Read to its end: it names each further thread, and dies where nobody listens.
        std::thread::spawn(move || lines.for_each(drop));
        let slow = SlowDisk(child);
        assert!(
            said.as_deref().is_some_and(|line| line.contains("attached")),
            "NOT TESTED: strace may not attach to the server, so that its disk cannot be slowed down; it says {said:?}. Run the tests as root, or set \
             kernel.yama.ptrace_scope to 0, or give the container the capability SYS_PTRACE"
        );
        slow
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // Asked to end, it detaches; what it holds up goes on at once.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// The machine's own, else the one that `scripts/etcd.sh` brought.
fn strace() -> PathBuf {
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/strace/strace");
    let found = on_path.map(|directory| directory.join("strace")).chain([cached]).find(|path| path.is_file());
    found.expect(
        "NOT TESTED: there is no strace to slow a disk down with; run scripts/etcd.sh, or install it (on Debian: apt-get install strace)",
    )
}

/// Adds one again and again until it is told to stop, and says how often it did.
async fn count_up(provider: Arc<EtcdProvider>, stop: Arc<AtomicBool>) -> u64 {
    let mut counted = 0;
    while !stop.load(Ordering::Relaxed) {
        let (value, version) = match provider.config().get_raw("count").await.unwrap() {
            Some(read) => {
                (std::str::from_utf8(read.value.as_bytes()).unwrap().parse::<u64>().unwrap(), read.version)
            }
            None => (0, Version::ZERO),
        };
        match provider
            .config()
            .compare_and_set_raw("count", Value::from((value + 1).to_string()), version)
            .await
        {
            Ok(_) => counted += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict, "slower, and no other failure: {error}")
            }
        }
    }
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_makes_everything_slower_and_nothing_wrong() {
    // 3.4 and 3.5 renew leases alike; the newer one decides.
    let cluster = Cluster::single_durable(&Binary::find(Series::V3_5));
    let (provider, other) = (
        EtcdProvider::connect(options(&cluster)).await.unwrap(),
        EtcdProvider::connect(options(&cluster)).await.unwrap(),
    );
    let held = Held::new(&provider, TTL).await;
    let server = &cluster.servers()[0];
    let slow = tokio::task::block_in_place(|| SlowDisk::of(server));
    eventually(SOON, "the disk is slow", async || {
        let start = Instant::now();
        provider.config().set_raw("probe", Value::from("")).await.unwrap();
        (start.elapsed() >= DELAY).then_some(())
    })
    .await;

    let stop = Arc::new(AtomicBool::new(false));
    let counting: Vec<_> =
        [&provider, &other].map(|one| tokio::spawn(count_up(Arc::clone(one), Arc::clone(&stop)))).into();
    // Two TTLs long. Renewals begin when a third of it is spent and are given up after a fifth:
    // with a third of it left there were two tries that were not answered.
    let (begin, mut least) = (Instant::now(), TTL);
    while begin.elapsed() < TTL * 2 {
        held.assert_held("the disk is slow");
        least = least.min(held.guard.ttl()).min(held.registration.ttl()).min(held.id.ttl());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(least >= TTL / 3, "{least:?} of {TTL:?} were left: renewals failed again and again");
    stop.store(true, Ordering::Relaxed);
    let mut counted = 0;
    for counting in counting {
        counted += within(SOON, "the last of the writes", counting).await.unwrap();
    }
    let took = begin.elapsed();
    assert!(counted >= 2, "it goes on: {counted} writes in {took:?}");
    // One after the other, by their expectations: each has waited for the disk.
    assert!(
        took >= DELAY * u32::try_from(counted - 1).unwrap(),
        "the disk was slow all the time: {counted} writes in {took:?}"
    );
    let read = provider.config().get_raw("count").await.unwrap().unwrap();
    assert_eq!(
        read.value,
        Value::from(counted.to_string()),
        "each acknowledged write counts once, and no other"
    );

    // What is asked for meanwhile is had, later.
    let guard = other.lock().acquire_timeout("new", TTL, SOON).await.unwrap();
    guard.unlock().await.unwrap();
    tokio::task::block_in_place(|| drop(slow));
    eventually(SOON, "the disk is as fast as before", async || {
        let start = Instant::now();
        provider.config().set_raw("probe", Value::from("")).await.unwrap();
        (start.elapsed() < DELAY).then_some(())
    })
    .await;
    held.assert_held("the disk is as fast as before");
    held.release().await;
    provider.close().await.unwrap();
    other.close().await.unwrap();
}
