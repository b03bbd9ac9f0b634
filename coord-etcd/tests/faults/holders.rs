//! A process that holds a lock and stands still for longer than its TTL.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::LockGuard;
use coord_api::prelude::*;
use coord_etcd_fixture::{Binary, Cluster, Series};
use coord_testkit::wait::{eventually, within};

use crate::{SOON, provider};

const TTL: Duration = Duration::from_secs(2);

/// Where the holder's process finds the servers.
const ENDPOINTS: &str = "COORD_FAULTS_HOLDER_ENDPOINTS";

/// The holder's process: it takes the lock, uses it for as long as its guard says that it is held, and answers each line with what that says. Ends with its input.
#[test]
#[ignore = "NOT RUN by itself: the test below runs it in a process of its own"]
fn holds_until_it_is_lost() {
    let endpoints = std::env::var(ENDPOINTS).unwrap();
    let held = Arc::new(Mutex::new(None::<LockGuard>));
    let asked = Arc::clone(&held);
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            println!("holder says {}", if asked.lock().unwrap().as_ref().is_some_and(LockGuard::is_held) { "held" } else { "lost" });
        }
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let provider = provider(endpoints.split(',')).await;
        let guard = provider.lock().acquire("job", TTL).await.unwrap();
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
    answers: tokio::sync::mpsc::UnboundedReceiver<bool>,
}

impl Holder {
    fn start(endpoints: &[String], store: &Arc<Fenced>) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "holders::holds_until_it_is_lost", "--nocapture"])
            .env(ENDPOINTS, endpoints.join(","))
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
                } else if let Some((_, state)) = line.split_once("holder says ") {
                    let _ = tell.send(state == "held");
                }
            }
        });
        Holder { process, input, answers }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap().success());
    }

    async fn says_held(&mut self) -> bool {
        self.input.write_all(b"\n").unwrap();
        within(SOON, "the holder answers", self.answers.recv()).await.expect("the holder lives")
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
    let mut holder = Holder::start(&cluster.endpoints(), &store);
    eventually(SOON, "it uses what it holds", async || (store.taken.load(Ordering::SeqCst) > 3).then_some(())).await;
    assert!(holder.says_held().await);
    let stale = store.newest.load(Ordering::SeqCst);

    holder.signal("-STOP");
    let guard = within(SOON, "somebody else is granted the lock", rival.lock().acquire("job", TTL)).await.unwrap();
    let fresh = guard.fencing_token().get();
    assert!(fresh > stale && store.write(fresh));
    let taken = store.taken.load(Ordering::SeqCst);
    holder.signal("-CONT");
    assert!(!holder.says_held().await, "its guard says so before it does anything else");
    assert!(!store.write(stale), "and a use that was under way is refused");
    // It answers, so that what it did after it went on has come to the store, and would have been counted.
    for _ in 0..20 {
        assert!(!holder.says_held().await, "for ever");
    }
    assert_eq!((store.taken.load(Ordering::SeqCst), store.newest.load(Ordering::SeqCst)), (taken, fresh));
    assert!(guard.is_held());
    guard.unlock().await.unwrap();
}
