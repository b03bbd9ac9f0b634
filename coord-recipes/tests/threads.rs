//! What only shows where tasks really run at the same time: on several threads, in real time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{
    ConfigEvent, ErrorKind, InstanceId, LockGuard, RegisterOptions, ServiceInstance, Takeover, Version,
    WatchStart,
};
use coord_memory::MemoryStore;
use coord_recipes::{ProviderOptions, StoreProvider};
use futures_util::future::join_all;
use tokio::time::timeout;

const TTL: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(60);

fn provider(store: &MemoryStore) -> Arc<dyn Provider> {
    StoreProvider::new(Arc::new(store.client()), ProviderOptions::default())
}

/// R28: nobody who waits is forgotten, however soon the lock comes free.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_that_is_freed_while_another_joins_the_queue_goes_to_it() {
    for round in 0..500 {
        let store = MemoryStore::new();
        let (one, two) = (provider(&store), provider(&store));
        let held = one.lock().acquire("job", TTL).await.unwrap();
        let (next, unlocked) = tokio::join!(timeout(LIMIT, two.lock().acquire("job", TTL)), held.unlock());
        unlocked.unwrap();
        let next = next.unwrap_or_else(|_| panic!("the waiter of round {round} was forgotten")).unwrap();
        assert!(next.fencing_token() > held.fencing_token());
    }
}

/// R25: 8 tasks of 4 providers, 50 turns each, half of the turns given up half way: 1 holder at a
/// time, rising tokens, every turn counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_contended_lock_is_held_by_one_and_lost_by_none() {
    let store = MemoryStore::new();
    let inside = Arc::new(AtomicUsize::new(0));
    let last_token = Arc::new(AtomicU64::new(0));
    let turns = (0..8).map(|task| {
        let lock = Arc::clone(provider(&store).lock());
        let (inside, last_token) = (Arc::clone(&inside), Arc::clone(&last_token));
        tokio::spawn(async move {
            let mut turns = 0;
            while turns < 50 {
                if (task + turns) % 2 == 0 {
                    // Given up while queued, or just as it is granted.
                    let _ = timeout(Duration::from_micros(50 * (turns + 1)), lock.acquire("job", TTL)).await;
                }
                let guard = lock.acquire("job", TTL).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
                let token = guard.fencing_token().get();
                assert!(last_token.swap(token, Ordering::SeqCst) < token, "a token went back");
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.unlock().await.unwrap();
                turns += 1;
            }
            turns
        })
    });
    let turns = timeout(LIMIT, join_all(turns)).await.expect("someone waits for ever");
    assert_eq!(turns.into_iter().map(Result::unwrap).sum::<u64>(), 400);
}

/// R34: who asks for an id just as an earlier call for it ends in vain is answered as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_registration_that_is_refused_holds_up_no_later_one() {
    let store = MemoryStore::new();
    let (owner, other) = (provider(&store), provider(&store));
    let exclusive = RegisterOptions::default().with_takeover(Takeover::Exclusive);
    let instance = || ServiceInstance::new("web", "one", "10.0.0.1", 80);
    let _held = owner.registry().register_with(instance(), exclusive).await.unwrap();
    let refused = (0..8).map(|_| {
        let registry = Arc::clone(other.registry());
        tokio::spawn(async move {
            for _ in 0..500 {
                let error = registry.register_with(instance(), exclusive).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Conflict);
            }
        })
    });
    timeout(LIMIT, join_all(refused))
        .await
        .expect("someone waits for ever")
        .into_iter()
        .for_each(Result::unwrap);
}

/// R41, R43: 64 callers of 4 providers at once hold exactly the 64 smallest ids, twice over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ids_taken_at_once_are_the_smallest_and_no_two_are_alike() {
    let store = MemoryStore::new();
    let providers: Vec<_> = (0..4).map(|_| provider(&store)).collect();
    for _ in 0..20 {
        let taken = (0..64).map(|caller| {
            let ids = Arc::clone(providers[caller % 4].allocator());
            tokio::spawn(async move { ids.acquire_id("svc", 1000).await.unwrap() })
        });
        let taken: Vec<InstanceId> =
            timeout(LIMIT, join_all(taken)).await.unwrap().into_iter().map(Result::unwrap).collect();
        let ids: BTreeSet<u32> = taken.iter().map(InstanceId::id).collect();
        assert_eq!(ids, (1..=64).collect());
        for id in taken {
            id.release().await.unwrap();
        }
    }
}

/// R12, R18: 4 writers add 1 by compare-and-set, 100 times each; 8 watchers that come while they
/// write see every version from theirs on, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watchers_that_join_while_others_write_miss_nothing() {
    let store = MemoryStore::new();
    let reader = provider(&store);
    let writers = (0..4).map(|_| {
        let config = Arc::clone(provider(&store).config());
        tokio::spawn(async move {
            for _ in 0..100 {
                loop {
                    let now = config.get_with_version::<u64>("n").await.unwrap();
                    let (value, version) = now.map_or((0, Version::ZERO), |now| (now.value, now.version));
                    if config.compare_and_set("n", &(value + 1), version).await.is_ok() {
                        break;
                    }
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let watchers = (0..8).map(|_| {
        let config = Arc::clone(reader.config());
        tokio::spawn(async move {
            let mut watch = config.watch::<u64>("n", WatchStart::Snapshot).await.unwrap();
            let mut seen = None;
            while seen != Some(400) {
                seen = match watch.next().await.unwrap().unwrap() {
                    ConfigEvent::Resync(state) => state.items.first().map(|entry| entry.value),
                    ConfigEvent::Put { entry, .. } => {
                        assert_eq!(entry.value, seen.unwrap_or(0) + 1, "a change was missed or doubled");
                        Some(entry.value)
                    }
                    other => panic!("{other:?}"),
                };
            }
        })
    });
    let watchers: Vec<_> = watchers.collect();
    let all = async { (join_all(writers).await, join_all(watchers).await) };
    let (writers, watchers) = timeout(LIMIT, all).await.expect("a change never came");
    writers.into_iter().chain(watchers).for_each(|task| task.unwrap());
}

/// R34, R38: an instance registered again and again, and unregistered at random, is at last gone or
/// there as the last word was.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn registering_and_unregistering_at_once_leaves_the_last_word() {
    let store = MemoryStore::new();
    let providers: Vec<_> = (0..3).map(|_| provider(&store)).collect();
    for round in 0..50_u16 {
        let registrations = providers.iter().enumerate().map(|(number, provider)| {
            let registry = Arc::clone(provider.registry());
            let port = 1 + round * 3 + number as u16;
            tokio::spawn(async move {
                registry.register(ServiceInstance::new("svc", "one", "127.0.0.1", port)).await.unwrap()
            })
        });
        let registrations: Vec<_> =
            timeout(LIMIT, join_all(registrations)).await.unwrap().into_iter().map(Result::unwrap).collect();
        let found = providers[0].registry().discover("svc").await.unwrap().items;
        assert_eq!(found.len(), 1);
        for registration in &registrations {
            timeout(LIMIT, registration.unregister()).await.unwrap().unwrap();
        }
        assert!(providers[0].registry().discover("svc").await.unwrap().items.is_empty(), "round {round}");
    }
}

/// Looks, at the very moment that somebody is woken, at who still says that it is held.
struct Spy {
    guards: Vec<LockGuard>,
    woken: AtomicUsize,
    held: AtomicUsize,
}

impl Wake for Spy {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        self.held.fetch_add(self.guards.iter().filter(|guard| guard.is_held()).count(), Ordering::SeqCst);
    }
}

/// R32: of what one lease carries nothing says that it is held once anything was told that it is
/// not.
#[tokio::test]
async fn when_one_guard_is_told_of_the_loss_all_of_them_say_so() {
    let provider = provider(&MemoryStore::new());
    let mut guards = Vec::new();
    for name in ["a", "b", "c"] {
        guards.push(provider.lock().acquire(name, TTL).await.unwrap());
    }
    let mut lost: Vec<_> = guards.iter().map(|guard| Box::pin(guard.lost())).collect();
    let spy = Arc::new(Spy { guards, woken: AtomicUsize::new(0), held: AtomicUsize::new(0) });
    let waker = Waker::from(Arc::clone(&spy));
    for lost in &mut lost {
        assert!(lost.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    provider.close().await.unwrap();
    assert_eq!((spy.woken.load(Ordering::SeqCst), spy.held.load(Ordering::SeqCst)), (3, 0));
}
