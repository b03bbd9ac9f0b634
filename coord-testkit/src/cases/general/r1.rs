//! R1 Kinds.

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Txn};
use coord_api::{ErrorKind, IdOptions, Outcome, Value, Version};

use super::all_calls;
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::eventually;
use crate::wrap::Fault;

pub(super) async fn the_same_precondition_has_the_same_kind(cx: Fixture) {
    let client = cx.client().await;
    let other = cx.provider().await;
    let (config, ttl) = (client.provider.config(), cx.ttl());
    config.set_raw("k", Value::from("no json")).await.unwrap();
    let kind = |error: coord_api::Error| error.kind();

    assert_eq!(kind(config.set_raw("..", Value::from("v")).await.unwrap_err()), ErrorKind::InvalidArgument);
    assert_eq!(kind(config.get::<u32>("k").await.unwrap_err()), ErrorKind::Codec);
    assert_eq!(
        kind(config.compare_and_set_raw("k", Value::from("v"), Version::ZERO).await.unwrap_err()),
        ErrorKind::Conflict
    );
    assert_eq!(
        kind(config.compare_and_delete("absent", Version::new(7)).await.unwrap_err()),
        ErrorKind::Conflict
    );

    let guard = client.provider.lock().acquire("l", ttl).await.unwrap();
    assert_eq!(kind(other.lock().try_acquire("l", ttl).await.unwrap_err()), ErrorKind::Conflict);
    assert_eq!(kind(other.lock().acquire_timeout("l", ttl, ttl / 10).await.unwrap_err()), ErrorKind::Timeout);
    // Under the same TTL, for it says how soon a removal is noticed (R32).
    let options = IdOptions::default().with_range(1..=1).with_ttl(ttl);
    let id = client.provider.allocator().acquire_id_with("s", options).await.unwrap();
    assert_eq!(kind(other.allocator().acquire_id("s", 1).await.unwrap_err()), ErrorKind::Exhausted);
    assert_eq!(
        kind(other.allocator().acquire_id_timeout("s", 1, ttl / 10).await.unwrap_err()),
        ErrorKind::Timeout
    );
    assert_eq!(kind(other.allocator().acquire_id("s", 0).await.unwrap_err()), ErrorKind::InvalidArgument);

    let queue = client.store.range(Range::prefix(layout::lock_queue("l"))).await.unwrap().entries;
    let foreign = Txn::new().then(Op::delete(queue[0].key.clone())).then(Op::delete(layout::id("s", 1)));
    client.store.txn(foreign).await.unwrap();
    eventually(ttl * 2, "both are lost", async || (!guard.is_held() && !id.is_held()).then_some(())).await;
    assert_eq!(kind(guard.unlock().await.unwrap_err()), ErrorKind::LeaseLost);
    assert_eq!(kind(id.release().await.unwrap_err()), ErrorKind::LeaseLost);

    client.provider.close().await.unwrap();
    assert_eq!(kind(config.get_raw("k").await.unwrap_err()), ErrorKind::Closed);
}

pub(super) async fn what_the_store_refuses_keeps_its_kind(cx: Fixture) {
    for (name, call) in all_calls() {
        let (client, faults) = cx.faulty().await;
        faults.next(Fault::Deny, |_| true);
        let error = call(&client.provider, "name").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::PermissionDenied, Outcome::NotApplied),
            "{name}: {error:?}"
        );
        // It is not taken for good: the next call asks anew.
        call(&client.provider, "name")
            .await
            .unwrap_or_else(|error| assert_eq!(error.kind(), ErrorKind::Conflict, "{name}: {error:?}"));
        client.provider.close().await.unwrap();
    }
}

pub(super) async fn out_of_reach_is_transient(cx: Fixture) {
    for (name, call) in all_calls() {
        let (client, faults) = cx.faulty().await;
        faults.cut();
        // A waiting acquire may go on trying; what it may not do is blame anything else.
        if let Ok(result) = tokio::time::timeout(cx.soon() * 3, call(&client.provider, "name")).await {
            let error = result.unwrap_err();
            assert!(error.is_transient(), "{name}: {error:?}");
        }
        faults.heal();
    }
}

pub(super) async fn a_failed_read_is_never_in_doubt(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let provider = &client.provider;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        for (name, call) in
            all_calls().filter(|(name, _)| ["config.get", "config.list", "registry.discover"].contains(name))
        {
            // More often than anyone repeats.
            for _ in 0..100 {
                faults.next(fault, |_| true);
            }
            let read = tokio::time::timeout(cx.soon() * 3, call(provider, "name")).await;
            if let Ok(Err(error)) = read {
                assert!(error.is_transient(), "{name}: {error:?}");
                assert_eq!(error.outcome(), Outcome::NotApplied, "{name}: {error:?}");
            }
            faults.forget();
        }
    }
}

pub(super) async fn an_error_names_its_operation_and_shows_no_value(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    let secret = "hunter2-is-the-password";
    let version = config.set("k", secret).await.unwrap();
    let large = Value::from(secret.repeat(100_000));
    let errors = [
        config.get::<u32>("k").await.unwrap_err(),
        config.list_raw("//").await.unwrap_err(),
        config.compare_and_set("k", secret, Version::ZERO).await.unwrap_err(),
        config.compare_and_delete("k", version.next()).await.unwrap_err(),
        config.set_raw("k", large.clone()).await.unwrap_err(),
        config.set("a//b", secret).await.unwrap_err(),
    ];
    for error in &errors {
        assert!(!error.operation().is_empty(), "{error:?}");
        assert!(error.to_string().starts_with(error.operation()), "{error}");
        let shown = format!("{error} {error:?} {error:#?} {}", error.message());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert_eq!(errors[3].operation(), "config.compare_and_delete");
    let found = config.get_raw("k").await.unwrap().unwrap();
    assert!(!format!("{found:?} {large:?} {provider:?}").contains("hunter2"), "configuration holds secrets");
}
