//! What only a durable store promises (S6): reopening, `kill -9`, a full disk, a damaged directory.
#![cfg(feature = "sled")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coord_api::store::{Compare, Op, Range, Span, Store, Txn};
use coord_api::{ErrorKind, LeaseId, Outcome, Revision};
use coord_memory::MemoryStore;
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(30);
/// Tells a child process which directory to use.
const CHILD_DIR: &str = "COORD_MEMORY_TEST_DIR";

fn directory() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    (dir, path)
}

async fn put(store: &MemoryStore, key: &str, value: &str) -> Revision {
    store.txn(Txn::new().then(Op::put(key.to_owned(), value.to_owned()))).await.unwrap().revision
}

async fn value(store: &MemoryStore, key: &str) -> Option<String> {
    let found = store.range(Range::key(key.to_owned())).await.unwrap();
    found.entries.first().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

fn open_error(path: &Path) -> coord_api::Error {
    MemoryStore::open(path).expect_err("the directory must not open")
}

#[tokio::test(start_paused = true)]
async fn a_reopened_store_goes_on_where_it_stopped() {
    let (_dir, path) = directory();
    let store = MemoryStore::open(&path).unwrap();
    let id = store.status().await.unwrap().store_id;
    let lease = store.grant_lease(TTL).await.unwrap();
    let ended = store.grant_lease(TTL).await.unwrap();
    store.txn(Txn::new().then(Op::put_leased("leased", "1", lease.id))).await.unwrap();
    put(&store, "a", "1").await;
    put(&store, "gone", "1").await;
    put(&store, "a", "").await;
    store.txn(Txn::new().then(Op::delete("gone"))).await.unwrap();
    store.revoke_lease(ended.id).await.unwrap();
    let before = store.range(Range::prefix("")).await.unwrap();
    // Some of the TTL passes; a reopened store gives all of it again.
    tokio::time::sleep(Duration::from_secs(20)).await;
    store.close().await.unwrap();

    let store = MemoryStore::open(&path).unwrap();
    assert_eq!(store.range(Range::prefix("")).await.unwrap(), before);
    assert_eq!(store.status().await.unwrap().store_id, id);
    let old = store.range(Range::prefix("").with_at(Revision::new(3))).await.unwrap_err();
    assert_eq!((old.kind(), old.oldest_revision()), (ErrorKind::Compacted, Some(before.revision)));
    assert_eq!(
        store.watch(Span::key("a"), Some(Revision::new(3))).await.unwrap_err().kind(),
        ErrorKind::Compacted
    );
    assert!(store.watch(Span::key("a"), Some(before.revision)).await.is_ok());
    assert_eq!(put(&store, "gone", "2").await, before.revision.next());
    assert!(store.grant_lease(TTL).await.unwrap().id > ended.id, "a lease's number is never used again");
    assert_eq!(store.lease(ended.id).await.unwrap(), None);
    let resumed = store.lease(lease.id).await.unwrap().unwrap();
    assert_eq!(resumed.keys, ["leased"]);
    assert!(resumed.remaining > TTL - Duration::from_secs(1), "{:?}", resumed.remaining);
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    assert_eq!(value(&store, "leased").await, None, "a resumed lease expires");
    drop(store);

    let store = MemoryStore::open(&path).unwrap();
    assert_eq!(value(&store, "leased").await, None);
    assert_eq!(store.lease(lease.id).await.unwrap(), None);
    assert_eq!(value(&store, "a").await.as_deref(), Some(""));
}

#[tokio::test]
async fn the_directory_is_let_go_with_the_last_client() {
    let (_dir, path) = directory();
    let store = MemoryStore::open(&path).unwrap();
    let other = store.client();
    store.close().await.unwrap();
    put(&other, "a", "1").await;
    let stream = other.watch(Span::key("a"), None).await.unwrap();
    let error = open_error(&path);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("already open"), "{error}");
    other.abandon();
    // Neither handles nor streams of closed clients keep it.
    for round in 0..20 {
        let again = MemoryStore::open(&path).unwrap();
        put(&again, "round", &round.to_string()).await;
        drop(again);
    }
    assert_eq!(
        other.client().status().await.unwrap_err().kind(),
        ErrorKind::Closed,
        "there is nothing left to be a client of"
    );
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_and_watchers_agree() {
    let (_dir, path) = directory();
    let store = MemoryStore::open(&path).unwrap();
    let mut watch = store.watch(Span::prefix("w/"), None).await.unwrap();
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let client = store.client();
            tokio::spawn(async move {
                for n in 0..20 {
                    put(&client, &format!("w/{writer}"), &n.to_string()).await;
                }
            })
        })
        .collect();
    let mut last = watch.armed();
    for _ in 0..320 {
        let item =
            tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
        let coord_api::store::StoreEvent::Batch(batch) = item else { panic!("a batch") };
        assert_eq!(batch.revision, last.next());
        last = batch.revision;
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[test]
fn a_path_that_cannot_be_a_store_is_a_typed_error() {
    let (dir, path) = directory();
    std::fs::write(&path, "a file").unwrap();
    assert_eq!(open_error(&path).kind(), ErrorKind::Unavailable);
    let foreign = dir.path().join("foreign");
    let database = sled::open(&foreign).unwrap();
    database.insert("theirs", "1").unwrap();
    drop(database);
    let error = open_error(&foreign);
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(
        error.message().contains("holds no store") && error.message().contains("move the directory away"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_directory_is_a_typed_error_and_never_an_empty_store() {
    let (dir, path) = directory();
    let store = MemoryStore::open(&path).unwrap();
    for n in 0..200 {
        put(&store, &format!("k/{n}"), &"v".repeat(2_000)).await;
    }
    let whole = store.range(Range::prefix("")).await.unwrap();
    store.close().await.unwrap();
    drop(MemoryStore::open(&path).unwrap());
    let log = std::fs::read(path.join("db")).unwrap();
    let mut refused = 0;
    for case in 0..40 {
        let copy = dir.path().join(case.to_string());
        copy_directory(&path, &copy);
        let mut bytes = log.clone();
        let place = bytes.len() / 20 * (case / 2);
        if case % 2 == 0 {
            bytes[place] ^= 0x55;
        } else {
            bytes.truncate(place);
        }
        std::fs::write(copy.join("db"), bytes).unwrap();
        match MemoryStore::open(&copy) {
            Ok(store) => {
                assert_eq!(store.range(Range::prefix("")).await.unwrap(), whole, "what opens is whole")
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
                assert!(error.message().contains("move the directory away"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused >= 10, "the damage must be felt: {refused}");
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs a test of this file as a process of its own, in `path`.
fn child(name: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// The store that a child process was told to use.
fn child_store() -> MemoryStore {
    let path = std::env::var_os(CHILD_DIR).expect("only as the child of another test");
    MemoryStore::open(path).unwrap()
}

/// One line a write, at once: what stands there was acknowledged.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "the child of killed_at_any_moment_a_store_holds_all_that_it_acknowledged"]
fn child_that_writes_until_it_is_killed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = child_store();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let client = store.client();
                tokio::spawn(async move {
                    let key = format!("w/{writer}");
                    let lease = client.grant_lease(Duration::from_secs(1_000)).await.unwrap();
                    tell(&format!("lease {writer} {}", lease.id.get()));
                    let start = value(&client, &key).await.map_or(0, |value| value.parse::<u64>().unwrap());
                    for n in start + 1.. {
                        // Two keys of one transaction: both or none.
                        let pair = Txn::new().then(Op::put(key.clone(), n.to_string())).then(Op::put_leased(
                            format!("{key}/pair"),
                            n.to_string(),
                            lease.id,
                        ));
                        let revision = client.txn(pair).await.unwrap().revision;
                        tell(&format!("write {writer} {n} {revision}"));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn killed_at_any_moment_a_store_holds_all_that_it_acknowledged() {
    const ROUNDS: usize = 8;
    let (_dir, path) = directory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut newest = (Revision::ZERO, LeaseId::new(0));
    let mut acknowledged_writes = 0;
    for round in 0..ROUNDS {
        let mut process = Killed(child("child_that_writes_until_it_is_killed", &path).spawn().unwrap());
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let mut acknowledged = HashMap::new();
        let mut leases = HashMap::new();
        let mut note = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let number = |index: usize| words[index].parse::<u64>().unwrap();
            match words[0] {
                "write" if words.len() == 4 => {
                    acknowledged_writes += 1;
                    acknowledged.insert(number(1), (number(2), Revision::new(number(3))));
                }
                "lease" if words.len() == 3 => drop(leases.insert(number(1), LeaseId::new(number(2)))),
                _ => {}
            }
        };
        // Another moment each round.
        lines.by_ref().take(200 + 137 * round).for_each(|line| note(&line.unwrap()));
        process.0.kill().unwrap();
        process.0.wait().unwrap();
        lines.for_each(|line| note(&line.unwrap()));
        assert_eq!(leases.len(), 8, "all writers ran");

        runtime.block_on(async {
            let store = MemoryStore::open(&path).unwrap();
            let head = store.range(Range::key("none")).await.unwrap().revision;
            for (writer, (n, revision)) in acknowledged {
                let key = format!("w/{writer}");
                let pair = store.range(Range::prefix(key.clone())).await.unwrap().entries;
                let [first, second] = pair.as_slice() else { panic!("both keys of {key}") };
                assert_eq!(
                    (&first.value, first.modified),
                    (&second.value, second.modified),
                    "a transaction is whole"
                );
                let found: u64 = String::from_utf8(first.value.to_vec()).unwrap().parse().unwrap();
                assert!(
                    found >= n && first.modified >= revision,
                    "{key}: {n} at {revision} was acknowledged, {found} at {} found",
                    first.modified
                );
                assert!(head >= revision && revision > newest.0);
                let lease = second.lease.expect("a leased key");
                assert_eq!(Some(&lease), leases.get(&writer));
                assert!(lease > newest.1 && store.lease(lease).await.unwrap().is_some());
            }
            newest = (head, *leases.values().max().unwrap());
        });
    }
    assert!(acknowledged_writes > 1_000, "{acknowledged_writes}");
}

/// The bytes of all files in a directory.
fn bytes_on_disk(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                bytes_on_disk(&entry.path())
            } else {
                entry.metadata().map_or(0, |data| data.len())
            }
        })
        .sum()
}

#[tokio::test]
async fn space_on_disk_is_bounded_by_what_is_held_however_often_it_is_written() {
    const MEBIBYTE: u64 = 1024 * 1024;
    for (size, rounds) in [(140 * 1024, 600), (1024 * 1024, 100), (9 * 1024, 4_000)] {
        let (_dir, path) = directory();
        let mut store = MemoryStore::open(&path).unwrap();
        let mut most = 0;
        for n in 0..rounds {
            let value = vec![u8::try_from(n % 251).unwrap(); size];
            store.txn(Txn::new().then(Op::put("settings", value))).await.unwrap();
            if n % 50 == 0 {
                most = most.max(bytes_on_disk(&path));
            }
            if n % (rounds / 4) == 0 {
                store.close().await.unwrap();
                store = MemoryStore::open(&path).unwrap();
            }
        }
        // 16 MiB of records, and the tree: five times what is held, and 16 MiB for what is moved in
        // it.
        assert!(most <= 32 * MEBIBYTE + 5 * size as u64, "{size} bytes {rounds} times: {most} on disk");
        assert_eq!(
            std::fs::read_dir(path.join("blobs")).unwrap().count(),
            0,
            "sled frees such files late, or never"
        );
    }
}

#[tokio::test(flavor = "current_thread")]
async fn opening_a_directory_that_is_open_blocks_no_thread() {
    let (_dir, path) = directory();
    let store = MemoryStore::open(&path).unwrap();
    let ticks = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&ticks);
    let ticker = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert_eq!(MemoryStore::open_async(&path).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(ticks.load(std::sync::atomic::Ordering::Relaxed) >= 10, "the runtime's only thread went on");
    ticker.abort();
    store.close().await.unwrap();
    let again = MemoryStore::open_async(&path).await.unwrap();
    again.close().await.unwrap();
    let again = MemoryStore::open(&path).unwrap();
    put(&again, "a", "1").await;
}

#[test]
#[ignore = "the child of a_second_process_is_refused"]
fn child_that_cannot_open() {
    let path = std::env::var_os(CHILD_DIR).expect("only as the child of another test");
    let error = open_error(Path::new(&path));
    tell(&format!("refused {:?} {error}", error.kind()));
}

#[test]
fn a_second_process_is_refused() {
    let (_dir, path) = directory();
    let store = MemoryStore::open(&path).unwrap();
    let output = child("child_that_cannot_open", &path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("refused Unavailable") && said.contains("already open, in another process"),
        "{said}"
    );
    drop(store);
}

/// Writes until it cannot, in a process whose files may not grow.
#[test]
#[ignore = "the child of a_full_disk_is_a_typed_error_and_loses_nothing"]
fn child_that_fills_its_disk() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = child_store();
        let mut watch = store.watch(Span::prefix("k/"), None).await.unwrap();
        let mut n = 0_u64;
        let error = loop {
            let write = Txn::new()
                .when(Compare::Absent("never".into()))
                .then(Op::put(format!("k/{n:06}"), vec![b'v'; 20_000]));
            match tokio::time::timeout(Duration::from_secs(20), store.txn(write))
                .await
                .expect("an answer, not a hang")
            {
                Ok(_) => n += 1,
                Err(error) => break error,
            }
        };
        let outcome = if error.outcome() == Outcome::Unknown { "Unknown" } else { "NotApplied" };
        tell(&format!("filled {n} {:?} {outcome}", error.kind()));
        let later = store.txn(Txn::new().then(Op::delete("k/000000"))).await.unwrap_err();
        let read = store.range(Range::key("k/000000")).await.unwrap_err();
        let streamed = loop {
            match watch.next().await.expect("an error ends the stream") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        tell(&format!(
            "later {:?} {:?} {:?} {:?}",
            later.kind(),
            later.outcome(),
            read.kind(),
            streamed.kind()
        ));
    });
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_a_typed_error_and_loses_nothing() {
    let (_dir, path) = directory();
    let limited = child("child_that_fills_its_disk", &path);
    // A limit on the size of files stands for the disk: it needs no rights. Its signal is ignored,
    // so that the write fails.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\""])
        .arg(limited.get_program())
        .args(limited.get_args());
    let mut process =
        Killed(shell.env(CHILD_DIR, &path).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut said = String::new();
    process.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let filled =
        said.lines().find_map(|line| line.strip_prefix("filled ")).unwrap_or_else(|| panic!("{said}"));
    let (count, rest) = filled.split_once(' ').unwrap();
    assert_eq!(rest, "Exhausted Unknown", "{said}");
    assert!(said.contains("later Exhausted NotApplied Exhausted Exhausted"), "{said}");
    let count: usize = count.parse().unwrap();
    assert!(count > 10, "{said}");
    // With room again it is all there.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = MemoryStore::open(&path).unwrap();
        let found = store.range(Range::prefix("k/").with_keys_only()).await.unwrap().entries.len();
        assert!(found == count || found == count + 1, "{count} acknowledged, {found} found");
        put(&store, "k/again", "1").await;
    });
}
