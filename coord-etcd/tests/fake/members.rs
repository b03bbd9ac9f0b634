//! Which member is asked: one that failed is left alone until it has passed a trial, and then gone
//! back to.

use std::time::Duration;

use coord_api::store::{Range, Store};
use coord_etcd::EtcdStore;
use coord_testkit::wait::eventually;
use tokio::time::{Instant, sleep};

use crate::server::{ATTEMPT, Answer, Fake};
use crate::{SOON, options};

/// Longer than the pauses before the first two trials, and those trials.
const TWO_TRIALS: Duration = Duration::from_millis(3_600);

async fn read(store: &EtcdStore) {
    store.range(Range::key("k")).await.unwrap();
}

/// Makes a member receive all reads and answer none.
fn silence(fake: &Fake) {
    fake.script(|script| script.ranges.extend(vec![Answer::Swallow; 1_000]));
}

fn heal(fake: &Fake) {
    fake.script(|script| script.ranges.clear());
}

/// A client, the member that it asks first, and the others.
async fn client<const N: usize>(fakes: &[Fake; N]) -> (EtcdStore, &Fake, Vec<&Fake>) {
    client_with(fakes, ATTEMPT).await
}

async fn client_with<const N: usize>(fakes: &[Fake; N], attempt: Duration) -> (EtcdStore, &Fake, Vec<&Fake>) {
    let mut options = options(fakes);
    options.retry.attempt_timeout = Some(attempt);
    let store = EtcdStore::connect_lazy(&options).unwrap();
    read(&store).await;
    let (mut first, others): (Vec<_>, Vec<_>) = fakes.iter().partition(|fake| fake.asked("range") == 1);
    (store, first.pop().unwrap(), others)
}

#[tokio::test]
async fn a_member_that_answers_again_is_gone_back_to() {
    let fakes = [Fake::start(10).await, Fake::start(10).await, Fake::start(10).await];
    let (store, home, others) = client(&fakes).await;
    silence(home);
    read(&store).await;
    assert_eq!(home.asked("range"), 2, "it was asked, and said nothing");
    assert_eq!(others.iter().map(|other| other.asked("range")).sum::<usize>(), 1, "another one answered");

    heal(home);
    eventually(SOON, "it has passed a trial", async || (home.asked("range") == 3).then_some(())).await;
    eventually(SOON, "it is asked again", async || {
        let before = home.asked("range");
        read(&store).await;
        (home.asked("range") > before).then_some(())
    })
    .await;
    let elsewhere = others.iter().map(|other| other.asked("range")).sum::<usize>();
    for _ in 0..10 {
        read(&store).await;
    }
    assert_eq!(
        others.iter().map(|other| other.asked("range")).sum::<usize>(),
        elsewhere,
        "and nobody else is"
    );
}

#[tokio::test]
async fn a_call_that_fails_late_does_not_speak_against_a_member_that_has_recovered() {
    let fakes = [Fake::start(10).await, Fake::start(10).await];
    // Of two calls that are swallowed at once, one is given up long before the other, and the
    // member has recovered in between.
    let (store, home, others) = client_with(&fakes, ATTEMPT * 8).await;
    home.script(|script| script.ranges.extend([Answer::Swallow, Answer::Swallow]));
    let late = tokio::spawn({
        let store = store.clone();
        async move { read(&store).await }
    });
    eventually(SOON, "it is swallowed", async || (home.asked("range") == 2).then_some(())).await;
    tokio::time::timeout(ATTEMPT, read(&store)).await.expect_err("it is swallowed, and its caller gives up");
    eventually(SOON, "it has passed a trial", async || (home.asked("range") == 4).then_some(())).await;
    assert!(!late.is_finished());
    late.await.unwrap();
    let elsewhere = others[0].asked("range");
    for _ in 0..10 {
        read(&store).await;
    }
    assert_eq!(others[0].asked("range"), elsewhere, "it is still the one that is asked");
}

#[tokio::test]
async fn a_silent_member_is_tried_by_one_request_at_a_time_and_no_call_waits_for_it() {
    let fakes = [Fake::start(10).await, Fake::start(10).await];
    let (store, home, _) = client(&fakes).await;
    silence(home);
    read(&store).await;
    let asked = home.asked("range");
    let start = Instant::now();
    while start.elapsed() < TWO_TRIALS {
        read(&store).await;
        sleep(Duration::from_millis(5)).await;
    }
    // Hundreds of calls were made meanwhile, and had one of them come to it, it would count as
    // well.
    let trials = home.asked("range") - asked;
    assert!((1..=4).contains(&trials), "asked {trials} times in {TWO_TRIALS:?}");
}

#[tokio::test]
async fn while_another_one_is_left_a_member_that_failed_is_not_asked() {
    // So long that nothing else takes as long.
    const LONG: Duration = Duration::from_secs(2);
    let fakes = [Fake::start(10).await, Fake::start(10).await, Fake::start(10).await];
    let (store, home, others) = client_with(&fakes, LONG).await;
    silence(home);
    read(&store).await;
    let (second, third) =
        if others[0].asked("range") == 1 { (others[0], others[1]) } else { (others[1], others[0]) };
    silence(second);
    let call = Instant::now();
    read(&store).await;
    assert!(call.elapsed() < LONG * 2, "one attempt was in vain, not two: {:?}", call.elapsed());
    assert_eq!(third.asked("range"), 1);
}

#[tokio::test]
async fn where_all_have_failed_they_are_asked_all_the_same() {
    let fakes = [Fake::start(10).await, Fake::start(10).await, Fake::start(10).await];
    let (store, ..) = client(&fakes).await;
    fakes.iter().for_each(silence);
    store.range(Range::key("k")).await.unwrap_err();
    fakes.iter().for_each(heal);
    read(&store).await;
}

#[tokio::test]
async fn nobody_tries_a_member_for_a_client_that_is_closed_or_gone() {
    for closes in [true, false] {
        let fakes = [Fake::start(10).await, Fake::start(10).await];
        let (store, home, _) = client(&fakes).await;
        silence(home);
        read(&store).await;
        let asked = home.asked("range");
        if closes {
            store.close().await.unwrap();
        }
        let kept = closes.then_some(store);
        sleep(TWO_TRIALS).await;
        assert_eq!(home.asked("range"), asked);
        drop(kept);
    }
}
