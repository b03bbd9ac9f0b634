//! R55 Fenced writes.

use std::slice::from_ref;
use std::sync::Arc;

use coord_api::fence::MAX_FENCES;
use coord_api::prelude::*;
use coord_api::{
    ErrorKind, Fence, HandleState, IdOptions, LockGuard, Provider, RegisterOptions, Registration,
    ServiceInstance, Value, Version, WriteOptions,
};

use super::super::fenced::{KEY, is_refused, write};
use super::super::leased::{delete, queue};
use super::{conflict, value};
use crate::bad;
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, within};
use crate::wrap::Fault;

async fn lock(cx: &Fixture, provider: &Arc<dyn Provider>, key: &str) -> LockGuard {
    within(cx.soon(), "the lock is acquired", provider.lock().acquire(key, cx.ttl())).await.unwrap()
}

async fn register(cx: &Fixture, provider: &Arc<dyn Provider>) -> Registration {
    let options = RegisterOptions::default().with_ttl(cx.ttl());
    let instance = ServiceInstance::new("s", "1", "localhost", 80);
    provider.registry().register_with(instance, options).await.unwrap()
}

pub(super) async fn a_broken_fence_comes_before_a_conflict(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let guard = lock(&cx, &one, "k").await;
    let at =
        |version, guard: &LockGuard| WriteOptions::default().with_expected(version).with_fence(guard.fence());
    let created = two.config().write_with(KEY, value("1"), at(Version::ZERO, &guard)).await.unwrap();
    for wrong in [Version::ZERO, Version::new(created.get() + 1)] {
        let error = two.config().write_with(KEY, value("2"), at(wrong, &guard)).await.unwrap_err();
        assert_eq!(conflict(&error), created);
    }
    let second = two.config().set_with(KEY, "2", at(created, &guard)).await.unwrap();
    let fence = guard.fence();
    for entry in queue(&*cx.store().await, "k").await {
        delete(&*cx.store().await, entry.key).await;
    }
    for expected in [Version::ZERO, created, second, Version::new(second.get() + 1)] {
        let options = WriteOptions::default().with_expected(expected).with_fence(fence.clone());
        let error = two.config().write_with(KEY, value("3"), options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseLost, "expected {expected}");
    }
    let found = one.config().get_raw(KEY).await.unwrap().unwrap();
    assert_eq!((found.value, found.version), (value("\"2\""), second), "nothing was changed");
}

pub(super) async fn eight_handles_of_every_kind_tie_one_write(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let mut guards = Vec::new();
    for n in 0..MAX_FENCES - 2 {
        guards.push(lock(&cx, [&one, &two][n % 2], &format!("k{n}")).await);
    }
    let id = one.allocator().acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl())).await.unwrap();
    let registration = register(&cx, &two).await;
    let mut fences: Vec<Fence> = guards.iter().map(LockGuard::fence).collect();
    fences.extend([id.fence(), registration.fence()]);
    for provider in [&one, &two, &cx.provider().await] {
        write(provider, &fences).await.unwrap();
    }
    let nine = [&fences[..], &[guards[0].fence()]].concat();
    assert_eq!(write(&one, &nine).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    // Any one of them decides.
    guards[3].unlock().await.unwrap();
    is_refused(&cx, &one, &fences, "one of eight was unlocked").await;
    fences[3] = guards[2].fence();
    write(&two, &fences).await.unwrap();
    delete(&*cx.store().await, layout::id("s", id.id())).await;
    is_refused(&cx, &two, &fences, "one of eight lost its entry").await;
}

pub(super) async fn what_is_wrong_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let provider = &client.provider;
    let guard = lock(&cx, provider, "k").await;
    let lost = lock(&cx, provider, "l").await;
    lost.unlock().await.unwrap();
    let fenced = |guard: &LockGuard, times| {
        (0..times).fold(WriteOptions::default(), |options, _| options.with_fence(guard.fence()))
    };
    let wrong = async {
        let mut errors = Vec::new();
        for key in bad::keys() {
            errors.push(provider.config().write_with(&key, value("v"), fenced(&guard, 1)).await);
        }
        let large = Value::from(vec![0; coord_api::key::MAX_VALUE_BYTES + 1]);
        errors.push(provider.config().write_with(KEY, large, fenced(&guard, 1)).await);
        for guard in [&guard, &lost] {
            errors.push(provider.config().write_with(KEY, value("v"), fenced(guard, MAX_FENCES + 1)).await);
            let many = fenced(guard, 200).with_expected(Version::ZERO);
            errors.push(provider.config().write_with(KEY, value("v"), many).await);
        }
        errors
    };
    let (errors, counts) = counter.during(wrong).await;
    assert_eq!(counts.requests(), 0, "{counts:?}");
    for error in errors {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(provider.config().get_raw(KEY).await.unwrap(), None);
}

pub(super) async fn a_fence_of_another_store_is_an_invalid_argument(cx: Fixture) {
    let another = cx.another().await;
    // The same was done in both, so that their entries look the same.
    let (here, there) = (cx.provider().await, another.provider().await);
    let (own, foreign) = (lock(&cx, &here, "k").await, lock(&cx, &there, "k").await);
    for (provider, fences) in [
        (&here, vec![foreign.fence()]),
        (&here, vec![own.fence(), foreign.fence()]),
        (&there, vec![own.fence()]),
    ] {
        let error = write(provider, &fences).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert_eq!(provider.config().get_raw(KEY).await.unwrap(), None);
    }
    write(&here, &[own.fence()]).await.unwrap();
    write(&there, &[foreign.fence()]).await.unwrap();
}

pub(super) async fn a_fence_of_another_namespace_is_an_invalid_argument(cx: Fixture) {
    let spaces = [cx.provider().await, cx.namespaced("team").await, cx.namespaced("team/a").await];
    let mut guards = Vec::new();
    for provider in &spaces {
        guards.push(lock(&cx, provider, "k").await);
    }
    for (n, provider) in spaces.iter().enumerate() {
        for (m, guard) in guards.iter().enumerate() {
            let written = write(provider, &[guard.fence()]).await;
            if n == m {
                written.unwrap();
            } else {
                assert_eq!(written.unwrap_err().kind(), ErrorKind::InvalidArgument, "{n} and {m}");
            }
        }
    }
    // Another client of the same namespace is none.
    write(&cx.namespaced("team").await, &[guards[1].fence()]).await.unwrap();
}

pub(super) async fn which_store_it_is_costs_no_request_of_whoever_holds_something(cx: Fixture) {
    let another = cx.another().await;
    let (client, counter) = cx.counting().await;
    let own = lock(&cx, &client.provider, "k").await;
    let foreign = lock(&cx, &another.provider().await, "k").await;
    let (answers, counts) = counter
        .during(async {
            [write(&client.provider, &[foreign.fence()]).await, write(&client.provider, &[own.fence()]).await]
        })
        .await;
    let [refused, written] = answers;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    written.unwrap();
    assert_eq!((counts.requests(), counts.txn), (1, 1), "{counts:?}");
}

pub(super) async fn a_fence_from_before_a_downgrade_fails(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let guard = lock(&cx, &one, "k").await;
    let before = guard.fence();
    write(&two, from_ref(&before)).await.unwrap();
    guard.downgrade().await.unwrap();
    for provider in [&one, &two] {
        is_refused(&cx, provider, from_ref(&before), "it is shared now").await;
        write(provider, &[guard.fence()]).await.unwrap();
    }
    // One that is shared already has nothing to lose by it.
    let reader = within(cx.soon(), "a reader", two.lock().acquire_shared("k", cx.ttl())).await.unwrap();
    let before = reader.fence();
    reader.downgrade().await.unwrap();
    guard.downgrade().await.unwrap();
    write(&one, &[before, guard.fence()]).await.unwrap();
}

pub(super) async fn while_a_downgrade_is_in_doubt_the_guard_fences(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        let guard = lock(&cx, &client.provider, "k").await;
        for _ in 0..3 {
            faults.next_put(fault, layout::lock_queue("k"));
        }
        let _ = within(cx.soon(), "an answer", guard.downgrade()).await;
        write(&other, &[guard.fence()]).await.unwrap();
        faults.heal();
        faults.forget();
        while within(cx.soon(), "an answer", guard.downgrade()).await.is_err() {}
        write(&other, &[guard.fence()]).await.unwrap();
        guard.unlock().await.unwrap();
    }
}

pub(super) async fn a_registration_fences_under_one_owner(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let first = register(&cx, &one).await;
    let fence = first.fence();
    first.update(ServiceInstance::new("s", "1", "localhost", 81)).await.unwrap();
    write(&two, &[fence.clone(), first.fence()]).await.unwrap();
    // A later handle of the same provider, under the same lease.
    let second = register(&cx, &one).await;
    is_refused(&cx, &two, &[fence], "a later handle has it").await;
    is_refused(&cx, &one, &[first.fence()], "a later handle has it").await;
    let fence = second.fence();
    write(&two, from_ref(&fence)).await.unwrap();
    // Another provider, which takes it over in place: the key stays as old as it is.
    let third = register(&cx, &two).await;
    is_refused(&cx, &two, &[fence], "another owner has it").await;
    write(&one, &[third.fence()]).await.unwrap();
    third.update(ServiceInstance::new("s", "1", "localhost", 82)).await.unwrap();
    write(&one, &[third.fence()]).await.unwrap();
}

pub(super) async fn a_registration_that_healed_has_another_fence(cx: Fixture) {
    let (one, two) = (cx.provider().await, cx.provider().await);
    let registration = register(&cx, &one).await;
    let (before, token) = (registration.fence(), registration.fencing_token());
    delete(&*cx.store().await, layout::service("s", "1")).await;
    is_refused(&cx, &two, from_ref(&before), "the registration is gone").await;
    eventually(cx.gone_by(cx.ttl()) + cx.soon(), "it heals", || async {
        let healed = registration.state() == HandleState::Held && registration.fencing_token() > token;
        healed.then_some(())
    })
    .await;
    is_refused(&cx, &two, &[before], "a fence from before the loss").await;
    write(&two, &[registration.fence()]).await.unwrap();
}

pub(super) async fn what_a_crashed_client_held_fences_nothing(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.provider().await);
    let guard = lock(&cx, &client.provider, "k").await;
    let fence = guard.fence();
    write(&other, from_ref(&fence)).await.unwrap();
    client.crash().await;
    let next = other.lock().acquire("k", cx.ttl());
    let next = within(cx.gone_by(cx.ttl()) + cx.soon(), "the lock is free", next).await.unwrap();
    is_refused(&cx, &other, &[fence], "its holder is dead").await;
    write(&other, &[next.fence()]).await.unwrap();
}
