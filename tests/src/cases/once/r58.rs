//! R58 Recorded iff still held.

use coord_api::{ErrorKind, Outcome};
use coord_recipes::{Begun, OnceError};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, never_within, within};
use coord_testkit::wrap::Fault;

use super::primitives::{Primitives, delete, entries, put};
use super::{RECORD, at_once, begin, done, once, options};

fn lost_with(error: OnceError) -> coord_api::Value {
    match error {
        OnceError::NotRecorded { value, error } if error.kind() == ErrorKind::LeaseLost => value,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn one_that_was_lost_records_nothing_and_has_its_result(cx: Fixture) {
    let store = cx.store().await;
    // Its entry is gone, and it does not know that yet; its lease is, and then it does.
    for known in [false, true] {
        let mine = once(&cx).await;
        let execution = begin(&mine, options(&cx)).await;
        if known {
            let lease = entries(&*store, RECORD).await[0].lease.unwrap();
            store.revoke_lease(lease).await.unwrap();
            within(cx.soon(), "the loss", execution.lost()).await;
        } else {
            delete(&*store, RECORD).await;
        }
        let error = within(cx.soon(), "an answer", execution.complete("mine")).await.unwrap_err();
        assert_eq!(lost_with(error), "mine".into());
        assert_eq!(entries(&*store, RECORD).await, []);
    }
}

pub(super) async fn a_successor_is_not_overwritten(cx: Fixture) {
    let (mine, other, store) = (once(&cx).await, once(&cx).await, cx.store().await);
    let first = begin(&mine, options(&cx)).await;
    delete(&*store, RECORD).await;
    let second = begin(&other, options(&cx)).await;
    let error = first.complete("first").await.unwrap_err();
    assert_eq!(lost_with(error), "first".into());
    assert!(second.is_held());
    second.complete("second").await.unwrap();
    assert_eq!(done(&cx, &mine).await, "second".into());
    // And neither is what others wrote.
    delete(&*store, RECORD).await;
    let first = begin(&mine, options(&cx)).await;
    put(&*store, RECORD, "theirs").await;
    assert_eq!(lost_with(first.complete("first").await.unwrap_err()), "first".into());
    assert_eq!(entries(&*store, RECORD).await[0].value, "theirs".into());
}

pub(super) async fn a_record_in_doubt_is_settled(cx: Fixture) {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Hold] {
        let (client, faults) = cx.faulty().await;
        let (mine, other) = (Primitives::of(&client).once(), once(&cx).await);
        let execution = begin(&mine, options(&cx)).await;
        // The session is warm, and so is the lease of the record.
        mine.run("warm", options(&cx), async |_| Ok("v".into())).await.unwrap();
        faults.next_put(fault, RECORD);
        within(cx.soon(), "it is recorded", execution.complete("mine")).await.unwrap();
        assert_eq!(faults.unused(), 0);
        assert_eq!(done(&cx, &other).await, "mine".into(), "{fault:?}");
        for late in faults.take_held() {
            assert!(!late.apply().await.unwrap_or(false), "a write that was fenced off is applied");
        }
        assert_eq!(done(&cx, &other).await, "mine".into(), "{fault:?}");
        assert!(other.forget("k").await.unwrap());
    }
}

pub(super) async fn a_store_that_does_not_answer_is_asked_again(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).once(), once(&cx).await);
    let execution = begin(&mine, options(&cx)).await;
    faults.cut();
    let mut complete = Box::pin(execution.complete("mine"));
    never_within(cx.ttl() / 4, "an answer", &mut complete).await;
    faults.heal();
    within(cx.soon(), "it is recorded", complete).await.unwrap();
    assert_eq!(done(&cx, &other).await, "mine".into());
}

pub(super) async fn a_late_record_changes_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).once(), once(&cx).await);
    // The lease of the record is there already.
    mine.run("warm", options(&cx), async |_| Ok("v".into())).await.unwrap();
    let first = begin(&mine, options(&cx)).await;
    faults.next_put(Fault::Hold, RECORD);
    // Cut off, the doubt cannot be settled before the lease is gone.
    let cut = faults.clone();
    faults.next(Fault::Refuse, move |request| {
        let settles = request.puts("/sessions/");
        if settles {
            cut.cut();
        }
        settles
    });
    let error = within(cx.soon(), "an answer", first.complete("late")).await.unwrap_err();
    assert_eq!(error.coord().map(coord_api::Error::outcome), Some(Outcome::Unknown), "{error:?}");
    let newer = other.run("k", options(&cx), async |_| Ok("newer".into()));
    assert!(within(cx.gone_by(cx.ttl()), "it is free", newer).await.unwrap().first);
    let late = faults.take_held();
    assert_eq!(late.len(), 1);
    for late in late {
        let _ = late.apply().await;
    }
    assert_eq!(done(&cx, &other).await, "newer".into());
}

pub(super) async fn a_completion_dropped_at_any_await_point_is_recorded_or_free(cx: Fixture) {
    for polls in 0..40 {
        let (mine, other) = (once(&cx).await, once(&cx).await);
        let execution = begin(&mine, options(&cx)).await;
        let mut complete = Box::pin(execution.complete("mine"));
        let mut finished = false;
        for _ in 0..polls {
            if futures_util::poll!(&mut complete).is_ready() {
                finished = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(complete);
        let begun =
            within(cx.soon(), "it is recorded or free", other.begin("k", options(&cx))).await.unwrap();
        match begun {
            Begun::Done(value) => assert_eq!(value, "mine".into()),
            Begun::Mine(execution) => {
                assert!(!finished, "what was recorded is gone");
                execution.release().await.unwrap();
            }
        }
        let _ = other.forget("k").await.unwrap();
        if finished {
            return;
        }
    }
}

pub(super) async fn recording_is_no_loss(cx: Fixture) {
    let primitives = Primitives::of(&cx.client().await);
    let (mine, store) = (primitives.once(), cx.store().await);
    let beside = match mine.begin("beside", options(&cx)).await.unwrap() {
        Begun::Mine(execution) => execution,
        other => panic!("{other:?}"),
    };
    let execution = begin(&mine, options(&cx)).await;
    let lost = execution.lost();
    execution.complete("mine").await.unwrap();
    // Over, as what was released is.
    assert_eq!(within(cx.soon(), "the end", lost).await, coord_api::Loss::Released);
    let record = &entries(&*store, RECORD).await[0];
    let session = entries(&*store, "/once/beside").await[0].lease;
    assert!(record.lease.is_some() && record.lease != session, "a lease of its own");
    tokio::time::sleep(cx.gone_by(cx.ttl())).await;
    assert!(beside.is_held(), "a renewal took the record for something lost");
    drop(beside);
    drop(mine);
    primitives.client.close().await.unwrap();
    let other = once(&cx).await;
    assert_eq!(done(&cx, &other).await, "mine".into());
    eventually(cx.soon(), "the other one is free", || async {
        other.begin("beside", at_once(&cx)).await.ok().map(drop)
    })
    .await;
}
