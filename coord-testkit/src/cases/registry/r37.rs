//! R37 Self-healing.

use std::time::Duration;

use coord_api::store::{Op, Txn};
use coord_api::{ErrorKind, HandleState, Loss, Outcome, Registration, ServiceInstance};
use tokio::time::sleep;

use super::super::leased::{Lasting, delete, entry, keep_alive_for_it, lease_of, lost_within};
use super::{eventually_found, found, healed_within, instance, register, version};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, never_within, within};
use crate::wrap::Fault;

async fn eventually_held(cx: &Fixture, registration: &Registration) {
    eventually(healed_within(cx), "the handle says that it is registered", || async {
        (registration.state() == HandleState::Held).then_some(())
    })
    .await;
}

/// Asserts that the entry hangs on a lease that lives.
async fn hangs_on_a_live_lease(cx: &Fixture, id: &str) {
    let store = cx.store().await;
    let lease = lease_of(&*store, layout::service("s", id)).await;
    let info = store.lease(lease).await.unwrap().expect("the lease lives");
    assert!(info.keys.iter().any(|key| key.as_ref() == layout::service("s", id).as_bytes()));
}

pub(super) async fn after_a_revocation_it_comes_back_on_a_live_lease(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let registration = register(&cx, &*provider, instance("a")).await.unwrap();
    let (lease, number) = (lease_of(&*store, layout::service("s", "a")).await, registration.fencing_token());
    let mut lost = registration.lost();
    store.revoke_lease(lease).await.unwrap();
    eventually_found(healed_within(&cx), &*cx.provider().await, "it is back", &[instance("a")]).await;
    eventually_held(&cx, &registration).await;
    hangs_on_a_live_lease(&cx, "a").await;
    assert_ne!(lease_of(&*store, layout::service("s", "a")).await, lease);
    assert!(registration.fencing_token() > number, "it was created anew");
    never_within(cx.ttl() * 2, "a loss", &mut lost).await;
    assert_eq!(found(&*provider).await, [instance("a")]);
    assert_eq!(registration.state(), HandleState::Held);
}

pub(super) async fn after_a_foreign_deletion_it_comes_back(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let registration = register(&cx, &*provider, instance("a")).await.unwrap();
    let other = register(&cx, &*provider, instance("b")).await.unwrap();
    let mut losts = [registration.lost(), other.lost()];
    delete(&*store, layout::service("s", "a")).await;
    eventually_found(healed_within(&cx), &*provider, "it is back", &[instance("a"), instance("b")]).await;
    eventually_held(&cx, &registration).await;
    hangs_on_a_live_lease(&cx, "a").await;
    for lost in &mut losts {
        never_within(cx.ttl(), "a loss", lost).await;
    }
    registration.unregister().await.unwrap();
    assert_eq!(found(&*provider).await, [instance("b")]);
}

pub(super) async fn it_comes_back_every_time(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let registration = register(&cx, &*provider, instance("a")).await.unwrap();
    for round in 0..6 {
        if round % 2 == 0 {
            store.revoke_lease(lease_of(&*store, layout::service("s", "a")).await).await.unwrap();
        } else {
            delete(&*store, layout::service("s", "a")).await;
        }
        eventually_found(healed_within(&cx), &*provider, "it is back", &[instance("a")]).await;
    }
    eventually_held(&cx, &registration).await;
    registration.unregister().await.unwrap();
    sleep(cx.ttl()).await;
    assert_eq!(found(&*provider).await, []);
}

pub(super) async fn it_comes_back_with_its_latest_content(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let registration = register(&cx, &*provider, version("a", "1")).await.unwrap();
    registration.update(version("a", "2")).await.unwrap();
    store.revoke_lease(lease_of(&*store, layout::service("s", "a")).await).await.unwrap();
    eventually_found(healed_within(&cx), &*provider, "it is back", &[version("a", "2")]).await;
    // Updated at the very moment of the loss.
    store.revoke_lease(lease_of(&*store, layout::service("s", "a")).await).await.unwrap();
    let updated = within(cx.soon(), "an answer", registration.update(version("a", "3"))).await;
    assert!(updated.is_ok(), "a loss that is being healed is no end: {updated:?}");
    eventually_found(healed_within(&cx), &*provider, "it is back", &[version("a", "3")]).await;
    delete(&*store, layout::service("s", "a")).await;
    eventually_found(healed_within(&cx), &*provider, "it is back", &[version("a", "3")]).await;
}

pub(super) async fn it_comes_back_with_every_field(cx: Fixture) {
    let (provider, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let first =
        ServiceInstance::new("s", "a", "10.0.0.1", 80).with_metadata("Zone", "1").with_metadata("v", "1");
    let last = ServiceInstance::new("s", "a", "10.0.0.2", 81).with_metadata("Zone", "2");
    let registration = register(&cx, &*provider, first.clone()).await.unwrap();
    for wanted in [first, last] {
        registration.update(wanted.clone()).await.unwrap();
        for revoked in [true, false] {
            if revoked {
                store.revoke_lease(lease_of(&*store, layout::service("s", "a")).await).await.unwrap();
            } else {
                delete(&*store, layout::service("s", "a")).await;
            }
            let wanted = std::slice::from_ref(&wanted);
            eventually_found(healed_within(&cx), &*other, "it is back as it was", wanted).await;
            eventually_held(&cx, &registration).await;
        }
    }
}

pub(super) async fn many_come_back_together(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let mut held = Vec::new();
    for n in 0..50 {
        held.push(register(&cx, &*provider, instance(format!("i{n:02}"))).await.unwrap());
    }
    let before = found(&*provider).await;
    assert_eq!(before.len(), 50);
    store.revoke_lease(lease_of(&*store, layout::service("s", "i00")).await).await.unwrap();
    eventually_found(healed_within(&cx), &*provider, "all are back", &before).await;
    for registration in &held {
        eventually_held(&cx, registration).await;
    }
    let leases: std::collections::BTreeSet<_> =
        super::super::leased::entries(&*store, layout::service("s", ""))
            .await
            .into_iter()
            .map(|entry| entry.lease)
            .collect();
    assert_eq!(leases.len(), 1, "on one lease");
}

pub(super) async fn after_an_outage_it_comes_back(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, store) = (cx.provider().await, cx.store().await);
    let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
    for hang in [true, false] {
        if hang {
            faults.hang()
        } else {
            faults.cut()
        }
        eventually_found(cx.gone_by(cx.ttl()), &*other, "it expires", &[]).await;
        faults.heal();
        eventually_found(healed_within(&cx), &*other, "it is back", &[instance("a")]).await;
        eventually_held(&cx, &registration).await;
        hangs_on_a_live_lease(&cx, "a").await;
    }
    // Its old lease may have outlived the local deadline: it moves to a new one all the same.
    let lease = lease_of(&*store, layout::service("s", "a")).await;
    faults.hang();
    let kept = keep_alive_for_it(&store, lease, cx.ttl());
    sleep(cx.ttl() * 2).await;
    assert_eq!(registration.state(), HandleState::Lost);
    faults.heal();
    within(healed_within(&cx), "the old lease is revoked", kept).await.unwrap();
    eventually_found(healed_within(&cx), &*other, "it is back", &[instance("a")]).await;
    eventually_held(&cx, &registration).await;
    assert_ne!(lease_of(&*store, layout::service("s", "a")).await, lease);
}

pub(super) async fn after_an_outage_of_many_ttls_it_comes_back(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let other = cx.provider().await;
    let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
    faults.cut();
    // It is retried for ever, and the pauses stop growing.
    sleep(if cx.virtual_time() { Duration::from_secs(3_600) } else { cx.ttl() * 5 }).await;
    assert_eq!(found(&*other).await, []);
    faults.heal();
    eventually_found(healed_within(&cx), &*other, "it is back", &[instance("a")]).await;
    eventually_held(&cx, &registration).await;
}

pub(super) async fn an_update_that_failed_is_carried_out_by_healing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let other = cx.provider().await;
    let registration = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    faults.cut();
    let error = within(cx.soon(), "an answer", registration.update(version("a", "2"))).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    faults.heal();
    eventually_found(healed_within(&cx), &*other, "the update is carried out", &[version("a", "2")]).await;
    assert_eq!(registration.state(), HandleState::Held);
}

pub(super) async fn its_state_shows_the_loss_and_lost_does_not_fire(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let other = cx.provider().await;
    let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
    let mut lost = registration.lost();
    assert_eq!(registration.state(), HandleState::Held);
    assert!(registration.ttl() > Duration::ZERO);
    let number = registration.fencing_token();
    faults.cut();
    sleep(registration.ttl() + Duration::from_millis(100) + cx.slack()).await;
    assert_eq!(registration.state(), HandleState::Lost, "at its local deadline, with no network");
    assert_eq!(registration.ttl(), Duration::ZERO);
    never_within(cx.ttl(), "lost() fires", &mut lost).await;
    assert_eq!(registration.state(), HandleState::Lost);
    faults.heal();
    eventually_held(&cx, &registration).await;
    assert!(registration.fencing_token() >= number, "it may rise");
    assert!(registration.ttl() > Duration::ZERO);
    assert_eq!(found(&*other).await, [instance("a")]);
    never_within(cx.ttl(), "lost() fires", &mut lost).await;
    // Only now is it over.
    registration.unregister().await.unwrap();
    assert_eq!(lost_within(cx.slack(), "lost() fires", lost).await.0, Loss::Released);
}

pub(super) async fn its_state_shows_the_loss_for_as_long_as_it_cannot_be_healed(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
    for revoked in [true, false] {
        // The store is connected; only this one write does not get through.
        let refused =
            Lasting::begin(&faults, Fault::Refuse, |request| request.puts(&layout::service("s", "a")));
        if revoked {
            store.revoke_lease(lease_of(&*store, layout::service("s", "a")).await).await.unwrap();
        } else {
            delete(&*store, layout::service("s", "a")).await;
        }
        sleep(cx.ttl() / 3 + super::ONE_SECOND + cx.slack()).await;
        for _ in 0..20 {
            assert_eq!(registration.state(), HandleState::Lost);
            assert_eq!(registration.ttl(), Duration::ZERO);
            sleep(cx.ttl() / 10).await;
        }
        refused.end();
        eventually_held(&cx, &registration).await;
        assert_eq!(found(&*client.provider).await, [instance("a")]);
    }
}

pub(super) async fn a_heal_whose_answer_was_lost_is_no_foreign_owner(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, store) = (cx.provider().await, cx.store().await);
    let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
    let mut lost = registration.lost();
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Hold, Fault::Refuse] {
        faults.next_put(fault, layout::service("s", "a"));
        delete(&*store, layout::service("s", "a")).await;
        eventually_found(healed_within(&cx), &*other, "it is back", &[instance("a")]).await;
        eventually_held(&cx, &registration).await;
        for held in faults.take_held() {
            let _ = held.apply().await;
        }
        never_within(cx.ttl(), "lost() fires", &mut lost).await;
        assert_eq!(found(&*other).await, [instance("a")], "{fault:?}");
        assert_eq!(faults.unused(), 0);
    }
}

pub(super) async fn a_healer_that_finds_a_live_foreign_owner_ends_as_superseded(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, store) = (cx.provider().await, cx.store().await);
    let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    faults.hang();
    // Its entry is gone before another takes the id: what comes back finds a stranger.
    eventually_found(cx.gone_by(cx.ttl()), &*other, "it expires", &[]).await;
    let new = register(&cx, &*other, version("a", "2")).await.unwrap();
    let record = entry(&*store, layout::service("s", "a")).await;
    faults.heal();
    let (loss, _) = lost_within(healed_within(&cx), "the healer gives up", old.lost()).await;
    assert_eq!(loss, Loss::Superseded);
    sleep(cx.ttl() * 3).await;
    assert_eq!(
        entry(&*store, layout::service("s", "a")).await,
        record,
        "the new owner's entry was never touched"
    );
    assert_eq!(new.state(), HandleState::Held);
    assert_eq!(old.update(version("a", "3")).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

pub(super) async fn an_owner_that_was_cut_off_does_not_take_the_id_back(cx: Fixture) {
    let other = cx.provider().await;
    for hang in [true, false] {
        let (client, faults) = cx.faulty().await;
        let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
        if hang {
            faults.hang()
        } else {
            faults.cut()
        }
        // Taken over while its lease still lives.
        let new = register(&cx, &*other, version("a", "2")).await.unwrap();
        sleep(cx.ttl() * 2).await;
        faults.heal();
        let (loss, _) = lost_within(healed_within(&cx), "the old owner learns of it", old.lost()).await;
        assert_eq!(loss, Loss::Superseded);
        sleep(cx.ttl() * 2).await;
        assert_eq!(found(&*other).await, [version("a", "2")]);
        assert_eq!(new.state(), HandleState::Held);
        new.unregister().await.unwrap();
        sleep(cx.ttl()).await;
        assert_eq!(found(&*other).await, [], "nor after the new owner went");
    }
}

pub(super) async fn a_foreign_record_in_its_place_supersedes_it(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let registration = register(&cx, &*provider, instance("a")).await.unwrap();
    // Another program, on a lease of its own.
    let lease = store.grant_lease(cx.ttl() * 10).await.unwrap().id;
    let theirs = layout::service_record("s", "a", "10.0.0.1", 8080);
    store
        .txn(Txn::new().then(Op::put_leased(layout::service("s", "a"), theirs.clone(), lease)))
        .await
        .unwrap();
    let limit = cx.ttl() / 3 + super::ONE_SECOND + cx.slack();
    assert_eq!(lost_within(limit, "it gives way", registration.lost()).await.0, Loss::Superseded);
    sleep(cx.ttl() * 2).await;
    let record = entry(&*store, layout::service("s", "a")).await.unwrap();
    assert_eq!((record.value, record.lease), (theirs, Some(lease)));
}
