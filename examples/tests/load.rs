//! Loading and editing rules, on the memory store.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use coord::memory::MemoryProvider;
use coord::prelude::*;
use coord::{ErrorKind, Value};
use coord_examples::load::{Existing, Loaded, edit, load, rules_key};
use coord_examples::rules::{Count, RateLimits, RuleFile};

fn file() -> RuleFile {
    RuleFile::parse(Path::new("ratelimit.json"), include_bytes!("../data/ratelimit.json")).unwrap()
}

async fn keys(provider: &dyn Provider) -> Vec<String> {
    provider.config().list_raw("").await.unwrap().into_iter().map(|entry| entry.key).collect()
}

#[tokio::test(start_paused = true)]
async fn every_service_gets_a_document_of_its_own() {
    let store = MemoryProvider::new();
    let loaded = load(&**store.config(), "dev", &file(), Existing::Keep).await.unwrap();
    assert!(loaded.values().all(|loaded| matches!(loaded, Loaded::Written(_))));
    for (service, limits) in &file().services {
        let found = store.config().get::<RateLimits>(&rules_key("dev", service)).await.unwrap();
        assert_eq!(found.as_ref(), Some(limits), "{service}");
    }
    assert_eq!(keys(&*store).await.len(), file().services.len());
}

#[tokio::test(start_paused = true)]
async fn what_was_edited_is_kept_or_replaced_as_asked() {
    let store = MemoryProvider::new();
    let config = &**store.config();
    load(config, "dev", &file(), Existing::Keep).await.unwrap();
    let edited =
        edit(config, "dev", "gateway", |limits| limits.default.burst = Count::new(7).unwrap()).await.unwrap();

    let again = load(config, "dev", &file(), Existing::Keep).await.unwrap();
    assert_eq!(again["gateway"], Loaded::Kept(edited));
    assert!(matches!(again["user-service"], Loaded::Same(_)));

    let Loaded::Written(replaced) = load(config, "dev", &file(), Existing::Replace).await.unwrap()["gateway"]
    else {
        panic!()
    };
    assert!(replaced > edited);

    // What does not decode is not ours to throw away unasked, and no obstacle when asked.
    store.config().set_raw(&rules_key("dev", "gateway"), Value::from_static(b"\xff")).await.unwrap();
    assert!(matches!(
        load(config, "dev", &file(), Existing::Keep).await.unwrap()["gateway"],
        Loaded::Kept(_)
    ));
    assert!(matches!(
        load(config, "dev", &file(), Existing::Replace).await.unwrap()["gateway"],
        Loaded::Written(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn rules_that_no_store_takes_change_nothing() {
    let store = MemoryProvider::new();
    let mut large = file();
    let last = large.services.get_mut("user-service").unwrap();
    let rule = last.rules[0].clone();
    last.rules = (0..20_000)
        .map(|number| {
            let mut rule = rule.clone();
            rule.name = format!("rule-{number}");
            rule
        })
        .collect();
    let refused = load(&**store.config(), "dev", &large, Existing::Replace).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    let refused = load(&**store.config(), "..", &file(), Existing::Replace).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(keys(&*store).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_edit_is_lost_among_many() {
    let store = MemoryProvider::new();
    load(&**store.config(), "dev", &file(), Existing::Keep).await.unwrap();
    let before = file().services["gateway"].default.requests.get().get();
    let editors: Vec<_> = (0..5)
        .map(|_| {
            let operator = store.client();
            tokio::spawn(async move {
                for _ in 0..10 {
                    let one_more = |limits: &mut RateLimits| {
                        limits.default.requests = Count::new(limits.default.requests.get().get() + 1).unwrap()
                    };
                    edit(&**operator.config(), "dev", "gateway", one_more).await.unwrap();
                }
            })
        })
        .collect();
    for editor in editors {
        editor.await.unwrap();
    }
    let after = store.config().get::<RateLimits>(&rules_key("dev", "gateway")).await.unwrap().unwrap();
    assert_eq!(after.default.requests.get().get(), before + 50);

    let unknown = edit(&**store.config(), "dev", "nobody", |_| ()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::InvalidArgument);
}
