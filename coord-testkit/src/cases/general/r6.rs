//! R6 Sizes.

use coord_api::key::MAX_VALUE_BYTES;
use coord_api::prelude::*;
use coord_api::store::Range;
use coord_api::{ErrorKind, Outcome, Revision, ServiceInstance, Value, Version, WatchStart};

use super::contents;
use crate::fixture::Fixture;
use crate::view::ConfigView;
use crate::{bad, layout};

pub(super) async fn a_value_over_1_mib_is_an_invalid_argument_before_any_io(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let store = cx.store().await;
    let config = client.provider.config();
    let version = config.set_raw("k", Value::from("before")).await.unwrap();
    let before = contents(&*store).await;
    let large = Value::from(bad::value());
    let text = "x".repeat(MAX_VALUE_BYTES - 1);
    let instance = ServiceInstance::new("s", "i", "localhost", 80).with_metadata("large", text.clone());
    let (errors, counts) = counter
        .during(async {
            [
                config.set_raw("k", large.clone()).await.unwrap_err(),
                config.set_raw("new", large.clone()).await.unwrap_err(),
                config.compare_and_set_raw("k", large.clone(), version).await.unwrap_err(),
                config.compare_and_set_raw("new", large.clone(), Version::ZERO).await.unwrap_err(),
                // One byte too many once its quotes are written.
                config.set("k", &text).await.unwrap_err(),
                client.provider.registry().register(instance).await.unwrap_err(),
            ]
        })
        .await;
    for error in errors {
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{error:?}"
        );
    }
    assert_eq!(counts.all(), 0);
    assert_eq!(contents(&*store).await, before);
}

pub(super) async fn a_value_of_1_mib_is_kept(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let bytes: Vec<u8> = (0..MAX_VALUE_BYTES).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let version = one.config().set_raw("k", bytes.clone().into()).await.unwrap();
    assert!(two.config().get_raw("k").await.unwrap().unwrap().value.as_bytes() == bytes);
    two.config().compare_and_set_raw("k", bytes.clone().into(), version).await.unwrap();
    one.config().set("text", &"x".repeat(MAX_VALUE_BYTES - 2)).await.unwrap();
    let listed = two.config().list_raw("").await.unwrap();
    assert!(listed.items[0].value.as_bytes() == bytes);
    assert_eq!(listed.items[1].value.len(), MAX_VALUE_BYTES);
}

pub(super) async fn the_empty_value_is_a_value(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let version = one.config().set_raw("k", Value::new()).await.unwrap();
    let found = two.config().get_raw("k").await.unwrap().expect("the empty value is not absence");
    assert_eq!((found.value, found.version), (Value::new(), version));
    let next = two.config().compare_and_set_raw("k", Value::new(), version).await.unwrap();
    assert!(next > version);
    assert_eq!(
        one.config().compare_and_set_raw("k", Value::new(), Version::ZERO).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert!(one.config().delete("k").await.unwrap(), "it existed");
    assert_eq!(two.config().get_raw("k").await.unwrap(), None);
}

/// Values that something other than a store of bytes would change.
fn values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = [
        b"\xff\xfe\x80".as_slice(),
        b"",
        b" a ",
        b"a\n",
        b"a\r\n\t ",
        b"\0",
        b"a\0b",
        b"a\0",
        b"{ \"a\" : 1.0 }",
        b"1.00",
        b"\"\\u0041\"",
        b"null",
        b"%00%2F",
        "e\u{301}\u{feff}".as_bytes(),
    ]
    .map(<[u8]>::to_vec)
    .into();
    values.push((0..=u8::MAX).collect());
    values
}

pub(super) async fn a_value_is_bytes_and_comes_back_as_it_was(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    for (n, bytes) in values().into_iter().enumerate() {
        let key = format!("k{n}");
        let version = one.config().set_raw(&key, bytes.clone().into()).await.unwrap();
        assert_eq!(two.config().get_raw(&key).await.unwrap().unwrap().value.as_bytes(), bytes);
        one.config().compare_and_set_raw(&key, Value::from("between"), version).await.unwrap();
        let between = two.config().get_raw(&key).await.unwrap().unwrap();
        two.config().compare_and_set_raw(&key, bytes.clone().into(), between.version).await.unwrap();
        assert_eq!(one.config().get_raw(&key).await.unwrap().unwrap().value.as_bytes(), bytes);
        // In the store, too: other programs read it there.
        let there = cx.store().await.range(Range::key(layout::config(&key))).await.unwrap().entries;
        assert_eq!(there[0].value.as_bytes(), bytes);
    }
}

pub(super) async fn what_is_told_and_listed_is_what_was_written(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let mut watch = two.config().watch_prefix_raw("d", WatchStart::Now).await.unwrap();
    let (mut view, mut last) = (ConfigView::after(Revision::ZERO), Revision::ZERO);
    for (n, bytes) in values().into_iter().enumerate() {
        last = one.config().set_raw(&format!("d/{n:02}"), bytes.into()).await.unwrap();
    }
    view.follow(&mut watch, last, cx.soon()).await;
    let listed = two.config().list_raw("d").await.unwrap().items;
    let listed: Vec<&[u8]> = listed.iter().map(|entry| entry.value.as_bytes()).collect();
    assert_eq!(listed, values());
    let told: Vec<&[u8]> = view.state().values().map(|(value, _)| value.as_bytes()).collect();
    assert_eq!(told, values());
}
