//! What shows only after a while in which nothing happens, and what waits for someone who does not
//! come back (R20, R22, R31, R36, R42, R43).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::{
    ConfigEvent, Error, ErrorKind, HandleState, IdOptions, InstanceId, LockGuard, LockOptions, Loss,
    RegisterOptions, Registration, Result, ServiceEvent, ServiceInstance, Wait, Watch, WatchStart,
};
use futures_util::{StreamExt, stream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::handle::{Handles, Hooks, hooks};
use super::provider::{BrokenProvider, Good, streamed};
use super::{Sabotage, Saboteur};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "idle-watch-ends",
        "a watch that told nothing for ten minutes ends quietly",
        &["r20", "r39"],
        || idle(Duration::from_secs(600), || None),
    ),
    Saboteur::new(
        "idle-watch-is-deaf",
        "a watch that told nothing for an hour tells nothing any more",
        &["r20", "r39"],
        || Sabotage::provider(|| Deaf(Duration::from_secs(3_600))),
    ),
    Saboteur::new(
        "idle-watch-fails",
        "a watch that told nothing for half an hour ends with Unavailable",
        &["r20", "r39"],
        || idle(Duration::from_secs(1_800), || Some(Error::new(ErrorKind::Unavailable, "watch", "idle"))),
    ),
    Saboteur::new(
        "unread-watch-ends",
        "a watch that nobody read for a quarter of an hour ends",
        &["r20"],
        || Sabotage::provider(|| Unread(Duration::from_secs(900))),
    ),
    Saboteur::new("held-for-an-hour", "what was held for an hour is over", &["r31", "r36", "r43"], || {
        Sabotage::provider(|| Handles(|_: &Good| over_after(Duration::from_secs(3_600))))
    }),
    Saboteur::new(
        "waits-for-half-an-hour",
        "who waits without a limit gives up after half an hour",
        &["r28", "r42"],
        || Sabotage::provider(|| WaitsFor(Duration::from_secs(1_800))),
    ),
    Saboteur::new(
        "streams-in-turn",
        "whoever reads a watch first waits for the turn of those who came before",
        &["r22"],
        || {
            let turn = Arc::new(Mutex::new(()));
            Sabotage::provider(move || StreamsInTurn(Arc::clone(&turn)))
        },
    ),
    Saboteur::new("watches-opened-in-turn", "one watch is opened after the other", &["r22"], || {
        Sabotage::provider(|| OpensInTurn(Mutex::new(())))
    }),
    Saboteur::new(
        "calls-in-turn",
        "one call of a provider is made after the other",
        &["r31", "r36", "r43"],
        || Sabotage::provider(|| CallsInTurn(Mutex::new(()))),
    ),
    Saboteur::new(
        "releases-in-turn",
        "one handle of a provider is acquired or released after the other",
        &["r31", "r36", "r43"],
        || Sabotage::provider(|| ReleasesInTurn(Arc::default())),
    ),
];

/// Ends a watch that has been silent for so long, with or without an error.
fn silent_for<E: Send + Unpin + 'static>(
    watch: Watch<E>,
    patience: Duration,
    last: fn() -> Option<Error>,
) -> Watch<E> {
    streamed(stream::unfold(Some(watch), move |watch| async move {
        let mut watch = watch?;
        match timeout(patience, watch.next()).await {
            Ok(item) => item.map(|item| (item, Some(watch))),
            Err(_) => last().map(|error| (Err(error), None)),
        }
    }))
}

fn idle(patience: Duration, last: fn() -> Option<Error>) -> Sabotage {
    Sabotage::provider(move || Idle { patience, last })
}

struct Idle {
    patience: Duration,
    last: fn() -> Option<Error>,
}

#[async_trait]
impl BrokenProvider for Idle {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        Ok(silent_for(opened(good, key, prefix, start).await?, self.patience, self.last))
    }

    async fn watch_service(&self, good: &Good, service: &str) -> Result<Watch<ServiceEvent>> {
        Ok(silent_for(good.provider.registry().watch(service).await?, self.patience, self.last))
    }
}

async fn opened(good: &Good, key: &str, prefix: bool, start: WatchStart) -> Result<Watch<ConfigEvent>> {
    let config = good.provider.config();
    if prefix { config.watch_prefix_raw(key, start).await } else { config.watch_raw(key, start).await }
}

struct Deaf(Duration);

fn deaf<E: Send + Unpin + 'static>(watch: Watch<E>, patience: Duration) -> Watch<E> {
    streamed(stream::unfold(watch, move |mut watch| async move {
        match timeout(patience, watch.next()).await {
            Ok(item) => item.map(|item| (item, watch)),
            Err(_) => std::future::pending().await,
        }
    }))
}

#[async_trait]
impl BrokenProvider for Deaf {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        Ok(deaf(opened(good, key, prefix, start).await?, self.0))
    }

    async fn watch_service(&self, good: &Good, service: &str) -> Result<Watch<ServiceEvent>> {
        Ok(deaf(good.provider.registry().watch(service).await?, self.0))
    }
}

struct Unread(Duration);

#[async_trait]
impl BrokenProvider for Unread {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let (patience, mut watch) = (self.0, opened(good, key, prefix, start).await?);
        let mut read = Instant::now();
        Ok(streamed(stream::poll_fn(move |cx| {
            if read.elapsed() > patience {
                return std::task::Poll::Ready(None);
            }
            read = Instant::now();
            watch.poll_next_unpin(cx)
        })))
    }
}

fn over_after(limit: Duration) -> Hooks {
    let since = Instant::now();
    hooks().state(move |good| match good.state() {
        HandleState::Held if since.elapsed() > limit => HandleState::Ended(Loss::Expired),
        state => state,
    })
}

struct WaitsFor(Duration);

#[async_trait]
impl BrokenProvider for WaitsFor {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let wait = if options.wait == Wait::Forever { Wait::For(self.0) } else { options.wait };
        good.provider.lock().acquire_with(key, options.with_wait(wait)).await
    }

    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let wait = if options.wait == Wait::Forever { Wait::For(self.0) } else { options.wait };
        good.provider.allocator().acquire_id_with(service, options.with_wait(wait)).await
    }
}

/// Has each stream take a fair lock before it reads on; who is not polled keeps it.
struct StreamsInTurn(Arc<Mutex<()>>);

#[async_trait]
impl BrokenProvider for StreamsInTurn {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let (turn, watch) = (Arc::clone(&self.0), opened(good, key, prefix, start).await?);
        Ok(streamed(stream::unfold(watch, move |mut watch| {
            let turn = Arc::clone(&turn);
            async move {
                let held = turn.lock().await;
                tokio::task::yield_now().await;
                drop(held);
                watch.next().await.map(|item| (item, watch))
            }
        })))
    }
}

struct OpensInTurn(Mutex<()>);

#[async_trait]
impl BrokenProvider for OpensInTurn {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let _turn = self.0.lock().await;
        opened(good, key, prefix, start).await
    }
}

struct CallsInTurn(Mutex<()>);

impl CallsInTurn {
    /// Waits for its turn before it asks, and not for as long as it waits for another owner.
    async fn turn(&self) {
        let _turn = self.0.lock().await;
        sleep(Duration::from_millis(1)).await;
    }
}

#[async_trait]
impl BrokenProvider for CallsInTurn {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        self.turn().await;
        good.provider.lock().acquire_with(key, options).await
    }

    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        self.turn().await;
        good.provider.registry().register_with(instance, options).await
    }

    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        self.turn().await;
        good.provider.allocator().acquire_id_with(service, options).await
    }
}

/// Has each release take a fair lock, and each acquire look whether it is free.
struct ReleasesInTurn(Arc<Mutex<()>>);

impl ReleasesInTurn {
    fn in_turn(&self) -> Hooks {
        let turn = Arc::clone(&self.0);
        hooks().release(move |good| {
            let turn = Arc::clone(&turn);
            async move {
                let _turn = turn.lock().await;
                sleep(Duration::from_millis(1)).await;
                good.release().await
            }
        })
    }
}

#[async_trait]
impl BrokenProvider for ReleasesInTurn {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        drop(self.0.lock().await);
        let inner = good.provider.lock().acquire_with(key, options).await?;
        Ok(super::handle::guard(inner, self.in_turn()))
    }

    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        drop(self.0.lock().await);
        let inner = good.provider.registry().register_with(instance, options).await?;
        Ok(super::handle::registration(inner, self.in_turn()))
    }

    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        drop(self.0.lock().await);
        let inner = good.provider.allocator().acquire_id_with(service, options).await?;
        let number = inner.id();
        Ok(super::handle::id(inner, number, self.in_turn()))
    }
}
