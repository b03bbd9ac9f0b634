//! R60 For how long a result is kept.

use std::time::Duration;

use coord_api::ErrorKind;
use coord_recipes::{Begun, MAX_FINGERPRINT_BYTES, MAX_RESULT_BYTES, OnceError, OnceState};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use tokio::time::{Instant, sleep};

use super::primitives::{Primitives, entries, put};
use super::{RECORD, begin, done, kind, never, once, options};

pub(super) async fn a_result_outlives_its_client(cx: Fixture) {
    let other = once(&cx).await;
    for crash in [false, true] {
        let client = cx.client().await;
        let primitives = Primitives::of(&client);
        primitives.once().run("k", options(&cx), async |_| Ok("kept".into())).await.unwrap();
        if crash {
            client.crash().await;
        } else {
            primitives.client.close().await.unwrap();
        }
        sleep(cx.gone_by(cx.ttl())).await;
        assert_eq!(done(&cx, &other).await, "kept".into(), "crash: {crash}");
        assert!(other.forget("k").await.unwrap());
    }
}

pub(super) async fn a_result_is_kept_for_the_retention_and_hardly_longer(cx: Fixture) {
    const RETENTION: Duration = Duration::from_secs(4);
    let primitives = Primitives::of(&cx.client().await);
    let (mine, store) = (primitives.once(), cx.store().await);
    let options = options(&cx).with_retention(RETENTION);
    // The second one comes when the lease of the first one has lived for a while.
    for key in ["k", "k2"] {
        let recorded = Instant::now();
        mine.run(key, options.clone(), async |_| Ok("kept".into())).await.unwrap();
        let path = format!("/once/{key}");
        while recorded.elapsed() + Duration::from_millis(200) < RETENTION {
            assert_eq!(entries(&*store, &path).await.len(), 1, "gone after {:?}", recorded.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
        let longest = RETENTION.mul_f64(1.25) + cx.lag() + cx.slack();
        eventually(longest.saturating_sub(recorded.elapsed()), "it is not kept for ever", || async {
            entries(&*store, &path).await.is_empty().then_some(())
        })
        .await;
        assert_eq!(mine.peek(key).await.unwrap(), None);
    }
    assert!(mine.run("k", options, async |_| Ok("anew".into())).await.unwrap().first);
}

pub(super) async fn a_retention_lease_that_is_gone_is_replaced_and_nobodys_loss(cx: Fixture) {
    let primitives = Primitives::of(&cx.client().await);
    let (mine, store) = (primitives.once(), cx.store().await);
    mine.run("first", options(&cx), async |_| Ok("v".into())).await.unwrap();
    let lease = entries(&*store, "/once/first").await[0].lease.unwrap();
    let Begun::Mine(beside) = mine.begin("beside", options(&cx)).await.unwrap() else {
        panic!("it was done")
    };
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(mine.peek("first").await.unwrap(), None);
    let execution = begin(&mine, options(&cx)).await;
    within(cx.soon(), "it is recorded all the same", execution.complete("kept")).await.unwrap();
    assert!(beside.is_held(), "what hangs on the session is not lost");
    sleep(cx.ttl()).await;
    assert!(beside.is_held());
    assert_eq!(done(&cx, &mine).await, "kept".into());
    assert_ne!(entries(&*store, RECORD).await[0].lease, Some(lease));
}

pub(super) async fn a_failure_for_good_is_recorded(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let fails = async |_: &coord_recipes::Execution| {
        Err(coord_recipes::WorkFailure::Final("no such account".to_owned()))
    };
    let first = mine.run("k", options(&cx), fails).await;
    let again = other.run("k", options(&cx), never).await;
    for failed in [first, again] {
        match failed {
            Err(OnceError::Failed(reason)) => assert_eq!(reason, "no such account"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(other.peek("k").await.unwrap(), Some(OnceState::Failed("no such account".to_owned())));
    // A reason of any length is cut, where a character ends.
    assert!(other.forget("k").await.unwrap());
    begin(&mine, options(&cx)).await.fail("é".repeat(9_999)).await.unwrap();
    match other.peek("k").await.unwrap() {
        Some(OnceState::Failed(reason)) => assert_eq!(reason, "é".repeat(2_048)),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn a_result_that_is_too_large_is_a_failure_for_good(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let large = async |_: &coord_recipes::Execution| Ok(vec![1; MAX_RESULT_BYTES + 1].into());
    let first = mine.run("k", options(&cx), large).await;
    let again = other.run("k", options(&cx), never).await;
    for failed in [first, again] {
        assert!(matches!(failed, Err(OnceError::Failed(_))), "{failed:?}");
    }
}

pub(super) async fn what_is_forgotten_is_done_anew(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    assert!(!mine.forget("k").await.unwrap());
    for n in 0..3 {
        let value = n.to_string();
        let work = async |_: &coord_recipes::Execution| Ok(value.clone().into());
        assert!(mine.run("k", options(&cx), work).await.unwrap().first);
        assert!(other.forget("k").await.unwrap());
        assert_eq!(mine.peek("k").await.unwrap(), None);
    }
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let once = Primitives::of(&client).once();
    let wrong = async {
        let mut errors = Vec::new();
        for key in coord_testkit::bad::keys() {
            errors.push(kind(&once.run(&key, options(&cx), never).await.unwrap_err()));
            errors.push(once.peek(&key).await.unwrap_err().kind());
            errors.push(once.forget(&key).await.unwrap_err().kind());
        }
        let bad = [
            options(&cx).with_ttl(Duration::ZERO),
            options(&cx).with_ttl(Duration::from_secs(9_000_000_001)),
            options(&cx).with_retention(Duration::ZERO),
            options(&cx).with_retention(Duration::from_secs(7_200_000_001)),
            options(&cx).with_fingerprint(vec![0; MAX_FINGERPRINT_BYTES + 1]),
        ];
        for options in bad {
            errors.push(kind(&once.run("k", options, never).await.unwrap_err()));
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.all(), 0, "{counts:?}");
    assert!(errors.iter().all(|kind| *kind == ErrorKind::InvalidArgument), "{errors:?}");
}

pub(super) async fn what_others_left_is_codec(cx: Fixture) {
    let (mine, store) = (once(&cx).await, cx.store().await);
    for garbage in ["", "done", "D", "D\0\u{7f}x", "R\0\0no line"] {
        put(&*store, RECORD, garbage).await;
        let error = within(cx.soon(), "an answer", mine.run("k", options(&cx), never)).await.unwrap_err();
        assert_eq!(kind(&error), ErrorKind::Codec, "{garbage:?}");
        assert_eq!(mine.peek("k").await.unwrap_err().kind(), ErrorKind::Codec, "{garbage:?}");
        assert_eq!(entries(&*store, RECORD).await[0].value, garbage.into(), "nothing is overwritten");
    }
    assert!(mine.forget("k").await.unwrap());
    assert!(mine.run("k", options(&cx), async |_| Ok("v".into())).await.unwrap().first);
}
