//! R15 Typed values.

use std::collections::BTreeMap;
use std::fmt::Debug;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{conflict, value};
use crate::fixture::Fixture;
use crate::{bad, layout};

/// Sets a value through one client and gets it through another.
async fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug + Send + Sync>(
    cx: &Fixture,
    given: T,
) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let version = one.config().set("typed", &given).await.unwrap();
    let found = two.config().get_with_version::<T>("typed").await.unwrap().unwrap();
    assert_eq!((&found.value, found.version), (&given, version));
    assert_eq!(two.config().get::<T>("typed").await.unwrap(), Some(given));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rule {
    name: String,
    limit: Option<u32>,
    burst: f64,
    tags: Vec<String>,
    nested: BTreeMap<String, Kind>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    New(i64),
    Struct { key: char },
}

fn rule() -> Rule {
    let nested = [("u", Kind::Unit), ("n", Kind::New(i64::MIN)), ("s", Kind::Struct { key: '\u{1F980}' })];
    Rule {
        name: "per \"user\"\n\u{0}".to_owned(),
        limit: None,
        burst: 0.1 + 0.2,
        tags: vec![String::new(), "a/b".to_owned()],
        nested: nested.map(|(key, kind)| (key.to_owned(), kind)).into(),
    }
}

pub(super) async fn set_then_get_gives_an_equal_value(cx: Fixture) {
    round_trip(&cx, true).await;
    round_trip(&cx, [i64::MIN, -1, 0, i64::MAX]).await;
    round_trip(&cx, [u64::MIN, u64::MAX, 9_007_199_254_740_993]).await;
    round_trip(&cx, 'x').await;
    round_trip(&cx, ()).await;
    round_trip(&cx, Vec::<u8>::new()).await;
    round_trip(&cx, ("tuple".to_owned(), 1_u8, false)).await;
    round_trip(&cx, serde_json::json!({"b": [1, null, {"a": "x"}], "a": 1.5})).await;
}

pub(super) async fn strings_that_look_like_json_stay_strings(cx: Fixture) {
    for text in [
        "",
        "null",
        "true",
        "1",
        "1.0",
        "\"quoted\"",
        "{}",
        "[1,2]",
        "{\"a\":1}",
        "not json",
        " ",
        "\\",
        "\u{0}",
        "é日🦀",
        "\u{2028}",
    ] {
        round_trip(&cx, text.to_owned()).await;
    }
}

pub(super) async fn floats_are_exact(cx: Fixture) {
    let floats = [
        0.0,
        -0.0,
        0.1,
        0.1 + 0.2,
        1.0 / 3.0,
        f64::MIN,
        f64::MAX,
        f64::EPSILON,
        f64::MIN_POSITIVE,
        5e-324,
        1e23,
        9_007_199_254_740_993.0,
        123_456_789.123_456_79,
        2.225_073_858_507_201e-308,
    ];
    let (one, two) = (cx.provider().await, cx.provider().await);
    for float in floats {
        one.config().set("float", &float).await.unwrap();
        let found: f64 = two.config().get("float").await.unwrap().unwrap();
        assert_eq!(found.to_bits(), float.to_bits(), "{float:e}");
    }
}

pub(super) async fn structures_and_absent_parts_come_back(cx: Fixture) {
    round_trip(&cx, rule()).await;
    round_trip(&cx, vec![Some(rule()), None]).await;
    let provider = cx.provider().await;
    assert_eq!(provider.config().get::<Rule>("absent").await.unwrap(), None);
    provider.config().set("none", &None::<u32>).await.unwrap();
    assert_eq!(
        provider.config().get::<Option<u32>>("none").await.unwrap(),
        Some(None),
        "a value that says none is a value"
    );
}

pub(super) async fn underneath_is_json(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    config.set("rule", &rule()).await.unwrap();
    let bytes = config.get_raw("rule").await.unwrap().unwrap().value;
    assert_eq!(serde_json::from_slice::<Rule>(&bytes).unwrap(), rule(), "what another program reads");
    config
        .set_raw("rule", value(r#" { "name": "x", "limit": 3, "burst": 1, "tags": [], "nested": {} } "#))
        .await
        .unwrap();
    assert_eq!(
        config.get::<Rule>("rule").await.unwrap().unwrap().limit,
        Some(3),
        "what another program wrote"
    );
}

pub(super) async fn the_wrong_type_is_codec_and_the_data_is_untouched(cx: Fixture) {
    let client = cx.client().await;
    let config = client.provider.config();
    let wrong: [&[u8]; 7] =
        [b"\"secret text\"", b"{\"name\":\"secret\"}", b"{", b"", b"nan", b"1 2", bad::GARBAGE];
    for bytes in wrong {
        let version = config.set_raw("k", bytes.to_vec().into()).await.unwrap();
        for error in [
            config.get::<u32>("k").await.unwrap_err(),
            config.get_with_version::<Rule>("k").await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Codec, "{bytes:?}");
            assert!(!format!("{error} {error:?}").contains("secret"), "an error shows no value: {error:?}");
        }
        let found = config.get_raw("k").await.unwrap().unwrap();
        assert_eq!((found.value.as_bytes(), found.version), (bytes, version));
    }
    let stored = client.store.range(coord_api::store::Range::key(layout::config("k"))).await.unwrap();
    assert_eq!(stored.entries[0].value.as_bytes(), bad::GARBAGE);
}

/// Nested so deep.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Nest {
    End,
    In(Box<Nest>),
}

fn nested(depth: usize) -> Nest {
    (0..depth).fold(Nest::End, |inner, _| Nest::In(Box::new(inner)))
}

#[derive(Serialize)]
struct Twice {
    name: u8,
    #[serde(flatten)]
    rest: BTreeMap<&'static str, u8>,
}

pub(super) async fn what_json_cannot_say_is_codec_before_any_io(cx: Fixture) {
    /// Tries to write a value both ways, which must not reach the store.
    async fn refused<T: Serialize + Sync + Debug>(cx: &Fixture, value: T) {
        let (client, counter) = cx.counting().await;
        let config = client.provider.config();
        let (errors, counts) = counter
            .during(async {
                [
                    config.set("k", &value).await.unwrap_err(),
                    config.compare_and_set("k", &value, Version::ZERO).await.unwrap_err(),
                ]
            })
            .await;
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::Codec), "{value:?}: {errors:?}");
        assert_eq!(counts.all(), 0);
        assert_eq!(config.get_raw("k").await.unwrap(), None);
    }
    refused(&cx, BTreeMap::from([((1, 2), 3)])).await;
    refused(&cx, f64::NAN).await;
    refused(&cx, vec![1.0, f64::INFINITY]).await;
    refused(&cx, Some(f32::NEG_INFINITY)).await;
    refused(&cx, Rule { burst: f64::NAN, ..rule() }).await;
    refused(&cx, Some(None::<u32>)).await;
    refused(&cx, vec![Some(())]).await;
    refused(&cx, nested(128)).await;
    for (name, refuses) in [("name", true), ("other", false)] {
        let value = Twice { name: 1, rest: BTreeMap::from([(name, 2)]) };
        assert_eq!(cx.provider().await.config().set("twice", &value).await.is_err(), refuses, "{name}");
    }
}

pub(super) async fn what_is_at_the_edge_of_json_comes_back(cx: Fixture) {
    round_trip(&cx, nested(127)).await;
    round_trip(&cx, (i128::MIN, i128::MAX, u128::MAX)).await;
    round_trip(&cx, vec![f32::MIN, f32::MAX, f32::MIN_POSITIVE, 0.1, 1e-45, 16_777_217.0, -0.0]).await;
    round_trip(&cx, BTreeMap::from([(1_u64, Some(1)), (2, None)])).await;
    round_trip(&cx, BTreeMap::from([(true, 'a'), (false, 'b')])).await;
}

pub(super) async fn a_byte_order_mark_is_skipped(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    config.set_raw("b/k", value("\u{feff}{\"a\": 1}\r\n")).await.unwrap();
    let expected = BTreeMap::from([("a".to_owned(), 1)]);
    assert_eq!(config.get::<BTreeMap<String, u32>>("b/k").await.unwrap(), Some(expected.clone()));
    let listed = config.list::<BTreeMap<String, u32>>("b").await.unwrap();
    assert_eq!(listed.into_iter().map(|entry| entry.value).collect::<Vec<_>>(), [expected]);
}

pub(super) async fn a_list_keeps_apart_what_is_of_another_type(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    for (key, text) in [("t/a", "1"), ("t/b", "\"one\""), ("t/c", "{"), ("t/d", "4")] {
        config.set_raw(key, value(text)).await.unwrap();
    }
    let snapshot = config.list::<u32>("t").await.unwrap();
    assert_eq!(
        snapshot.items.iter().map(|entry| (entry.key.as_str(), entry.value)).collect::<Vec<_>>(),
        [("t/a", 1), ("t/d", 4)]
    );
    let apart: Vec<_> = snapshot
        .invalid
        .iter()
        .map(|record| (record.key.as_ref(), record.value.as_bytes(), record.error.kind()))
        .collect();
    let expected: [(&[u8], &[u8], ErrorKind); 2] =
        [(b"t/b", b"\"one\"", ErrorKind::Codec), (b"t/c", b"{", ErrorKind::Codec)];
    assert_eq!(apart, expected);
}

pub(super) async fn a_typed_compare_and_set_obeys_versions(cx: Fixture) {
    let provider = cx.provider().await;
    let config = provider.config();
    let first = config.compare_and_set("k", &rule(), Version::ZERO).await.unwrap();
    assert_eq!(conflict(&config.compare_and_set("k", &1, Version::ZERO).await.unwrap_err()), first);
    assert_eq!(config.get::<Rule>("k").await.unwrap(), Some(rule()));
    let second = config.compare_and_set("k", &2, first).await.unwrap();
    assert_eq!(
        config.get_with_version::<u32>("k").await.unwrap().map(|found| (found.value, found.version)),
        Some((2, second))
    );
}
