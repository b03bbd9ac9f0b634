//! A process that holds a lock, and stands still for longer than its TTL, or whose clock jumps.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use coord_api::prelude::*;
use coord_api::{ErrorKind, LockGuard};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::{eventually, within};

use crate::{SOON, provider};

const TTL: Duration = Duration::from_secs(2);

/// For a holder that is to keep what it holds, however busy the machine is.
const LONG_TTL: Duration = Duration::from_secs(5);

/// Where the holder's process finds the servers.
const ENDPOINTS: &str = "COORD_FAULTS_HOLDER_ENDPOINTS";

/// The TTL of its lock, in seconds.
const SECONDS: &str = "COORD_FAULTS_HOLDER_SECONDS";

/// The holder's process: it takes the lock, uses it for as long as its guard says that it is held,
/// and answers each line with what that says and what time its clock shows. Ends with its input.
#[test]
#[ignore = "NOT RUN by itself: the test below runs it in a process of its own"]
fn holds_until_it_is_lost() {
    let endpoints = std::env::var(ENDPOINTS).unwrap();
    let ttl = Duration::from_secs(std::env::var(SECONDS).unwrap().parse().unwrap());
    let held = Arc::new(Mutex::new(None::<LockGuard>));
    let asked = Arc::clone(&held);
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let state =
                if asked.lock().unwrap().as_ref().is_some_and(LockGuard::is_held) { "held" } else { "lost" };
            println!("holder says {state} {}", time_of_day());
        }
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let provider = provider(endpoints.split(',')).await;
        let guard = provider.lock().acquire("job", ttl).await.unwrap();
        let token = guard.fencing_token().get();
        *held.lock().unwrap() = Some(guard);
        loop {
            if held.lock().unwrap().as_ref().is_some_and(LockGuard::is_held) {
                println!("holder uses {token}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

/// In seconds.
#[allow(clippy::disallowed_methods, reason = "the test is about this clock, which jumps")]
fn time_of_day() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A store that takes nothing from who comes with an older token than it has seen.
#[derive(Default)]
struct Fenced {
    newest: AtomicU64,
    taken: AtomicU64,
}

impl Fenced {
    fn write(&self, token: u64) -> bool {
        let takes = self.newest.fetch_max(token, Ordering::SeqCst) <= token;
        self.taken.fetch_add(u64::from(takes), Ordering::SeqCst);
        takes
    }
}

struct Holder {
    process: Child,
    input: ChildStdin,
    answers: tokio::sync::mpsc::UnboundedReceiver<(bool, u64)>,
}

impl Holder {
    fn start(endpoints: &[String], ttl: Duration, store: &Arc<Fenced>, clock: Option<&Clock>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if let Some(clock) = clock {
            clock.give_to(&mut command);
        }
        let mut process = command
            .args(["--ignored", "--exact", "holders::holds_until_it_is_lost", "--nocapture"])
            .env(ENDPOINTS, endpoints.join(","))
            .env(SECONDS, ttl.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (tell, answers) = tokio::sync::mpsc::unbounded_channel();
        let store = Arc::clone(store);
        // Ends with the process, whose output it reads. It is the way to the store.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, token)) = line.split_once("holder uses ") {
                    store.write(token.parse().unwrap());
                } else if let Some((_, answer)) = line.split_once("holder says ") {
                    let (state, time) = answer.split_once(' ').unwrap();
                    let _ = tell.send((state == "held", time.parse().unwrap()));
                }
            }
        });
        Holder { process, input, answers }
    }

    fn signal(&self, name: &str) {
        assert!(
            Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap().success()
        );
    }

    /// Whether its guard says that it is held, and what time it is there.
    async fn says(&mut self) -> (bool, u64) {
        self.input.write_all(b"\n").unwrap();
        within(SOON, "the holder answers", self.answers.recv()).await.expect("the holder lives")
    }

    async fn says_held(&mut self) -> bool {
        self.says().await.0
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_stood_still_beyond_its_ttl_knows_and_its_token_is_refused() {
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let (rival, store) = (provider(cluster.endpoints()).await, Arc::new(Fenced::default()));
    let mut holder = Holder::start(&cluster.endpoints(), TTL, &store, None);
    eventually(SOON, "it uses what it holds", async || {
        (store.taken.load(Ordering::SeqCst) > 3).then_some(())
    })
    .await;
    assert!(holder.says_held().await);
    let stale = store.newest.load(Ordering::SeqCst);

    holder.signal("-STOP");
    let guard =
        within(SOON, "somebody else is granted the lock", rival.lock().acquire("job", TTL)).await.unwrap();
    let fresh = guard.fencing_token().get();
    assert!(fresh > stale && store.write(fresh));
    let taken = store.taken.load(Ordering::SeqCst);
    holder.signal("-CONT");
    assert!(!holder.says_held().await, "its guard says so before it does anything else");
    assert!(!store.write(stale), "and a use that was under way is refused");
    // It answers, so that what it did after it went on has come to the store, and would have been
    // counted.
    for _ in 0..20 {
        assert!(!holder.says_held().await, "for ever");
    }
    assert_eq!((store.taken.load(Ordering::SeqCst), store.newest.load(Ordering::SeqCst)), (taken, fresh));
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
}

/// A clock for another process, which can be put forward and back while that runs: `libfaketime`
/// reads what it shows from a file.
struct Clock(tempfile::NamedTempFile);

impl Clock {
    fn new() -> Self {
        let clock = Clock(tempfile::NamedTempFile::new().unwrap());
        clock.set(0);
        clock
    }

    /// Makes it show so many seconds more, or less, than the time.
    fn set(&self, offset: i64) {
        std::fs::write(self.0.path(), format!("{offset:+}\n")).unwrap();
    }

    fn give_to(&self, command: &mut Command) {
        let cached = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../.cache/faketime/libfaketimeMT.so.1")
            .canonicalize();
        let library = cached
            .expect("NOT TESTED: there is no libfaketime to let a clock jump with; run scripts/etcd.sh");
        // The time of day alone: no process sees the other clock jump, which counts from when the
        // machine was started.
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", self.0.path())
            .env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_clock_jumps_by_an_hour_keeps_what_it_holds() {
    const HOUR: i64 = 3_600;
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let (rival, store, clock) =
        (provider(cluster.endpoints()).await, Arc::new(Fenced::default()), Clock::new());
    let mut holder = Holder::start(&cluster.endpoints(), LONG_TTL, &store, Some(&clock));
    eventually(SOON, "it uses what it holds", async || {
        (store.taken.load(Ordering::SeqCst) > 3).then_some(())
    })
    .await;
    let token = store.newest.load(Ordering::SeqCst);
    for jump in [HOUR, -HOUR] {
        clock.set(jump);
        let (held, shows) = holder.says().await;
        let seen = i64::try_from(shows).unwrap() - i64::try_from(time_of_day()).unwrap();
        assert!((seen - jump).abs() < 60, "its clock is {seen} s off, not {jump}");
        assert!(held, "the moment its clock jumps by {jump} s");
        let taken = store.taken.load(Ordering::SeqCst);
        tokio::time::sleep(LONG_TTL * 3 / 2).await;
        assert!(
            holder.says_held().await,
            "{jump}: what nobody renews would have ended, and what is renewed has not"
        );
        assert!(store.taken.load(Ordering::SeqCst) > taken, "{jump}: it goes on using it");
        let refused = rival.lock().try_acquire("job", LONG_TTL).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{jump}: {refused}");
    }
    assert_eq!(store.newest.load(Ordering::SeqCst), token, "it was never given up and taken again");
}
