//! R67: a directory of documents.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_api::prelude::*;
use coord_api::{ErrorKind, Provider, Value, Version};
use coord_recipes::config_manager::{
    ConfigDirectory, ConfigDirectoryBuilder, ConfigSource, DeletePolicy, FaultStage,
};
use coord_testkit::wait::{never_within, within};
use coord_testkit::{Fixture, bad, layout};

use super::super::primitives;
use super::{Limits, Notes, limits};

/// The directory, with a `/` at its end.
const DIRECTORY: &str = "dev/gateway/limits/";

/// A builder for the usual directory, whose default is 1.
fn builder(provider: &Arc<dyn Provider>) -> ConfigDirectoryBuilder<Limits> {
    ConfigDirectory::builder(Arc::clone(provider.config()), "gateway", "limits")
        .env("dev")
        .default_value(limits(1))
}

async fn started(provider: &Arc<dyn Provider>) -> ConfigDirectory<Limits> {
    let directory = builder(provider).build().unwrap();
    directory.start().await;
    directory
}

async fn set(writer: &Arc<dyn Provider>, name: &str, per_second: u32) -> Version {
    writer.config().set(&format!("{DIRECTORY}{name}"), &limits(per_second)).await.unwrap()
}

async fn set_bad(writer: &Arc<dyn Provider>, name: &str) -> Version {
    writer.config().set_raw(&format!("{DIRECTORY}{name}"), Value::from("no JSON")).await.unwrap()
}

/// Deletes a document, and says at which version something is written after it.
async fn delete(writer: &Arc<dyn Provider>, name: &str) -> Version {
    assert!(writer.config().delete(&format!("{DIRECTORY}{name}")).await.unwrap());
    set(writer, "after", 9).await
}

async fn seen(cx: &Fixture, directory: &ConfigDirectory<Limits>, version: Version) {
    within(cx.soon() * 3, "the version is seen", directory.wait_until(version)).await.unwrap();
}

fn value(directory: &ConfigDirectory<Limits>, name: &str) -> Option<u32> {
    directory.get(name).map(|limits| limits.per_second)
}

pub(super) async fn each_document_of_the_directory_is_followed(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    set(&writer, "first", 2).await;
    let directory = started(&provider).await;
    assert_eq!((value(&directory, "first"), value(&directory, "second")), (Some(2), None));
    for n in 3..20 {
        set(&writer, "second", n).await;
        set(&writer, "below/it", n).await;
        // Its neighbours are none of its business.
        for neighbour in ["dev/gateway/limits", "dev/gateway/limits2/x", "prod/gateway/limits/x"] {
            writer.config().set(neighbour, &limits(0)).await.unwrap();
        }
        let last = set(&writer, "first", n).await;
        seen(&cx, &directory, last).await;
        for name in ["first", "second", "below/it"] {
            assert_eq!(value(&directory, name), Some(n), "{name}");
        }
        assert_eq!(directory.names(), ["below/it", "first", "second"]);
    }
    let deleted = delete(&writer, "second").await;
    seen(&cx, &directory, deleted).await;
    assert_eq!((value(&directory, "second"), value(&directory, "first")), (None, Some(19)));
    let again = set(&writer, "second", 30).await;
    seen(&cx, &directory, again).await;
    assert_eq!(value(&directory, "second"), Some(30));
    assert_eq!(directory.directory(), "dev/gateway/limits");
}

pub(super) async fn one_bad_document_disturbs_no_other(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    set_bad(&writer, "bad").await;
    set(&writer, "good", 2).await;
    let directory = started(&provider).await;
    assert_eq!((value(&directory, "good"), value(&directory, "bad")), (Some(2), None));
    for n in 3..10 {
        for name in ["bad", "worse"] {
            set_bad(&writer, name).await;
            let last = set(&writer, "good", n).await;
            seen(&cx, &directory, last).await;
            assert_eq!((value(&directory, "good"), value(&directory, name)), (Some(n), None));
        }
    }
    let faults = directory.status().faults;
    assert_eq!(faults.keys().collect::<Vec<_>>(), ["bad", "worse"]);
    assert!(faults.values().all(|fault| fault.stage == FaultStage::Decode));
}

pub(super) async fn a_refused_document_keeps_its_old_value_and_is_visible(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let directory = builder(&provider)
        .validate(|name, limits: &Limits| match (name, limits.per_second) {
            ("strict", 13) => Err("unlucky"),
            _ => Ok(()),
        })
        .on_update(|_, _, new: &Arc<Limits>| if new.per_second == 14 { Err("refused") } else { Ok(()) })
        .build()
        .unwrap();
    directory.start().await;
    let mut last = set(&writer, "strict", 2).await;
    for (wrong, stage) in [(13, FaultStage::Validate), (14, FaultStage::Callback)] {
        let refused = set(&writer, "strict", wrong).await;
        last = set(&writer, "lax", 13).await;
        seen(&cx, &directory, last).await;
        assert_eq!((value(&directory, "strict"), value(&directory, "lax")), (Some(2), Some(13)));
        let status = directory.status();
        assert_eq!((status.faults.len(), status.documents), (1, 2));
        let fault = status.faults.get("strict").unwrap();
        assert_eq!((fault.stage, fault.version), (stage, Some(refused)));
    }
    // A new one that is refused is not there at all.
    let refused = set(&writer, "new", 14).await;
    seen(&cx, &directory, refused).await;
    assert!(refused > last && value(&directory, "new").is_none());
    assert!(directory.status().faults.contains_key("new"));
    // What goes right, or goes away, is no fault any more.
    set(&writer, "strict", 3).await;
    let deleted = delete(&writer, "new").await;
    seen(&cx, &directory, deleted).await;
    assert_eq!(value(&directory, "strict"), Some(3));
    assert!(directory.status().faults.is_empty(), "{:?}", directory.status());
}

pub(super) async fn a_name_without_a_document_has_the_default(cx: Fixture) {
    let provider = cx.provider().await;
    let directory = builder(&provider).build().unwrap();
    for _ in 0..2 {
        for name in ["x", "", "a/b", "..", "\u{0}"] {
            assert_eq!((directory.current(name).per_second, value(&directory, name)), (1, None), "{name:?}");
            assert!(directory.reader(name).is_none());
        }
        directory.start().await;
    }
    let version = set(&provider, "x", 2).await;
    seen(&cx, &directory, version).await;
    assert_eq!((directory.current("x").per_second, directory.current("y").per_second), (2, 1));
    // One that says what the default says is there all the same.
    let version = set(&provider, "x", 1).await;
    seen(&cx, &directory, version).await;
    assert_eq!(value(&directory, "x"), Some(1));
}

pub(super) async fn ones_own_write_is_seen_after_waiting_for_it(cx: Fixture) {
    for seed in 0..4 {
        let client = cx.delayed(seed).await;
        let directory = started(&client.provider).await;
        for n in 0..20 {
            let name = format!("n{}", n % 3);
            let version = set(&client.provider, &name, n).await;
            seen(&cx, &directory, version).await;
            assert_eq!(value(&directory, &name), Some(n));
            assert!(directory.status().seen >= version);
        }
    }
}

pub(super) async fn waiting_ends_with_the_directory(cx: Fixture) {
    let provider = cx.provider().await;
    let directory = Arc::new(builder(&provider).build().unwrap());
    let wait = |version| {
        let directory = Arc::clone(&directory);
        tokio::spawn(async move { directory.wait_until(version).await })
    };
    let far = Version::new(u64::MAX >> 2);
    let (mut early, version) = (wait(far), set(&provider, "x", 2).await);
    never_within(cx.slack(), "an answer before the start", &mut early).await;
    directory.start().await;
    within(cx.soon(), "the past is seen", directory.wait_until(version)).await.unwrap();
    never_within(cx.slack(), "an answer for what is to come", &mut early).await;
    directory.stop().await;
    let error = within(cx.soon(), "the end is told", early).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    // What was seen stays so, and a new start goes on.
    directory.wait_until(version).await.unwrap();
    let late = set(&provider, "x", 3).await;
    assert_eq!(directory.wait_until(late).await.unwrap_err().kind(), ErrorKind::Closed);
    directory.start().await;
    within(cx.soon(), "it goes on", directory.wait_until(late)).await.unwrap();
    assert_eq!(value(&directory, "x"), Some(3));
    let waits = wait(far);
    provider.close().await.unwrap();
    let error = within(cx.soon(), "the end is told", waits).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(value(&directory, "x"), Some(3), "the last value stays");
}

pub(super) async fn a_resync_reloads_all_of_it(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let writer = cx.provider().await;
    for name in ["stays", "changes", "goes", "spoils"] {
        set(&writer, name, 2).await;
    }
    let directory = started(&client.provider).await;
    assert_eq!(directory.names().len(), 4);
    faults.cut();
    set(&writer, "changes", 3).await;
    set(&writer, "comes", 4).await;
    set_bad(&writer, "spoils").await;
    let last = delete(&writer, "goes").await;
    cx.compact(last).await;
    assert_eq!(value(&directory, "goes"), Some(2), "an outage keeps what was loaded");
    faults.heal();
    seen(&cx, &directory, last).await;
    let values = ["stays", "changes", "comes", "goes", "spoils"].map(|name| value(&directory, name));
    assert_eq!(values, [Some(2), Some(3), Some(4), None, Some(2)]);
    assert_eq!(directory.status().faults.len(), 1);
}

pub(super) async fn a_deleted_document_is_gone_or_stays_by_policy(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let (gone, stays) =
        (started(&provider).await, builder(&provider).on_delete(DeletePolicy::Keep).build().unwrap());
    stays.start().await;
    set(&writer, "x", 2).await;
    let deleted = delete(&writer, "x").await;
    for (directory, left) in [(&gone, None), (&stays, Some(2))] {
        seen(&cx, directory, deleted).await;
        assert_eq!(value(directory, "x"), left);
        directory.stop().await;
        directory.start().await;
        assert_eq!(value(directory, "x"), left, "after a new start");
    }
    let again = set(&writer, "x", 3).await;
    for directory in [&gone, &stays] {
        seen(&cx, directory, again).await;
        assert_eq!(value(directory, "x"), Some(3));
    }
}

pub(super) async fn callbacks_are_told_the_name(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let notes = Notes::default();
    let (asked, told) = (notes.clone(), notes.clone());
    let directory = builder(&provider)
        .on_update(move |name, old, new: &Arc<Limits>| {
            asked.note(format!("{name}? {} {}", old.per_second, new.per_second));
            Ok::<_, String>(())
        })
        .on_change(move |name, old, new: &Arc<Limits>| {
            told.note(format!("{name}: {} {}", old.per_second, new.per_second));
        })
        .build()
        .unwrap();
    set(&writer, "a", 2).await;
    directory.start().await;
    assert_eq!(notes.taken(), ["a? 1 2", "a: 1 2"]);
    set(&writer, "b", 3).await;
    let spelled = Value::from("{\"per_second\" : 3}");
    writer.config().set_raw(&format!("{DIRECTORY}b"), spelled).await.unwrap();
    let last = set(&writer, "b", 4).await;
    seen(&cx, &directory, last).await;
    assert_eq!(notes.taken(), ["b? 1 3", "b: 1 3", "b? 3 4", "b: 3 4"]);
    directory.stop().await;
    set(&writer, "a", 9).await;
    let mut called = Box::pin(async {
        while notes.taken().is_empty() {
            tokio::time::sleep(cx.slack() / 10).await;
        }
    });
    never_within(cx.slack(), "a callback", &mut called).await;
}

#[allow(clippy::panic, reason = "that is what the case is about")]
pub(super) async fn a_panic_for_one_document_disturbs_no_other(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    let armed = Arc::new(AtomicBool::new(true));
    let panics = Arc::clone(&armed);
    let directory = builder(&provider)
        .validate(move |name, _: &Limits| {
            assert!(name != "bad" || !panics.load(Ordering::SeqCst), "as told");
            Ok::<_, String>(())
        })
        .build()
        .unwrap();
    set(&writer, "bad", 2).await;
    set(&writer, "good", 2).await;
    directory.start().await;
    for n in 3..6 {
        set(&writer, "bad", n).await;
        let last = set(&writer, "good", n).await;
        seen(&cx, &directory, last).await;
        assert_eq!((value(&directory, "bad"), value(&directory, "good")), (None, Some(n)));
    }
    assert_eq!(directory.status().faults.get("bad").unwrap().stage, FaultStage::Validate);
    armed.store(false, Ordering::SeqCst);
    let last = set(&writer, "bad", 7).await;
    seen(&cx, &directory, last).await;
    assert_eq!((value(&directory, "bad"), directory.status().faults.len()), (Some(7), 0));
}

pub(super) async fn keys_that_no_call_takes_are_visible(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let directory = started(&provider).await;
    let foreign: Vec<Vec<u8>> = [b"bad//key".to_vec(), bad::GARBAGE.to_vec()]
        .iter()
        .map(|name| [layout::CONFIG.as_bytes(), DIRECTORY.as_bytes(), name].concat())
        .collect();
    for restarted in [false, true] {
        for key in &foreign {
            let put = coord_api::store::Op::put(key.clone(), "{\"per_second\":5}");
            store.txn(coord_api::store::Txn::new().then(put)).await.unwrap();
        }
        if restarted {
            directory.start().await;
        }
        let last = set(&provider, "x", 2).await;
        seen(&cx, &directory, last).await;
        assert_eq!(directory.status().faults.len(), 2, "{:?}", directory.status());
        assert_eq!(directory.names(), ["x"]);
        directory.stop().await;
    }
    directory.start().await;
    for key in foreign {
        primitives::delete(&*store, key).await;
    }
    let last = set(&provider, "x", 3).await;
    seen(&cx, &directory, last).await;
    assert!(directory.status().faults.is_empty());
}

pub(super) async fn a_thousand_documents_are_one_watch_and_reads_are_none(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let writer = cx.provider().await;
    for n in 0..1_000 {
        set(&writer, &format!("n{n:04}"), n).await;
    }
    let directory = started(&client.provider).await;
    assert_eq!((directory.names().len(), counter.open_watches()), (1_000, 1));
    let last = set(&writer, "n0500", 7).await;
    seen(&cx, &directory, last).await;
    let ((), counts) = counter
        .during(async {
            for n in 0..1_000 {
                let expected = if n == 500 { 7 } else { n };
                assert_eq!(value(&directory, &format!("n{n:04}")), Some(expected));
            }
        })
        .await;
    assert_eq!(counts.requests(), 0, "{counts:?}");
}

pub(super) async fn a_reader_waits_for_one_document(cx: Fixture) {
    let (provider, writer) = (cx.provider().await, cx.provider().await);
    set(&writer, "x", 2).await;
    let directory = started(&provider).await;
    let reader = directory.reader("x").unwrap();
    let mut changes = reader.changes();
    set(&writer, "y", 3).await;
    let version = set(&writer, "x", 4).await;
    let told = within(cx.soon(), "the change is told", changes.changed()).await;
    assert_eq!((told, reader.current().per_second), (Some(ConfigSource::Loaded(version)), 4));
    delete(&writer, "x").await;
    let told = within(cx.soon(), "the deletion is told", changes.changed()).await;
    assert_eq!(told, Some(ConfigSource::Default));
    assert_eq!(within(cx.soon(), "the end is told", changes.changed()).await, None);
    let version = set(&writer, "x", 5).await;
    seen(&cx, &directory, version).await;
    assert_eq!(directory.reader("x").unwrap().current().per_second, 5);
    let mut changes = directory.reader("y").unwrap().changes();
    directory.stop().await;
    assert_eq!(within(cx.soon(), "the end is told", changes.changed()).await, None);
}

pub(super) async fn its_name_is_checked_and_it_shows_no_value(cx: Fixture) {
    let provider = cx.provider().await;
    let config = || Arc::clone(provider.config());
    for name in bad::segments() {
        for (service, component) in [(name.as_str(), "x"), ("x", name.as_str())] {
            let error = ConfigDirectory::<Limits>::builder(config(), service, component).env("dev").build();
            assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidArgument, "{service:?} {component:?}");
        }
        let error = ConfigDirectory::<Limits>::builder(config(), "x", "x").env(name).build();
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let secret = 424_242;
    let version = set(&provider, "x", secret).await;
    writer_of_garbage(&provider, secret).await;
    let directory = started(&provider).await;
    seen(&cx, &directory, version).await;
    let shown = format!("{directory:?} {:?} {:?}", directory.get("x"), directory.reader("x"));
    assert!(!shown.contains(&secret.to_string()), "{shown}");
}

async fn writer_of_garbage(provider: &Arc<dyn Provider>, secret: u32) {
    let garbage = Value::from(format!("{secret} and no JSON"));
    provider.config().set_raw(&format!("{DIRECTORY}garbage"), garbage).await.unwrap();
}
