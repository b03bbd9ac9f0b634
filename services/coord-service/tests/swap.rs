//! A live client is swapped without a failed call, and keeps what works (K1, K2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord::{Error, ErrorKind, Result};
use coord_service::health::{Health, State};
use coord_service::live::{Change, Live, LiveOptions, LiveStatus, Reload, Stage};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// What a [`Pool`] is made from. `size` can be told, `name` needs another pool, `engine` another
/// process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Config {
    name: u32,
    size: usize,
    engine: u8,
}

/// A client that fails each call once it is closed.
#[derive(Debug)]
struct Pool {
    name: u32,
    size: AtomicUsize,
    closed: AtomicBool,
}

impl Pool {
    async fn call(&self, lasts: Duration) -> bool {
        let open = || !self.closed.load(Ordering::SeqCst);
        let before = open();
        sleep(lasts).await;
        before && open()
    }
}

/// What the server behind the pools does.
#[derive(Default)]
struct Server {
    refuses: AtomicBool,
    is_sick: AtomicBool,
    panics: AtomicBool,
    open: AtomicUsize,
    most_open: AtomicUsize,
    builds: AtomicUsize,
    retired: Mutex<Vec<u32>>,
}

#[derive(Clone, Default)]
struct Pools(Arc<Server>);

#[async_trait]
impl Reload for Pools {
    type Config = Config;
    type Client = Pool;

    fn plan(&self, old: &Config, new: &Config) -> Change {
        match () {
            () if old == new => Change::Same,
            () if old.engine != new.engine => Change::Restart("engine"),
            () if old.name != new.name => Change::Rebuild,
            () => Change::InPlace,
        }
    }

    async fn build(&self, config: &Config) -> Result<Pool> {
        self.0.builds.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(20)).await;
        assert!(!self.0.panics.load(Ordering::SeqCst), "a driver with a bug");
        if self.0.refuses.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "pool.build", "connection refused"));
        }
        let open = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_open.fetch_max(open, Ordering::SeqCst);
        Ok(Pool { name: config.name, size: AtomicUsize::new(config.size), closed: AtomicBool::new(false) })
    }

    async fn probe(&self, _: &Pool) -> Result<()> {
        match self.0.is_sick.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "pool.probe", "no answer")),
            false => Ok(()),
        }
    }

    fn apply(&self, pool: &Pool, config: &Config) -> Result<()> {
        assert_ne!(config.size, 13, "a driver with a bug");
        pool.size.store(config.size, Ordering::SeqCst);
        Ok(())
    }

    async fn retire(&self, pool: &Pool) {
        pool.closed.store(true, Ordering::SeqCst);
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.retired.lock().push(pool.name);
    }
}

struct Followed {
    server: Arc<Server>,
    config: watch::Sender<Arc<Config>>,
    live: Arc<Live<Pools>>,
    health: Health,
}

fn follow(pools: &Pools, options: LiveOptions) -> Followed {
    let (config, newest) = watch::channel(Arc::new(Config { name: 1, size: 4, engine: 0 }));
    let health = Health::new();
    let reporter = health.register("db", true);
    let live = Arc::new(Live::start_reporting(pools.clone(), newest, options, "db", reporter));
    Followed { server: Arc::clone(&pools.0), config, live, health }
}

impl Followed {
    fn set(&self, change: impl FnOnce(&mut Config)) {
        let mut config = **self.config.borrow();
        change(&mut config);
        self.config.send_replace(Arc::new(config));
    }

    async fn until(&self, what: &str, wanted: impl FnMut(&LiveStatus) -> bool + Send) -> LiveStatus {
        let limit = Duration::from_secs(600);
        let status = tokio::time::timeout(limit, self.live.wait_for(wanted)).await;
        status.unwrap_or_else(|_| panic!("not within {limit:?}: {what}; {:?}", self.live.status()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_swaps_under_64_callers_fail_no_call() {
    let followed = follow(&Pools::default(), LiveOptions::default());
    followed.live.ready().await;
    let (stop, calls, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..64_u64)
        .map(|n| {
            let (live, stop) = (Arc::clone(&followed.live), Arc::clone(&stop));
            let (calls, failed) = (Arc::clone(&calls), Arc::clone(&failed));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    calls.fetch_add(1, Ordering::SeqCst);
                    let current = live.current().expect("there always is one");
                    if !current.call(Duration::from_millis(3 + n % 7)).await {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    for name in 2..=101 {
        followed.set(|config| config.name = name);
        followed.until("a swap", |status| status.generation == u64::from(name)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(calls.load(Ordering::SeqCst) > 64 * 100, "they called all the time");
    assert_eq!(failed.load(Ordering::SeqCst), 0);
    assert!(followed.server.most_open.load(Ordering::SeqCst) <= 2, "two at most");
    followed.live.close().await;
    assert_eq!(followed.server.open.load(Ordering::SeqCst), 0, "each was retired");
    assert_eq!(*followed.server.retired.lock(), (1..=101).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_built_leaves_the_old_one_in_use() {
    let followed = follow(&Pools::default(), LiveOptions::default());
    followed.live.ready().await;
    assert_eq!(followed.health.summary(), State::Ready);
    followed.server.refuses.store(true, Ordering::SeqCst);
    followed.set(|config| config.name = 2);
    let status = followed.until("three tries", |s| s.fault.as_ref().is_some_and(|f| f.times == 3)).await;
    assert_eq!(status.fault.unwrap().stage, Stage::Build);
    assert_eq!(followed.live.current().unwrap().name, 1);
    let State::Degraded(why) = followed.health.summary() else { panic!("{:?}", followed.health) };
    assert!(why.contains("connection refused"), "{why}");
    followed.server.refuses.store(false, Ordering::SeqCst);
    followed.until("the second client", |status| status.generation == 2).await;
    assert_eq!((followed.live.current().unwrap().name, followed.health.summary()), (2, State::Ready));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_answer_is_never_used() {
    let followed = follow(&Pools::default(), LiveOptions::default());
    followed.live.ready().await;
    followed.server.is_sick.store(true, Ordering::SeqCst);
    followed.set(|config| config.name = 2);
    let status = followed.until("a fault", |status| status.fault.is_some()).await;
    assert_eq!((status.fault.unwrap().stage, status.generation), (Stage::Probe, 1));
    assert_eq!(followed.live.current().unwrap().name, 1);
    assert_eq!(followed.server.retired.lock().first(), Some(&2), "it is retired, for it was built");
}

#[tokio::test(start_paused = true)]
async fn a_third_one_waits_until_the_first_is_retired() {
    let followed = follow(&Pools::default(), LiveOptions::default());
    followed.live.ready().await;
    let used = followed.live.current().unwrap();
    followed.set(|config| config.name = 2);
    followed.until("the second client", |status| status.generation == 2).await;
    followed.set(|config| config.name = 3);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(followed.live.status().generation, 2, "{:?}", followed.live.status());
    // What comes meanwhile is not built.
    followed.set(|config| config.name = 4);
    drop(used);
    followed.until("the third client", |status| status.generation == 3).await;
    assert_eq!(
        (followed.live.current().unwrap().name, followed.server.builds.load(Ordering::SeqCst)),
        (4, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn who_uses_the_old_one_for_too_long_fails() {
    let options = LiveOptions::default().with_drain(Duration::from_secs(7));
    let followed = follow(&Pools::default(), options);
    followed.live.ready().await;
    let used = followed.live.current().unwrap();
    followed.set(|config| config.name = 2);
    followed.until("the second client", |status| status.generation == 2).await;
    let swapped = Instant::now();
    followed.until("the end of the first", |status| !status.retiring).await;
    assert_eq!(swapped.elapsed(), Duration::from_secs(7));
    assert!(!used.call(Duration::ZERO).await);
}

#[tokio::test(start_paused = true)]
async fn a_service_starts_where_nothing_answers() {
    let pools = Pools::default();
    pools.0.refuses.store(true, Ordering::SeqCst);
    let followed = follow(&pools, LiveOptions::default());
    assert_eq!(followed.live.current().unwrap_err().kind(), ErrorKind::Unavailable);
    followed.until("three tries", |s| s.fault.as_ref().is_some_and(|f| f.times == 3)).await;
    let error = followed.live.current().unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("refused"), "{error:?}");
    assert!(matches!(followed.health.summary(), State::Down(_)));
    pools.0.refuses.store(false, Ordering::SeqCst);
    followed.live.ready().await;
    assert_eq!(followed.live.current().unwrap().name, 1);
    assert_eq!(followed.health.summary(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn what_can_be_told_is_told() {
    let followed = follow(&Pools::default(), LiveOptions::default());
    followed.live.ready().await;
    followed.set(|config| config.size = 9);
    let size = || followed.live.current().unwrap().size.load(Ordering::SeqCst);
    while size() != 9 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((followed.live.status().generation, followed.server.builds.load(Ordering::SeqCst)), (1, 1));
    // One that panics while it is told keeps what it has.
    followed.set(|config| config.size = 13);
    let status = followed.until("a fault", |status| status.fault.is_some()).await;
    assert_eq!((status.fault.unwrap().stage, size()), (Stage::Apply, 9));
    followed.set(|config| config.size = 9);
    followed.until("no fault", |status| status.fault.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn what_needs_a_restart_says_so_and_changes_nothing() {
    let followed = follow(&Pools::default(), LiveOptions::default());
    followed.live.ready().await;
    followed.set(|config| (config.engine, config.name) = (1, 2));
    followed.until("the field", |status| status.waits_for_restart == Some("engine")).await;
    assert_eq!(followed.live.current().unwrap().name, 1);
    assert_eq!(followed.health.summary(), State::Degraded("db: engine waits for a restart".to_owned()));
    followed.set(|config| (config.engine, config.name) = (0, 3));
    followed.until("the second client", |status| status.generation == 2).await;
    assert_eq!(followed.live.status().waits_for_restart, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_answering_is_down_until_it_answers_again() {
    let followed = follow(&Pools::default(), LiveOptions::default());
    followed.live.ready().await;
    followed.server.is_sick.store(true, Ordering::SeqCst);
    followed.until("a fault", |status| status.fault.is_some()).await;
    assert!(!followed.health.is_ready());
    assert_eq!(followed.live.current().unwrap().name, 1, "it may come back by itself");
    followed.server.is_sick.store(false, Ordering::SeqCst);
    followed.until("no fault", |status| status.fault.is_none()).await;
    assert_eq!(followed.health.summary(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_build_that_panics_or_hangs_is_tried_again() {
    let pools = Pools::default();
    pools.0.panics.store(true, Ordering::SeqCst);
    let options = LiveOptions::default().with_timeout(Duration::from_millis(10));
    let slow = follow(&Pools::default(), options);
    let followed = follow(&pools, LiveOptions::default());
    let kind = |status: LiveStatus| status.fault.unwrap().error.kind();
    assert_eq!(kind(slow.until("a fault", |status| status.fault.is_some()).await), ErrorKind::Timeout);
    assert_eq!(kind(followed.until("a fault", |status| status.fault.is_some()).await), ErrorKind::Internal);
    pools.0.panics.store(false, Ordering::SeqCst);
    assert_eq!(followed.live.ready().await.generation, 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_closed_or_dropped_leaves_no_client() {
    let (closed, dropped) = (Pools::default(), Pools::default());
    let followed = follow(&closed, LiveOptions::default());
    followed.live.ready().await;
    followed.live.close().await;
    followed.live.close().await;
    assert_eq!(followed.live.current().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(*closed.0.retired.lock(), [1]);
    let followed = follow(&dropped, LiveOptions::default());
    followed.live.ready().await;
    drop(followed);
    while dropped.0.retired.lock().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_no_more_configurations_leaves_the_last_one_in_use() {
    let followed = follow(&Pools::default(), LiveOptions::default());
    followed.live.ready().await;
    let Followed { config, live, server, .. } = followed;
    drop(config);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((live.current().unwrap().name, server.builds.load(Ordering::SeqCst)), (1, 1));
}
