//! R38 Unregister wins.

use coord_api::prelude::*;
use coord_api::store::{Change, Span, StoreEvent};
use coord_api::{HandleState, Loss, Outcome, RegisterOptions};
use tokio::time::{sleep, timeout};

use super::super::leased::{
    BACKOFF_CAP, Lasting, ONE_SECOND, delete, entry, gone, head, keep_alive_for_it, lease_of, lost_within,
};
use super::{eventually_found, found, instance, register, version};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, within};
use crate::wrap::{Fault, Request};

/// Asserts that nothing is put under `a` for a while.
async fn never_comes_back(cx: &Fixture) {
    let store = cx.store().await;
    // A watch from now may tell again what came before.
    let before = head(&*store).await;
    let mut watch = store.watch(Span::key(layout::service("s", "a")), None).await.unwrap();
    assert_eq!(entry(&*store, layout::service("s", "a")).await, None);
    let put = async {
        loop {
            match watch.next().await {
                Some(Ok(StoreEvent::Batch(batch)))
                    if batch.revision > before
                        && batch.changes.iter().any(|change| matches!(change, Change::Put(_))) =>
                {
                    return batch;
                }
                Some(Ok(_)) => {}
                // A watch may break; what counts is what is there.
                _ => std::future::pending().await,
            }
        }
    };
    if let Ok(batch) = timeout(cx.ttl() * 3, put).await {
        panic!("it came back at revision {}", batch.revision);
    }
    assert_eq!(entry(&*store, layout::service("s", "a")).await, None);
}

pub(super) async fn after_unregister_it_is_gone_for_good(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let kept = register(&cx, &*provider, instance("b")).await.unwrap();
    let registration = register(&cx, &*provider, instance("a")).await.unwrap();
    registration.unregister().await.unwrap();
    assert_eq!(found(&*other).await, [instance("b")], "at once");
    assert_eq!(registration.state(), HandleState::Ended(Loss::Released));
    never_comes_back(&cx).await;
    assert_eq!(kept.state(), HandleState::Held);
    assert!(registration.update(version("a", "2")).await.is_err());
    assert_eq!(found(&*other).await, [instance("b")]);
    // Someone may register it again.
    let again = register(&cx, &*provider, version("a", "3")).await.unwrap();
    assert_eq!(found(&*other).await, [version("a", "3"), instance("b")]);
    assert!(again.fencing_token() > registration.fencing_token());
}

pub(super) async fn unregister_is_idempotent_and_harms_no_successor(cx: Fixture) {
    let (provider, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    for successor in [&provider, &other] {
        let old = register(&cx, &*provider, version("a", "1")).await.unwrap();
        old.unregister().await.unwrap();
        old.unregister().await.unwrap();
        let new = register(&cx, &**successor, version("a", "2")).await.unwrap();
        let record = entry(&*store, layout::service("s", "a")).await;
        old.unregister().await.unwrap();
        drop(old);
        sleep(cx.ttl()).await;
        // It heals: that it is there is not enough.
        assert_eq!(
            entry(&*store, layout::service("s", "a")).await,
            record,
            "the successor's entry was never touched"
        );
        assert_eq!(found(&*other).await, [version("a", "2")]);
        assert_eq!(new.state(), HandleState::Held);
        new.unregister().await.unwrap();
    }
}

pub(super) async fn unregister_after_a_takeover_is_ok_and_removes_nothing(cx: Fixture) {
    let (one, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    for told in [false, true] {
        let old = register(&cx, &*one, version("a", "1")).await.unwrap();
        let new = register(&cx, &*other, version("a", "2")).await.unwrap();
        if told {
            lost_within(ONE_SECOND + cx.slack(), "the old handle is over", old.lost()).await;
        }
        let record = entry(&*store, layout::service("s", "a")).await;
        within(cx.soon(), "an answer", old.unregister()).await.unwrap();
        sleep(cx.ttl()).await;
        assert_eq!(found(&*one).await, [version("a", "2")]);
        assert_eq!(
            entry(&*store, layout::service("s", "a")).await,
            record,
            "the new owner's entry was never touched"
        );
        assert_eq!(new.state(), HandleState::Held);
        new.unregister().await.unwrap();
    }
}

pub(super) async fn who_has_not_heard_of_the_takeover_removes_nothing(cx: Fixture) {
    let (other, store) = (cx.provider().await, cx.store().await);
    for drops in [false, true] {
        let (client, faults) = cx.faulty().await;
        let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
        faults.silence_watches();
        let new = register(&cx, &*other, version("a", "2")).await.unwrap();
        let record = entry(&*store, layout::service("s", "a")).await;
        if drops {
            drop(old);
        } else {
            within(cx.soon(), "an answer", old.unregister()).await.unwrap();
        }
        sleep(ONE_SECOND).await;
        // It heals: that it is there is not enough.
        let now = entry(&*store, layout::service("s", "a")).await;
        assert_eq!(now, record, "the new owner's entry was never touched");
        faults.heal();
        sleep(cx.ttl()).await;
        assert_eq!(entry(&*store, layout::service("s", "a")).await, record);
        assert_eq!(new.state(), HandleState::Held);
        new.unregister().await.unwrap();
    }
}

pub(super) async fn unregister_while_healing_wins(cx: Fixture) {
    let store = cx.store().await;
    for revoked in [true, false] {
        let (client, faults) = cx.faulty().await;
        let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
        // It cannot come back for now.
        let refused =
            Lasting::begin(&faults, Fault::Refuse, |request| request.puts(&layout::service("s", "a")));
        if revoked {
            store.revoke_lease(lease_of(&*store, layout::service("s", "a")).await).await.unwrap();
        } else {
            delete(&*store, layout::service("s", "a")).await;
        }
        eventually(ONE_SECOND + cx.slack(), "the loss is seen", || async {
            (registration.state() == HandleState::Lost).then_some(())
        })
        .await;
        within(cx.soon(), "an answer", registration.unregister()).await.unwrap();
        refused.end();
        never_comes_back(&cx).await;
        // At the very moment of the loss.
        let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
        delete(&*store, layout::service("s", "a")).await;
        within(cx.soon(), "an answer", registration.unregister()).await.unwrap();
        never_comes_back(&cx).await;
    }
}

pub(super) async fn unregister_while_cut_off_is_unknown_and_pending(cx: Fixture) {
    let other = cx.provider().await;
    for long in [false, true] {
        let (client, faults) = cx.faulty().await;
        let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
        let kept = register(&cx, &*client.provider, instance("b")).await.unwrap();
        faults.cut();
        if long {
            sleep(cx.gone_by(cx.ttl())).await;
        }
        let unregistered = within(cx.soon(), "an answer", registration.unregister()).await;
        if !long {
            let error = unregistered.unwrap_err();
            assert!(error.is_transient(), "{error}");
            assert_eq!(error.outcome(), Outcome::Unknown);
        }
        assert!(matches!(registration.state(), HandleState::Ended(_)), "it is over all the same");
        faults.heal();
        eventually_found(cx.ttl(), &*other, "only the other one is there", &[instance("b")]).await;
        never_comes_back(&cx).await;
        eventually(ONE_SECOND, "the other one is registered", || async {
            (kept.state() == HandleState::Held).then_some(())
        })
        .await;
        kept.unregister().await.unwrap();
    }
}

pub(super) async fn a_failed_unregister_asks_the_store_again(cx: Fixture) {
    let other = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
    faults.cut();
    for _ in 0..2 {
        let error = within(cx.soon(), "an answer", registration.unregister()).await.unwrap_err();
        assert_eq!((error.is_transient(), error.outcome()), (true, Outcome::Unknown), "{error}");
    }
    faults.heal();
    eventually(cx.soon(), "it is removed once the store answers", || async {
        registration.unregister().await.ok()
    })
    .await;
    assert_eq!(found(&*other).await, [], "Ok says that it is gone");
    never_comes_back(&cx).await;
    // Someone else's is not touched by calling once more.
    let later = other.registry().register(instance("a")).await.unwrap();
    registration.unregister().await.unwrap();
    assert!(later.state().is_held());
    assert_eq!(found(&*other).await, [instance("a")]);
}

pub(super) async fn an_unregister_whose_answer_was_lost_does_not_bring_it_back(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Refuse] {
        let (client, faults) = cx.faulty().await;
        let kept = register(&cx, &*client.provider, instance("b")).await.unwrap();
        let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
        faults.next_delete(fault, layout::service("s", "a"));
        if let Err(error) = within(cx.soon(), "an answer", registration.unregister()).await {
            assert_eq!(error.outcome(), Outcome::Unknown, "{fault:?}");
        }
        eventually_found(cx.ttl(), &*other, "it is gone", &[instance("b")]).await;
        never_comes_back(&cx).await;
        assert_eq!(kept.state(), HandleState::Held, "{fault:?}");
        kept.unregister().await.unwrap();
    }
}

pub(super) async fn an_update_applied_late_does_not_bring_it_back(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, kept) = (cx.provider().await, register(&cx, &*client.provider, instance("b")).await.unwrap());
    for dropped in [false, true] {
        let registration = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
        faults.next_put(Fault::Hold, layout::service("s", "a"));
        // Whatever it says: its first write is still on its way.
        let updated = timeout(cx.slack(), registration.update(version("a", "2"))).await;
        let held = faults.take_held();
        assert_eq!(held.len(), 1, "{updated:?}");
        if dropped {
            drop(registration);
            eventually_found(ONE_SECOND + cx.slack(), &*other, "it is gone", &[instance("b")]).await;
        } else {
            within(cx.soon(), "an answer", registration.unregister()).await.unwrap();
            assert_eq!(found(&*other).await, [instance("b")]);
        }
        for held in held {
            let _ = held.apply().await;
        }
        never_comes_back(&cx).await;
    }
    assert_eq!(kept.state(), HandleState::Held);
}

pub(super) async fn a_failed_register_applied_late_does_not_bring_it_back_after_another(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let kept = register(&cx, &*client.provider, instance("b")).await.unwrap();
    faults.next_put(Fault::Hold, layout::service("s", "a"));
    let unfenced = Lasting::begin(&faults, Fault::Refuse, |request| request.puts(layout::SESSIONS));
    let failed = register(&cx, &*client.provider, version("a", "1")).await;
    let held = faults.take_held();
    assert!(failed.is_err() && held.len() == 1, "{failed:?}");
    // The next one meets no obstacle; but the first is on its way still, and waits for the place to
    // be free.
    let registration = register(&cx, &*client.provider, version("a", "2")).await.unwrap();
    let other = register(&cx, &*cx.provider().await, version("a", "3")).await.unwrap();
    other.unregister().await.unwrap();
    for held in held {
        let _ = held.apply().await;
    }
    unfenced.end();
    sleep(cx.ttl() / 2).await;
    never_comes_back(&cx).await;
    assert!(matches!(registration.state(), HandleState::Ended(_)));
    assert_eq!(kept.state(), HandleState::Held);
}

pub(super) async fn a_heal_applied_late_does_not_bring_it_back(cx: Fixture) {
    let store = cx.store().await;
    for revoked in [false, true] {
        let (client, faults) = cx.faulty().await;
        let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
        let lease = lease_of(&*store, layout::service("s", "a")).await;
        faults.next_put(Fault::Hold, layout::service("s", "a"));
        // The healer's next write, too, so that nothing but the one that is held can bring it back.
        let refused =
            Lasting::begin(&faults, Fault::Refuse, |request| request.puts(&layout::service("s", "a")));
        if revoked {
            store.revoke_lease(lease).await.unwrap();
        } else {
            delete(&*store, layout::service("s", "a")).await;
        }
        let held = eventually(super::healed_within(&cx), "it is being healed", || async {
            faults.take_held().pop()
        })
        .await;
        within(cx.soon(), "an answer", registration.unregister()).await.unwrap();
        refused.end();
        let _ = held.apply().await;
        never_comes_back(&cx).await;
    }
}

pub(super) async fn a_late_write_of_a_lost_lease_does_not_bring_it_back(cx: Fixture) {
    let store = cx.store().await;
    for revocable in [true, false] {
        let (client, faults) = cx.faulty().await;
        let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
        let lease = lease_of(&*store, layout::service("s", "a")).await;
        // A write of the healer is on its way, and nothing fences it off.
        let unfenced = Lasting::begin(&faults, Fault::Refuse, |request| request.puts(layout::SESSIONS));
        faults.next_put(Fault::Hold, layout::service("s", "a"));
        delete(&*store, layout::service("s", "a")).await;
        let held = eventually(super::healed_within(&cx), "it is being healed", || async {
            faults.take_held().pop()
        })
        .await;
        // Then its lease is lost, by the local clock alone.
        faults.hang();
        let kept = keep_alive_for_it(&store, lease, cx.ttl());
        sleep(cx.ttl() * 2).await;
        let alive = Lasting::begin(&faults, Fault::Refuse, move |request| {
            !revocable && matches!(request, Request::Revoke(_))
        });
        faults.heal();
        let unregistered = within(cx.soon(), "an answer", registration.unregister()).await;
        let applied = held.apply().await;
        if unregistered.is_ok() {
            assert!(
                !matches!(applied, Ok(true)),
                "it is gone for good, and a write of its own still arrives"
            );
            never_comes_back(&cx).await;
        }
        alive.end();
        unfenced.end();
        within(super::healed_within(&cx), "the lost lease is revoked", kept).await.unwrap();
        never_comes_back(&cx).await;
    }
}

pub(super) async fn a_heal_applied_late_after_a_move_does_not_bring_it_back(cx: Fixture) {
    let store = cx.store().await;
    let (client, faults) = cx.faulty().await;
    let old = register(&cx, &*client.provider, instance("a")).await.unwrap();
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let warm = client.provider.lock().acquire("warm", cx.ttl() * 2).await.unwrap();
    // A write of the healer is on its way under one lease, and nothing fences it off.
    let unfenced = Lasting::begin(&faults, Fault::Refuse, |request| request.puts(layout::SESSIONS));
    faults.next_put(Fault::Hold, layout::service("s", "a"));
    delete(&*store, layout::service("s", "a")).await;
    let held =
        eventually(super::healed_within(&cx), "it is being healed", || async { faults.take_held().pop() })
            .await;
    // Then it is registered under another one.
    let again = || {
        client
            .provider
            .registry()
            .register_with(version("a", "2"), RegisterOptions::default().with_ttl(cx.ttl() * 2))
    };
    let new = match within(cx.soon(), "an answer", again()).await {
        Ok(new) => new,
        Err(error) => {
            assert!(error.is_transient(), "{error}");
            unfenced.end();
            within(cx.soon(), "an answer", again()).await.unwrap()
        }
    };
    assert_eq!(found(&*client.provider).await, [version("a", "2")]);
    within(cx.soon(), "an answer", new.unregister()).await.unwrap();
    let _ = held.apply().await;
    never_comes_back(&cx).await;
    assert!(kept.is_held() && warm.is_held() && !old.state().is_held());
}

pub(super) async fn unregister_is_not_ok_while_its_lost_lease_keeps_the_entry(cx: Fixture) {
    let store = cx.store().await;
    for healing in [false, true] {
        let (client, faults) = cx.faulty().await;
        let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
        let lease = lease_of(&*store, layout::service("s", "a")).await;
        // The session is over, for its own key is gone; its lease is not, and so neither is the
        // entry. It cannot be healed for now.
        let kept = Lasting::begin(&faults, Fault::Refuse, move |request| match request {
            Request::Revoke(_) => true,
            Request::Grant => !healing,
            request => request.puts(&layout::service("s", "a")),
        });
        delete(&*store, layout::session(lease)).await;
        let limit = cx.ttl() + ONE_SECOND;
        eventually(limit, "the loss is seen", || async {
            (registration.state() == HandleState::Lost).then_some(())
        })
        .await;
        if healing {
            // Long enough for attempts under a new lease.
            sleep(BACKOFF_CAP).await;
        }
        let there = entry(&*store, layout::service("s", "a")).await.is_some();
        let unregistered = within(cx.soon(), "an answer", registration.unregister()).await;
        assert!(
            unregistered.is_err() || !there || entry(&*store, layout::service("s", "a")).await.is_none(),
            "Ok, and it is there"
        );
        kept.end();
        gone(&*store, lease, super::healed_within(&cx), "the lost lease is revoked").await;
        never_comes_back(&cx).await;
    }
}

pub(super) async fn an_unregister_dropped_at_any_await_point_wins_too(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    for polls in 1.. {
        let registration = register(&cx, &*provider, instance("a")).await.unwrap();
        let unregistered = cx.dropped_after(polls, registration.unregister()).await;
        let what = format!("it is gone after an unregister was dropped after {polls} polls");
        eventually_found(ONE_SECOND + cx.slack(), &*other, &what, &[]).await;
        within(cx.soon(), "an answer", registration.unregister()).await.unwrap();
        sleep(cx.ttl()).await;
        assert_eq!(found(&*other).await, [], "{what}");
        if unregistered.is_some() {
            return;
        }
    }
}
