//! Processes that hold a lock and stand still for longer than its TTL, and a store that checks
//! fencing tokens.
//!
//! Each holder is a process of its own, which says on its standard output which token it was
//! granted, and which token it uses. Once it was stopped for longer than the TTL, and somebody else
//! was granted the lock, it goes on and is asked whether it holds: it must know that it does not,
//! before it does anything else.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_etcd::{EtcdOptions, EtcdProvider};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_tests::progress::bar;

use crate::runtime;

/// The hidden part that a holder's process runs.
pub(crate) const HOLDER: &str = "holder";

/// Holders at once, each with a lock of its own.
const HOLDERS: usize = 8;

const TTL: Duration = Duration::from_secs(2);

/// What a holder is waited for at most.
const SOON: Duration = Duration::from_secs(30);

/// A store that takes a write only with a token that is not older than any that it has seen.
#[derive(Default)]
struct Fenced {
    newest: AtomicU64,
    refused: AtomicU64,
}

impl Fenced {
    /// Whether the write is taken.
    fn write(&self, token: u64) -> bool {
        let newest = self.newest.fetch_max(token, Ordering::SeqCst);
        if token < newest {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
        token >= newest
    }
}

/// What all lanes have done.
#[derive(Default)]
struct Done {
    pauses: u64,
    uses: u64,
    refused: u64,
    broken: Vec<String>,
}

/// Says how much was broken.
pub(crate) fn run(count: u64) -> u64 {
    let (bar, begun) = (bar(count), Instant::now());
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let (next, done) = (AtomicU64::new(0), Mutex::new(Done::default()));
    let runtime = runtime();
    thread::scope(|scope| {
        for lane in 0..HOLDERS {
            let (next, done, bar, endpoints, runtime) =
                (&next, &done, &bar, cluster.endpoints(), runtime.handle().clone());
            scope.spawn(move || {
                let rival =
                    runtime.block_on(EtcdProvider::connect(EtcdOptions::new(endpoints.clone()))).unwrap();
                let (store, key) = (Arc::new(Fenced::default()), format!("job/{lane}"));
                let mut holder = Holder::start(&endpoints, &key, &store);
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    let broken = runtime.block_on(pause(&mut holder, &rival, &key, &store));
                    let mut done = done.lock().unwrap();
                    done.pauses += 1;
                    done.broken.extend(broken);
                    bar.inc(1);
                }
                let mut done = done.lock().unwrap();
                done.uses += holder.uses.load(Ordering::SeqCst);
                done.refused += store.refused.load(Ordering::SeqCst);
            });
        }
    });
    bar.finish_and_clear();
    let done = done.into_inner().unwrap();
    done.broken.iter().for_each(|broken| println!("BROKEN {broken}"));
    println!(
        "{} pauses beyond {TTL:?} of {HOLDERS} processes, {} uses, {} refused by their token",
        done.pauses, done.uses, done.refused
    );
    println!("violations {}; {:.0} s", done.broken.len(), begun.elapsed().as_secs_f64());
    done.broken.len() as u64
}

/// Stops the holder until somebody else holds its lock, and lets it go on. Says what was broken.
async fn pause(holder: &mut Holder, rival: &EtcdProvider, key: &str, store: &Fenced) -> Option<String> {
    let Some(Said::Granted(token)) = holder.wait_for(|said| matches!(said, Said::Granted(_))) else {
        return Some(format!("{key}: the holder is not granted the lock"));
    };
    // It has used it at least once.
    holder.wait_for(|said| matches!(said, Said::Used))?;
    holder.signal("-STOP");
    let granted = tokio::time::timeout(SOON, rival.lock().acquire(key, TTL)).await;
    let Ok(Ok(guard)) = granted else {
        holder.signal("-CONT");
        return Some(format!("{key}: nobody is granted the lock of a holder that stands still: {granted:?}"));
    };
    let newer = guard.fencing_token().get();
    let mut broken = (newer <= token).then(|| format!("{key}: token {newer} was granted after {token}"));
    if !store.write(newer) {
        broken = Some(format!("{key}: the newest holder's write was refused"));
    }
    holder.signal("-CONT");
    // Asked after it goes on, so that it answers after it goes on.
    holder.ask();
    match holder.wait_for(|said| matches!(said, Said::Asked(_))) {
        Some(Said::Asked(true)) => {
            broken = Some(format!("{key}: it went on after its TTL and believes to hold {token}"))
        }
        Some(_) => {}
        None => broken = Some(format!("{key}: it does not answer")),
    }
    if !guard.is_held() {
        broken = Some(format!("{key}: the newest holder lost the lock: {:?}", guard.state()));
    }
    let _ = guard.unlock().await;
    broken
}

/// What a holder says.
#[derive(Clone, Copy, Debug)]
enum Said {
    Granted(u64),
    Used,
    Asked(bool),
}

/// A holder's process.
struct Holder {
    process: Child,
    input: ChildStdin,
    said: mpsc::Receiver<Said>,
    uses: Arc<AtomicU64>,
}

impl Holder {
    fn start(endpoints: &[String], key: &str, store: &Arc<Fenced>) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([HOLDER, key])
            .args(endpoints)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (tell, said) = mpsc::channel();
        let (uses, store) = (Arc::new(AtomicU64::new(0)), Arc::clone(store));
        let counted = Arc::clone(&uses);
        // Ends with the process, whose output it reads. It is the way to the store.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let (what, value) = line.split_once(' ').unwrap();
                let said = match what {
                    "granted" => Said::Granted(value.parse().unwrap()),
                    "use" => {
                        let token = value.parse().unwrap();
                        store.write(token);
                        counted.fetch_add(1, Ordering::SeqCst);
                        Said::Used
                    }
                    _ => Said::Asked(value == "held"),
                };
                let _ = tell.send(said);
            }
        });
        Holder { process, input, said, uses }
    }

    /// The next thing of a kind that it says.
    fn wait_for(&self, wanted: impl Fn(&Said) -> bool) -> Option<Said> {
        let deadline = Instant::now() + SOON;
        loop {
            let said = self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
            if wanted(&said) {
                return Some(said);
            }
        }
    }

    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success()
        );
    }

    fn ask(&mut self) {
        self.input.write_all(b"ask\n").unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The holder's process: takes the lock again and again, and uses it for as long as its guard says
/// that it is held. Ends with its standard input.
pub(crate) fn hold(key: &str, endpoints: Vec<String>) -> ! {
    let options = EtcdOptions::new(endpoints);
    let held = Arc::new(Mutex::new(None::<coord_api::LockGuard>));
    let asked = Arc::clone(&held);
    thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let held = asked.lock().unwrap().as_ref().is_some_and(|guard| guard.is_held());
            println!("asked {}", if held { "held" } else { "lost" });
        }
        std::process::exit(0);
    });
    runtime().block_on(async {
        let provider = EtcdProvider::connect(options).await.unwrap();
        loop {
            let Ok(guard) = provider.lock().acquire(key, TTL).await else { continue };
            let token = guard.fencing_token().get();
            println!("granted {token}");
            *held.lock().unwrap() = Some(guard);
            loop {
                {
                    let held = held.lock().unwrap();
                    if !held.as_ref().is_some_and(|guard| guard.is_held()) {
                        break;
                    }
                    println!("use {token}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Kept until here: an asker who comes now hears that it is lost.
        }
    })
}
