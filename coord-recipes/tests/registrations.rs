//! Many registrations of one service: what they cost, and that each is followed all the same,
//! however they are watched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Store, Txn};
use coord_api::{Loss, RegisterOptions, Registration, ServiceInstance};
use coord_memory::MemoryStore;
use coord_recipes::{Home, ProviderOptions, StoreProvider};
use coord_testkit::wrap::{Counter, Counting, Fault, Faults, Faulty};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

/// A third of the TTL later a renewal would notice a loss too; the watch is to be quicker.
const SOON: Duration = Duration::from_secs(1);

fn instance(id: &str) -> ServiceInstance {
    ServiceInstance::new("shop", id, "localhost", 80)
}

fn counted(store: &MemoryStore) -> (Arc<StoreProvider>, Counter) {
    let counter = Counter::default();
    let counting = Counting::new(store.client(), counter.clone());
    (StoreProvider::new(Arc::new(counting), ProviderOptions::default().with_home(Home::callers())), counter)
}

fn provider(store: &MemoryStore) -> Arc<StoreProvider> {
    StoreProvider::new(Arc::new(store.client()), ProviderOptions::default())
}

async fn register(provider: &StoreProvider, count: usize) -> Vec<Registration> {
    let all = (0..count).map(|n| instance(&format!("i{n}"))).collect();
    provider.registry().register_all(all, RegisterOptions::default()).await.unwrap()
}

/// How many requests it takes to register a few hundred together, where the batches of their writes
/// fare like this, one after the other.
async fn cost_of_many(fates: &[Fault]) -> usize {
    let (store, faults) = (MemoryStore::new(), Faults::default());
    let counting = Counting::new(Faulty::new(store.client(), faults.clone()), faults.counter().clone());
    let provider =
        StoreProvider::new(Arc::new(counting), ProviderOptions::default().with_home(Home::callers()));
    let _first = provider.registry().register(instance("first")).await.unwrap();
    for fate in fates {
        faults.next_put(*fate, "/services/");
    }
    let before = faults.counter().counts();
    let held = register(&provider, 300).await;
    let cost = faults.counter().counts().since(&before).requests();
    assert_eq!(faults.unused(), 0, "{fates:?}");
    assert!(held.iter().all(|registration| registration.state().is_held()));
    assert_eq!(provider.registry().discover("shop").await.unwrap().items.len(), 301);
    cost
}

async fn within(limit: Duration, what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn remove(store: &MemoryStore, id: &str) {
    store.txn(Txn::new().then(Op::delete(format!("/services/shop/{id}")))).await.unwrap();
}

/// Removes the entry of a registration behind its owner's back: it is written again (R37).
async fn heals(store: &MemoryStore, registration: &Registration) {
    let token = registration.fencing_token();
    remove(store, registration.id()).await;
    within(SOON, "it is registered again", || async {
        registration.state().is_held() && registration.fencing_token() > token
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_registrations_share_one_task_and_one_watch() {
    let store = MemoryStore::new();
    let (provider, counter) = counted(&store);
    let first = register(&provider, 1).await;
    let (tasks, watches) = (Handle::current().metrics().num_alive_tasks(), counter.open_watches());
    let held = register(&provider, 1_000).await;
    // The thousand are watched by one watch, where the first was.
    sleep(SOON).await;
    assert_eq!(counter.open_watches(), watches);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
    drop((first, held));
}

#[tokio::test(start_paused = true)]
async fn each_of_many_heals_and_gives_way_as_a_single_one_does() {
    for count in [1, 4, 5, 40] {
        let store = MemoryStore::new();
        let (provider, other) = (provider(&store), provider(&store));
        let held = register(&provider, count).await;
        for registration in &held {
            heals(&store, registration).await;
        }
        for registration in held.iter().step_by(2) {
            let taken = other.registry().register(instance(registration.id())).await.unwrap();
            assert_eq!(timeout(SOON, registration.lost()).await.unwrap(), Loss::Superseded);
            assert!(taken.state().is_held());
            // Who gave way never fights back (R34), whatever becomes of its successor.
            taken.unregister().await.unwrap();
            sleep(SOON).await;
            let found = other.registry().discover("shop").await.unwrap();
            assert!(found.items.iter().all(|found| found.id != registration.id()));
        }
        for registration in held.iter().skip(1).step_by(2) {
            heals(&store, registration).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_are_left_when_most_are_gone_are_watched_by_themselves() {
    let store = MemoryStore::new();
    let (provider, counter) = counted(&store);
    let mut held = register(&provider, 20).await;
    for registration in held.drain(2..) {
        registration.unregister().await.unwrap();
    }
    // The session's key, and each of the two.
    within(SOON, "each is watched", || async { counter.open_watches() == 3 }).await;
    for registration in &held {
        heals(&store, registration).await;
    }
    // And more again.
    let more = register(&provider, 20).await;
    within(SOON, "one watch", || async { counter.open_watches() == 2 }).await;
    for registration in &more {
        heals(&store, registration).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_registered_again_at_once_is_followed_still() {
    let store = MemoryStore::new();
    let provider = provider(&store);
    for count in [2, 10] {
        let _others = register(&provider, count).await;
        for _ in 0..20 {
            let again = provider.registry().register(instance("again")).await.unwrap();
            heals(&store, &again).await;
            drop(again);
        }
    }
}

#[tokio::test]
async fn registrations_that_come_and_go_on_many_threads_are_all_answered() {
    let store = MemoryStore::new();
    let provider =
        StoreProvider::new(Arc::new(store.client()), ProviderOptions::default().with_home(Home::new("test")));
    let tasks = (0..8).map(|task| {
        let provider = Arc::clone(&provider);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for round in 0..200 {
                    let registered = provider.registry().register(instance(&format!("{task}")));
                    let registered = timeout(Duration::from_secs(60), registered).await;
                    let registered =
                        registered.unwrap_or_else(|_| panic!("round {round} of {task} hangs")).unwrap();
                    if round % 2 == 0 {
                        registered.unregister().await.unwrap();
                    }
                }
            });
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        tokio::task::spawn_blocking(move || task.join().unwrap()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_answer_is_lost_is_fenced_off_and_read_back_as_one() {
    let undisturbed = cost_of_many(&[]).await;
    // The fence, the look, and the batch again where it was not applied.
    for (fate, more) in [(Fault::LoseAnswer, 2), (Fault::LoseRequest, 3)] {
        let cost = cost_of_many(&[fate]).await;
        assert!(cost <= undisturbed + more, "{cost} instead of {undisturbed}, {fate:?}");
    }
}

/// The first batch is slow, so that others go beside it; the answer to one of them is lost, and
/// that moves the fence while the first one is still on its way.
#[tokio::test(start_paused = true)]
async fn a_batch_that_met_a_moved_fence_is_sent_again_as_one() {
    let undisturbed = cost_of_many(&[]).await;
    let cost = cost_of_many(&[Fault::Delay(Duration::from_secs(1)), Fault::LoseAnswer]).await;
    // The fence, the look, and the first batch again.
    assert!(cost <= undisturbed + 3, "{cost} instead of {undisturbed}");
}
