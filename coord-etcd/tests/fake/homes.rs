//! What goes on in the background does so in a home of its own, whatever becomes of the runtimes
//! that call.

use std::time::{Duration, Instant};

use coord_api::store::{Op, Range, Span, Store, Txn};
use coord_api::{ErrorKind, LeaseId, Outcome};
use coord_etcd::{EtcdStore, Home};
use coord_testkit::wait::eventually;
use etcd_client::proto::PbWatchResponse;
use futures_util::poll;
use tokio::runtime::{Builder, Runtime};

use crate::server::{ATTEMPT, Answer, Fake, Step, created};
use crate::{SOON, options};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// All that a store can do.
async fn works(store: &EtcdStore) {
    store.range(Range::key("k")).await.unwrap();
    store.txn(Txn::new().then(Op::put("k", "v"))).await.unwrap();
    let lease = store.grant_lease(Duration::from_secs(5)).await.unwrap();
    store.keep_alive(lease.id).await.unwrap();
    store.lease(lease.id).await.unwrap();
    store.revoke_lease(LeaseId::new(7)).await.unwrap();
    drop(store.watch(Span::prefix("k"), None).await.unwrap());
    store.status().await.unwrap();
}

#[test]
fn a_client_that_was_opened_in_a_runtime_that_has_ended_goes_on() {
    let (fake, _stop) = Fake::apart(10);
    let opened = runtime().block_on(EtcdStore::connect(&options([&fake]))).unwrap();
    runtime().block_on(works(&opened));
    // Nor does it matter where the first call was made.
    let lazy = EtcdStore::connect_lazy(&options([&fake])).unwrap();
    runtime().block_on(works(&lazy));
    runtime().block_on(works(&lazy));
}

#[test]
fn a_watch_goes_on_when_the_runtime_that_made_it_has_ended() {
    let (fake, _stop) = Fake::apart(10);
    let second = PbWatchResponse { watch_id: 1, ..created(10) };
    fake.script(|script| {
        script.watches.push_back(vec![
            Step::Await,
            Step::Send(created(10)),
            Step::Await,
            Step::Send(second),
            Step::Stall,
        ])
    });
    let store = EtcdStore::connect_lazy(&options([&fake])).unwrap();
    let mut watch = runtime().block_on(store.watch(Span::prefix("k"), None)).unwrap();
    // Were the stream gone, or not listened to, it would end.
    runtime().block_on(async {
        tokio::time::timeout(Duration::from_secs(4), watch.next())
            .await
            .expect_err("there is nothing to tell");
        works(&store).await;
    });
    assert_eq!(fake.asked("watch"), 1, "and the same stream carries others");
}

#[test]
fn calls_need_no_timers_and_no_runtime() {
    let (fake, _stop) = Fake::apart(10);
    let store = EtcdStore::connect_lazy(&options([&fake])).unwrap();
    futures_executor::block_on(works(&store));
    Builder::new_current_thread().build().unwrap().block_on(works(&store));
    let connected = futures_executor::block_on(EtcdStore::connect(&options([&fake]))).unwrap();
    // A timeout is one there, too.
    fake.script(|script| script.ranges.push_back(Answer::Swallow));
    let late = futures_executor::block_on(connected.range(Range::key("k"))).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_is_not_that_of_the_network() {
    let (fake, _stop) = Fake::apart(10);
    let store = EtcdStore::connect(&options([&fake])).await.unwrap();
    works(&store).await;
    fake.script(|script| script.ranges.push_back(Answer::Swallow));
    let begun = Instant::now();
    assert_eq!(store.range(Range::key("k")).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(begun.elapsed() >= ATTEMPT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_call_that_is_left_alone_holds_nobody_up() {
    let (fake, _stop) = Fake::apart(10);
    // The watch that is left alone may have come so far that another one shares its stream, or not.
    let second = PbWatchResponse { watch_id: 1, ..created(10) };
    fake.script(|script| {
        script.watches.push_back(vec![
            Step::Await,
            Step::Send(created(10)),
            Step::Await,
            Step::Send(second),
            Step::Stall,
        ])
    });
    let store = EtcdStore::connect_lazy(&options([&fake])).unwrap();
    // Each is begun and then neither dropped nor looked at: the first call, which finds out who the
    // members are; a watch, which makes a stream; a renewal, which makes a connection.
    let mut first = std::pin::pin!(store.range(Range::key("k")));
    assert!(poll!(&mut first).is_pending());
    let mut watch = std::pin::pin!(store.watch(Span::prefix("k"), None));
    assert!(poll!(&mut watch).is_pending());
    let mut renewal = std::pin::pin!(store.keep_alive(LeaseId::new(7)));
    assert!(poll!(&mut renewal).is_pending());
    works(&store).await;
    first.await.unwrap();
    watch.await.unwrap();
    renewal.await.unwrap();
}

#[test]
fn a_given_runtime_is_the_home_and_its_end_is_an_error() {
    let (fake, _stop) = Fake::apart(10);
    let given = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = options([&fake]).with_home(Home::runtime(given.handle().clone()));
    let store = EtcdStore::connect_lazy(&options).unwrap();
    runtime().block_on(works(&store));
    let mut watch = runtime().block_on(store.watch(Span::prefix("k"), None)).unwrap();
    drop(given);
    runtime().block_on(async {
        let ended =
            tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("whoever waits is told");
        assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
        let error = store.range(Range::key("k")).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied), "{error}");
    });
}

#[test]
fn the_callers_runtime_can_be_the_home_and_then_there_must_be_one() {
    let (fake, _stop) = Fake::apart(10);
    let store = EtcdStore::connect_lazy(&options([&fake]).with_home(Home::callers())).unwrap();
    let error = futures_executor::block_on(store.range(Range::key("k"))).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Internal, Outcome::NotApplied), "{error}");
    assert_eq!(fake.requests().len(), 0, "nothing was asked");
    runtime().block_on(works(&store));
}

/// Threads of this process with this name.
#[cfg(target_os = "linux")]
fn threads(name: &str) -> usize {
    let comm = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    std::fs::read_dir("/proc/self/task").unwrap().filter_map(comm).filter(|comm| comm.trim() == name).count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_home_ends_with_its_client_and_with_what_it_was_doing() {
    const NAME: &str = "its-own-home";
    for closes in [true, false] {
        let (fake, _stop) = Fake::apart(10);
        let store = EtcdStore::connect(&options([&fake]).with_home(Home::thread(NAME))).await.unwrap();
        let watch = store.watch(Span::prefix("k"), None).await.unwrap();
        store.grant_lease(Duration::from_secs(5)).await.unwrap();
        fake.script(|script| script.ranges.push_back(Answer::Swallow));
        let mut call = Box::pin(store.range(Range::key("k")));
        assert!(poll!(&mut call).is_pending());
        assert_eq!(threads(NAME), 1);
        if closes {
            store.close().await.unwrap();
        }
        drop(call);
        drop((store, watch));
        eventually(SOON, "its thread has ended", async || (threads(NAME) == 0).then_some(())).await;
    }
}

#[test]
fn near_requests_live_in_the_runtime_that_makes_them_and_its_end_or_standstill_harms_no_other() {
    let (fake, _stop) = Fake::apart(10);
    let store = EtcdStore::connect_lazy(&options([&fake]).with_near(true)).unwrap();
    let first = runtime();
    first.block_on(works(&store));
    // It stands still: nobody drives it, and what lives there.
    let begun = Instant::now();
    runtime().block_on(works(&store));
    futures_executor::block_on(works(&store));
    std::thread::spawn({
        let store = store.clone();
        move || runtime().block_on(works(&store))
    })
    .join()
    .unwrap();
    assert!(
        begun.elapsed() < ATTEMPT,
        "nobody waited for the runtime that stands still: {:?}",
        begun.elapsed()
    );
    first.block_on(works(&store));
    drop(first);
    runtime().block_on(works(&store));
    let connections = fake.script(|script| script.writers.len());
    assert_eq!(connections, 5, "one in each of four runtimes, and the home's");
}
