//! Watches that are none, that lose their tongue, or that speak out of turn (S4).

use std::ops::Deref;
use std::time::Duration;

use coord_api::store::{Span, Store, StoreEvent, StoreWatch};
use coord_api::{Error, ErrorKind, Revision};
use coord_etcd::EtcdStore;
use coord_testkit::wait::{eventually, never_within, within};
use etcd_client::proto::{PbEvent, PbKeyValue, PbWatchRequestUnion, PbWatchResponse};
use tonic::Status;

use crate::server::{Fake, Happened, Step, created, header};
use crate::{SOON, store};

type Steps = Vec<Step<PbWatchResponse>>;

fn put(key: &str, at: i64) -> PbEvent {
    let kv = PbKeyValue { key: key.into(), mod_revision: at, create_revision: at, ..PbKeyValue::default() };
    PbEvent { r#type: 0, kv: Some(kv), prev_kv: None }
}

fn events(id: i64, at: i64, events: impl IntoIterator<Item = PbEvent>) -> PbWatchResponse {
    PbWatchResponse {
        header: header(at),
        watch_id: id,
        events: events.into_iter().collect(),
        ..PbWatchResponse::default()
    }
}

/// The confirmation of the watch of this number.
fn made(id: i64, head: i64) -> PbWatchResponse {
    PbWatchResponse { watch_id: id, ..created(head) }
}

/// What a member says of itself when it is asked for progress.
fn progress(at: i64) -> PbWatchResponse {
    PbWatchResponse { header: header(at), watch_id: -1, ..PbWatchResponse::default() }
}

/// A watch of everything from revision 10 on, or from now on, on a server at revision `head` that
/// goes on like this.
async fn watch(head: i64, after: Option<u64>, steps: Steps) -> (Running, Result<StoreWatch, Error>) {
    let fake = Fake::start(head).await;
    fake.script(|script| script.watches.push_back(steps));
    let store = store(&fake);
    let watch = store.watch(Span::prefix(""), after.map(Revision::new)).await;
    (Running { fake, store }, watch)
}

/// A fake, and its client: a watch does not keep the client alive.
struct Running {
    fake: Fake,
    store: EtcdStore,
}

impl Deref for Running {
    type Target = Fake;

    fn deref(&self) -> &Fake {
        &self.fake
    }
}

/// The revisions of the next batches, each with its keys.
async fn batches(watch: &mut StoreWatch, count: usize) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match within(SOON, "the next batch", watch.next()).await {
            Some(Ok(StoreEvent::Batch(batch))) => {
                let keys = batch
                    .changes
                    .iter()
                    .map(|change| String::from_utf8_lossy(change.key()).into_owned())
                    .collect();
                seen.push((batch.revision.get(), keys));
            }
            other => panic!("wanted a batch, got {other:?}"),
        }
    }
    seen
}

async fn end(watch: &mut StoreWatch) -> Error {
    match within(SOON, "the watch ends", watch.next()).await {
        Some(Err(error)) => {
            assert!(watch.next().await.is_none(), "nothing comes after an error");
            error
        }
        other => panic!("wanted the end, got {other:?}"),
    }
}

#[tokio::test]
async fn created_and_canceled_is_not_created() {
    for (reason, compact, kind) in [
        ("etcdserver: permission denied", 0, ErrorKind::PermissionDenied),
        ("etcdserver: invalid auth token", 0, ErrorKind::Unauthenticated),
        ("", 15, ErrorKind::Compacted),
        ("", 0, ErrorKind::Unavailable),
    ] {
        let refused = PbWatchResponse {
            canceled: true,
            cancel_reason: reason.into(),
            compact_revision: compact,
            watch_id: -1,
            ..created(10)
        };
        let (_fake, watch) = watch(10, None, vec![Step::Await, Step::Send(refused), Step::Stall]).await;
        assert_eq!(watch.unwrap_err().kind(), kind, "{reason:?} {compact}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_or_stalls_before_the_confirmation_is_no_watch() {
    for steps in [
        vec![Step::Await, Step::End],
        vec![Step::Fail(Status::unavailable("etcdserver: no leader"))],
        vec![Step::Stall],
    ] {
        let (_fake, watch) = watch(10, None, steps.clone()).await;
        assert!(watch.unwrap_err().is_transient(), "{steps:?}");
    }
}

#[tokio::test]
async fn without_changes_since_no_history_is_asked_for() {
    for after in [10, 12] {
        let steps = vec![
            Step::Await,
            Step::Send(created(10)),
            Step::Send(events(0, 13, [put("old", 11), put("new", 13)])),
            Step::Stall,
        ];
        let (fake, watch) = watch(10, Some(after), steps).await;
        let mut watch = watch.unwrap();
        assert_eq!(watch.armed().get(), 10, "a member that is behind says so");
        let seen = batches(&mut watch, 1).await;
        assert_eq!(seen[0].0, 11, "what comes after it is armed is delivered, from {after} on");
        assert_eq!(fake.script(|script| script.watch_requests.len()), 1);
    }
}

#[tokio::test]
async fn history_is_asked_for_inclusively_and_what_was_seen_is_dropped() {
    let second = PbWatchResponse { watch_id: 1, ..created(20) };
    let steps = vec![
        Step::Await,
        Step::Send(created(20)),
        Step::Await,
        Step::Await,
        // What is left of the first watch.
        Step::Send(events(0, 21, [put("x", 21)])),
        Step::Send(PbWatchResponse { canceled: true, ..events(0, 21, []) }),
        Step::Send(second),
        Step::Send(events(1, 21, [put("a", 10), put("b", 12), put("x", 21)])),
        Step::Stall,
    ];
    let (fake, watch) = watch(20, Some(10), steps).await;
    let mut watch = watch.unwrap();
    assert_eq!(watch.armed().get(), 10);
    assert_eq!(batches(&mut watch, 2).await, [(12, "b".into()), (21, "x".into())]);
    fake.script(|script| {
        let [
            PbWatchRequestUnion::CreateRequest(first),
            PbWatchRequestUnion::CancelRequest(_),
            PbWatchRequestUnion::CreateRequest(second),
        ] = &script.watch_requests[..]
        else {
            panic!("{:?}", script.watch_requests)
        };
        assert_eq!((first.start_revision, first.fragment), (0, true));
        assert_eq!((second.start_revision, second.fragment), (10, true));
    });
}

#[tokio::test]
async fn a_compaction_is_canceled_with_a_revision_and_no_reason() {
    let canceled = PbWatchResponse { canceled: true, compact_revision: 15, ..events(0, 20, []) };
    let (_fake, watch) =
        watch(10, None, vec![Step::Await, Step::Send(created(10)), Step::Send(canceled), Step::Stall]).await;
    let error = end(&mut watch.unwrap()).await;
    assert_eq!((error.kind(), error.oldest_revision()), (ErrorKind::Compacted, Some(Revision::new(15))));
}

#[tokio::test]
async fn fragments_arrive_as_whole_revisions() {
    let fragment = |events| PbWatchResponse { fragment: true, ..events };
    let steps = vec![
        Step::Await,
        Step::Send(created(10)),
        Step::Send(fragment(events(0, 12, [put("a", 11), put("b", 12)]))),
        Step::Send(fragment(events(0, 12, [put("c", 12)]))),
        Step::Send(events(0, 12, [put("d", 12)])),
        Step::Stall,
    ];
    let (_fake, watch) = watch(10, None, steps).await;
    assert_eq!(batches(&mut watch.unwrap(), 2).await, [(11, "a".into()), (12, "bcd".into())]);
}

#[tokio::test]
async fn what_was_delivered_is_never_delivered_again() {
    let again = events(0, 12, [put("a", 11), put("b", 12)]);
    let steps = vec![
        Step::Await,
        Step::Send(created(10)),
        Step::Send(again.clone()),
        Step::Send(again),
        Step::Send(events(0, 13, [put("c", 13)])),
        Step::Stall,
    ];
    let (_fake, watch) = watch(10, None, steps).await;
    assert_eq!(batches(&mut watch.unwrap(), 3).await, [(11, "a".into()), (12, "b".into()), (13, "c".into())]);
}

#[tokio::test]
async fn a_response_out_of_order_ends_the_watch_before_anything_is_lost() {
    let steps = vec![
        Step::Await,
        Step::Send(created(10)),
        Step::Send(events(0, 11, [put("a", 11)])),
        Step::Send(events(0, 14, [put("c", 14), put("b", 13)])),
        Step::Stall,
    ];
    let (_fake, watch) = watch(10, None, steps).await;
    let mut watch = watch.unwrap();
    assert_eq!(batches(&mut watch, 1).await, [(11, "a".into())]);
    assert_eq!(end(&mut watch).await.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_broken_stream_ends_the_watch() {
    for last in [
        Step::End,
        Step::Fail(Status::unavailable("etcdserver: no leader")),
        Step::Fail(Status::cancelled("")),
    ] {
        let (_fake, watch) = watch(10, None, vec![Step::Await, Step::Send(created(10)), last.clone()]).await;
        assert_eq!(end(&mut watch.unwrap()).await.kind(), ErrorKind::Unavailable, "{last:?}");
    }
}

/// Noticed within 3 s, and what a busy machine adds.
const NOTICED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_watch_that_stalls_while_the_store_goes_on_is_noticed() {
    let (fake, watch) = watch(10, None, vec![Step::Await, Step::Send(created(10)), Step::Stall]).await;
    let mut watch = watch.unwrap();
    fake.script(|script| script.head = 50);
    assert!(within(NOTICED, "a deaf watch is noticed", end(&mut watch)).await.is_transient());
}

#[tokio::test]
async fn a_member_that_is_cut_off_and_answers_is_noticed() {
    let (fake, watch) =
        watch(10, None, vec![Step::Await, Step::Send(created(10)), Step::Always(progress(10))]).await;
    let mut watch = watch.unwrap();
    fake.script(|script| script.head = 50);
    assert!(within(NOTICED, "a deaf watch is noticed", end(&mut watch)).await.is_transient());
    let asked = fake.script(|script| {
        script.watch_requests.iter().filter(|r| matches!(r, PbWatchRequestUnion::ProgressRequest(_))).count()
    });
    assert!(asked > 0, "the member was given a chance");
}

#[tokio::test]
async fn a_watch_whose_member_has_come_as_far_stays() {
    let (fake, watch) =
        watch(10, None, vec![Step::Await, Step::Send(created(10)), Step::Always(progress(50))]).await;
    let mut watch = watch.unwrap();
    fake.script(|script| script.head = 50);
    never_within(NOTICED, "the watch ends", &mut Box::pin(watch.next())).await;
}

/// As behind etcd's own gRPC proxy.
#[tokio::test]
async fn a_watch_whose_member_gives_no_word_stays_while_nothing_happens_in_its_range() {
    let (fake, watch) = watch(10, None, vec![Step::Await, Step::Send(created(10)), Step::Stall]).await;
    let mut watch = watch.unwrap();
    fake.script(|script| script.happened = Some(Happened::Nothing));
    // Elsewhere much does.
    let others = async {
        loop {
            fake.script(|script| script.head += 1);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut told = Box::pin(watch.next());
    tokio::select! {
        () = never_within(NOTICED * 2, "the watch ends", &mut told) => {}
        () = others => {}
    }
    assert!(fake.asked("probe") >= 3, "asked {} times", fake.asked("probe"));
}

#[tokio::test]
async fn a_watch_whose_member_gives_no_word_and_does_not_tell_what_happens_is_noticed() {
    for happened in [Happened::Put, Happened::Deletion] {
        let (fake, watch) = watch(10, None, vec![Step::Await, Step::Send(created(10)), Step::Stall]).await;
        let mut watch = watch.unwrap();
        fake.script(|script| {
            script.head = 11;
            script.happened = Some(Happened::Nothing);
        });
        never_within(NOTICED, "the watch ends", &mut Box::pin(watch.next())).await;
        fake.script(|script| {
            script.head = 12;
            script.happened = Some(happened);
        });
        assert!(
            within(NOTICED, "a deaf watch is noticed", end(&mut watch)).await.is_transient(),
            "{happened:?}"
        );
    }
}

#[tokio::test]
async fn a_store_that_nobody_can_ask_ends_its_watches() {
    let (fake, watch) = watch(10, None, vec![Step::Await, Step::Send(created(10)), Step::Stall]).await;
    let mut watch = watch.unwrap();
    fake.script(|script| script.ranges.extend((0..100).map(|_| crate::server::Answer::Swallow)));
    assert!(within(NOTICED, "a blind watch ends", end(&mut watch)).await.is_transient());
}

/// Further watches of everything from now on.
async fn further<const N: usize>(store: &EtcdStore) -> [StoreWatch; N] {
    let mut watches = Vec::new();
    for _ in 0..N {
        watches.push(store.watch(Span::prefix(""), None).await.unwrap());
    }
    watches.try_into().unwrap()
}

#[tokio::test]
async fn watches_share_a_stream_and_each_is_told_its_own() {
    let steps = vec![
        Step::Await,
        Step::Send(made(3, 10)),
        Step::Await,
        Step::Send(made(5, 10)),
        Step::Send(events(5, 11, [put("a", 11)])),
        Step::Send(events(3, 12, [put("b", 12)])),
        // Fragments of two watches may be mixed.
        Step::Send(PbWatchResponse { fragment: true, ..events(3, 13, [put("c", 13)]) }),
        Step::Send(events(5, 13, [put("d", 13)])),
        Step::Send(events(3, 13, [put("e", 13)])),
        Step::Stall,
    ];
    let (running, first) = watch(10, None, steps).await;
    let mut first = first.unwrap();
    let [mut second] = further(&running.store).await;
    assert_eq!(batches(&mut first, 2).await, [(12, "b".into()), (13, "ce".into())]);
    assert_eq!(batches(&mut second, 2).await, [(11, "a".into()), (13, "d".into())]);
    assert_eq!(running.asked("watch"), 1, "one stream for both");
}

#[tokio::test]
async fn a_watch_that_is_canceled_takes_no_other_along() {
    let steps = vec![
        Step::Await,
        Step::Send(made(0, 10)),
        Step::Await,
        Step::Send(made(1, 10)),
        Step::Send(PbWatchResponse { canceled: true, compact_revision: 15, ..events(0, 20, []) }),
        Step::Send(events(1, 20, [put("a", 20)])),
        Step::Stall,
    ];
    let (running, first) = watch(10, None, steps).await;
    let [mut second] = further(&running.store).await;
    assert_eq!(end(&mut first.unwrap()).await.kind(), ErrorKind::Compacted);
    assert_eq!(batches(&mut second, 1).await, [(20, "a".into())]);
}

#[tokio::test]
async fn a_stream_that_breaks_takes_all_its_watches_along_and_is_replaced() {
    let steps = vec![
        Step::Await,
        Step::Send(made(0, 10)),
        Step::Await,
        Step::Send(made(1, 10)),
        Step::Await,
        Step::End,
    ];
    let (running, first) = watch(10, None, steps).await;
    let [mut second] = further(&running.store).await;
    assert!(
        running.store.watch(Span::prefix(""), None).await.unwrap_err().is_transient(),
        "it was asked for and not made"
    );
    let [_next] = further(&running.store).await;
    assert!(end(&mut first.unwrap()).await.is_transient());
    assert!(end(&mut second).await.is_transient());
    assert_eq!(running.asked("watch"), 2);
}

#[tokio::test]
async fn a_watch_that_is_dropped_is_canceled_and_the_last_one_ends_the_stream() {
    let steps = vec![
        Step::Await,
        Step::Send(made(3, 10)),
        Step::Await,
        Step::Send(made(5, 10)),
        Step::Await,
        Step::Stall,
    ];
    let (running, first) = watch(10, None, steps).await;
    let [second] = further(&running.store).await;
    drop(first);
    let canceled = async || {
        let asked = running.script(|script| script.watch_requests.clone());
        asked
            .iter()
            .any(|asked| matches!(asked, PbWatchRequestUnion::CancelRequest(cancel) if cancel.watch_id == 3))
            .then_some(())
    };
    eventually(SOON, "the first is canceled", canceled).await;
    drop(second);
    // Nobody sits on it any more, so that nobody is seated on it.
    let [_third] = further(&running.store).await;
    assert_eq!(running.asked("watch"), 2);
}

#[tokio::test]
async fn no_watch_is_made_on_a_stream_whose_token_is_refused() {
    let refused = PbWatchResponse {
        canceled: true,
        cancel_reason: "etcdserver: invalid auth token".into(),
        watch_id: -1,
        ..created(10)
    };
    let steps = vec![
        Step::Await,
        Step::Send(made(0, 10)),
        Step::Await,
        Step::Send(refused),
        Step::Send(events(0, 11, [put("a", 11)])),
        Step::Stall,
    ];
    let (running, first) = watch(10, None, steps).await;
    let refused = running.store.watch(Span::prefix(""), None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthenticated, "nobody signed in, so that nobody can anew");
    let [_third] = further(&running.store).await;
    assert_eq!(running.asked("watch"), 2, "it has a stream of its own");
    assert_eq!(batches(&mut first.unwrap(), 1).await, [(11, "a".into())], "what was made goes on");
}

#[tokio::test]
async fn a_stream_has_so_many_seats() {
    let always = [Step::Await, Step::Send(made(0, 10))]
        .into_iter()
        .chain((1..100).flat_map(|id| [Step::Await, Step::Send(made(id, 10))]));
    let (running, _first) = watch(10, None, always.chain([Step::Stall]).collect()).await;
    let _others: [StoreWatch; 99] = further(&running.store).await;
    assert_eq!(running.asked("watch"), 1);
    let [_next] = further(&running.store).await;
    assert_eq!(running.asked("watch"), 2);
}
