//! R72 Rollback.

use coord_api::prelude::*;
use coord_api::{ErrorKind, Note, Value, Version, WriteOptions};
use coord_testkit::Fixture;
use futures_util::future::join_all;

use super::{Centre, KEY, gaps, versions};

fn back() -> Note {
    Note::new("ann", "back again")
}

pub(super) async fn a_rollback_is_a_new_version_byte_for_byte(cx: Fixture) {
    let (centre, other) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let config = centre.provider.config();
    for value in [&b""[..], b"\n", b"\xff\x00{", b"{ \"a\" : 1.0 }\n"] {
        let value = Value::from(value.to_vec());
        let noted = WriteOptions::default().with_note(Note::new("ann", "odd"));
        let first = config.write_with(KEY, value.clone(), noted).await.unwrap();
        let second = centre.publish("new", "").await.unwrap();
        let third = other.history.rollback(KEY, first, second, back()).await.unwrap();
        assert!(third > second);
        let found = config.get_raw(KEY).await.unwrap().unwrap();
        assert_eq!((found.value, found.version), (value.clone(), third));
        let history = centre.read().await;
        let last = history.published.last().unwrap();
        assert_eq!((last.version, last.replaced, last.note.as_str()), (third, second, "back again"));
        assert!(gaps(&history).iter().all(|gap| !gap));
    }
}

pub(super) async fn it_is_a_compare_and_set(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let first = centre.publish("1", "").await.unwrap();
    let second = centre.publish("2", "").await.unwrap();
    let plain = centre.provider.config().set_raw(KEY, Value::from("3")).await.unwrap();
    for expected in [first, second, Version::ZERO, Version::new(plain.get() + 1)] {
        let error = centre.history.rollback(KEY, first, expected, back()).await.unwrap_err();
        assert_eq!((error.kind(), error.current_version()), (ErrorKind::Conflict, Some(plain)));
    }
    let history = centre.read().await;
    assert_eq!((versions(&history), history.current), (vec![first, second], plain));
    centre.history.rollback(KEY, first, plain, back()).await.unwrap();
    assert_eq!(gaps(&centre.read().await), [false, false, true]);
}

pub(super) async fn a_version_without_a_record_is_an_invalid_argument(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let config = centre.provider.config();
    let plain = config.set_raw(KEY, Value::from("0")).await.unwrap();
    let first = centre.publish("1", "").await.unwrap();
    let elsewhere = config.publish("elsewhere", &1, Note::new("ann", "")).await.unwrap();
    for version in [Version::ZERO, plain, elsewhere, Version::MAX] {
        let errors = [
            centre.history.rollback(KEY, version, first, back()).await.unwrap_err(),
            centre.history.diff(KEY, version, first).await.unwrap_err(),
            centre.history.diff(KEY, first, version).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.kind(), error.key()), (ErrorKind::InvalidArgument, Some(KEY)), "{error}");
        }
    }
    assert_eq!(centre.read().await.current, first, "nothing was changed");
}

pub(super) async fn what_was_deleted_comes_back(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let config = centre.provider.config();
    let first = centre.publish("1", "").await.unwrap();
    assert!(config.delete(KEY).await.unwrap());
    let error = centre.history.rollback(KEY, first, first, back()).await.unwrap_err();
    assert_eq!(error.current_version(), Some(Version::ZERO));
    let again = centre.history.rollback(KEY, first, Version::ZERO, back()).await.unwrap();
    let found = config.get_raw(KEY).await.unwrap().unwrap();
    assert_eq!((found.value, found.version), (Value::from("1"), again));
}

pub(super) async fn of_many_rollbacks_exactly_one_wins(cx: Fixture) {
    let clients = join_all((0..6).map(|seed| cx.delayed(seed))).await;
    let centres: Vec<Centre> = clients.iter().map(Centre::of).collect();
    let first = centres[0].publish("1", "").await.unwrap();
    for round in 0..5 {
        let present = centres[1].publish("2", "").await.unwrap();
        let raced = centres.iter().map(|centre| centre.history.rollback(KEY, first, present, back()));
        let answers = join_all(raced).await;
        let won: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "round {round}: {answers:?}");
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!(error.current_version(), Some(*won[0]));
        }
    }
    assert_eq!(centres[0].read().await.published.len(), 11);
}

pub(super) async fn the_differences_of_two_versions_are_told(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let first = centre.publish(r#"{"a": 1, "b": [1, 2], "c": "x"}"#, "").await.unwrap();
    let second = centre.publish(r#"{"c": "x", "b": [1, 3], "d": null}"#, "").await.unwrap();
    let garbage = centre.publish("no JSON", "").await.unwrap();
    let told = centre.history.diff(KEY, first, second).await.unwrap();
    let paths: Vec<&str> = told.iter().map(|difference| difference.path.as_str()).collect();
    assert_eq!(paths, ["/a", "/b/1", "/d"]);
    assert!(told[0].after.is_none() && told[2].before.is_none());
    assert!(centre.history.diff(KEY, first, first).await.unwrap().is_empty());
    let error = centre.history.diff(KEY, first, garbage).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Codec);
}
