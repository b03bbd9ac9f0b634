//! Handles that do not tell of their end, or tell it in a wrong way (R8, R32, R33, R38, R43, R44).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use coord_api::{FencingToken, HandleState, Loss, Lost};
use futures_util::FutureExt;

use super::handle::{Handles, Hooks, hooks};
use super::provider::Good;
use super::{Sabotage, Saboteur};
use crate::handle::IsHeld as _;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "asked-late-never-told",
        "who asks for lost() after the end is never told",
        &["r32", "r43"],
        || {
            handles(|| {
                hooks().lost(|good| {
                    let ended = matches!(good.state(), HandleState::Ended(_));
                    let lost = good.lost();
                    async move { if ended { std::future::pending().await } else { lost.await } }
                })
            })
        },
    ),
    Saboteur::new("told-once", "only the first lost() of a handle fires", &["r32", "r43"], || {
        handles(|| {
            let asked = AtomicU32::new(0);
            hooks().lost(move |good| {
                let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
                let lost = good.lost();
                async move { if first { lost.await } else { std::future::pending().await } }
            })
        })
    }),
    Saboteur::new(
        "told-where-it-was-polled",
        "a lost() that was not polled before the end never fires",
        &["r32", "r43"],
        || handles(|| hooks().lost(|good| polled_before(Arc::clone(good)))),
    ),
    Saboteur::new(
        "drop-untold",
        "lost() does not fire when the handle is dropped",
        &["r33", "r38", "r44"],
        || {
            handles(|| {
                let dropped = Arc::new(AtomicBool::new(false));
                let drops = Arc::clone(&dropped);
                hooks()
                    .lost(move |good| {
                        let (lost, dropped) = (good.lost(), Arc::clone(&dropped));
                        async move {
                            let loss = lost.await;
                            if dropped.load(Ordering::SeqCst) && loss == Loss::Released {
                                std::future::pending().await
                            } else {
                                loss
                            }
                        }
                    })
                    .dropped(move |_| drops.store(true, Ordering::SeqCst))
            })
        },
    ),
    Saboteur::new(
        "release-untold",
        "lost() does not fire when the handle is released",
        &["r33", "r38", "r44"],
        || handles(|| untold(Loss::Released)),
    ),
    Saboteur::new(
        "removal-untold-to-the-handle",
        "lost() does not fire when the entry is removed",
        &["r32", "r43"],
        || handles(|| untold(Loss::Removed)),
    ),
    Saboteur::new("removed-as-expired", "who was removed is told that it expired", &["r32", "r43"], || {
        handles(|| says(|loss| if loss == Loss::Removed { Loss::Expired } else { loss }))
    }),
    Saboteur::new("expired-as-released", "who expired is told that it was released", &["r32", "r43"], || {
        handles(|| says(|loss| if loss == Loss::Expired { Loss::Released } else { loss }))
    }),
    Saboteur::new(
        "state-says-another-loss",
        "the state says another loss than lost()",
        &["r32", "r43"],
        || {
            handles(|| {
                hooks().state(|good| match good.state() {
                    HandleState::Ended(Loss::Expired) => HandleState::Ended(Loss::Removed),
                    HandleState::Ended(Loss::Removed) => HandleState::Ended(Loss::Expired),
                    state => state,
                })
            })
        },
    ),
    Saboteur::new(
        "ended-is-lost",
        "what is over for good says that it is being healed",
        &["r32", "r43"],
        || {
            handles(|| {
                hooks().state(|good| match good.state() {
                    HandleState::Ended(Loss::Expired | Loss::Removed) => HandleState::Lost,
                    state => state,
                })
            })
        },
    ),
    Saboteur::new("time-left-after-the-end", "there is time left after the end", &["r33", "r43"], || {
        handles(|| hooks().ttl(|good| if good.is_held() { good.ttl() } else { Duration::from_millis(1) }))
    }),
    Saboteur::new("number-goes-with-the-end", "a handle that is over has no number", &["r32", "r43"], || {
        handles(|| {
            hooks().token(|good| if good.is_held() { good.fencing_token() } else { FencingToken::new(0) })
        })
    }),
    Saboteur::new(
        "number-rises-with-time",
        "the number of a handle rises while it is held",
        &["r32", "r43"],
        || {
            handles(|| {
                let asked = AtomicU32::new(0);
                hooks().token(move |good| {
                    let more = asked.fetch_add(1, Ordering::SeqCst);
                    FencingToken::new(good.fencing_token().get() + u64::from(more))
                })
            })
        },
    ),
    Saboteur::new("closed-as-expired", "who is closed is told that it expired", &["r8"], || {
        handles(|| says(|loss| if loss == Loss::Closed { Loss::Expired } else { loss }))
    }),
    Saboteur::new("closed-is-held", "what was held at closing says that it is held", &["r8"], || {
        handles(|| {
            hooks().state(|good| match good.state() {
                HandleState::Ended(Loss::Closed) => HandleState::Held,
                state => state,
            })
        })
    }),
];

fn handles(make: fn() -> Hooks) -> Sabotage {
    Sabotage::provider(move || Handles(move |_: &Good| make()))
}

async fn polled_before(good: super::handle::Kept) -> Loss {
    // The first poll comes after the end: nobody wakes it any more.
    if matches!(good.state(), HandleState::Ended(_)) {
        std::future::pending::<()>().await;
    }
    let lost = good.lost();
    drop(good);
    lost.await
}

fn untold(kept_quiet: Loss) -> Hooks {
    hooks().lost(move |good| {
        let lost: Lost = good.lost();
        async move {
            let loss = lost.await;
            if loss == kept_quiet { std::future::pending().await } else { loss }
        }
    })
}

/// Says another loss, and the same in state and `lost()`.
fn says(edit: fn(Loss) -> Loss) -> Hooks {
    hooks()
        .state(move |good| match good.state() {
            HandleState::Ended(loss) => HandleState::Ended(edit(loss)),
            state => state,
        })
        .lost(move |good| good.lost().map(edit))
}
