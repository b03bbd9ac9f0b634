//! Rows of the fault matrix on a real cluster of three: processes killed and stopped, connections
//! cut.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod consumers;
mod holders;
mod links;
mod owners;
mod peers;
mod servers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{
    ConfigEvent, InstanceId, LockGuard, RegisterOptions, Registration, Revision, ServiceInstance, Value,
    Watch, WatchStart, WatchState,
};
use coord_etcd::{EtcdOptions, EtcdProvider};
use coord_testkit::view::ConfigView;
use coord_testkit::wait::within;
use tokio::task::JoinHandle;

/// How long an election takes at most: twice the servers' 500 ms.
const ELECTION: Duration = Duration::from_secs(1);

/// One attempt of a request.
const ATTEMPT: Duration = Duration::from_millis(500);

/// All attempts of a request.
const TOTAL: Duration = Duration::from_secs(3);

/// What a busy machine adds to what is promised.
const SLACK: Duration = Duration::from_secs(2);

/// By when anything that needs no waiting is done.
const SOON: Duration = Duration::from_secs(30);

fn options(endpoints: impl IntoIterator<Item = impl Into<String>>) -> EtcdOptions {
    let mut options = EtcdOptions::new(endpoints);
    options.retry.attempt_timeout = Some(ATTEMPT);
    options.retry.total_timeout = Some(TOTAL);
    options
}

async fn provider(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Arc<EtcdProvider> {
    EtcdProvider::connect(options(endpoints)).await.unwrap()
}

/// One of each thing that is leased.
struct Held {
    guard: LockGuard,
    registration: Registration,
    id: InstanceId,
}

impl Held {
    async fn new(provider: &EtcdProvider, ttl: Duration) -> Self {
        let guard = provider.lock().acquire("held", ttl).await.unwrap();
        let instance = ServiceInstance::new("held", "one", "127.0.0.1", 1);
        let registration = provider
            .registry()
            .register_with(instance, RegisterOptions::default().with_ttl(ttl))
            .await
            .unwrap();
        let id = provider.allocator().acquire_id("held", 10).await.unwrap();
        Held { guard, registration, id }
    }

    fn assert_held(&self, when: &str) {
        let states = [self.guard.state(), self.registration.state(), self.id.state()];
        assert!(states.iter().all(|state| state.is_held()), "{when}: {states:?}");
    }
}

/// Writes without a pause until it is stopped, and notes what was acknowledged and when.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(Instant, Revision)>>,
}

impl Writer {
    fn start(provider: Arc<EtcdProvider>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut written = Vec::new();
            for n in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                match provider.config().set_raw(&format!("w/{}", n % 5), Value::from(n.to_string())).await {
                    Ok(version) => written.push((Instant::now(), version)),
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            written
        });
        Writer { stop, task }
    }

    /// What was acknowledged, and the longest time in which nothing was.
    async fn stop(self) -> (Vec<Revision>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let written = self.task.await.unwrap();
        let gap = written.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
        (written.into_iter().map(|(_, version)| version).collect(), gap)
    }
}

/// Follows a watch of `w/` for as long as a fault lasts, and checks that what it tells adds up.
struct Follower {
    provider: Arc<EtcdProvider>,
    /// Up to where it is to read.
    until: tokio::sync::watch::Sender<Option<Revision>>,
    state: tokio::sync::watch::Receiver<WatchState>,
    task: JoinHandle<ConfigView>,
}

impl Follower {
    async fn start(provider: &Arc<EtcdProvider>) -> Self {
        let start = provider.config().set_raw("start", Value::from("")).await.unwrap();
        let watch = provider.config().watch_prefix_raw("w", WatchStart::After(start)).await.unwrap();
        let (until, reached) = tokio::sync::watch::channel(None);
        let (tell, state) = tokio::sync::watch::channel(watch.state());
        let task = tokio::spawn(follow(watch, ConfigView::after(start), reached, tell));
        Follower { provider: Arc::clone(provider), until, state, task }
    }

    fn is_suspended(&self) -> bool {
        *self.state.borrow() == WatchState::Suspended
    }

    /// Everything that was acknowledged was told: once, in order, with nothing left out (R18).
    /// Returns how often the whole was told instead (R19).
    async fn has_told(self, written: &[Revision]) -> usize {
        let last = *written.last().expect("something was written");
        self.until.send_replace(Some(last));
        let view = within(SOON, "everything is told", self.task).await.unwrap();
        let told: BTreeSet<_> = view.told().iter().map(|(_, version, _)| *version).collect();
        if view.resyncs() == 0 {
            for version in written {
                assert!(told.contains(version), "revision {version} was acknowledged and not told");
            }
        }
        // And what it amounts to is what is there: nobody writes any more, but a write in doubt may
        // have come after the last that was acknowledged.
        let now = self.provider.config().list_raw("w").await.unwrap();
        let known: Vec<_> = now.items.into_iter().filter(|entry| entry.version <= view.seen()).collect();
        assert!(
            known
                .iter()
                .all(|entry| view.state().get(&entry.key) == Some(&(entry.value.clone(), entry.version))),
            "{known:?}"
        );
        view.resyncs()
    }
}

async fn follow(
    mut watch: Watch<ConfigEvent>,
    mut view: ConfigView,
    mut until: tokio::sync::watch::Receiver<Option<Revision>>,
    tell: tokio::sync::watch::Sender<WatchState>,
) -> ConfigView {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        if until.borrow_and_update().is_some_and(|until| view.seen() >= until) {
            return view;
        }
        tokio::select! {
            event = watch.next() => view.take(event.expect("the watch goes on").expect("the watch goes on")),
            Ok(()) = until.changed() => {}
            _ = look.tick() => drop(tell.send_replace(watch.state())),
        }
    }
}
