//! A store, or a layer over one, that panics in one of its calls, whichever: whoever made the call
//! gets the panic or an error, everything else goes on, and what is over says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::panic::{AssertUnwindSafe, set_hook, take_hook};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{
    ErrorKind, HandleState, LeaseId, Lost, Result, Revision, ServiceInstance, WatchStart, WatchState,
};
use coord_memory::MemoryStore;
use coord_recipes::config_manager::ConfigManager;
use coord_recipes::{ProviderOptions, StoreProvider};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);
const KEY: &str = "test/gateway/rate";

/// What is not to be printed.
const ON_PURPOSE: &str = "on purpose";

/// Where a store panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Range,
    Txn,
    Watch,
    /// While what a watch delivers is read.
    Delivery,
    GrantLease,
    KeepAlive,
    LookUp,
    Revoke,
    Status,
}

/// Panics once: at this call, when it has been made so many times.
#[derive(Clone, Debug)]
struct Shaky {
    store: MemoryStore,
    at: At,
    left: Arc<AtomicUsize>,
}

impl Shaky {
    fn called(&self, at: At) {
        if at == self.at
            && self.left.load(Ordering::SeqCst) > 0
            && self.left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            panic!("{ON_PURPOSE}: {at:?}");
        }
    }
}

#[async_trait]
impl Store for Shaky {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.called(At::Range);
        self.store.range(range).await
    }

    // Half of it is done: the write is applied, and nobody hears of it.
    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        let reply = self.store.txn(txn).await;
        self.called(At::Txn);
        reply
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.called(At::Watch);
        let (watch, shaky) = (self.store.watch(span, after).await?, self.clone());
        Ok(StoreWatch::new(watch.armed(), watch.inspect(move |_| shaky.called(At::Delivery))))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.called(At::GrantLease);
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.called(At::KeepAlive);
        self.store.keep_alive(id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.called(At::LookUp);
        self.store.lease(id).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.called(At::Revoke);
        self.store.revoke_lease(id).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.called(At::Status);
        self.store.status().await
    }

    coord_api::forward_store! { self => self.store; close }
}

/// Makes a call until it is answered: whoever meets the panic gets it, or an error, and then tries
/// again.
async fn at_last<T>(what: &str, call: impl AsyncFn() -> Result<T>) -> T {
    let answered = async {
        loop {
            match AssertUnwindSafe(call()).catch_unwind().await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => assert_ne!(error.kind(), ErrorKind::Closed, "{what}: {error}"),
                Err(_) => {}
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, answered).await.unwrap_or_else(|_| panic!("{what}: not answered"))
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// A handle is held, or says that it is over; never for long in between.
async fn is_held(what: &str, state: impl Fn() -> HandleState, lost: impl Fn() -> Lost) -> bool {
    until(what, async || state() != HandleState::Lost).await;
    if state() == HandleState::Held {
        return true;
    }
    timeout(Duration::from_secs(1), lost())
        .await
        .unwrap_or_else(|_| panic!("{what}: it is over, and nobody is told"));
    false
}

/// Whether it came so far that the store panicked.
async fn survives(at: At, time: usize) -> bool {
    let memory = MemoryStore::new();
    let left = Arc::new(AtomicUsize::new(time));
    let shaky = Shaky { store: memory.client(), at, left: Arc::clone(&left) };
    let coord = StoreProvider::new(Arc::new(shaky), ProviderOptions::default());
    let other = StoreProvider::new(Arc::new(memory.client()), ProviderOptions::default());
    other.config().set(KEY, &1_u32).await.unwrap();
    let instance = |id: &str| ServiceInstance::new("web", id, "10.0.0.1", 80);

    let manager: ConfigManager<u32> =
        ConfigManager::builder(Arc::clone(coord.config()), "gateway", "rate").env("test").build().unwrap();
    timeout(LIMIT, manager.start()).await.expect("a manager starts");
    let mut watch = at_last("watch", async || coord.config().watch_raw("app/", WatchStart::Now).await).await;
    let guard = at_last("lock", async || coord.lock().acquire("job", TTL).await).await;
    let registration = at_last("register", async || coord.registry().register(instance("one")).await).await;
    let id = at_last("id", async || coord.allocator().acquire_id("web", 9).await).await;
    // A session that is given up, and its lease with it.
    let soon = at_last("another lock", async || coord.lock().acquire("other", TTL / 2).await).await;
    let _ = timeout(LIMIT, AssertUnwindSafe(soon.unlock()).catch_unwind()).await.expect("it is answered");
    at_last("discover", async || coord.registry().discover("web").await).await;
    for rate in 2..5_u32 {
        sleep(TTL).await;
        other.config().set(KEY, &rate).await.unwrap();
        other.config().set("app/rate", &rate).await.unwrap();
    }

    // What is over says so, and what does not is there.
    if is_held("guard", || guard.state(), || guard.lost()).await {
        assert_eq!(other.lock().try_acquire("job", TTL).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    if is_held("registration", || registration.state(), || registration.lost()).await {
        let found = other.registry().discover("web").await.unwrap();
        assert!(found.items.iter().any(|found| found.id == "one"), "{found:?}");
    }
    if is_held("id", || id.state(), || id.lost()).await {
        let next = other.allocator().acquire_id("web", 9).await.unwrap();
        assert_ne!(next.id(), id.id());
    }
    until("the manager follows", async || *manager.current() == 4).await;
    match timeout(LIMIT, watch.next()).await.expect("a watch delivers, or ends") {
        Some(Ok(_)) => {}
        Some(Err(_)) | None => assert_eq!(watch.state(), WatchState::Ended),
    }

    // And all goes on.
    at_last("a later watch", async || coord.config().watch_raw("app/", WatchStart::Snapshot).await).await;
    let later = at_last("a later lock", async || coord.lock().acquire("later", TTL).await).await;
    assert!(later.is_held());
    let again = at_last("registering again", async || coord.registry().register(instance("one")).await).await;
    // Who gives back does so once: what it met is its answer, and what it wanted is done all the
    // same.
    let _ =
        timeout(LIMIT, AssertUnwindSafe(again.unregister()).catch_unwind()).await.expect("it is answered");
    until("nothing is left of it", async || other.registry().discover("web").await.unwrap().items.is_empty())
        .await;
    drop(guard);
    let freed = timeout(LIMIT, other.lock().acquire("job", TTL)).await.expect("what is dropped is free");
    freed.unwrap().unlock().await.unwrap();
    timeout(LIMIT, manager.stop()).await.expect("a manager stops");
    at_last("close", async || coord.close().await).await;
    left.load(Ordering::SeqCst) == 0
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_in_one_call_holds_up_nobody() {
    let tell = take_hook();
    set_hook(Box::new(move |panic| {
        if !panic.payload().downcast_ref::<String>().is_some_and(|why| why.starts_with(ON_PURPOSE)) {
            tell(panic);
        }
    }));
    let calls = [
        At::Range,
        At::Txn,
        At::Watch,
        At::Delivery,
        At::GrantLease,
        At::KeepAlive,
        At::LookUp,
        At::Revoke,
        At::Status,
    ];
    for at in calls {
        for time in 1..=16 {
            match AssertUnwindSafe(survives(at, time)).catch_unwind().await {
                Ok(true) => {}
                // There are no more such calls.
                Ok(false) if time > 1 => break,
                Ok(false) => panic!("{at:?} is not called"),
                Err(panic) => {
                    let why = panic.downcast_ref::<String>().map_or("it panicked", String::as_str);
                    panic!("{why}, after the store panicked at {at:?}, the {time}. time")
                }
            }
        }
    }
}
