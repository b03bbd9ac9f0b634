//! What holds for the fence of every handle, whatever it stands for (R55). A rule's list of cases
//! says of which kind: `the_fence_of_a_lock_breaks_with_its_entry =>
//! fenced::breaks_with_its_entry::<Locks>`.

use std::slice::from_ref;
use std::sync::Arc;

use coord_api::handle::Leased as _;
use coord_api::prelude::*;
use coord_api::{ErrorKind, Fence, Outcome, Provider, Result, Value, Version, Wait, WriteOptions};

use super::leased::{delete, entries};
use crate::fixture::Fixture;
use crate::handle::Kind;
use crate::layout;
use crate::wait::within;
use crate::wrap::Fault;

/// The key that is written.
pub(super) const KEY: &str = "fenced";

/// The place that is had.
const PLACE: &str = "k";

/// Writes the key under these fences.
pub(super) async fn write(provider: &Arc<dyn Provider>, fences: &[Fence]) -> Result<Version> {
    let with = |options: WriteOptions, fence: &Fence| options.with_fence(fence.clone());
    let options = fences.iter().fold(WriteOptions::default(), with);
    provider.config().write_with(KEY, Value::from("v"), options).await
}

/// Asserts that a write is refused because of its fences, and changes nothing.
pub(super) async fn is_refused(cx: &Fixture, provider: &Arc<dyn Provider>, fences: &[Fence], when: &str) {
    let before = cx.provider().await.config().get_raw(KEY).await.unwrap();
    let error = write(provider, fences).await.expect_err(when);
    let told = (error.kind(), error.outcome());
    assert_eq!(told, (ErrorKind::LeaseLost, Outcome::NotApplied), "{when}: {error}");
    assert_eq!(
        cx.provider().await.config().get_raw(KEY).await.unwrap(),
        before,
        "{when}: nothing is changed"
    );
}

async fn take<K: Kind>(cx: &Fixture, source: &K::Source) -> K::Handle {
    let taken = K::acquire(source.clone(), PLACE, cx.ttl(), Wait::Forever);
    within(cx.gone_by(cx.ttl()) + cx.soon(), "the place is had", taken).await.unwrap()
}

/// Deletes the place's entries, as someone else would.
async fn remove<K: Kind>(cx: &Fixture) {
    let store = cx.store().await;
    for entry in entries(&*store, K::entries(PLACE)).await {
        delete(&*store, entry.key).await;
    }
}

/// It ties writes of any client of the store for as long as the handle is held, and none after it
/// was released.
pub async fn holds_while_it_is_held<K: Kind>(cx: Fixture) {
    let (source, other) = (K::source(&cx.client().await), cx.provider().await);
    let own = Arc::clone(K::provider(&source));
    let handle = take::<K>(&cx, &source).await;
    let fence = handle.fence();
    let first = write(&own, from_ref(&fence)).await.unwrap();
    let second = write(&other, &[fence.clone(), handle.fence()]).await.unwrap();
    assert!(second > first);
    // Renewals change nothing of it.
    tokio::time::sleep(cx.ttl() * 2).await;
    assert!(write(&other, from_ref(&fence)).await.unwrap() > second);
    handle.release().await.unwrap();
    for provider in [&own, &other] {
        is_refused(&cx, provider, from_ref(&fence), "a fence from before the release").await;
        is_refused(&cx, provider, &[handle.fence()], "a fence of what was released").await;
    }
}

/// It fails at once when the handle's entry is gone, also where nobody has noticed that yet.
pub async fn breaks_with_its_entry<K: Kind>(cx: Fixture) {
    let (source, other) = (K::source(&cx.client().await), cx.provider().await);
    let own = Arc::clone(K::provider(&source));
    for provider in [&own, &other] {
        let handle = take::<K>(&cx, &source).await;
        let fence = handle.fence();
        write(provider, from_ref(&fence)).await.unwrap();
        remove::<K>(&cx).await;
        is_refused(&cx, provider, from_ref(&fence), "its entry was removed").await;
        is_refused(&cx, provider, &[fence], "its entry was removed a while ago").await;
        let _ = handle.release().await;
    }
}

/// Another grant of the same place holds no fence of this one, whoever has it.
pub async fn is_of_one_grant<K: Kind>(cx: Fixture) {
    let sources = [K::source(&cx.client().await), K::source(&cx.client().await)];
    for next in &sources {
        let [first, _] = &sources;
        let handle = take::<K>(&cx, first).await;
        let fence = handle.fence();
        remove::<K>(&cx).await;
        let successor = take::<K>(&cx, next).await;
        for provider in [K::provider(first), K::provider(next)] {
            is_refused(&cx, provider, from_ref(&fence), "another grant").await;
            is_refused(&cx, provider, &[successor.fence(), fence.clone()], "one of two").await;
            write(provider, &[successor.fence()]).await.unwrap();
        }
        successor.release().await.unwrap();
        let _ = handle.release().await;
    }
}

/// A broken fence is told before a conflict, and a conflict where it holds.
pub async fn comes_before_a_conflict<K: Kind>(cx: Fixture) {
    let (source, other) = (K::source(&cx.client().await), cx.provider().await);
    let handle = take::<K>(&cx, &source).await;
    let fence = handle.fence();
    let version = write(&other, from_ref(&fence)).await.unwrap();
    let at = |expected| WriteOptions::default().with_expected(expected).with_fence(fence.clone());
    let wrong = [Version::ZERO, Version::new(version.get() + 1)];
    for expected in wrong {
        let error = other.config().write_with(KEY, Value::from("w"), at(expected)).await.unwrap_err();
        assert_eq!((error.kind(), error.current_version()), (ErrorKind::Conflict, Some(version)));
    }
    remove::<K>(&cx).await;
    for expected in wrong {
        let error = other.config().write_with(KEY, Value::from("w"), at(expected)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseLost, "expected {expected}");
    }
    assert_eq!(other.config().get_raw(KEY).await.unwrap().unwrap().version, version);
}

/// A fenced write is as many requests as one without fences; one whose fence is known not to hold
/// is none.
pub async fn costs_no_request<K: Kind>(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let source = K::source(&client);
    let handle = take::<K>(&cx, &source).await;
    let provider = K::provider(&source);
    // Where the provider is not what the handle is of, it learns once which store it has.
    let (plain, fenced) =
        (provider.config().set_raw(KEY, Value::new()).await, write(provider, &[handle.fence()]).await);
    assert!(fenced.unwrap() > plain.unwrap());
    for fences in [vec![], vec![handle.fence()], vec![handle.fence(), handle.fence()]] {
        let (written, counts) = counter.during(write(provider, &fences)).await;
        written.unwrap();
        assert_eq!((counts.requests(), counts.txn), (1, 1), "{} fences: {counts:?}", fences.len());
    }
    let fence = handle.fence();
    handle.release().await.unwrap();
    let (refused, counts) = counter.during(write(provider, &[fence])).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(counts.requests(), 0, "{counts:?}");
}

/// What is still on its way when the handle loses its entry is not applied.
pub async fn breaks_what_is_on_its_way<K: Kind>(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let source = K::source(&client);
    let handle = take::<K>(&cx, &source).await;
    let provider = K::provider(&source);
    let fence = handle.fence();
    write(provider, from_ref(&fence)).await.unwrap();
    let before = provider.config().get_raw(KEY).await.unwrap();
    faults.next_put(Fault::Hold, layout::config(KEY));
    let error = write(provider, &[fence]).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    remove::<K>(&cx).await;
    for held in faults.take_held() {
        assert!(!held.apply().await.unwrap(), "it was written though nothing is held");
    }
    assert_eq!(provider.config().get_raw(KEY).await.unwrap(), before);
}
