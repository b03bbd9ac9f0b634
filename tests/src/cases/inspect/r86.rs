//! R86 Versions in use.

use std::sync::Arc;

use coord_api::Version;
use coord_recipes::VersionsInUse;
use coord_recipes::config_manager::ConfigManager;
use coord_recipes::inspect::{InUseView, Inspect};
use coord_testkit::Fixture;
use coord_testkit::wait::eventually;
use coord_testkit::wrap::Fault;

use super::primitives::{Primitives, delete, entries, put};

const USES: &str = "/config-use/";

async fn inspect(cx: &Fixture) -> Inspect {
    Inspect::new(&Primitives::of(&cx.client().await).client)
}

fn version(view: &InUseView, key: &str) -> Option<Version> {
    view.versions.get(key).map(|in_use| in_use.version)
}

/// Waits until one process alone says that it has this version in use.
async fn told(cx: &Fixture, inspect: &Inspect, key: &str, wanted: Version) -> InUseView {
    eventually(cx.soon(), "it is told which version is in use", || async {
        let uses = inspect.versions_in_use().await.ok()?;
        let [view] = &uses[..] else { return None };
        (version(view, key) == Some(wanted)).then(|| view.clone())
    })
    .await
}

pub(super) async fn what_a_manager_has_in_use_is_told_and_follows_it(cx: Fixture) {
    let (client, inspect) = (cx.client().await, inspect(&cx).await);
    let (mine, config) = (Primitives::of(&client), client.provider.config());
    let manager = ConfigManager::<u32>::builder(Arc::clone(config), "chat", "workers").env("kit");
    let manager = manager.build().unwrap();
    manager.start().await;
    let telling = VersionsInUse::with_ttl(&mine.client, cx.ttl()).unwrap();
    telling.follow(&manager.reader());
    telling.set("kit/chat/other", Version::new(7));

    let first = config.write_with("kit/chat/workers", "8".into(), Default::default()).await.unwrap();
    let view = told(&cx, &inspect, "kit/chat/workers", first).await;
    assert_eq!(version(&view, "kit/chat/other"), Some(Version::new(7)));
    assert_eq!(view.owner, "kit");
    assert_eq!(view.process.as_ref().map(|process| process.pid), Some(std::process::id()));
    let since = view.versions["kit/chat/workers"].since_ms;
    assert!(since > 1_600_000_000_000, "{since}");

    // A document that is refused is not in use.
    let refused = config.write_with("kit/chat/workers", "\"many\"".into(), Default::default()).await.unwrap();
    let last = config.write_with("kit/chat/workers", "9".into(), Default::default()).await.unwrap();
    assert!(refused < last);
    told(&cx, &inspect, "kit/chat/workers", last).await;
    telling.forget("kit/chat/other");
    eventually(cx.soon(), "it is in use no more", || async {
        let uses = inspect.versions_in_use().await.ok()?;
        (version(uses.first()?, "kit/chat/other").is_none()).then_some(())
    })
    .await;
    assert_eq!(entries(&*cx.store().await, USES).await.len(), 1, "one key for all of it");
    manager.stop().await;
}

pub(super) async fn it_is_taken_back_when_it_is_dropped(cx: Fixture) {
    let (mine, inspect) = (Primitives::of(&cx.client().await), inspect(&cx).await);
    let telling = VersionsInUse::with_ttl(&mine.client, cx.ttl()).unwrap();
    telling.set("a", Version::new(1));
    told(&cx, &inspect, "a", Version::new(1)).await;
    drop(telling);
    eventually(cx.soon(), "it is told no more", || async {
        inspect.versions_in_use().await.ok()?.is_empty().then_some(())
    })
    .await;
}

pub(super) async fn what_was_lost_is_told_anew(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, inspect, store) = (Primitives::of(&client), inspect(&cx).await, cx.store().await);
    let telling = VersionsInUse::with_ttl(&mine.client, cx.ttl()).unwrap();
    telling.set("a", Version::new(1));
    let before = told(&cx, &inspect, "a", Version::new(1)).await;
    // Somebody takes its session away.
    inspect.end_session(before.session.unwrap()).await.unwrap();
    let after = eventually(cx.gone_by(cx.ttl()) + cx.soon(), "it is told anew", || async {
        let uses = inspect.versions_in_use().await.ok()?;
        uses.first().filter(|view| view.session != before.session).cloned()
    })
    .await;
    assert_eq!(version(&after, "a"), Some(Version::new(1)));

    // Its process is away for longer than its session lives.
    faults.cut();
    eventually(cx.gone_by(cx.ttl()) + cx.soon(), "it goes with its session", || async {
        entries(&*store, USES).await.is_empty().then_some(())
    })
    .await;
    telling.set("a", Version::new(2));
    faults.heal();
    told(&cx, &inspect, "a", Version::new(2)).await;

    // Somebody takes the key away, and it says something else.
    let key = entries(&*store, USES).await[0].key.clone();
    delete(&*store, key).await;
    telling.set("a", Version::new(3));
    eventually(cx.gone_by(cx.ttl()) + cx.soon(), "it is told anew", || async {
        let uses = inspect.versions_in_use().await.ok()?;
        uses.first().filter(|view| version(view, "a") == Some(Version::new(3))).map(|_| ())
    })
    .await;
}

pub(super) async fn a_write_whose_answer_is_lost_tells_it_once(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, inspect) = (Primitives::of(&client), inspect(&cx).await);
    let telling = VersionsInUse::with_ttl(&mine.client, cx.ttl()).unwrap();
    for number in 1..=3 {
        faults.next_put(Fault::LoseAnswer, USES);
        telling.set("a", Version::new(number));
        told(&cx, &inspect, "a", Version::new(number)).await;
    }
    assert_eq!(entries(&*cx.store().await, USES).await.len(), 1);
}

pub(super) async fn what_others_left_there_is_passed_over(cx: Fixture) {
    let (store, inspect) = (cx.store().await, inspect(&cx).await);
    put(&*store, "/config-use/1f-1", "no record").await;
    put(&*store, "/config-use/x/y", "{}").await;
    assert_eq!(inspect.versions_in_use().await.unwrap(), []);
    let of_somebody = r#"{"name":"go","versions":{"a":{"version":3,"since_ms":1}},"more":true}"#;
    put(&*store, "/config-use/1f-2", of_somebody).await;
    let uses = inspect.versions_in_use().await.unwrap();
    let [view] = &uses[..] else { panic!("{uses:?}") };
    assert_eq!((view.owner.as_str(), view.session, view.process.as_ref()), ("go", None, None));
    assert_eq!(version(view, "a"), Some(Version::new(3)));
}
