//! A process has several runtimes. What one of them holds must not die, starve or wait for ever
//! because another one ended, stands still, has no timers, or was never there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{
    ErrorKind, IdOptions, Loss, RegisterOptions, ServiceEvent, ServiceInstance, Wait, WatchStart,
};
use coord_memory::{MemoryProvider, MemoryStore};
use coord_recipes::Home;
use coord_recipes::config_manager::ConfigManager;
use futures_executor::block_on;
use tokio::runtime::{Builder, Runtime};

const TTL: Duration = Duration::from_secs(1);
/// The whole second that a TTL is, the margin of its deadline, and room for a busy machine: by then
/// what nothing renews is lost for sure.
const TWO_TTLS: Duration = Duration::from_millis(2_200);
/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// One that runs only while somebody blocks on it.
fn lazy_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what}: it did not come"))
}

/// Looks again until it is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "{what}: it never was so");
        thread::sleep(Duration::from_millis(5));
    }
}

fn instance(id: &str) -> ServiceInstance {
    ServiceInstance::new("svc", id, "10.0.0.1", 80)
}

fn short() -> RegisterOptions {
    RegisterOptions::default().with_ttl(TTL)
}

/// Polls a future once, and keeps it so.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn watches_go_on_when_the_runtime_that_watched_first_ends() {
    let (first, second) = (runtime(), runtime());
    let coord = MemoryProvider::new();
    let _first = first.block_on(coord.config().watch_raw("k", WatchStart::Now)).unwrap();
    let _services = first.block_on(coord.registry().watch("svc")).unwrap();
    let mut watch = second.block_on(coord.config().watch_raw("k", WatchStart::Now)).unwrap();
    let mut services = second.block_on(coord.registry().watch("svc")).unwrap();
    drop(first);
    second.block_on(async {
        coord.config().set_raw("k", "v".into()).await.unwrap();
        assert!(soon("a change", watch.next()).await.unwrap().is_ok());
        let _registration = coord.registry().register(instance("1")).await.unwrap();
        while !matches!(
            soon("a service", services.next()).await.unwrap().unwrap(),
            ServiceEvent::Change { .. }
        ) {}
    });
}

#[test]
fn a_config_manager_follows_when_the_runtime_that_watched_first_ends() {
    let (first, second) = (runtime(), runtime());
    let coord = MemoryProvider::new();
    let manager =
        || ConfigManager::<u32>::builder(Arc::clone(coord.config()), "svc", "n").env("dev").build().unwrap();
    second.block_on(coord.config().set("dev/svc/n", &1)).unwrap();
    let in_first = manager();
    first.block_on(in_first.start());
    let in_second = manager();
    second.block_on(in_second.start());
    drop(first);
    second.block_on(coord.config().set("dev/svc/n", &2)).unwrap();
    eventually("the change", || *in_second.current() == 2);
}

#[test]
fn what_a_temporary_runtime_acquired_is_held_for_as_long_as_its_guard() {
    let coord = MemoryProvider::new();
    let other = coord.client();
    let (guard, id) = runtime().block_on(async {
        let guard = coord.lock().acquire("leader", TTL).await.unwrap();
        (guard, coord.allocator().acquire_id_with("svc", IdOptions::default().with_ttl(TTL)).await.unwrap())
    });
    thread::sleep(TWO_TTLS);
    assert!(guard.is_held() && id.is_held());
    runtime().block_on(async {
        assert_eq!(other.lock().try_acquire("leader", TTL).await.unwrap_err().kind(), ErrorKind::Conflict);
        guard.unlock().await.unwrap();
        assert!(other.lock().try_acquire("leader", TTL).await.is_ok());
    });
}

#[test]
fn a_runtime_that_stands_still_costs_another_one_nothing() {
    let (idle, busy) = (lazy_runtime(), runtime());
    let coord = MemoryProvider::new();
    let mine = idle.block_on(coord.lock().acquire("a", TTL)).unwrap();
    let _watch = idle.block_on(coord.config().watch_raw("x", WatchStart::Now)).unwrap();
    let _registered = idle.block_on(coord.registry().register_with(instance("1"), short())).unwrap();
    let theirs = busy.block_on(coord.lock().acquire("b", TTL)).unwrap();
    let mut watch = busy.block_on(coord.config().watch_raw("x", WatchStart::Now)).unwrap();
    thread::sleep(TWO_TTLS);
    assert!(theirs.is_held() && mine.is_held());
    busy.block_on(async {
        coord.config().set_raw("x", "v".into()).await.unwrap();
        assert!(soon("a change", watch.next()).await.unwrap().is_ok());
        assert_eq!(coord.registry().discover("svc").await.unwrap().items.len(), 1);
    });
}

#[test]
fn waiters_are_served_when_the_runtime_that_waited_first_ends() {
    let (first, second) = (runtime(), runtime());
    let coord = MemoryProvider::new();
    let holder = coord.client();
    let one = IdOptions::default().with_range(1..=1).with_ttl(TTL).with_wait(Wait::Forever);
    let (guard, id) = second.block_on(async {
        (
            holder.lock().acquire("k", TTL).await.unwrap(),
            holder.allocator().acquire_id_with("svc", one.clone()).await.unwrap(),
        )
    });
    let wait = |runtime: &Runtime| {
        let (coord, one) = (Arc::clone(&coord), one.clone());
        let locked = {
            let coord = Arc::clone(&coord);
            runtime.spawn(async move { coord.lock().acquire("k", TTL).await.map(drop) })
        };
        (locked, runtime.spawn(async move { coord.allocator().acquire_id_with("svc", one).await.map(drop) }))
    };
    let queue = |n: usize| {
        let store = coord.store().clone();
        let span = coord_api::store::Range::prefix("/locks/k/");
        eventually("the queue", || {
            block_on(coord_api::store::Store::range(&store, span.clone())).unwrap().entries.len() == n
        });
    };
    let _gone = wait(&first);
    queue(2);
    let (locked, numbered) = wait(&second);
    queue(3);
    drop(first);
    second.block_on(async {
        guard.unlock().await.unwrap();
        id.release().await.unwrap();
        soon("the lock", locked).await.unwrap().unwrap();
        soon("the id", numbered).await.unwrap().unwrap();
    });
}

#[test]
fn unregister_removes_the_entry_though_the_runtime_that_registered_it_ended() {
    let (first, second) = (runtime(), runtime());
    let coord = MemoryProvider::new();
    let kept = second.block_on(coord.registry().register_with(instance("0"), short())).unwrap();
    let gone = first.block_on(coord.registry().register_with(instance("1"), short())).unwrap();
    drop(first);
    second.block_on(async {
        gone.unregister().await.unwrap();
        let left = coord.registry().discover("svc").await.unwrap().items;
        assert_eq!(left.into_iter().map(|instance| instance.id).collect::<Vec<_>>(), ["0"]);
    });
    assert!(kept.state().is_held());
}

#[test]
fn neither_timers_nor_a_runtime_are_needed() {
    let without_timers = Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let in_each = |coord: &Arc<MemoryProvider>, run: &dyn Fn(&MemoryProvider)| {
        let _entered = without_timers.enter();
        run(coord);
    };
    let all = |coord: &MemoryProvider| {
        block_on(async {
            let guard = coord.lock().acquire("leader", TTL).await.unwrap();
            let late =
                coord.lock().acquire_timeout("leader", TTL, Duration::from_millis(1)).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::Timeout);
            let registration = coord.registry().register_with(instance("1"), short()).await.unwrap();
            let id = coord.allocator().acquire_id("svc", 9).await.unwrap();
            let mut watch = coord.config().watch_raw("k", WatchStart::Now).await.unwrap();
            coord.config().set_raw("k", "v".into()).await.unwrap();
            assert!(watch.next().await.unwrap().is_ok());
            thread::sleep(TWO_TTLS);
            assert!(guard.is_held() && id.is_held() && registration.state().is_held(), "they are renewed");
            let other = coord.client();
            coord.close().await.unwrap();
            assert_eq!(guard.lost().await, Loss::Closed);
            assert!(other.lock().try_acquire("leader", TTL).await.is_ok(), "closing has revoked");
        });
    };
    let coord = MemoryProvider::new();
    in_each(&coord, &all);
    all(&MemoryProvider::new());
}

#[test]
fn a_lock_whose_provider_was_let_go_of_works_each_time() {
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        for n in 0..2_000 {
            let coord = MemoryProvider::new();
            let lock = Arc::clone(coord.lock());
            drop(coord);
            if let Err(error) = lock.try_acquire("k", Duration::from_secs(5)).await {
                panic!("{n}: {error}");
            }
        }
    });
}

// ---- a given runtime that ends ----

fn in_given(runtime: &Runtime) -> Arc<MemoryProvider> {
    MemoryProvider::over(MemoryStore::new_in(Home::runtime(runtime.handle().clone())))
}

#[test]
fn when_the_runtime_that_was_given_as_home_ends_everyone_is_told() {
    let (home, mine) = (runtime(), runtime());
    let coord = in_given(&home);
    let (guard, id, registration, mut watch) = mine.block_on(async {
        let guard = coord.lock().acquire("k", LONG).await.unwrap();
        let id = coord.allocator().acquire_id("svc", 9).await.unwrap();
        let registration = coord.registry().register(instance("1")).await.unwrap();
        (guard, id, registration, coord.config().watch_raw("k", WatchStart::Now).await.unwrap())
    });
    let waiter = {
        let coord = Arc::clone(&coord);
        mine.spawn(
            async move { coord.lock().acquire("k", LONG).await.map(drop).map_err(|error| error.kind()) },
        )
    };
    drop(home);
    mine.block_on(async {
        for lost in [guard.lost(), id.lost(), registration.lost()] {
            assert_eq!(soon("the loss", lost).await, Loss::Expired);
        }
        let error = soon("the watch's end", watch.next()).await.unwrap().unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Closed, "nobody closed the provider");
        assert!(soon("the waiter's end", waiter).await.unwrap().is_err());
        let error = soon("unregister", registration.unregister()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "nobody can say that it was removed");
    });
}

/// Makes calls in the very moment in which a runtime drops its tasks: it takes no more of them, and
/// has not ended.
struct Asking {
    coord: Arc<OnceLock<Arc<MemoryProvider>>>,
    done: mpsc::Sender<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let coord = self.coord.get().unwrap();
        poll_once(pin!(coord.allocator().acquire_id("svc", 9)));
        poll_once(pin!(coord.lock().acquire("job", TTL)));
        poll_once(pin!(coord.registry().register(instance("1"))));
        poll_once(pin!(coord.config().watch_raw("k", WatchStart::Now)));
        self.done.send(()).unwrap();
    }
}

#[test]
fn who_asks_while_the_given_runtime_ends_is_not_held_up() {
    let (ending, coord, (done, asked)) = (lazy_runtime(), Arc::new(OnceLock::new()), mpsc::channel());
    let asking = Asking { coord: Arc::clone(&coord), done };
    // The oldest task is dropped first.
    ending.spawn(async move {
        let _asking = asking;
        std::future::pending::<()>().await;
    });
    let given = Arc::clone(coord.get_or_init(|| in_given(&ending)));
    thread::spawn(move || drop(ending));
    asked.recv_timeout(LONG).expect("no call blocks or turns in circles");
    eventually(
        "the end is known",
        || matches!(block_on(given.allocator().acquire_id("svc", 9)), Err(error) if error.kind() == ErrorKind::Unavailable),
    );
}

#[test]
fn where_the_callers_are_the_home_the_next_one_takes_over_what_is_shared() {
    let coord = MemoryProvider::over(MemoryStore::new_in(Home::callers()));
    let (first, second) = (runtime(), runtime());
    let guard = first.block_on(coord.lock().acquire("k", TTL)).unwrap();
    let _first = first.block_on(coord.config().watch_raw("k", WatchStart::Now)).unwrap();
    let mut watch = second.block_on(coord.config().watch_raw("k", WatchStart::Now)).unwrap();
    let heard = second.spawn(async move { watch.next().await.unwrap().is_ok() });
    drop(first);
    second.block_on(async {
        assert_eq!(soon("the loss", guard.lost()).await, Loss::Expired, "at once, not when somebody looks");
        coord.config().set_raw("k", "v".into()).await.unwrap();
        assert!(soon("the change", heard).await.unwrap());
        assert!(coord.lock().acquire_timeout("k", TTL, LONG).await.is_ok(), "a new session serves the next");
    });
    assert_eq!(
        block_on(coord.lock().acquire("k", TTL)).unwrap_err().kind(),
        ErrorKind::Internal,
        "no caller, no home"
    );
}

// ---- callers that are left alone ----

#[test]
fn a_call_that_is_polled_once_and_left_alone_holds_up_nobody() {
    let coord = MemoryProvider::new();
    let mine = runtime();
    // Each of them needs what all others need: the session of the TTL, the store's identity, the
    // read of the head, a service's pool.
    let mut acquire = pin!(coord.lock().acquire("left", TTL));
    let mut watch = pin!(coord.config().watch_raw("k", WatchStart::Now));
    let mut list = pin!(coord.registry().watch("svc"));
    let mut register = pin!(coord.registry().register_with(instance("left"), short()));
    let mut id = pin!(coord.allocator().acquire_id_with("svc", IdOptions::default().with_ttl(TTL)));
    let _in_mine = mine.enter();
    let _ = poll_once(acquire.as_mut());
    let _ = poll_once(watch.as_mut());
    let _ = poll_once(list.as_mut());
    let _ = poll_once(register.as_mut());
    let _ = poll_once(id.as_mut());
    let begun = Instant::now();
    mine.block_on(async {
        let _lock = soon("a lock", coord.lock().acquire("other", TTL)).await.unwrap();
        soon("a watch", coord.config().watch_raw("k", WatchStart::Now)).await.unwrap();
        soon("a service", coord.registry().watch("svc")).await.unwrap();
        let _registration =
            soon("a registration", coord.registry().register_with(instance("other"), short())).await.unwrap();
        let _id = soon("an id", coord.allocator().acquire_id_with("svc", IdOptions::default().with_ttl(TTL)))
            .await
            .unwrap();
    });
    assert!(begun.elapsed() < LONG);
}

#[test]
fn a_release_that_is_polled_once_and_left_alone_is_done_all_the_same() {
    let coord = MemoryProvider::new();
    let mine = runtime();
    let (guard, registration) = mine.block_on(async {
        (
            coord.lock().acquire("k", LONG).await.unwrap(),
            coord.registry().register(instance("1")).await.unwrap(),
        )
    });
    let mut unlock = pin!(guard.unlock());
    let mut unregister = pin!(registration.unregister());
    let _in_mine = mine.enter();
    // They may be done as soon as that: another thread does them.
    let _ = (poll_once(unlock.as_mut()), poll_once(unregister.as_mut()));
    mine.block_on(async {
        soon("the second unlock", guard.unlock()).await.unwrap();
        soon("the second unregister", registration.unregister()).await.unwrap();
        assert!(coord.lock().try_acquire("k", LONG).await.is_ok());
    });
}

// ---- bounds ----

#[tokio::test(start_paused = true)]
async fn a_ttl_computed_for_each_call_does_not_pile_up_sessions() {
    let coord = MemoryProvider::new();
    let mut guards = Vec::new();
    for seconds in 1..=2_000 {
        guards
            .push(coord.lock().acquire(&format!("k{seconds}"), Duration::from_secs(seconds)).await.unwrap());
        assert!(
            guards.last().unwrap().ttl() + Duration::from_secs(2) > Duration::from_secs(seconds),
            "never less than was asked for"
        );
    }
    let sessions =
        coord_api::store::Store::range(coord.store(), coord_api::store::Range::prefix("/sessions/"))
            .await
            .unwrap()
            .entries
            .len();
    assert!(sessions <= 8 + 7 * 4, "{sessions} sessions");
}

#[tokio::test(start_paused = true)]
async fn what_is_free_is_had_in_no_time() {
    let coord = MemoryProvider::new();
    let other = coord.client();
    let now = Wait::For(Duration::ZERO);
    let guard = coord.lock().acquire_timeout("k", TTL, Duration::ZERO).await.unwrap();
    let ids = || IdOptions::default().with_range(1..=1).with_wait(now);
    let _id = coord.allocator().acquire_id_with("svc", ids()).await.unwrap();
    assert_eq!(
        other.lock().acquire_timeout("k", TTL, Duration::ZERO).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert_eq!(other.allocator().acquire_id_with("svc", ids()).await.unwrap_err().kind(), ErrorKind::Timeout);
    guard.unlock().await.unwrap();
    assert!(
        other.lock().acquire_timeout("k", TTL, Duration::ZERO).await.is_ok(),
        "the one that timed out stands in nobody's way"
    );
}

// ---- what is the user's ----

/// Writes nothing until it is let, as a pipe that nobody reads.
#[derive(Clone, Default)]
struct FullPipe(Arc<(parking_lot::Mutex<()>, AtomicUsize)>);

impl std::io::Write for FullPipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _let_through = self.0.0.lock();
        self.0.1.fetch_add(bytes.len(), Ordering::SeqCst);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_cannot_be_written_costs_no_lock() {
    let pipe = FullPipe::default();
    let writer = pipe.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let store = MemoryStore::new_in(Home::thread("logged"));
    let guard = tracing::subscriber::with_default(subscriber, || {
        store.home().ready().unwrap();
        let coord = MemoryProvider::over(store);
        (block_on(coord.lock().acquire("k", TTL)).unwrap(), coord)
    });
    let blocked = pipe.0.0.lock();
    thread::sleep(TWO_TTLS);
    assert!(guard.0.is_held(), "renewed, whatever became of the log");
    drop(blocked);
    eventually("the log", || pipe.0.1.load(Ordering::SeqCst) > 0);
}
