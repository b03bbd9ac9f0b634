//! R71 Publish.

use coord_api::config::{MAX_NOTE_BYTES, MAX_PUBLISHED_BYTES};
use coord_api::prelude::*;
use coord_api::{ErrorKind, Note, Outcome, Value, Version, WriteOptions};
use coord_testkit::wrap::Fault;
use coord_testkit::{Fixture, bad};
use futures_util::future::join_all;

use super::primitives::{entries, put};
use super::{Centre, KEY, RECORDS, gaps, versions};

pub(super) async fn a_record_has_the_revision_of_its_value(cx: Fixture) {
    let (centre, other, store) = (Centre::new(&cx).await, Centre::new(&cx).await, cx.store().await);
    assert_eq!((centre.read().await.published.len(), centre.read().await.ends_with_gap()), (0, false));
    for n in 1..4 {
        let version = centre.publish(&n.to_string(), "why").await.unwrap();
        let history = other.read().await;
        let last = history.published.last().unwrap();
        assert_eq!((last.version, history.current), (version, version));
        assert_eq!((last.author.as_str(), last.note.as_str()), ("ann", "why"));
        assert_eq!(last.value, Value::from(n.to_string()));
        assert!(last.at > 0 && !history.ends_with_gap());
        let records = entries(&*store, RECORDS).await;
        assert_eq!((records.len(), records[n - 1].created), (n, version));
        let found = other.provider.config().get_raw(KEY).await.unwrap().unwrap();
        assert_eq!((found.version, found.value), (version, last.value.clone()));
    }
}

pub(super) async fn it_names_the_version_that_it_replaced(cx: Fixture) {
    let centres = [Centre::new(&cx).await, Centre::new(&cx).await];
    let mut before = Version::ZERO;
    for n in 0..8 {
        // What one of them knows grows old by what the other one does.
        let centre = &centres[n / 2 % 2];
        let version = centre.publish("v", "the same again").await.unwrap();
        let history = centre.read().await;
        let last = history.published.last().unwrap();
        assert_eq!((last.replaced, last.version), (before, version));
        assert!(gaps(&history).iter().all(|gap| !gap), "{history:?}");
        before = version;
    }
    assert_eq!(centres[0].read().await.published.len(), 8);
}

pub(super) async fn a_plain_write_or_delete_shows_as_a_gap(cx: Fixture) {
    let (centre, other) = (Centre::new(&cx).await, Centre::new(&cx).await);
    let config = other.provider.config();
    centre.publish("1", "").await.unwrap();
    config.set_raw(KEY, Value::from("2")).await.unwrap();
    assert!(centre.read().await.ends_with_gap(), "as long as it stands there");
    centre.publish("3", "").await.unwrap();
    assert!(config.delete(KEY).await.unwrap());
    let history = centre.read().await;
    assert!(history.ends_with_gap() && history.current == Version::ZERO);
    centre.publish("4", "").await.unwrap();
    let version = centre.publish("5", "").await.unwrap();
    let set = config.compare_and_set_raw(KEY, Value::from("6"), version).await.unwrap();
    assert!(config.compare_and_delete(KEY, set).await.unwrap());
    config.set_raw(KEY, Value::from("7")).await.unwrap();
    centre.publish("8", "").await.unwrap();
    let history = other.read().await;
    assert_eq!(gaps(&history), [false, true, true, false, true], "{history:?}");
    assert!(!history.ends_with_gap());
}

pub(super) async fn of_many_publishers_each_replaces_another_one(cx: Fixture) {
    let clients = join_all((0..6).map(|seed| cx.delayed(seed))).await;
    let centres: Vec<Centre> = clients.iter().map(Centre::of).collect();
    let publish = async |n: usize| centres[n % 6].publish(&n.to_string(), "").await.unwrap();
    let mut published = join_all((0..18).map(publish)).await;
    published.sort_unstable();
    let history = Centre::new(&cx).await.read().await;
    assert_eq!(versions(&history), published);
    assert!(gaps(&history).iter().all(|gap| !gap), "{history:?}");
    assert!(!history.ends_with_gap());
}

pub(super) async fn what_is_refused_leaves_no_record(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let config = centre.provider.config();
    let version = centre.publish("1", "").await.unwrap();
    let noted = || WriteOptions::default().with_note(Note::new("ben", "too late"));
    for wrong in [Version::ZERO, Version::new(version.get() + 1)] {
        let options = noted().with_expected(wrong);
        let error = config.write_with(KEY, Value::from("2"), options).await.unwrap_err();
        assert_eq!((error.kind(), error.current_version()), (ErrorKind::Conflict, Some(version)));
    }
    let guard = centre.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let fence = guard.fence();
    let second = config.write_with(KEY, Value::from("2"), noted().with_fence(fence.clone())).await.unwrap();
    for entry in entries(&*cx.store().await, "/locks/").await {
        super::primitives::delete(&*cx.store().await, entry.key).await;
    }
    for options in [noted(), noted().with_expected(version)] {
        let error = config.write_with(KEY, Value::from("3"), options.with_fence(fence.clone())).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
    let history = centre.read().await;
    assert_eq!((versions(&history), history.current), (vec![version, second], second));
}

pub(super) async fn twenty_to_29_are_kept(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let mut all = Vec::new();
    for n in 1..75 {
        all.push(centre.publish(&n.to_string(), "").await.unwrap());
        let kept = versions(&centre.read().await);
        assert!(kept.len() >= n.min(20) && kept.len() <= 29, "{} of {n}", kept.len());
        assert_eq!(kept, all[n - kept.len()..], "the newest ones, all of them");
    }
}

pub(super) async fn it_outlives_a_compaction(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let mut all = Vec::new();
    for n in 0..5 {
        all.push(centre.publish(&n.to_string(), "").await.unwrap());
    }
    cx.compact(all[4]).await;
    assert_eq!(versions(&centre.read().await), all);
    let back = centre.history.rollback(KEY, all[0], all[4], Note::default()).await.unwrap();
    assert_eq!(centre.read().await.version(back).unwrap().value, Value::from("0"));
}

pub(super) async fn it_outlives_reopening(cx: Fixture) {
    let version = Centre::new(&cx).await.publish("1", "why").await.unwrap();
    cx.reopen().await;
    let centre = Centre::new(&cx).await;
    let second = centre.publish("2", "").await.unwrap();
    let history = centre.read().await;
    assert_eq!((versions(&history), gaps(&history)), (vec![version, second], vec![false, false]));
}

pub(super) async fn what_is_too_large_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let centre = Centre::of(&client);
    let config = centre.provider.config();
    let noted = |author: usize, text: usize| {
        WriteOptions::default().with_note(Note::new("a".repeat(author), "t".repeat(text)))
    };
    let large = |bytes: usize| Value::from(vec![b'v'; bytes]);
    let wrong = async {
        let mut errors = Vec::new();
        for key in bad::keys() {
            errors.push(config.write_with(&key, large(1), noted(1, 1)).await.unwrap_err());
            errors.push(centre.history.of(&key).await.unwrap_err());
            let none = Version::ZERO;
            errors.push(centre.history.rollback(&key, none, none, Note::default()).await.unwrap_err());
        }
        for (author, text) in [(1, MAX_NOTE_BYTES), (MAX_NOTE_BYTES + 1, 0), (0, 1 << 20)] {
            errors.push(config.write_with(KEY, large(1), noted(author, text)).await.unwrap_err());
        }
        for bytes in [MAX_PUBLISHED_BYTES + 1, 1 << 20, (1 << 20) + 1] {
            errors.push(config.write_with(KEY, large(bytes), noted(1, 1)).await.unwrap_err());
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.requests(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    // The most that is taken, and the least; control characters take more room than they count for.
    let mut all = Vec::new();
    let most = Note::new("\u{1}".repeat(MAX_NOTE_BYTES / 2), "\u{1}".repeat(MAX_NOTE_BYTES / 2));
    let most = WriteOptions::default().with_note(most);
    all.push(config.write_with(KEY, large(MAX_PUBLISHED_BYTES), most).await.unwrap());
    all.push(config.write_with(KEY, Value::new(), noted(0, 0)).await.unwrap());
    let history = centre.read().await;
    assert_eq!(versions(&history), all);
    assert_eq!(history.published[0].value, large(MAX_PUBLISHED_BYTES));
}

pub(super) async fn a_publication_is_one_request_and_trimming_one_in_ten(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let centre = Centre::of(&client);
    centre.publish("0", "").await.unwrap();
    let (published, counts) = counter.during(centre.publish("1", "")).await;
    published.unwrap();
    assert_eq!((counts.requests(), counts.txn), (1, 1), "{counts:?}");
    let many = async {
        for n in 0..100 {
            centre.publish(&n.to_string(), "").await.unwrap();
        }
    };
    let ((), counts) = counter.during(many).await;
    assert!(counts.requests() <= 110, "{counts:?}");
}

pub(super) async fn one_in_doubt_is_not_sent_again(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (centre, other) = (Centre::of(&client), Centre::new(&cx).await);
    let mut all = vec![centre.publish("0", "").await.unwrap()];
    for (fault, applied) in [(Fault::LoseAnswer, 1), (Fault::LoseRequest, 0), (Fault::LoseAnswer, 1)] {
        faults.next_put(fault, "/config/");
        let error = centre.publish("x", "in doubt").await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
        let history = other.read().await;
        assert_eq!(history.published.len(), all.len() + applied, "{fault:?}: {history:?}");
        all = versions(&history);
        all.push(centre.publish("y", "").await.unwrap());
        let history = other.read().await;
        assert_eq!(versions(&history), all);
        assert!(gaps(&history).iter().all(|gap| !gap), "{history:?}");
    }
}

pub(super) async fn what_others_left_there_is_kept_apart(cx: Fixture) {
    let (centre, store) = (Centre::new(&cx).await, cx.store().await);
    let first = centre.publish("1", "").await.unwrap();
    put(&*store, &format!("{RECORDS}garbage"), "no record").await;
    put(&*store, &format!("{RECORDS}empty"), "").await;
    // One that is written over is not what was published.
    let own = String::from_utf8(entries(&*store, RECORDS).await[0].key.to_vec()).unwrap();
    let second = centre.publish("2", "").await.unwrap();
    put(&*store, &own, "{\"replaced\":0,\"author\":\"eve\",\"note\":\"\",\"at\":1}\nforged").await;
    let history = centre.read().await;
    assert_eq!((versions(&history), history.invalid.len()), (vec![second], 3), "{history:?}");
    let error = centre.history.rollback(KEY, first, second, Note::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let shown = format!("{history:?}");
    assert!(!shown.contains("forged") && !shown.contains("no record\""), "{shown}");
}

pub(super) async fn names_that_nest_are_unrelated(cx: Fixture) {
    let centre = Centre::new(&cx).await;
    let config = centre.provider.config();
    for key in ["a", "a/b", "a%2Fb", "/a/b/c"] {
        config.publish(key, key, Note::new("ann", key)).await.unwrap();
    }
    for key in ["a", "a/b", "a%2Fb", "a/b/c"] {
        let history = centre.history.of(key).await.unwrap();
        let notes: Vec<&str> = history.published.iter().map(|published| published.note.as_str()).collect();
        assert_eq!(notes.len(), 1, "{key}: {notes:?}");
        assert_eq!(notes[0].trim_start_matches('/'), key);
        assert_eq!(config.get::<String>(key).await.unwrap().unwrap().trim_start_matches('/'), key);
    }
}
