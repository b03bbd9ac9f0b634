//! How fast a store is.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use coord::prelude::*;
use coord::recipes::layers::Namespace;
use coord::recipes::{ProviderOptions, StoreProvider};
use coord::store::{MAX_TXN_OPS, Op, Range, Store, Txn};
use coord::{ConfigEvent, Error, ErrorKind, ServiceInstance, Value, Version, WatchStart};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::Session;
use crate::error::Failure;
use crate::show::{Table, or_dash, render};
use crate::stop::stopped;

/// How fast a store is: reads, writes, locks, watches and registrations, one after the other.
#[derive(Debug, Args)]
#[command(
    after_help = "What it writes lies below coordctl-bench/, under a name of its own, and is deleted at the end, also \
                        after Ctrl-C and where the store fails. A write waits for its answer, and a read is \
                        linearizable. A hand-over is timed from where the holder of a lock gives it back until the \
                        next one has it; a watch from where somebody writes until the watcher has heard of it."
)]
pub(crate) struct Arguments {
    /// How long each of the six measurements lasts.
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "5s", value_name = "TIME")]
    length: Duration,
    /// How many do it at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    concurrency: u16,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
}

/// The directory that all of it lies in.
const DIRECTORY: &str = "coordctl-bench";

/// Of locks and registrations.
const TTL: Duration = Duration::from_secs(30);

/// As many times are kept of one measurement; of more, so many that chance chooses.
const KEPT: usize = 100_000;

/// How long it waits before it tries once more to delete what it wrote.
const AGAIN: Duration = Duration::from_millis(100);

const VALUE: &str = r#"{"written by": "coordctl bench"}"#;

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let count = u32::try_from(Work::ALL.len()).unwrap_or(u32::MAX);
        let load = format!(
            "This puts load on the store for {}, which whoever else uses it will feel",
            humantime::format_duration(self.length.saturating_mul(count))
        );
        if !self.yes {
            session.ask_once(&format!("{load}. Do it?"), false)?;
        }
        let mut stop = Stop::listen().await;
        if self.yes {
            session.terminal.complain(&format!("{load}.\n"));
        }
        let ground = Ground::new(session)?;
        let mut measured = Vec::new();
        let mut ended = Ok(());
        for work in Work::ALL {
            if session.terminal.is_interactive() {
                session.terminal.complain(&format!("{} …\n", work.name()));
            }
            ended = self.measure(session, &ground, work, &mut stop, &mut measured).await;
            if ended.is_err() {
                break;
            }
        }
        let cleaned = ground.clean_up(session).await;
        let found = Found { concurrency: self.concurrency, measured };
        session.terminal.print(&render(session.show.output, &found, || vec![found.table()])?);
        if let (Err(_), Err(left)) = (&ended, &cleaned) {
            session.terminal.complain(&format!("coordctl: {left}\n"));
        }
        ended.and(cleaned)
    }

    /// Does one thing again and again, many at once.
    async fn measure(
        &self,
        session: &Session<'_>,
        ground: &Ground,
        work: Work,
        stop: &mut Stop,
        measured: &mut Vec<Measured>,
    ) -> Result<(), Failure> {
        let workers = work.workers(self.concurrency);
        let began = Instant::now();
        let run = Arc::new(Run {
            provider: Arc::clone(&ground.provider),
            ends: began + self.length,
            is_over: AtomicBool::new(false),
            given_back: Mutex::new(None),
            room: (KEPT / usize::from(workers)).max(1),
        });
        let mut tasks = JoinSet::new();
        for worker in 0..workers {
            tasks.spawn(Arc::clone(&run).work(work, worker));
        }
        let mut samples = Samples::default();
        let mut ended = Ok(());
        // What is being asked is waited for, so that it is not written behind what cleans up.
        let mut limit = run.ends + session.time;
        loop {
            let done = tokio::select! {
                done = tasks.join_next() => done,
                () = stop.stopped.as_mut(), if !stop.is_stopped => {
                    stop.is_stopped = true;
                    run.is_over.store(true, Ordering::Relaxed);
                    limit = limit.min(Instant::now() + session.time);
                    continue;
                }
                () = sleep_until(limit) => {
                    tasks.shutdown().await;
                    let late = Error::new(ErrorKind::Timeout, "coordctl.bench", "the store does not answer");
                    ended = ended.and(Err(Failure::from(late)));
                    break;
                }
            };
            match done {
                None => break,
                Some(Ok(Ok(more))) => samples.add_all(more),
                Some(Ok(Err(error))) => {
                    ended = ended.and(Err(Failure::from(error)));
                    run.is_over.store(true, Ordering::Relaxed);
                    limit = limit.min(Instant::now() + session.time);
                }
                Some(Err(error)) => {
                    let error = std::io::Error::other(error);
                    ended = ended.and(Err(Failure::Io("a task".to_owned(), error)));
                    run.is_over.store(true, Ordering::Relaxed);
                }
            }
        }
        measured.push(Measured::of(work, samples, began.elapsed()));
        if stop.is_stopped { ended.and(Err(Failure::CutShort)) } else { ended }
    }
}

/// Whether somebody has said that it is to end.
struct Stop {
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_stopped: bool,
}

impl Stop {
    /// Listens from here on: not before, so that a question can be left by Ctrl-C as anywhere.
    async fn listen() -> Self {
        let mut stopped: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(stopped());
        let is_stopped = tokio::select! {
            biased;
            () = stopped.as_mut() => true,
            () = std::future::ready(()) => false,
        };
        Stop { stopped, is_stopped }
    }
}

/// Where all of it happens: a part of the store, and a client of its own there.
struct Ground {
    name: String,
    store: Namespace<Lent>,
    provider: Arc<dyn Provider>,
}

/// The store, lent to a client that is closed before the store is.
#[derive(Clone, Debug)]
struct Lent(Arc<dyn Store>);

#[async_trait]
impl Store for Lent {
    coord::forward_store! {
        self => self.0;
        range, txn, watch, grant_lease, keep_alive, lease, revoke_lease, status
    }

    async fn close(&self) -> coord::Result<()> {
        Ok(())
    }
}

impl Ground {
    fn new(session: &Session<'_>) -> Result<Self, Failure> {
        let core = session.coord.core();
        let name = format!("{DIRECTORY}/{:016x}", fastrand::u64(..));
        let store = Namespace::new(Lent(Arc::clone(core.store())), &name)?;
        let options = ProviderOptions::default()
            .with_name(DIRECTORY)
            .with_home(core.home().clone())
            .with_write_losses(false);
        let provider = StoreProvider::new(Arc::new(store.clone()), options);
        Ok(Ground { name, store, provider })
    }

    /// Ends what is held, and deletes all that is left.
    async fn clean_up(self, session: &Session<'_>) -> Result<(), Failure> {
        let deadline = Instant::now() + session.time;
        // What it does not end runs out, and its keys are deleted below.
        let _ = session.ask(self.provider.close()).await;
        loop {
            match session.ask(self.delete_some()).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(Failure::Coord(error)) if error.is_transient() && Instant::now() < deadline => {
                    sleep(AGAIN).await;
                }
                Err(failure) => return Err(Failure::Left(self.name, Box::new(failure))),
            }
        }
    }

    /// Deletes some of what there is, and says whether there was nothing.
    async fn delete_some(&self) -> coord::Result<bool> {
        let some = Range::prefix("/").with_keys_only().with_limit(MAX_TXN_OPS);
        let found = self.store.range(some).await?.entries;
        if found.is_empty() {
            return Ok(true);
        }
        let delete = |txn: Txn, entry: coord::store::Entry| txn.then(Op::delete(entry.key));
        self.store.txn(found.into_iter().fold(Txn::new(), delete)).await?;
        Ok(false)
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Work {
    ConfigSet,
    ConfigGet,
    Lock,
    HandOver,
    Watch,
    Registration,
}

impl Work {
    const ALL: [Work; 6] =
        [Work::ConfigSet, Work::ConfigGet, Work::Lock, Work::HandOver, Work::Watch, Work::Registration];

    fn name(self) -> &'static str {
        match self {
            Work::ConfigSet => "config set",
            Work::ConfigGet => "config get",
            Work::Lock => "lock and unlock",
            Work::HandOver => "hand-over of a lock",
            Work::Watch => "watch hears of a write",
            Work::Registration => "register and unregister",
        }
    }

    /// Where one hands over there is another one who takes.
    fn workers(self, concurrency: u16) -> u16 {
        if self == Work::HandOver { concurrency.max(2) } else { concurrency }
    }
}

/// One measurement, while it runs.
struct Run {
    provider: Arc<dyn Provider>,
    ends: Instant,
    is_over: AtomicBool,
    /// When the lock that is handed over was given back.
    given_back: Mutex<Option<Instant>>,
    /// How many times each worker keeps.
    room: usize,
}

impl Run {
    async fn goes_on(&self) -> bool {
        // A store in memory never has anybody wait, not even for a turn.
        tokio::task::yield_now().await;
        !self.is_over.load(Ordering::Relaxed) && Instant::now() < self.ends
    }

    /// What one worker does.
    async fn work(self: Arc<Self>, work: Work, worker: u16) -> coord::Result<Samples> {
        let mut samples = Samples::default();
        let (config, name) = (self.provider.config(), format!("worker-{worker}"));
        match work {
            Work::ConfigSet => {
                while self.goes_on().await {
                    let began = Instant::now();
                    config.set_raw(&name, Value::from(VALUE)).await?;
                    samples.add(began.elapsed(), self.room);
                }
            }
            Work::ConfigGet => {
                while self.goes_on().await {
                    let began = Instant::now();
                    config.get_raw(&name).await?;
                    samples.add(began.elapsed(), self.room);
                }
            }
            Work::Lock => {
                while self.goes_on().await {
                    let began = Instant::now();
                    self.provider.lock().acquire(&name, TTL).await?.unlock().await?;
                    samples.add(began.elapsed(), self.room);
                }
            }
            Work::HandOver => {
                while self.goes_on().await {
                    let guard = self.provider.lock().acquire("handed-over", TTL).await?;
                    let has_it = Instant::now();
                    // To the first one nobody gave it.
                    if let Some(given_back) = self.given_back(None) {
                        samples.add(has_it - given_back, self.room);
                    }
                    self.given_back(Some(Instant::now()));
                    guard.unlock().await?;
                }
            }
            Work::Watch => {
                let key = format!("watched-{worker}");
                let mut watch = config.watch_raw(&key, WatchStart::Snapshot).await?;
                let mut seen = Version::ZERO;
                while self.goes_on().await {
                    let began = Instant::now();
                    let written = config.set_raw(&key, Value::from(VALUE));
                    // It may have heard before the writer has its answer.
                    let (_, heard) = tokio::try_join!(written, heard(&mut watch, &mut seen))?;
                    samples.add(heard - began, self.room);
                }
            }
            Work::Registration => {
                while self.goes_on().await {
                    let instance = ServiceInstance::new("bench", &name, "127.0.0.1", 1);
                    let began = Instant::now();
                    self.provider.registry().register(instance).await?.unregister().await?;
                    samples.add(began.elapsed(), self.room);
                }
            }
        }
        Ok(samples)
    }

    /// When it was given back before; and from now on, when it is now.
    fn given_back(&self, now: Option<Instant>) -> Option<Instant> {
        std::mem::replace(&mut *self.given_back.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

/// When a watch hears of what is newer than what it has seen.
async fn heard(watch: &mut coord::Watch<ConfigEvent>, seen: &mut Version) -> coord::Result<Instant> {
    loop {
        let event = watch.next().await;
        let ended = || Error::new(ErrorKind::Unavailable, "coordctl.bench", "the watch ended");
        let newest = match event.ok_or_else(ended)?? {
            ConfigEvent::Put { entry, .. } => Some(entry.version),
            ConfigEvent::Resync(state) => state.items.iter().map(|entry| entry.version).max(),
            _ => None,
        };
        if let Some(version) = newest.filter(|version| version > seen) {
            *seen = version;
            return Ok(Instant::now());
        }
    }
}

/// How long something took, again and again.
#[derive(Debug, Default)]
struct Samples {
    count: u64,
    max: Duration,
    kept: Vec<Duration>,
}

impl Samples {
    fn add(&mut self, took: Duration, room: usize) {
        self.count += 1;
        self.max = self.max.max(took);
        if self.kept.len() < room {
            self.kept.push(took);
            return;
        }
        // Each has the same chance to be among those that are kept.
        let at = usize::try_from(fastrand::u64(..self.count)).unwrap_or(usize::MAX);
        if let Some(kept) = self.kept.get_mut(at) {
            *kept = took;
        }
    }

    fn add_all(&mut self, more: Samples) {
        self.count += more.count;
        self.max = self.max.max(more.max);
        self.kept.extend(more.kept);
    }

    /// What so many of a hundred do not exceed; of sorted ones.
    fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.kept.len() * percent).div_ceil(100);
        self.kept.get(rank.checked_sub(1)?).copied()
    }
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Found {
    concurrency: u16,
    measured: Vec<Measured>,
}

/// How fast one thing is.
#[derive(Debug, Serialize)]
struct Measured {
    what: Work,
    count: u64,
    per_second: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
}

impl Measured {
    fn of(what: Work, mut samples: Samples, took: Duration) -> Self {
        samples.kept.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        Measured {
            what,
            count: samples.count,
            per_second: samples.count as f64 / took.as_secs_f64().max(f64::EPSILON),
            p50_ms: samples.percentile(50).map(ms),
            p99_ms: samples.percentile(99).map(ms),
            max_ms: Some(samples.max).filter(|_| samples.count > 0).map(ms),
        }
    }
}

impl Found {
    fn table(&self) -> Table {
        let mut table = Table::new(&["WHAT", "COUNT", "PER SECOND", "P50", "P99", "MAX"], "");
        for measured in &self.measured {
            let ms = |time: Option<f64>| or_dash(time.map(|time| format!("{time:.2} ms")));
            table.row([
                measured.what.name().to_owned(),
                measured.count.to_string(),
                format!("{:.0}", measured.per_second),
                ms(measured.p50_ms),
                ms(measured.p99_ms),
                ms(measured.max_ms),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_a_bound_and_what_is_told_is_of_all() {
        let mut samples = Samples::default();
        assert_eq!(samples.percentile(50), None);
        for ms in 1..=100 {
            samples.add(Duration::from_millis(ms), 1_000);
        }
        let told = Measured::of(Work::Lock, samples, Duration::from_secs(2));
        assert_eq!((told.count, told.per_second), (100, 50.0));
        assert_eq!((told.p50_ms, told.p99_ms, told.max_ms), (Some(50.0), Some(99.0), Some(100.0)));
        let mut samples = Samples::default();
        for ms in 1..=1_000 {
            samples.add(Duration::from_millis(ms), 10);
        }
        assert_eq!((samples.count, samples.kept.len(), samples.max), (1_000, 10, Duration::from_secs(1)));
        let mut all = Samples::default();
        all.add_all(samples);
        assert_eq!((all.count, all.kept.len()), (1_000, 10));
    }
}
