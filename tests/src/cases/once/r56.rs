//! R56 One recorded result a key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coord_api::Value;
use coord_recipes::{MAX_RESULT_BYTES, OnceState};
use coord_testkit::Fixture;
use coord_testkit::wait::within;
use futures_util::future::join_all;

use super::primitives::Primitives;
use super::{done, never, once, options};

pub(super) async fn what_was_done_is_not_done_again(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    assert_eq!(mine.peek("k").await.unwrap(), None);
    let ran = mine.run("k", options(&cx), async |_| Ok("one".into())).await.unwrap();
    assert_eq!((ran.value, ran.first), ("one".into(), true));
    for once in [&mine, &other] {
        let again = once.run("k", options(&cx), never).await.unwrap();
        assert_eq!((again.value, again.first), ("one".into(), false));
        assert_eq!(once.peek("k").await.unwrap(), Some(OnceState::Done("one".into())));
    }
}

pub(super) async fn of_many_at_once_one_does_it(cx: Fixture) {
    let all = join_all((0..4).map(|_| once(&cx))).await;
    let runs = Arc::new(AtomicU32::new(0));
    let callers = (0..20_usize).map(|n| {
        let (once, options, runs) = (all[n % 4].clone(), options(&cx), Arc::clone(&runs));
        tokio::spawn(async move {
            let work = async |_: &coord_recipes::Execution| {
                runs.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(n.to_string().into())
            };
            once.run("k", options, work).await.unwrap()
        })
    });
    let ran = within(cx.soon() * 3, "all have the result", join_all(callers)).await;
    let ran: Vec<_> = ran.into_iter().map(Result::unwrap).collect();
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(ran.iter().filter(|ran| ran.first).count(), 1);
    assert!(ran.iter().all(|one| one.value == ran[0].value));
}

pub(super) async fn every_result_is_recorded_byte_for_byte(cx: Fixture) {
    let (mine, other) = (once(&cx).await, once(&cx).await);
    let values: [Value; 4] = [
        Value::new(),
        vec![0, 0xff, b'D', 0].into(),
        "R\0\0looks like a record\n".into(),
        vec![7; MAX_RESULT_BYTES].into(),
    ];
    for (n, value) in values.into_iter().enumerate() {
        let key = format!("k{n}");
        let fingerprinted = options(&cx).with_fingerprint(vec![0xff; n * 80]);
        let work = async |_: &coord_recipes::Execution| Ok(value.clone());
        assert!(mine.run(&key, fingerprinted.clone(), work).await.unwrap().first);
        assert_eq!(other.run(&key, fingerprinted, never).await.unwrap().value, value);
    }
}

pub(super) async fn a_run_is_two_requests_and_a_repeat_is_one(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let primitives = Primitives::of(&client);
    let run =
        async |key: &str| primitives.once().run(key, options(&cx), async |_| Ok("v".into())).await.unwrap();
    run("warm").await;
    for key in ["a", "b", "c"] {
        let (ran, counts) = counter.during(run(key)).await;
        assert_eq!((ran.first, counts.requests()), (true, 2), "{counts:?}");
        let (again, counts) = counter.during(run(key)).await;
        assert_eq!((again.first, counts.requests()), (false, 1), "{counts:?}");
    }
}

pub(super) async fn who_asks_at_once_over_one_client_shares_the_requests(cx: Fixture) {
    const CALLERS: usize = 50;
    let (client, counter) = cx.counting().await;
    let primitives = Primitives::of(&client);
    primitives.once().run("warm", options(&cx), async |_| Ok("v".into())).await.unwrap();
    let ask = || async {
        let work = async |_: &coord_recipes::Execution| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok("v".into())
        };
        primitives.once().run("k", options(&cx), work).await.unwrap()
    };
    let (ran, counts) = counter.during(join_all((0..CALLERS).map(|_| ask()))).await;
    assert_eq!(ran.iter().filter(|ran| ran.first).count(), 1);
    // A claim, a watch and the record.
    assert!(counts.requests() <= CALLERS / 5, "{counts:?}");
    assert!(counts.watch <= 1, "{counts:?}");
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let mine = once(&cx).await;
    let names = ["k", "k/a", "k%2Fa", "k/a/b", "k%2fa", "k~", "%"];
    for name in names {
        let ran = mine.run(name, options(&cx), async |_| Ok(name.into())).await.unwrap();
        assert!(ran.first, "{name}");
    }
    for name in names {
        assert_eq!(mine.run(name, options(&cx), never).await.unwrap().value, name.into());
    }
    mine.forget("k").await.unwrap();
    assert!(mine.run("k", options(&cx), async |_| Ok("anew".into())).await.unwrap().first);
    assert_eq!(done(&cx, &mine).await, "anew".into());
}
