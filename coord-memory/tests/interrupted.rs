//! Ended, or out of space, at any call to the system that changes a file: while a directory is
//! opened, and while it is written and folded. It opens again, and holds all that was acknowledged
//! (R11, R25, S6).
//!
//! `strace` kills the process, or lets the call fail, at the N-th call of each kind. Where it is
//! missing the test fails: what was not tried does not hold. The gate tries some of the N; all of
//! them are tried with `COORD_MEMORY_EVERY_CALL=1`.
#![cfg(all(feature = "sled", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coord_api::store::{Op, Range, Store, Txn};
use coord_api::{ErrorKind, Revision};
use coord_memory::MemoryStore;

/// Tells a child process which directory to use.
const CHILD_DIR: &str = "COORD_MEMORY_TEST_DIR";

/// The calls that change files.
const CALLS: [&str; 9] =
    ["write", "pwrite64", "fsync", "fdatasync", "ftruncate", "openat", "rename", "unlink", "mkdir"];

/// How many rounds of writes the child does; with these sizes it folds more than once.
const ROUNDS: u64 = 24;

/// The machine's own, else the one that `scripts/etcd.sh` brought.
fn strace() -> PathBuf {
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/strace/strace");
    on_path
        .map(|directory| directory.join("strace"))
        .chain([cached])
        .find(|path| path.is_file())
        .expect("NOT TESTED: there is no strace; run scripts/etcd.sh, or install it (on Debian: apt-get install strace)")
}

#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let path = std::env::var_os(CHILD_DIR).expect("only as the child of another test");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tell = |line: String| {
        // Past the capture of the test's output, in one call.
        std::io::stderr().lock().write_all(line.as_bytes()).unwrap();
    };
    runtime.block_on(async {
        let store = match MemoryStore::open(path) {
            Ok(store) => store,
            Err(error) => return tell(format!("refused {:?} {error}\n", error.kind())),
        };
        let start = value(&store).await.map_or(0, |(n, _)| n);
        for n in start + 1..=start + ROUNDS {
            // 1 MiB, so that it is folded every 16 writes, and a small key of the same transaction.
            let large = n
                .to_string()
                .into_bytes()
                .into_iter()
                .chain(std::iter::repeat(b'v'))
                .take(1024 * 1024)
                .collect::<Vec<_>>();
            match store.txn(Txn::new().then(Op::put("n", n.to_string())).then(Op::put("large", large))).await
            {
                Ok(reply) => tell(format!("wrote {n} {}\n", reply.revision)),
                Err(error) => return tell(format!("failed {:?} {error}\n", error.kind())),
            }
        }
    });
}

async fn value(store: &MemoryStore) -> Option<(u64, Revision)> {
    let entries = store.range(Range::prefix("")).await.unwrap().entries;
    if entries.is_empty() {
        return None;
    }
    let [large, small] = entries.as_slice() else { panic!("both keys of a transaction") };
    let n = std::str::from_utf8(&small.value).unwrap();
    assert!(
        large.value.starts_with(n.as_bytes())
            && large.value.len() == 1024 * 1024
            && large.modified == small.modified
    );
    Some((n.parse().unwrap(), small.modified))
}

/// Runs the child in `path` with a fault, and says what it said and whether it was killed.
fn run(path: &Path, inject: &[String]) -> (String, bool) {
    let mut command = Command::new(strace());
    command.args(["-f", "-qq", "-o", "/dev/null"]).args(inject);
    command.arg(std::env::current_exe().unwrap()).args([
        "child",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    let output = command
        .env(CHILD_DIR, path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .expect("strace can be run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("ptrace"), "NOT TESTED: strace may not trace: {said}");
    (said, !output.status.success())
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

/// The last write that was acknowledged.
fn acknowledged(said: &str) -> Option<(u64, Revision)> {
    let line = said.lines().filter_map(|line| line.split("wrote ").nth(1)).next_back()?;
    let (n, revision) = line.split_once(' ')?;
    Some((n.parse().ok()?, Revision::new(revision.trim().parse().ok()?)))
}

/// Tries one fault for each kind of call and each N, on a new directory and on one that a killed
/// process has left.
fn sweep(fault: &str) -> usize {
    let every = std::env::var_os("COORD_MEMORY_EVERY_CALL").is_some();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let left = scratch.path().join("left");
    // Killed in the middle of its writes, so that opening has something to recover and to fold.
    let (said, _) = run(
        &left,
        &["-e".into(), "trace=rename".into(), "-e".into(), "inject=rename:signal=SIGKILL:when=3".into()],
    );
    let before = acknowledged(&said).expect("it wrote");
    // The snapshot that is written when it is opened; the same one each time.
    let copy = scratch.path().join("copy");
    copy_directory(&left, &copy);
    drop(MemoryStore::open(&copy).unwrap());
    let names =
        std::fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let snapshots: Vec<_> =
        names.filter(|name| name.starts_with("snap.")).map(|name| format!("{name}.generating")).collect();
    assert_eq!(snapshots.len(), 1);
    let mut tried = 0;
    for (base, before) in [(None, None), (Some(&left), Some(before))] {
        for call in CALLS {
            let mut n = 1_u32;
            // Up to the first N that is not reached any more.
            loop {
                let path = scratch.path().join("store");
                if let Some(base) = base {
                    copy_directory(base, &path);
                }
                // The calls with files of the directory alone: not those of the loader, and not
                // what the child says.
                let names = ["db", "conf", "records", "records.next", "coord-memory", &snapshots[0]];
                let files = names.map(|name| path.join(name));
                let mut inject: Vec<String> = vec![
                    "-e".into(),
                    format!("trace={call}"),
                    "-e".into(),
                    format!("inject={call}:{fault}:when={n}"),
                ];
                if matches!(call, "write" | "openat") {
                    files.iter().for_each(|file| inject.extend(["-P".into(), file.display().to_string()]));
                }
                let (said, killed) = run(&path, &inject);
                let hit = killed || said.contains("refused") || said.contains("failed");
                let told = acknowledged(&said).or(before);
                let what = format!(
                    "{fault} at {call} {n}, {}: {said}",
                    if base.is_some() { "recovered" } else { "new" }
                );
                for line in said.lines().filter(|line| line.contains("refused ")) {
                    assert!(line.contains("Exhausted"), "{what}");
                }
                runtime.block_on(async {
                    let store = MemoryStore::open(&path).unwrap_or_else(|error| panic!("{error}\n{what}"));
                    let found = value(&store).await;
                    assert!(found >= told, "{told:?} was acknowledged, {found:?} found; {what}");
                    let next = store.txn(Txn::new().then(Op::put("again", "1"))).await.unwrap().revision;
                    assert!(told.is_none_or(|(_, revision)| next > revision), "{what}");
                    store.close().await.unwrap();
                    drop(store);
                });
                std::fs::remove_dir_all(&path).unwrap();
                tried += usize::from(hit);
                if said.contains(&format!("wrote {} ", before.map_or(0, |(n, _)| n) + ROUNDS)) && !hit
                    || n > 300
                {
                    break;
                }
                n += if every { 1 } else { n.div_ceil(2) };
            }
        }
    }
    tried
}

#[test]
fn killed_at_any_call_it_opens_again_and_holds_what_it_acknowledged() {
    let tried = sweep("signal=SIGKILL");
    assert!(tried >= 30, "{tried}");
}

#[test]
fn out_of_space_at_any_call_it_says_so_and_opens_again_with_what_it_acknowledged() {
    let tried = sweep("error=ENOSPC");
    assert!(tried >= 20, "{tried}");
}

/// What a process leaves that is killed, or whose disk is full, while sled opens its files.
#[test]
fn left_overs_of_an_interrupted_opening_are_no_obstacle() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let put = |n: usize| Txn::new().then(Op::put(format!("k{n}"), "v"));
    runtime.block_on(async {
        let store = MemoryStore::open(&path).unwrap();
        for n in 0..100 {
            store.txn(put(n)).await.unwrap();
        }
        store.close().await.unwrap();
    });
    let count = || {
        runtime.block_on(async {
            let store = MemoryStore::open(&path).unwrap();
            let count = store.range(Range::prefix("")).await.unwrap().entries.len();
            store.close().await.unwrap();
            count
        })
    };
    assert_eq!(count(), 100);
    for (name, bytes) in [
        ("snap.00000000000FFFFF.generating", &b""[..]),
        ("snap.0000000000000001.generating", b"half"),
        ("snap.FFFFFFFFFFFFFFFF.generating", &[0; 40]),
    ] {
        std::fs::write(path.join(name), bytes).unwrap();
        assert_eq!(count(), 100, "{name}");
        assert!(!path.join(name).exists());
    }
    std::fs::write(path.join("records.next"), "half").unwrap();
    assert_eq!(count(), 100);
    let conf = std::fs::read(path.join("conf")).unwrap();
    for length in 0..conf.len() {
        std::fs::write(path.join("conf"), &conf[..length]).unwrap();
        assert_eq!(count(), 100, "conf of {length} bytes");
        assert_eq!(std::fs::read(path.join("conf")).unwrap(), conf);
    }
    // A new directory of which no more than a part of conf was made.
    for length in 0..conf.len() {
        let new = dir.path().join(length.to_string());
        std::fs::create_dir_all(new.join("blobs")).unwrap();
        std::fs::write(new.join("conf"), &conf[..length]).unwrap();
        std::fs::write(new.join("db"), "").unwrap();
        drop(MemoryStore::open(&new).unwrap());
    }
    // A lock that is held is respected: nothing is removed under whoever has it open.
    let store = MemoryStore::open(&path).unwrap();
    let generating = path.join("snap.00000000000FFFFF.generating");
    std::fs::write(&generating, "").unwrap();
    assert_eq!(MemoryStore::open(&path).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(generating.exists());
    drop(store);
}
