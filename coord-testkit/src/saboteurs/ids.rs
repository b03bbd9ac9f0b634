//! What breaks instance ids (R41 to R44).

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Compare, Op, Store, Txn};
use coord_api::{Error, ErrorKind, FencingToken, IdOptions, InstanceId, Outcome, Result, Wait};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::handle::{
    Hooks, Ids, Kept, counts_from_one, fails_again, held_unless_released, hooks, id, id_over, keep_for_ever,
    releases_later, revokes_all, says_of_release,
};
use super::lock::PretendsToRenew;
use super::provider::{BrokenProvider, Good};
use super::store::Edited;
use super::{Sabotage, Saboteur, Shared, locked};
use crate::handle::Handle;
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("id-to-two", "an id given to two at once", &["r41", "r42", "r43"], || {
        Sabotage::client(|| Edited {
            txn: Some(|mut txn| {
                txn.compares.retain(|compare| !matches!(compare, Compare::Absent(key) if key.starts_with(layout::IDS.as_bytes())));
                txn
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("released-id-never-returns", "a released id never returns", &["r44"], || {
        handles(|_, _| hooks().release(|_| async { Ok(()) }).dropped(keep_for_ever))
    }),
    Saboteur::new("one-past-the-end", "one past the end", &["r42", "r41"], || {
        asks(|options| ranged(options, |range| *range.start()..=range.end().saturating_add(1)))
    }),
    Saboteur::new("lost-id-untold", "the holder of a lost id is not told", &["r43"], || {
        handles(|_, _| {
            hooks().state(|good| held_unless_released(good.state())).lost(|_| std::future::pending())
        })
    }),
    Saboteur::new("largest-first", "the largest free id comes first", &["r41"], || {
        Sabotage::provider(|| Numbers(|n, range| range.end() - n + range.start()))
    }),
    Saboteur::new("end-is-exclusive", "the range ends before its end", &["r41"], || {
        asks(|options| {
            ranged(options, |range| {
                *range.start()..=range.end().saturating_sub(u32::from(range.start() < range.end()))
            })
        })
    }),
    Saboteur::new("starts-at-zero", "the default range starts at zero", &["r41"], || {
        asks(|options| ranged(options, |range| range.start().saturating_sub(1)..=*range.end()))
    }),
    Saboteur::new("skips-at-times", "an id is passed over though it is free", &["r41"], || {
        Sabotage::provider(|| Skips)
    }),
    Saboteur::new(
        "another-range-accepted",
        "another range of the same service is taken for the first",
        &["r41"],
        || Sabotage::provider(|| FirstRange(Shared::default())),
    ),
    Saboteur::new("exhausted-is-conflict", "no id left is a Conflict", &["r42", "r1"], || {
        Sabotage::provider(|| Refuses { kind: ErrorKind::Conflict, after: Duration::ZERO })
    }),
    Saboteur::new("exhausted-after-a-while", "no id left is said after a second", &["r42"], || {
        Sabotage::provider(|| Refuses { kind: ErrorKind::Exhausted, after: Duration::from_secs(1) })
    }),
    Saboteur::new(
        "looks-every-five-seconds",
        "who waits for an id looks every five seconds",
        &["r42"],
        || Sabotage::provider(|| LooksEvery(Duration::from_secs(5))),
    ),
    Saboteur::new(
        "looks-every-second-and-a-half",
        "who waits for an id looks every second and a half",
        &["r42"],
        || Sabotage::provider(|| LooksEvery(Duration::from_millis(1_500))),
    ),
    Saboteur::new("never-times-out", "who waits for an id waits for ever", &["r42"], || {
        asks(
            |options| {
                if let Wait::For(_) = options.wait { options.with_wait(Wait::Forever) } else { options }
            },
        )
    }),
    Saboteur::new("no-time-no-id", "without time to wait, what is free is not had either", &["r42"], || {
        Sabotage::provider(|| NeedsTime)
    }),
    Saboteur::new("dropped-call-leaks-id", "a call that was dropped keeps its id", &["r42"], || {
        Sabotage::provider(|| Leaks)
    }),
    Saboteur::new("generation-constant", "generations are constant", &["r43"], || {
        handles(|_, _| hooks().token(|_| FencingToken::new(1)))
    }),
    Saboteur::new("generation-restarts", "generations restart with each provider", &["r43"], || {
        Sabotage::provider(|| {
            let numbered = counts_from_one();
            Ids(move |_: &Good, _: &InstanceId| numbered())
        })
    }),
    Saboteur::new("id-runs-out", "an id is not renewed", &["r43"], || {
        Sabotage::client(PretendsToRenew::every_time)
    }),
    Saboteur::new("release-frees-successor", "a late release frees whoever has the id", &["r44"], || {
        handles(frees_key)
    }),
    Saboteur::new("release-fails-again", "a second release fails", &["r44"], || {
        handles(|_, _| fails_again("allocator.release"))
    }),
    Saboteur::new("releases-later", "release returns before the id is free", &["r44"], || {
        handles(|_, _| releases_later())
    }),
    Saboteur::new("lost-release-is-ok", "releasing what was lost is Ok", &["r44"], || {
        handles(|_, _| {
            says_of_release(|said| {
                said.or_else(|error| if error.kind() == ErrorKind::LeaseLost { Ok(()) } else { Err(error) })
            })
        })
    }),
    Saboteur::new(
        "failed-release-not-applied",
        "a failed release is said not to be applied",
        &["r44"],
        || {
            handles(|_, _| {
                says_of_release(|said| said.map_err(|error| error.with_outcome(Outcome::NotApplied)))
            })
        },
    ),
    Saboteur::new("one-id-each", "a provider has one id of a service", &["r43", "r44"], || {
        Sabotage::provider(|| OneEach(Shared::default()))
    }),
    Saboteur::new("release-frees-all", "releasing one id frees all of its provider", &["r44"], || {
        handles(|good, _| revokes_all(good))
    }),
];

fn handles(make: fn(&Good, &InstanceId) -> Hooks) -> Sabotage {
    Sabotage::provider(move || Ids(make))
}

fn asks(edit: fn(IdOptions) -> IdOptions) -> Sabotage {
    Sabotage::provider(move || Asks(edit))
}

/// Another range, where the one asked for is good.
fn ranged(options: IdOptions, edit: impl FnOnce(&RangeInclusive<u32>) -> RangeInclusive<u32>) -> IdOptions {
    let range = if options.range.is_empty() { options.range.clone() } else { edit(&options.range) };
    options.with_range(range)
}

async fn acquire(good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
    good.provider.allocator().acquire_id_with(service, options).await
}

struct Asks(fn(IdOptions) -> IdOptions);

#[async_trait]
impl BrokenProvider for Asks {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        acquire(good, service, (self.0)(options)).await
    }
}

/// Gives out other numbers than it took.
struct Numbers(fn(u32, &RangeInclusive<u32>) -> u32);

#[async_trait]
impl BrokenProvider for Numbers {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let range = options.range.clone();
        let taken = acquire(good, service, options).await?;
        let number = (self.0)(taken.id(), &range);
        Ok(id(taken, number, hooks()))
    }
}

/// Takes two and gives the smaller one back, as a race that was lost would.
struct Skips;

#[async_trait]
impl BrokenProvider for Skips {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let first = acquire(good, service, options.clone()).await?;
        match acquire(good, service, options.with_wait(Wait::Never)).await {
            Ok(second) if second.id() % 3 == 0 => Ok(second),
            _ => Ok(first),
        }
    }
}

struct FirstRange(Shared<HashMap<String, RangeInclusive<u32>>>);

#[async_trait]
impl BrokenProvider for FirstRange {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let first = locked(&self.0).get(service).cloned().unwrap_or_else(|| options.range.clone());
        let acquired = acquire(good, service, options.with_range(first.clone())).await?;
        locked(&self.0).insert(service.to_owned(), first);
        Ok(acquired)
    }
}

/// Says in its own way that no id is left.
struct Refuses {
    kind: ErrorKind,
    after: Duration,
}

#[async_trait]
impl BrokenProvider for Refuses {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let acquired = acquire(good, service, options).await;
        if acquired.as_ref().is_err_and(|error| error.kind() == ErrorKind::Exhausted) {
            sleep(self.after).await;
            return Err(Error::new(self.kind, "allocator.acquire_id", "none is left"));
        }
        acquired
    }
}

struct LooksEvery(Duration);

#[async_trait]
impl BrokenProvider for LooksEvery {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        if options.wait == Wait::Never {
            return acquire(good, service, options).await;
        }
        let look = async {
            loop {
                match acquire(good, service, options.clone().with_wait(Wait::Never)).await {
                    Err(error) if error.kind() == ErrorKind::Exhausted => sleep(self.0).await,
                    answer => return answer,
                }
            }
        };
        let limit = if let Wait::For(limit) = options.wait { limit } else { Duration::from_secs(1_000_000) };
        let late = |_| Err(Error::new(ErrorKind::Timeout, "allocator.acquire_id", "none was free in time"));
        tokio::time::timeout(limit, look).await.unwrap_or_else(late)
    }
}

/// Goes on when its caller has left, and keeps what it gets.
struct Leaks;

#[async_trait]
impl BrokenProvider for Leaks {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let (tell, told) = oneshot::channel();
        let (good, service) = (good.clone(), service.to_owned());
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) = tell.send(acquire(&good, &service, options).await) {
                unwanted.lost().await;
            }
        });
        told.await.unwrap_or_else(|_| Err(Error::closed("allocator.acquire_id")))
    }
}

/// Frees its key, whoever has it.
fn frees_key(good: &Good, id: &InstanceId) -> Hooks {
    let (store, key) = (Arc::clone(&good.store), layout::id(id.service(), id.id()));
    hooks().release(move |good| {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move {
            let released = good.release().await;
            store.txn(Txn::new().then(Op::delete(key))).await?;
            released
        }
    })
}

/// The id of each service that a provider has, while somebody holds it.
type Own = HashMap<String, (u32, Weak<dyn Handle>)>;

struct OneEach(Shared<Own>);

#[async_trait]
impl BrokenProvider for OneEach {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let own =
            locked(&self.0).get(service).and_then(|(number, own)| own.upgrade().map(|own| (*number, own)));
        let (number, kept) = match own.filter(|(_, own)| own.state().is_held()) {
            Some(own) => own,
            None => {
                let taken = acquire(good, service, options).await?;
                (taken.id(), Arc::new(taken) as Kept)
            }
        };
        locked(&self.0).insert(service.to_owned(), (number, Arc::downgrade(&kept)));
        Ok(id_over(service, number, kept, hooks()))
    }
}

/// Gives up at once where there is no time to wait.
struct NeedsTime;

#[async_trait]
impl BrokenProvider for NeedsTime {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        match options.wait {
            Wait::For(Duration::ZERO) => {
                Err(Error::new(ErrorKind::Timeout, "allocator.acquire_id", "none was free in time"))
            }
            _ => good.provider.allocator().acquire_id_with(service, options).await,
        }
    }
}
