//! R69 Shares.

use std::sync::Arc;
use std::time::Duration;

use coord_service::ratelimit::{ClusterStanding, DenialReason, LimitRule, SETTLING_TIME};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use tokio::time::{Instant, sleep};

use super::{Member, allowed, builder, burst, denied, divided_by, set, shared, stands};

pub(super) async fn rate_and_burst_are_divided_by_the_live_instances(cx: Fixture) {
    let provider = cx.provider().await;
    let mut members = Vec::new();
    for id in ["a", "b", "c", "d"] {
        members.push(Member::new(&cx, &cx.provider().await, id).await);
    }
    // One that still waits for its share would begin with an empty bucket.
    for member in &members {
        divided_by(&cx, &member.limiter, 4).await;
        within(cx.soon(), "it has its share", member.limiter.settled()).await.unwrap();
    }
    for member in &members {
        set(&cx, &provider, &[&member.limiter], "login", shared(burst(40))).await;
        assert_eq!(allowed(&member.limiter, "login", "k"), 10);
        assert_eq!(member.limiter.status().cluster.live, Some(4));
    }
    let gone = members.pop().unwrap();
    gone.registration.unregister().await.unwrap();
    for member in &members {
        divided_by(&cx, &member.limiter, 3).await;
        assert_eq!(allowed(&member.limiter, "login", "another"), 13);
    }
    stands(&cx, &gone.limiter, ClusterStanding::NotRegistered).await;
    assert_eq!(denied(&gone.limiter, "login"), Some(DenialReason::NotRegistered));
}

pub(super) async fn a_newcomer_admits_nothing_for_a_second(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let old = Member::settled(&cx, &provider, "old").await;
    let limit = shared(LimitRule::per_second(100));
    set(&cx, &provider, &[&old.limiter], "login", limit).await;
    assert!(allowed(&old.limiter, "login", "k") >= 100);
    let begun = Instant::now();
    let new = Member::new(&cx, &other, "new").await;
    divided_by(&cx, &old.limiter, 2).await;
    while begun.elapsed() < SETTLING_TIME {
        let reason = denied(&new.limiter, "login");
        // The decision may be later than the time that was looked at before it.
        assert!(reason == Some(DenialReason::Settling) || begun.elapsed() >= SETTLING_TIME, "{reason:?}");
        sleep(Duration::from_millis(10)).await;
    }
    within(cx.soon(), "it has its share", new.limiter.settled()).await.unwrap();
    // It fills since it knows the rule and its place, which may be a little after the moment from
    // which its second counts; and what comes back while it is counted counts too.
    let counting = Instant::now();
    let count = allowed(&new.limiter, "login", "k");
    let most = 51 + (counting.elapsed().as_secs_f64() * 50.0).ceil() as usize;
    assert!((25..=most).contains(&count), "{count} of its share of 50, {most} at most");
}

pub(super) async fn who_is_not_registered_admits_nothing(cx: Fixture) {
    let provider = cx.provider().await;
    let _member = Member::new(&cx, &provider, "a").await;
    let stranger = builder(&provider).cluster(Arc::clone(provider.registry()), "stranger").build().unwrap();
    stranger.start().await;
    stands(&cx, &stranger, ClusterStanding::NotRegistered).await;
    set(&cx, &provider, &[&stranger], "login", shared(burst(100))).await;
    set(&cx, &provider, &[&stranger], "own", burst(100)).await;
    assert_eq!(denied(&stranger, "login"), Some(DenialReason::NotRegistered));
    assert_eq!(allowed(&stranger, "own", "k"), 100, "a limit that it shares with nobody");
}

pub(super) async fn joins_and_leaves_admit_no_more_than_rate_and_burst_in_any_second(cx: Fixture) {
    const CHANGES: usize = 12;
    for (rate, burst) in [(300, 300), (300, 30)] {
        let writer = cx.provider().await;
        let limit = shared(LimitRule::per_second(rate).with_burst(burst));
        let rule = format!("of {burst}");
        let mut members: Vec<Member> = Vec::new();
        let mut leaving: Vec<Member> = Vec::new();
        let mut admitted: Vec<Instant> = Vec::new();
        for change in 0..CHANGES {
            if change % 3 == 2 {
                let gone = members.remove(0);
                gone.registration.unregister().await.unwrap();
                leaving.push(gone);
            } else {
                let member = Member::new(&cx, &cx.provider().await, &format!("{burst}-{change:02}")).await;
                set(&cx, &writer, &[&member.limiter], &rule, limit).await;
                members.push(member);
            }
            let until = Instant::now() + Duration::from_millis(700);
            while Instant::now() < until {
                for Member { limiter, .. } in members.iter().chain(&leaving) {
                    let count = allowed(limiter, &rule, "k");
                    admitted.extend((0..count).map(|_| Instant::now()));
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
        let mut worst = 0;
        let mut begin = 0;
        for (end, at) in admitted.iter().enumerate() {
            while at.duration_since(admitted[begin]) > Duration::from_secs(1) {
                begin += 1;
            }
            worst = worst.max(end + 1 - begin);
        }
        let permitted = (rate + burst) as usize;
        assert!(worst * 100 <= permitted * 105, "{worst} of {permitted}");
        assert!(worst > rate as usize / 2, "{worst} of {permitted}");
        for Member { registration, .. } in members {
            registration.unregister().await.unwrap();
        }
    }
}

pub(super) async fn a_crash_gives_its_share_back(cx: Fixture) {
    let (provider, crashing) = (cx.provider().await, cx.client().await);
    let member = Member::settled(&cx, &provider, "a").await;
    let other = Member::settled(&cx, &crashing.provider, "b").await;
    set(&cx, &provider, &[&member.limiter], "login", shared(burst(10))).await;
    divided_by(&cx, &member.limiter, 2).await;
    assert_eq!(allowed(&member.limiter, "login", "before"), 5);
    crashing.crash().await;
    let begun = Instant::now();
    within(cx.gone_by(cx.ttl()) + 3 * SETTLING_TIME, "its share is given back", async {
        while member.limiter.status().cluster.divided_by == 2 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(begun.elapsed() > SETTLING_TIME);
    assert_eq!(allowed(&member.limiter, "login", "after"), 10);
    drop(other);
}

pub(super) async fn who_is_cut_off_keeps_its_share_and_a_strict_one_to_its_local_deadline(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let provider = cx.provider().await;
    let _other = Member::new(&cx, &provider, "b").await;
    let Member { limiter, registration } = Member::settled(&cx, &client.provider, "a").await;
    divided_by(&cx, &limiter, 2).await;
    for (rule, limit) in
        [("login", shared(burst(8_000))), ("strict", shared(LimitRule::per_second(8_000)).with_strict(true))]
    {
        set(&cx, &provider, &[&limiter], rule, limit).await;
        assert!(limiter.allow_n(rule, "k", 1_000).is_allowed());
    }
    faults.cut();
    let _joins = Member::new(&cx, &provider, "c").await;
    let deadline = Instant::now() + cx.gone_by(cx.ttl());
    while registration.state().is_held() {
        assert!(Instant::now() < deadline, "it is lost in time");
        let is_allowed = limiter.allow("strict", "k").is_allowed();
        assert!(is_allowed || !registration.state().is_held(), "to its local deadline");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(denied(&limiter, "strict"), Some(DenialReason::CutOff));
    assert!(limiter.allow_n("login", "k", 3_000).is_allowed(), "half of it, as before the other one came");
    let cluster = limiter.status().cluster;
    assert_eq!((cluster.divided_by, cluster.is_connected), (2, false));
    faults.heal();
    divided_by(&cx, &limiter, 3).await;
    // It registers anew, and waits for a second then.
    eventually(cx.soon() + cx.gone_by(cx.ttl()), "a strict one admits again", async || {
        limiter.allow("strict", "another").is_allowed().then_some(())
    })
    .await;
    stands(&cx, &limiter, ClusterStanding::Member).await;
}

pub(super) async fn a_change_of_instances_is_no_write(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let member = Member::settled(&cx, &client.provider, "a").await;
    set(&cx, &client.provider, &[&member.limiter], "login", shared(burst(10))).await;
    let before = counter.counts();
    let mut others = Vec::new();
    for id in ["b", "c", "d"] {
        others.push(Member::new(&cx, &cx.provider().await, id).await);
    }
    divided_by(&cx, &member.limiter, 4).await;
    drop(others);
    divided_by(&cx, &member.limiter, 1).await;
    let counts = counter.counts().since(&before);
    assert_eq!(counts.txn, 0, "{counts:?}");
}
