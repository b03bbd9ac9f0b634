//! R68 Rules.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{Value, WatchState};
use coord_service::ratelimit::{LimitRule, Per};
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};

use super::{allowed, builder, burst, key, set};

pub(super) async fn a_decision_asks_nothing_of_the_store(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let limiter = builder(&client.provider).build().unwrap();
    limiter.start().await;
    set(&cx, &client.provider, &[&limiter], "login", burst(3)).await;
    let before = counter.counts();
    for user in 0..1_000 {
        assert_eq!(allowed(&limiter, "login", &user.to_string()), 3);
        assert!(limiter.allow("unknown", "k").is_allowed());
    }
    assert_eq!(counter.counts().since(&before).requests(), 0);
    limiter.stop().await;
}

pub(super) async fn a_rule_acts_within_a_second_of_its_commit(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let limiter = builder(&provider).build().unwrap();
    limiter.start().await;
    let within_a_second = Duration::from_secs(1) + cx.slack();
    for number in [3, 7, 2, 5] {
        writer.config().set(&key("login"), &burst(number)).await.unwrap();
        let user = format!("of {number}");
        // Looked at by what it says, not by requests, which would be counted.
        eventually(within_a_second, "the rule acts", async || {
            let rules = limiter.status().rules;
            rules.get("login").is_some_and(|rule| rule.limit == burst(number)).then_some(())
        })
        .await;
        assert_eq!(allowed(&limiter, "login", &user), number as usize);
    }
    writer.config().delete(&key("login")).await.unwrap();
    eventually(within_a_second, "it is gone", async || limiter.status().rules.is_empty().then_some(())).await;
    assert!(limiter.allow_n("login", "k", 1_000).is_allowed());
}

pub(super) async fn a_wrong_document_is_told_by_line_and_field_and_the_old_rule_stays(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let limiter = builder(&provider).build().unwrap();
    limiter.start().await;
    set(&cx, &writer, &[&limiter], "login", burst(3)).await;
    for (text, told) in [
        ("{\n  \"rate\": 1,\n  \"burst\": \"many\"\n}", "line 3, column 12: `burst`: invalid type"),
        ("{\n  \"rate\": 0\n}", "line 2, column 11: `rate`: 0 is not from 1 to 1,000,000"),
        ("{\n  \"rate\": 1,\n  \"bust\": 1\n}", "line 3, column 8: unknown field `bust`"),
        ("{\n  \"rate\": 1,\n", "line 3"),
    ] {
        let version = writer.config().set_raw(&key("login"), Value::from(text.to_owned())).await.unwrap();
        within(cx.soon() * 3, "it is refused", limiter.wait_until(version)).await.unwrap();
        let status = limiter.status();
        assert!(status.faults["login"].reason.contains(told), "{text}: {}", status.faults["login"]);
        assert_eq!(status.rules["login"].limit, burst(3));
        set(&cx, &writer, &[&limiter], "other", burst(1)).await;
    }
    assert_eq!(allowed(&limiter, "login", "k"), 3);
    set(&cx, &writer, &[&limiter], "login", burst(4)).await;
    assert!(limiter.status().faults.is_empty());
}

pub(super) async fn an_unknown_rule_is_the_default_or_admitted_and_counted(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let limiter = builder(&provider).build().unwrap();
    limiter.start().await;
    assert_eq!((allowed(&limiter, "unknown", "a"), limiter.status().unlimited), (10_000, 10_000));
    set(&cx, &writer, &[&limiter], "default", burst(2)).await;
    assert_eq!((allowed(&limiter, "unknown", "a"), allowed(&limiter, "other", "a")), (2, 0));
    set(&cx, &writer, &[&limiter], "other", burst(1)).await;
    assert_eq!((allowed(&limiter, "other", "a"), limiter.status().unlimited), (1, 10_000));
}

pub(super) async fn a_change_neither_refills_nor_empties(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let limiter = builder(&provider).build().unwrap();
    limiter.start().await;
    set(&cx, &writer, &[&limiter], "login", burst(10)).await;
    assert_eq!(allowed(&limiter, "login", "empty"), 10);
    assert!(limiter.allow_n("login", "half", 5).is_allowed());
    for to in [burst(10), burst(100), LimitRule::new(1, Per::Hour).with_burst(20), burst(100)] {
        set(&cx, &writer, &[&limiter], "login", to).await;
        assert_eq!(allowed(&limiter, "login", "empty"), 0, "{to}");
    }
    assert_eq!((allowed(&limiter, "login", "half"), allowed(&limiter, "login", "full")), (50, 100));
    // Another rate acts at once on what was taken at the old one.
    set(&cx, &writer, &[&limiter], "login", LimitRule::per_second(100)).await;
    let wait = limiter.allow("login", "empty").retry_after().unwrap_or_default();
    assert!(wait <= Duration::from_millis(10), "{wait:?}");
}

pub(super) async fn a_rule_that_comes_back_finds_its_buckets_as_they_were(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let limiter = builder(&provider).build().unwrap();
    limiter.start().await;
    set(&cx, &writer, &[&limiter], "login", burst(10)).await;
    assert_eq!(allowed(&limiter, "login", "k"), 10);
    writer.config().delete(&key("login")).await.unwrap();
    set(&cx, &writer, &[&limiter], "other", burst(1)).await;
    assert!(limiter.allow_n("login", "k", 1_000).is_allowed(), "it is gone");
    // Longer than it takes to look for buckets that are full.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    set(&cx, &writer, &[&limiter], "login", burst(10)).await;
    assert_eq!(allowed(&limiter, "login", "k"), 0);
}

pub(super) async fn an_outage_leaves_the_rules_as_they_are(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let writer = cx.provider().await;
    let limiter = builder(&client.provider).build().unwrap();
    limiter.start().await;
    set(&cx, &writer, &[&limiter], "login", burst(3)).await;
    assert_eq!(allowed(&limiter, "login", "a"), 3);
    faults.cut();
    eventually(cx.soon(), "it is noticed", async || {
        (limiter.status().watch != Some(WatchState::Live)).then_some(())
    })
    .await;
    writer.config().set(&key("login"), &burst(5)).await.unwrap();
    assert_eq!((allowed(&limiter, "login", "a"), allowed(&limiter, "login", "b")), (0, 3));
    faults.heal();
    eventually(cx.soon() * 3, "the rule that was missed acts", async || {
        (limiter.status().rules["login"].limit == burst(5)).then_some(())
    })
    .await;
    assert_eq!((allowed(&limiter, "login", "a"), allowed(&limiter, "login", "c")), (0, 5));
}
