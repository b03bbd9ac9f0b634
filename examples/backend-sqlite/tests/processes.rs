//! Several processes on one file, of which one is killed (S6).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests, and their child"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use coord_api::store::{Change, Compare, Op, Range, Span, Store, StoreEvent, StoreWatch, Txn};
use coord_api::{LeaseId, Revision};
use coord_backend_sqlite::{LOOK_EVERY, Sqlite};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// Tells a child which file to open.
const FILE: &str = "COORD_SQLITE_TEST_FILE";
const TTL: Duration = Duration::from_secs(2);
/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Another process that has the file open. It is killed with `kill -9`.
struct Other {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What it said: which counter stood at which number at which revision.
struct Wrote {
    number: u64,
    revision: Revision,
}

impl Other {
    fn start(file: &Path) -> (Other, LeaseId) {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(FILE, file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut other = Other { process, lines };
        let lease = loop {
            let line = other.lines.next().expect("it tells its lease").unwrap();
            if let Some(lease) = line.strip_prefix("lease ") {
                break LeaseId::new(lease.parse().unwrap());
            }
        };
        (other, lease)
    }

    fn next(&mut self) -> Option<Wrote> {
        let line = self.lines.next()?.unwrap();
        let (number, revision) = line.strip_prefix("wrote ")?.split_once(' ')?;
        Some(Wrote { number: number.parse().unwrap(), revision: Revision::new(revision.parse().unwrap()) })
    }

    /// Kills it. Says what it acknowledged before anyone knew.
    fn kill(mut self) -> Vec<Wrote> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::iter::from_fn(|| self.next()).collect()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Adds one to a counter that others count as well, and says so in a key of one's own.
async fn count(store: &impl Store, own: &str, lease: Option<LeaseId>) -> Wrote {
    loop {
        let found = store.range(Range::key("counter")).await.unwrap().entries.pop();
        let (unchanged, number) = match &found {
            Some(entry) => {
                let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                (Compare::Modified("counter".into(), entry.modified), number + 1)
            }
            None => (Compare::Absent("counter".into()), 1),
        };
        let own = Op::Put { key: own.to_owned().into(), value: number.to_string().into(), lease };
        let txn = Txn::new().when(unchanged).then(Op::put("counter", number.to_string())).then(own);
        let reply = store.txn(txn).await.unwrap();
        if reply.succeeded {
            return Wrote { number, revision: reply.revision };
        }
    }
}

#[tokio::test]
#[ignore = "a child of the other tests"]
async fn child_that_writes_until_it_is_killed() {
    let file = PathBuf::from(std::env::var_os(FILE).expect("only as the child of another test"));
    let store = Sqlite::open(file).await.unwrap();
    let lease = store.grant_lease(TTL).await.unwrap().id;
    println!("\nlease {}", lease.get());
    loop {
        let Wrote { number, revision } = count(&store, "other", Some(lease)).await;
        println!("wrote {number} {}", revision.get());
        std::io::stdout().flush().unwrap();
        store.keep_alive(lease).await.unwrap();
    }
}

/// Which number the counter had at each revision that the watch tells, up to `last`.
async fn counted(watch: &mut StoreWatch, last: Revision) -> BTreeMap<Revision, u64> {
    let mut told = BTreeMap::new();
    while told.last_key_value().is_none_or(|(revision, _)| *revision < last) {
        match timeout(PATIENCE, watch.next()).await.expect("a change").unwrap().unwrap() {
            StoreEvent::Batch(batch) => match &batch.changes[..] {
                [Change::Put(entry)] => {
                    let number = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    assert!(told.last_key_value().is_none_or(|(before, _)| *before < batch.revision));
                    told.insert(batch.revision, number);
                }
                other => panic!("one put of one counter: {other:?}"),
            },
            StoreEvent::Progress(_) => {}
        }
    }
    told
}

#[tokio::test]
async fn two_processes_share_a_file_and_one_is_killed() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("store.sqlite");
    let store = Sqlite::open(&file).await.unwrap();
    let mut watch = store.watch(Span::key("counter"), Some(Revision::ZERO)).await.unwrap();
    let (mut other, lease) = Other::start(&file);
    let (mut acknowledged, mut own) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        own.push(count(&store, "own", None).await);
        acknowledged.extend(other.next());
    }
    let info = store.lease(lease).await.unwrap().expect("a lease of another process");
    assert_eq!(info.keys, ["other"]);

    acknowledged.extend(other.kill());
    let killed = Instant::now();
    // Its last write may be there though it could not say so.
    own.push(count(&store, "own", None).await);
    let last = own.last().unwrap();
    let told = counted(&mut watch, last.revision).await;
    let numbers: Vec<u64> = told.values().copied().collect();
    let all: Vec<u64> = (1..=last.number).collect();
    assert_eq!(numbers, all, "each number once, in order, whoever wrote it");
    for wrote in acknowledged.iter().chain(&own) {
        assert_eq!(told.get(&wrote.revision), Some(&wrote.number), "what was acknowledged is there");
    }
    assert!(last.number as usize - own.len() - acknowledged.len() <= 1, "and at most one other");

    // What it held ends with its lease, by the clock of who is left.
    let mut watch = store.watch(Span::key("other"), None).await.unwrap();
    assert!(store.lease(lease).await.unwrap().is_some() || killed.elapsed() > TTL - LOOK_EVERY);
    loop {
        match timeout(PATIENCE, watch.next()).await.expect("an expiry").unwrap().unwrap() {
            StoreEvent::Batch(batch) => {
                assert_eq!(batch.changes, [Change::Delete { key: "other".into() }]);
                break;
            }
            StoreEvent::Progress(_) => {}
        }
    }
    assert_eq!(store.lease(lease).await.unwrap(), None);
    let remaining = TTL.saturating_sub(killed.elapsed());
    assert!(remaining < LOOK_EVERY * 2, "{remaining:?} early");
}

#[tokio::test]
async fn killed_at_any_moment_a_process_leaves_all_that_it_acknowledged() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("store.sqlite");
    let (mut newest, mut identity, mut leases) = (Revision::ZERO, None, Vec::new());
    for round in 0..6 {
        let (mut other, lease) = Other::start(&file);
        assert!(!leases.contains(&lease), "no lease is granted twice");
        leases.push(lease);
        // Another moment each round.
        let mut acknowledged: Vec<Wrote> =
            std::iter::from_fn(|| other.next()).take(20 + 37 * round).collect();
        acknowledged.extend(other.kill());
        // Nobody has the file open now.
        let store = Sqlite::open(&file).await.unwrap();
        let last = acknowledged.last().expect("it wrote something");
        assert!(acknowledged[0].revision > newest, "revisions never go back");
        let found = store.range(Range::prefix("")).await.unwrap();
        newest = found.revision;
        assert!(newest >= last.revision);
        let [counter, own] = &found.entries[..] else { panic!("two keys: {found:?}") };
        assert_eq!((&counter.value, counter.modified), (&own.value, own.modified), "a transaction is whole");
        assert!(counter.modified == last.revision || counter.modified == newest);
        assert_eq!(own.lease, Some(lease));
        let id = store.status().await.unwrap().store_id;
        assert_eq!(*identity.get_or_insert_with(|| id.clone()), id);
        store.close().await.unwrap();
    }
}
