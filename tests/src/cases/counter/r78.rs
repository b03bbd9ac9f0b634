//! R78 Counting.

use std::collections::BTreeSet;
use std::time::Duration;

use coord_api::{ErrorKind, Outcome};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use coord_testkit::wrap::Fault;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::primitives::{Primitives, entries, put};
use super::{COUNTER, DAY, TOKENS, counter};

pub(super) async fn what_nobody_added_to_is_zero(cx: Fixture) {
    let (mine, other, store) = (counter(&cx).await, counter(&cx).await, cx.store().await);
    assert_eq!(mine.get().await.unwrap(), 0);
    assert_eq!(entries(&*store, COUNTER).await, []);
    for (delta, value) in [(5, 5), (-7, -2), (0, -2), (2, 0)] {
        assert_eq!(mine.add(delta).await.unwrap(), value);
        assert_eq!(other.get().await.unwrap(), value);
    }
}

pub(super) async fn each_addition_counts_once_and_has_its_value(cx: Fixture) {
    const EACH: u64 = 25;
    let clients = join_all((1..=4).map(|n| cx.delayed(n))).await;
    let adders = clients.iter().map(|client| {
        let counter = Primitives::of(client).counter("c");
        tokio::spawn(async move {
            let mut values = Vec::new();
            for _ in 0..EACH / 5 {
                values.extend(join_all((0..5).map(|_| counter.add(1))).await);
            }
            values.into_iter().map(Result::unwrap).collect::<Vec<_>>()
        })
    });
    let values: Vec<Vec<i64>> = within(cx.soon() * 3, "all are added", join_all(adders))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(values.iter().all(|values| values.windows(2).all(|pair| pair[0] < pair[1])), "{values:?}");
    let all: BTreeSet<i64> = values.into_iter().flatten().collect();
    assert_eq!(all, (1..=100).collect());
    assert_eq!(counter(&cx).await.get().await.unwrap(), 100);
}

pub(super) async fn those_who_wait_at_the_same_time_share_a_write(cx: Fixture) {
    let (client, requests) = cx.counting().await;
    let primitives = Primitives::of(&client);
    let kept = primitives.counter("c");
    kept.add(1).await.unwrap();
    let (added, counts) = requests.during(kept.add(1)).await;
    assert_eq!((added.unwrap(), counts.all()), (2, 1), "{counts:?}");
    let adds = (0..64).map(|_| {
        let counter = primitives.counter("c");
        async move { counter.add(1).await }
    });
    let (added, counts) = requests.during(join_all(adds)).await;
    let values: Vec<i64> = added.into_iter().map(Result::unwrap).collect();
    assert_eq!(values, (3..=66).collect::<Vec<_>>(), "in the order in which they came");
    assert!(counts.all() <= 6, "{counts:?}");
}

pub(super) async fn a_repeat_with_its_token_gets_the_recorded_value(cx: Fixture) {
    let (mine, other) = (counter(&cx).await, counter(&cx).await);
    assert_eq!(mine.add_once("a", 5, DAY).await.unwrap(), 5);
    assert_eq!(mine.add(1).await.unwrap(), 6);
    for counter in [&mine, &other] {
        assert_eq!(counter.add_once("a", 5, DAY).await.unwrap(), 5);
        assert_eq!(counter.get().await.unwrap(), 6);
    }
    // A token is one counter's.
    let beside = Primitives::of(&cx.client().await).counter("c2");
    assert_eq!(beside.add_once("a", 2, DAY).await.unwrap(), 2);
    assert_eq!(other.add_once("b", 5, DAY).await.unwrap(), 11);
}

pub(super) async fn another_amount_under_a_token_is_an_invalid_argument(cx: Fixture) {
    let (mine, other) = (counter(&cx).await, counter(&cx).await);
    mine.add_once("a", 5, DAY).await.unwrap();
    for counter in [&mine, &other] {
        let error = counter.add_once("a", 6, DAY).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    // Those who came with it have their own answers.
    let (wrong, right) = futures_util::future::join(mine.add_once("a", -5, DAY), mine.add(1)).await;
    assert_eq!((wrong.unwrap_err().kind(), right.unwrap()), (ErrorKind::InvalidArgument, 6));
}

pub(super) async fn tokens_at_once_count_once(cx: Fixture) {
    let all = join_all((0..3).map(|_| counter(&cx))).await;
    let adds = (0..30_usize).map(|n| all[n % 3].add_once("a", 7, DAY));
    for added in within(cx.soon(), "all have the value", join_all(adds)).await {
        assert_eq!(added.unwrap(), 7);
    }
    // More of them than one write carries.
    let tokens: Vec<String> = (0..250).map(|n| format!("t{n}")).collect();
    let adds = tokens.iter().map(|token| all[0].add_once(token, 1, DAY));
    for added in within(cx.soon(), "all are added", join_all(adds)).await {
        added.unwrap();
    }
    assert_eq!(all[1].get().await.unwrap(), 257);
}

pub(super) async fn a_token_is_kept_for_the_retention(cx: Fixture) {
    const RETENTION: Duration = Duration::from_secs(4);
    let primitives = Primitives::of(&cx.client().await);
    let (added, other) = (Instant::now(), counter(&cx).await);
    primitives.counter("c").add_once("a", 1, RETENTION).await.unwrap();
    primitives.client.close().await.unwrap();
    while added.elapsed() + Duration::from_millis(200) < RETENTION {
        assert_eq!(other.add_once("a", 1, RETENTION).await.unwrap(), 1, "after {:?}", added.elapsed());
        sleep(Duration::from_millis(200)).await;
    }
    let store = cx.store().await;
    let longest = RETENTION.mul_f64(1.25) + cx.lag() + cx.slack();
    eventually(longest.saturating_sub(added.elapsed()), "it is not kept for ever", || async {
        entries(&*store, TOKENS).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(other.add_once("a", 1, RETENTION).await.unwrap(), 2);
}

pub(super) async fn a_retention_lease_that_is_gone_is_replaced(cx: Fixture) {
    let (mine, store) = (counter(&cx).await, cx.store().await);
    mine.add_once("a", 1, DAY).await.unwrap();
    let lease = entries(&*store, TOKENS).await[0].lease.unwrap();
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(within(cx.soon(), "an answer", mine.add_once("b", 1, DAY)).await.unwrap(), 2);
    assert_ne!(entries(&*store, TOKENS).await[0].lease, Some(lease));
}

pub(super) async fn an_addition_in_doubt_is_unknown_and_a_repeat_with_its_token_counts_once(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).counter("c"), counter(&cx).await);
    mine.add_once("warm", 1, DAY).await.unwrap();
    let mut value = 1;
    for (fault, token) in [(Fault::LoseAnswer, "a"), (Fault::LoseRequest, "b")] {
        faults.next_put(fault, COUNTER);
        let error = within(cx.soon(), "an answer", mine.add_once(token, 1, DAY)).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
        value += 1;
        assert_eq!(mine.add_once(token, 1, DAY).await.unwrap(), value, "{fault:?}");
        assert_eq!(other.get().await.unwrap(), value, "{fault:?}");
        // Without one it is not added again by itself.
        faults.next_put(fault, COUNTER);
        let error = within(cx.soon(), "an answer", mine.add(10)).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
        value += if fault == Fault::LoseAnswer { 10 } else { 0 };
        assert_eq!(other.get().await.unwrap(), value, "{fault:?}");
    }
    faults.next_put(Fault::Refuse, COUNTER);
    let error = mine.add(1).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    assert_eq!(mine.add(1).await.unwrap(), value + 1);
}

pub(super) async fn a_late_addition_is_not_counted_twice(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, other) = (Primitives::of(&client).counter("c"), counter(&cx).await);
    mine.add_once("warm", 1, DAY).await.unwrap();
    faults.next_put(Fault::Hold, COUNTER);
    let error = within(cx.soon(), "an answer", mine.add_once("a", 1, DAY)).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(mine.add_once("a", 1, DAY).await.unwrap(), 2);
    let late = faults.take_held();
    assert_eq!(late.len(), 1);
    for late in late {
        assert!(!late.apply().await.unwrap_or(false), "it is counted twice");
    }
    assert_eq!(other.get().await.unwrap(), 2);
    assert_eq!(other.add_once("a", 1, DAY).await.unwrap(), 2);
}

pub(super) async fn what_does_not_fit_is_exhausted_and_changes_nothing(cx: Fixture) {
    let (mine, other) = (counter(&cx).await, counter(&cx).await);
    assert_eq!(mine.add(i64::MAX).await.unwrap(), i64::MAX);
    let error = mine.add(1).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Exhausted, Outcome::NotApplied));
    assert_eq!(other.add_once("a", 1, DAY).await.unwrap_err().kind(), ErrorKind::Exhausted);
    assert_eq!(other.get().await.unwrap(), i64::MAX);
    // Whoever comes with it is served, and the token was not used up.
    let (over, fits) = futures_util::future::join(mine.add(9), mine.add(-1)).await;
    assert_eq!((over.unwrap_err().kind(), fits.unwrap()), (ErrorKind::Exhausted, i64::MAX - 1));
    assert_eq!(other.add_once("a", 1, DAY).await.unwrap(), i64::MAX);
    let beside = Primitives::of(&cx.client().await).counter("c2");
    assert_eq!(beside.add(i64::MIN).await.unwrap(), i64::MIN);
    assert_eq!(beside.add(-1).await.unwrap_err().kind(), ErrorKind::Exhausted);
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let primitives = Primitives::of(&client);
    let wrong = async {
        let mut errors = Vec::new();
        for bad in coord_testkit::bad::keys() {
            errors.push(primitives.counter(&bad).add(1).await.unwrap_err());
            errors.push(primitives.counter(&bad).get().await.unwrap_err());
            errors.push(primitives.counter("c").add_once(&bad, 1, DAY).await.unwrap_err());
        }
        for retention in [Duration::ZERO, Duration::from_secs(7_200_000_001)] {
            errors.push(primitives.counter("c").add_once("a", 1, retention).await.unwrap_err());
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.all(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

pub(super) async fn what_others_left_is_codec(cx: Fixture) {
    let (mine, store) = (counter(&cx).await, cx.store().await);
    for garbage in ["", "many", "1.5", "9223372036854775808"] {
        put(&*store, COUNTER, garbage).await;
        let error = within(cx.soon(), "an answer", mine.add(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec, "{garbage:?}");
        assert_eq!(mine.get().await.unwrap_err().kind(), ErrorKind::Codec, "{garbage:?}");
        assert_eq!(entries(&*store, COUNTER).await[0].value, garbage.into(), "nothing is overwritten");
    }
    put(&*store, COUNTER, "-3").await;
    assert_eq!(mine.add(1).await.unwrap(), -2);
    put(&*store, &format!("{TOKENS}a"), "garbage").await;
    assert_eq!(mine.add_once("a", 1, DAY).await.unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(mine.get().await.unwrap(), -2);
}

pub(super) async fn one_that_is_left_alone_holds_up_no_other(cx: Fixture) {
    let mine = counter(&cx).await;
    let mut alone = Box::pin(mine.add(1));
    let first = futures_util::poll!(&mut alone);
    assert!(first.is_pending());
    within(cx.soon(), "another one is added", mine.add(1)).await.unwrap();
    within(cx.soon(), "it was added as well", alone).await.unwrap();
    assert_eq!(mine.get().await.unwrap(), 2);
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let primitives = Primitives::of(&cx.client().await);
    for name in ["c", "c/a", "c%2Fa", "c/a/b"] {
        assert_eq!(primitives.counter(name).add(1).await.unwrap(), 1, "{name}");
        for token in ["a", "a/b", "b"] {
            primitives.counter(name).add_once(token, 1, DAY).await.unwrap();
        }
        assert_eq!(primitives.counter(name).get().await.unwrap(), 4, "{name}");
    }
}
