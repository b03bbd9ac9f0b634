//! R5 Namespaces.

use coord_api::prelude::*;
use coord_api::store::{Op, Txn};
use coord_api::{ErrorKind, Revision, ServiceInstance, Value, WatchStart};

use super::{Held, contents, held_by_anyone};
use crate::fixture::Fixture;
use crate::view::ConfigView;

pub(super) async fn two_namespaces_share_nothing(cx: Fixture) {
    let (one, two, bare) =
        (cx.namespaced("team-a").await, cx.namespaced("team-b").await, cx.provider().await);
    let all = [&one, &two, &bare];
    for (n, provider) in all.iter().enumerate() {
        provider.config().set_raw("k", Value::from(n.to_string())).await.unwrap();
        provider.config().set_raw(&format!("own/{n}"), Value::from("v")).await.unwrap();
    }
    for (n, provider) in all.iter().enumerate() {
        assert_eq!(provider.config().get_raw("k").await.unwrap().unwrap().value, Value::from(n.to_string()));
        let own: Vec<String> =
            provider.config().list_raw("").await.unwrap().into_iter().map(|entry| entry.key).collect();
        assert_eq!(own, ["k".to_owned(), format!("own/{n}")]);
    }
    // The same lock, the same registration, the same id: each has its own.
    let mut held = Vec::new();
    for provider in all {
        assert_eq!(held_by_anyone(provider, cx.ttl()).await, [false; 3]);
        held.push(Held::new(provider, cx.ttl()).await);
    }
    assert!(held.iter().all(Held::any_held));
    assert!(one.config().delete("k").await.unwrap());
    assert!(two.config().get_raw("k").await.unwrap().is_some());
    one.close().await.unwrap();
    for (n, provider) in [two, bare].iter().enumerate() {
        assert!(held[n + 1].guard.is_held());
        assert_eq!(held_by_anyone(provider, cx.ttl()).await, [true; 3]);
    }
}

pub(super) async fn a_namespace_is_a_directory(cx: Fixture) {
    let (short, long, nested) =
        (cx.namespaced("team").await, cx.namespaced("teams").await, cx.namespaced("team/a").await);
    for provider in [&short, &long, &nested] {
        provider.config().set_raw("k", Value::from("v")).await.unwrap();
        let _kept =
            provider.registry().register(ServiceInstance::new("s", "i", "localhost", 80)).await.unwrap();
        assert_eq!(provider.config().list_raw("").await.unwrap().items.len(), 1);
        assert_eq!(provider.registry().discover("s").await.unwrap().items.len(), 1);
    }
    assert!(long.config().delete("k").await.unwrap());
    assert!(nested.config().delete("k").await.unwrap());
    assert!(short.config().get_raw("k").await.unwrap().is_some());
}

pub(super) async fn keys_come_back_relative(cx: Fixture) {
    let provider = cx.namespaced("team/a").await;
    for key in ["d/k", "d/l", "team/a/k"] {
        provider.config().set_raw(key, Value::from("v")).await.unwrap();
    }
    let keys: Vec<String> =
        provider.config().list_raw("").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["d/k", "d/l", "team/a/k"]);
    let guard = provider.lock().acquire("d/k", cx.ttl()).await.unwrap();
    assert_eq!(guard.key(), "d/k");
    let held = provider.registry().register(ServiceInstance::new("s", "i", "localhost", 80)).await.unwrap();
    let found = provider.registry().discover("s").await.unwrap().items;
    assert_eq!((found[0].name.as_str(), found[0].id.as_str(), held.id()), ("s", "i", "i"));
}

pub(super) async fn a_prefix_is_a_directory_and_sees_no_neighbour(cx: Fixture) {
    for provider in [cx.provider().await, cx.namespaced("team").await] {
        let config = provider.config();
        let mut watch = config.watch_prefix_raw("a", WatchStart::Now).await.unwrap();
        let mut last = Revision::ZERO;
        for key in ["a", "ab", "ab/c", "a-b", "a0", "b/a/c", "a/b", "A/b"] {
            let version = config.set_raw(key, Value::from("v")).await.unwrap();
            last = if key == "a/b" { version } else { last };
        }
        let keys: Vec<String> =
            config.list_raw("a").await.unwrap().into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["a/b"]);
        let mut view = ConfigView::after(Revision::ZERO);
        view.follow(&mut watch, last, cx.soon()).await;
        assert!(view.state().keys().eq(["a/b"]), "{:?}", view.state());
        assert_eq!(provider.registry().discover("a").await.unwrap().items, []);
    }
}

pub(super) async fn nothing_is_written_outside_a_namespace(cx: Fixture) {
    let store = cx.store().await;
    let provider = cx.namespaced("team").await;
    provider.config().set_raw("k", Value::from("v")).await.unwrap();
    let _held = Held::new(&provider, cx.ttl()).await;
    let keys: Vec<_> = contents(&*store).await.into_iter().map(|entry| entry.key).collect();
    assert!(keys.len() >= 4 && keys.iter().all(|key| key.starts_with(b"/team/")), "{keys:?}");
    provider.close().await.unwrap();
    assert_eq!(contents(&*store).await.len(), 1, "only the configuration stays");
}

pub(super) async fn a_watch_stays_in_its_namespace(cx: Fixture) {
    let (inside, outside, beside) =
        (cx.namespaced("team").await, cx.provider().await, cx.namespaced("teams").await);
    let mut all = inside.config().watch_prefix_raw("", WatchStart::Snapshot).await.unwrap();
    let mut one = inside.config().watch_raw("d/k", WatchStart::Now).await.unwrap();
    let mut log = Vec::new();
    for n in 0..5 {
        for provider in [&outside, &beside] {
            provider.config().set_raw("d/k", Value::from("elsewhere")).await.unwrap();
        }
        let value = Value::from(n.to_string());
        let version = inside.config().set_raw("d/k", value.clone()).await.unwrap();
        log.push(("d/k".to_owned(), version, Some(value)));
    }
    for watch in [&mut all, &mut one] {
        let mut view = ConfigView::after(Revision::ZERO);
        view.follow(watch, log[4].1, cx.soon()).await;
        view.check(&log);
    }
}

pub(super) async fn no_key_leads_out_of_a_namespace(cx: Fixture) {
    let (inside, store) = (cx.namespaced("team/a").await, cx.store().await);
    let outside = ["/k", "/config/k", "/team/k", "/team/config/k", "/team/b/config/k", "/team/a/k"];
    store.txn(outside.iter().fold(Txn::new(), |txn, key| txn.then(Op::put(*key, "theirs")))).await.unwrap();
    let before = contents(&*store).await;
    let config = inside.config();
    for key in ["../k", "../../k", "../../../k", "../../b/config/k", "d/../../k", "./../k", "..", "/../k"] {
        assert_eq!(config.get_raw(key).await.unwrap_err().kind(), ErrorKind::InvalidArgument, "{key}");
        assert_eq!(
            config.set_raw(key, Value::from("ours")).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{key}"
        );
        assert_eq!(config.delete(key).await.unwrap_err().kind(), ErrorKind::InvalidArgument, "{key}");
        assert_eq!(config.list_raw(key).await.unwrap_err().kind(), ErrorKind::InvalidArgument, "{key}");
    }
    // What only looks like a way out is a key of its own.
    for key in ["%2e%2e/k", "..k", "k..", "...", "a/...", "\\..\\k"] {
        assert_eq!(config.get_raw(key).await.unwrap(), None, "{key}");
    }
    assert_eq!(config.list_raw("").await.unwrap().items, [], "nor is a neighbour's seen");
    assert_eq!(contents(&*store).await, before);
}
