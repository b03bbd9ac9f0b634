//! R1 Kinds: what an error says, and what it keeps to itself. Errors go into logs.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{
    ConfigEvent, Error, ErrorKind, IdOptions, LockOptions, RegisterOptions, Registration, Result,
    ServiceChange, ServiceEvent, ServiceInstance, Takeover, Value, Version, Wait, WatchStart,
};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::super::leased::{Lasting, put};
use super::{Held, all_calls};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::within;
use crate::wrap::Fault;

/// Stands in every value, and in everything that is registered with an instance.
const SECRET: &str = "hunter2";

/// Stands in every key that the calls of a case are not about.
const FOREIGN: &str = "of-somebody-else";

/// Everything that an error shows to whoever logs it.
fn shown(error: &Error) -> String {
    let mut text =
        format!("{error} {error:?} {error:#?} {} {:?} {:?}", error.message(), error.key(), error.holder());
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(" {error} {error:?} {error:#?}");
        cause = error.source();
    }
    text
}

/// Asserts that neither a value nor what others keep is in what is shown, as text or as bytes.
fn keeps_to_itself(what: &str, shown: &str) {
    for secret in [SECRET, FOREIGN] {
        let bytes = format!("{:?}", secret.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        assert!(!shown.contains(secret), "{what} shows {secret:?}: {shown}");
        assert!(!shown.contains(bytes), "{what} shows {secret:?}, byte by byte: {shown}");
    }
}

fn secret() -> Value {
    Value::from(format!("the password is {SECRET}"))
}

/// An instance of the service `name`, and what it keeps.
fn instance(id: &str) -> ServiceInstance {
    ServiceInstance::new("name", id, "localhost", 80).with_metadata("password", SECRET)
}

/// What others keep beside what the calls are about, and where the calls will find it in their way.
async fn kept_by_others(cx: &Fixture) -> impl Sized + use<> {
    let (provider, store) = (cx.provider().await, cx.store().await);
    for key in ["name", "name/of-somebody-else", "of-somebody-else", "named/of-somebody-else"] {
        provider.config().set_raw(key, secret()).await.unwrap();
    }
    let mut held = (Vec::new(), Vec::new(), Vec::new());
    for key in ["name", "name/of-somebody-else", "of-somebody-else"] {
        held.0.push(provider.lock().acquire(key, cx.ttl()).await.unwrap());
    }
    for id in ["id", FOREIGN] {
        let options = RegisterOptions::default().with_ttl(cx.ttl());
        held.1.push(provider.registry().register_with(instance(id), options).await.unwrap());
    }
    for service in ["name", FOREIGN] {
        let options = IdOptions::default().with_range(1..=1).with_ttl(cx.ttl());
        held.2.push(provider.allocator().acquire_id_with(service, options).await.unwrap());
    }
    put(&*store, layout::service("name", "bad"), format!("{{\"password\": \"{SECRET}\"")).await;
    held
}

type Call = (&'static str, fn(Arc<dyn Provider>, Duration) -> BoxFuture<'static, Result<()>>);

/// Calls that write what nobody may see, and calls that meet with what others keep.
const CALLS: [Call; 16] = [
    ("get", |provider, _| Box::pin(async move { provider.config().get::<u32>("name").await.map(drop) })),
    ("set", |provider, _| {
        Box::pin(async move { provider.config().set_raw("name", secret()).await.map(drop) })
    }),
    ("compare_and_set", |provider, _| {
        Box::pin(async move {
            provider.config().compare_and_set_raw("name", secret(), Version::new(1)).await.map(drop)
        })
    }),
    ("compare_and_delete", |provider, _| {
        Box::pin(async move { provider.config().compare_and_delete("name", Version::new(1)).await.map(drop) })
    }),
    ("set with a bad key", |provider, _| {
        Box::pin(async move { provider.config().set_raw("name//k", secret()).await.map(drop) })
    }),
    ("set of a large value", |provider, _| {
        let large = Value::from(SECRET.repeat(200_000));
        Box::pin(async move { provider.config().set_raw("name", large).await.map(drop) })
    }),
    ("list", |provider, _| Box::pin(async move { provider.config().list_raw("name").await.map(drop) })),
    ("watch", |provider, _| {
        Box::pin(
            async move { provider.config().watch_prefix_raw("name", WatchStart::Snapshot).await.map(drop) },
        )
    }),
    ("try_acquire", |provider, ttl| {
        Box::pin(async move { provider.lock().try_acquire("name", ttl).await.map(drop) })
    }),
    ("acquire_timeout", |provider, ttl| {
        Box::pin(async move { provider.lock().acquire_timeout("name", ttl, ttl / 20).await.map(drop) })
    }),
    ("register exclusively", |provider, ttl| {
        let options = RegisterOptions::default().with_ttl(ttl).with_takeover(Takeover::Exclusive);
        Box::pin(async move { provider.registry().register_with(instance("id"), options).await.map(drop) })
    }),
    ("register and update", |provider, ttl| {
        let options = RegisterOptions::default().with_ttl(ttl);
        Box::pin(async move {
            let registered = provider.registry().register_with(instance("own"), options).await?;
            registered.update(instance("another")).await.and(Err(Error::closed("no instance has another id")))
        })
    }),
    ("register at an address of nobody", |provider, _| {
        let mut instance = instance("own");
        instance.address = format!("me:{SECRET}@localhost");
        Box::pin(async move { provider.registry().register(instance).await.map(drop) })
    }),
    ("discover", |provider, _| Box::pin(async move { provider.registry().discover("name").await.map(drop) })),
    ("acquire_id", |provider, ttl| {
        let options = IdOptions::default().with_range(1..=1).with_ttl(ttl);
        Box::pin(async move { provider.allocator().acquire_id_with("name", options).await.map(drop) })
    }),
    ("acquire_id_timeout", |provider, ttl| {
        let options = IdOptions::default().with_range(1..=1).with_ttl(ttl).with_wait(Wait::For(ttl / 20));
        Box::pin(async move { provider.allocator().acquire_id_with("name", options).await.map(drop) })
    }),
];

/// The errors of the calls, each of which may also take longer than anyone waits.
async fn errors(cx: &Fixture, provider: &Arc<dyn Provider>, before: impl Fn()) -> usize {
    let mut seen = 0;
    for (name, call) in CALLS {
        before();
        if let Ok(Err(error)) = timeout(cx.ttl() * 2, call(Arc::clone(provider), cx.ttl())).await {
            keeps_to_itself(&format!("the error of {name}"), &shown(&error));
            seen += 1;
        }
    }
    seen
}

pub(super) async fn no_refusal_shows_a_value_or_what_others_keep(cx: Fixture) {
    let _others = kept_by_others(&cx).await;
    let seen = errors(&cx, &cx.provider().await, || ()).await;
    assert!(seen >= 10, "most of the calls are refused: {seen}");
}

pub(super) async fn no_failure_shows_a_value_or_what_others_keep(cx: Fixture) {
    failures_keep_to_themselves(&cx, [Fault::Refuse, Fault::Deny]).await;
}

pub(super) async fn no_doubt_shows_a_value_or_what_others_keep(cx: Fixture) {
    failures_keep_to_themselves(&cx, [Fault::LoseRequest, Fault::LoseAnswer]).await;
}

async fn failures_keep_to_themselves(cx: &Fixture, faults: [Fault; 2]) {
    let _others = kept_by_others(cx).await;
    for fault in faults {
        // Some of the calls fail, and others are tried again and then refused.
        for lasting in [false, true] {
            let (client, faults) = cx.faulty().await;
            client.provider.lock().acquire("warm", cx.ttl()).await.unwrap().unlock().await.unwrap();
            let failing = lasting.then(|| Lasting::begin(&faults, fault, |_| true));
            let seen = errors(cx, &client.provider, || {
                if !lasting {
                    faults.forget();
                    faults.next(fault, |_| true);
                }
            })
            .await;
            assert!(seen > 0, "{fault:?}");
            faults.forget();
            drop(failing);
            let _ = within(cx.soon(), "closing ends", client.provider.close()).await;
        }
    }
}

pub(super) async fn no_end_shows_a_value_or_what_others_keep(cx: Fixture) {
    let _others = kept_by_others(&cx).await;
    let (client, other) = (cx.client().await, cx.provider().await);
    let options = RegisterOptions::default().with_ttl(cx.ttl());
    let registry = client.provider.registry();
    let mine = registry.register_with(instance("mine"), options).await.unwrap();
    let guard = client.provider.lock().acquire("mine", cx.ttl()).await.unwrap();
    // Of a handle that another one has superseded, of one that was removed, and of all that is
    // closed.
    let theirs = other.registry().register_with(instance("mine"), options).await.unwrap();
    within(cx.soon(), "it is taken over", mine.lost()).await;
    let update = async |registration: &Registration| registration.update(instance("mine")).await;
    keeps_to_itself("an update of what is over", &shown(&update(&mine).await.unwrap_err()));
    let queue = super::super::leased::queue(&*client.store, "mine").await;
    super::super::leased::delete(&*client.store, queue[0].key.to_vec()).await;
    keeps_to_itself("an unlock of what is gone", &shown(&guard.unlock().await.unwrap_err()));
    client.provider.close().await.unwrap();
    keeps_to_itself("an update after closing", &shown(&update(&mine).await.unwrap_err()));
    errors(&cx, &client.provider, || ()).await;
    assert!(theirs.state().is_held());
}

pub(super) async fn an_error_names_what_it_was_about_as_its_caller_did(cx: Fixture) {
    for fault in [Fault::Deny, Fault::Refuse] {
        for (name, call) in all_calls() {
            let (client, faults) = cx.faulty().await;
            let _failing = Lasting::begin(&faults, fault, |_| true);
            let Ok(Err(error)) = timeout(cx.soon(), call(&client.provider, "name")).await else { continue };
            assert_eq!(error.operation().split('.').next(), name.split('.').next(), "{name}: {error:?}");
            let key =
                error.key().unwrap_or_else(|| panic!("{name} does not say what it was about: {error:?}"));
            assert!(["name", "name/id", "id/name", "name/name"].contains(&key), "{name} is about {key:?}");
        }
    }
}

pub(super) async fn an_error_names_no_other_key_than_its_own(cx: Fixture) {
    let _others = kept_by_others(&cx).await;
    let provider = cx.provider().await;
    for (name, call) in CALLS {
        let Ok(Err(error)) = timeout(cx.ttl() * 2, call(Arc::clone(&provider), cx.ttl())).await else {
            continue;
        };
        let keys = ["name", "name//k", "name/id", "name/own", "name/another"];
        // A bad key may be named, or not.
        if ![ErrorKind::Closed, ErrorKind::InvalidArgument].contains(&error.kind()) {
            let key =
                error.key().unwrap_or_else(|| panic!("{name} does not say what it was about: {error:?}"));
            assert!(keys.contains(&key), "{name} is about {key:?}");
        }
        assert!(!shown(&error).contains(layout::CONFIG), "{name} shows where the store keeps it: {error:?}");
    }
}

pub(super) async fn what_does_not_decode_is_not_quoted(cx: Fixture) {
    let _others = kept_by_others(&cx).await;
    let (provider, store) = (cx.provider().await, cx.store().await);
    let record = |fields: &str| format!("{{\"metadata\": {{\"password\": \"{SECRET}\"}}, {fields}}}");
    let good = r#""id": "r", "name": "name", "address": "localhost", "port": 80"#;
    for fields in [
        String::new(),
        good.replace("80", "0"),
        good.replace("80", &format!("\"{SECRET}\"")),
        good.replace("localhost", &format!("me:{SECRET}@localhost")),
        good.replace("localhost", "0.0.0.0"),
        good.replace("\"r\"", &format!("\"{SECRET}\"")),
        good.replace("\"name\": \"name\"", &format!("\"name\": \"{SECRET}\"")),
    ] {
        put(&*store, layout::service("name", "r"), record(&fields)).await;
        let invalid = provider.registry().discover("name").await.unwrap().invalid;
        assert_eq!(invalid.len(), 2, "{fields}");
        for record in invalid {
            keeps_to_itself("a record that does not decode", &format!("{} {record:?}", shown(&record.error)));
        }
    }
    let typed = provider.config().list::<u32>("").await.unwrap().invalid;
    assert!(!typed.is_empty());
    for record in typed {
        keeps_to_itself("a value of another type", &shown(&record.error));
    }
}

pub(super) async fn what_is_no_record_at_all_is_not_quoted(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    for (id, bytes) in [
        ("text", SECRET.to_owned()),
        ("half", format!("{{\"{SECRET}\": ")),
        ("string", format!("{SECRET:?}")),
    ] {
        put(&*store, layout::service("name", id), bytes.clone()).await;
        put(&*store, layout::config(&format!("d/{id}")), bytes).await;
    }
    let invalid = provider.registry().discover("name").await.unwrap().invalid;
    let typed = provider.config().list::<u32>("d").await.unwrap().invalid;
    assert_eq!((invalid.len(), typed.len()), (3, 3));
    for record in invalid.into_iter().chain(typed) {
        keeps_to_itself("what is no record", &format!("{} {record:?}", shown(&record.error)));
    }
}

pub(super) async fn what_does_not_decode_is_not_quoted_by_a_watch(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let mut typed = provider.config().watch::<u32>("name", WatchStart::Now).await.unwrap();
    let mut service = provider.registry().watch("name").await.unwrap();
    provider.config().set_raw("name", secret()).await.unwrap();
    put(&*store, layout::service("name", "r"), format!("{{\"password\": \"{SECRET}\"}}")).await;
    within(cx.soon(), "the value is told", async {
        loop {
            if let ConfigEvent::Invalid { record, .. } = typed.next().await.unwrap().unwrap() {
                return keeps_to_itself("a value of another type", &shown(&record.error));
            }
        }
    })
    .await;
    within(cx.soon(), "the record is told", async {
        loop {
            let records = match service.next().await.unwrap().unwrap() {
                ServiceEvent::Resync(snapshot) => snapshot.invalid,
                ServiceEvent::Change { change: ServiceChange::Invalid(record), .. } => vec![record],
                ServiceEvent::Change { .. } => Vec::new(),
            };
            for record in &records {
                keeps_to_itself("a record that does not decode", &shown(&record.error));
            }
            if !records.is_empty() {
                return;
            }
        }
    })
    .await;
}

/// What a provider and everything that it gave show of themselves.
async fn show_themselves(cx: &Fixture, ended: bool) {
    let client = cx.client().await;
    let provider = &client.provider;
    provider.config().set_raw("name", secret()).await.unwrap();
    let held = Held::new(provider, cx.ttl()).await;
    let options = RegisterOptions::default().with_ttl(cx.ttl());
    let registration = provider.registry().register_with(instance("i"), options).await.unwrap();
    registration.update(instance("i").with_metadata("more", SECRET)).await.unwrap();
    let several = vec![instance("j"), instance("k")];
    let several = provider.registry().register_all(several, options).await.unwrap();
    let watch = provider.config().watch_raw("name", WatchStart::Snapshot).await.unwrap();
    let services = provider.registry().watch("name").await.unwrap();
    let read = provider.config().get_raw("name").await.unwrap();
    let listed = provider.config().list_raw("").await.unwrap();
    let waits = LockOptions::default().with_ttl(cx.ttl());
    if ended {
        provider.close().await.unwrap();
    }
    for (what, shown) in [
        ("a provider", format!("{provider:?} {provider:#?}")),
        (
            "a contract",
            format!(
                "{:?} {:?} {:?} {:?}",
                provider.config(),
                provider.lock(),
                provider.registry(),
                provider.allocator()
            ),
        ),
        (
            "a handle",
            format!("{:?} {:?} {:?} {:?}", held.guard, held.registration, held.id, held.guard.lost()),
        ),
        ("a registration", format!("{registration:?} {registration:#?} {several:?}")),
        ("a watch", format!("{watch:?} {services:?}")),
        ("what was read", format!("{read:?} {listed:?}")),
        ("an option", format!("{options:?} {waits:?}")),
    ] {
        keeps_to_itself(what, &shown);
    }
}

pub(super) async fn no_handle_shows_what_it_stands_for(cx: Fixture) {
    show_themselves(&cx, false).await;
}

pub(super) async fn no_handle_that_is_over_shows_what_it_stood_for(cx: Fixture) {
    show_themselves(&cx, true).await;
}
