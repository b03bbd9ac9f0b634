//! What breaks registration and discovery (R34 to R38).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Compare, Op, Range, Store, Txn, TxnReply};
use coord_api::{
    Error, ErrorKind, FencingToken, HandleState, Loss, RegisterOptions, Registration, Result,
    ServiceInstance, Snapshot, Takeover,
};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep};

use super::handle::{Hooks, Kept, Registrations, fails_again, hooks, registration_over, releases_later};
use super::lock::PretendsToRenew;
use super::provider::{BrokenProvider, Good};
use super::store::{BrokenStore, Edited};
use super::{Sabotage, Saboteur, Shared, locked};
use crate::handle::IsHeld as _;
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("key-without-lease", "a key without lease", &["r36"], || {
        Sabotage::client(|| Edited {
            txn: Some(|mut txn| {
                for op in &mut txn.then {
                    if let Op::Put { key, lease, .. } = op {
                        *lease = lease.filter(|_| !key.starts_with(layout::SERVICES.as_bytes()));
                    }
                }
                txn
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("not-registered-again", "not registered again after loss", &["r37"], || {
        Sabotage::client(|| Heals(Shared::default(), Heal::Never))
    }),
    Saboteur::new("gives-up-healing", "gives up healing after a minute", &["r37"], || {
        Sabotage::provider(|| EndsWhenLost(Duration::from_secs(60)))
    }),
    Saboteur::new(
        "healer-takes-it-back",
        "the healer takes the id back from its new owner",
        &["r34", "r37"],
        || Sabotage::provider(|| FightsBack),
    ),
    Saboteur::new("discovers-by-prefix", "`a` lists `ab`", &["r35", "r5"], || {
        Sabotage::provider(|| ByPrefix)
    }),
    Saboteur::new("bad-record-fails-list", "one bad record fails the whole list", &["r35"], || {
        Sabotage::provider(|| {
            Discovers(|found: Snapshot<ServiceInstance>| match found.invalid.first() {
                Some(record) => Err(record.error.clone()),
                None => Ok(found),
            })
        })
    }),
    Saboteur::new("bad-records-uncounted", "bad records are skipped and not counted", &["r35"], || {
        finds(|mut found| {
            found.invalid.clear();
            found
        })
    }),
    Saboteur::new("discovers-unsorted", "instances come in no order", &["r35"], || {
        finds(|mut found| {
            found.items.reverse();
            found
        })
    }),
    Saboteur::new("unknown-service-fails", "an unknown service is an error", &["r35"], || {
        Sabotage::provider(|| {
            Discovers(|found: Snapshot<ServiceInstance>| match found.items.is_empty() {
                true => Err(Error::invalid_argument("registry.discover", "no such service")),
                false => Ok(found),
            })
        })
    }),
    Saboteur::new(
        "discovers-from-cache",
        "what was found is found again for half a second",
        &["r34"],
        || Sabotage::provider(|| Cached(Shared::default())),
    ),
    Saboteur::new(
        "pages-of-two-moments",
        "the pages of a long list are of different moments",
        &["r14", "r35"],
        || {
            Sabotage::client(|| Edited {
                range: Some(|mut range| {
                    range.at = range.at.filter(|_| range.after_key.is_none());
                    range
                }),
                ..Edited::default()
            })
        },
    ),
    Saboteur::new("one-page-is-all", "a long list ends with its first page", &["r14", "r35"], || {
        Sabotage::client(|| Edited {
            found: Some(|_, mut found| {
                found.more = false;
                found
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("exclusive-replaces", "an exclusive registration takes over", &["r34"], || {
        registers(|options| options.with_takeover(Takeover::Replace))
    }),
    Saboteur::new("takeover-refused", "a live foreign owner is never taken over", &["r34"], || {
        registers(|options| options.with_takeover(Takeover::Exclusive))
    }),
    Saboteur::new("removed-and-added", "the same owner again removes its entry first", &["r34"], || {
        Sabotage::provider(|| RemovesFirst)
    }),
    Saboteur::new(
        "superseded-as-expired",
        "who was taken over is told that it expired",
        &["r34", "r37"],
        || {
            handles(|_, _| {
                let expired = |loss| if loss == Loss::Superseded { Loss::Expired } else { loss };
                hooks()
                    .state(move |good| {
                        if let HandleState::Ended(loss) = good.state() {
                            HandleState::Ended(expired(loss))
                        } else {
                            good.state()
                        }
                    })
                    .lost(move |good| good.lost().map(expired))
            })
        },
    ),
    Saboteur::new(
        "registration-number-constant",
        "the number of a registration is constant",
        &["r34"],
        || handles(|_, _| hooks().token(|_| FencingToken::new(7))),
    ),
    Saboteur::new(
        "old-handle-removes-new",
        "the dropped handle of a replaced registration removes the new one",
        &["r34"],
        || handles(removes_key),
    ),
    Saboteur::new("unregister-removes-successor", "unregister removes whatever is there", &["r38"], || {
        handles(removes_key)
    }),
    Saboteur::new("unregister-fails-again", "a second unregister fails", &["r38"], || {
        handles(|_, _| fails_again("registry.unregister"))
    }),
    Saboteur::new(
        "resurrected",
        "an entry is written again a second after it was unregistered",
        &["r38"],
        || handles(resurrects),
    ),
    Saboteur::new("unregisters-later", "unregister returns before the entry is gone", &["r38"], || {
        handles(|_, _| releases_later())
    }),
    Saboteur::new("update-forgotten", "healing brings back the first content", &["r37"], || {
        handles(updates_store_alone)
    }),
    Saboteur::new(
        "healing-looks-held",
        "a registration that is lost and not yet healed looks held",
        &["r37"],
        || {
            handles(|_, _| {
                hooks().state(|good| {
                    if good.state() == HandleState::Lost { HandleState::Held } else { good.state() }
                })
            })
        },
    ),
    Saboteur::new("lost-fires-while-healing", "lost() fires for what is being healed", &["r37"], || {
        handles(|_, _| hooks().lost(|good| not_held(Arc::clone(good))))
    }),
    Saboteur::new("heals-slowly", "healing waits for ten seconds", &["r37"], || {
        Sabotage::client(|| Heals(Shared::default(), Heal::Slowly))
    }),
    Saboteur::new("heals-once", "healing comes once", &["r37"], || {
        Sabotage::client(|| Heals(Shared::default(), Heal::Once))
    }),
    Saboteur::new("heals-without-lease", "what is healed hangs on no lease", &["r37"], || {
        Sabotage::client(|| Heals(Shared::default(), Heal::Bare))
    }),
    Saboteur::new("registration-runs-out", "a registration is not renewed", &["r36"], || {
        Sabotage::client(PretendsToRenew::every_time)
    }),
    Saboteur::new("address-to-listen-on-is-good", "an instance at 0.0.0.0 is registered", &["r34"], || {
        Sabotage::provider(|| AnyAddress)
    }),
    Saboteur::new(
        "address-of-nobody-is-found",
        "an instance at 0.0.0.0 that others registered is found",
        &["r35"],
        || {
            finds(|mut found| {
                let nobody =
                    found.invalid.iter().filter(|record| record.error.kind() == ErrorKind::InvalidArgument);
                let nobody: Vec<_> = nobody
                    .filter_map(|record| serde_json::from_slice(record.value.as_bytes()).ok())
                    .collect();
                found.items.extend(nobody);
                found
            })
        },
    ),
    Saboteur::new("port-zero-is-good", "an instance with port zero is registered", &["r34", "r4"], || {
        Sabotage::provider(|| AnyPort)
    }),
];

fn handles(make: fn(&Good, &Registration) -> Hooks) -> Sabotage {
    Sabotage::provider(move || Registrations(make))
}

fn finds(edit: fn(Snapshot<ServiceInstance>) -> Snapshot<ServiceInstance>) -> Sabotage {
    Sabotage::provider(move || Discovers(move |found| Ok(edit(found))))
}

fn registers(edit: fn(RegisterOptions) -> RegisterOptions) -> Sabotage {
    Sabotage::provider(move || Asks(edit))
}

async fn register(good: &Good, instance: ServiceInstance, options: RegisterOptions) -> Result<Registration> {
    good.provider.registry().register_with(instance, options).await
}

/// Ends a registration that stayed lost for so long.
struct EndsWhenLost(Duration);

#[async_trait]
impl BrokenProvider for EndsWhenLost {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let (service, id, patience) = (instance.name.clone(), instance.id.clone(), self.0);
        let kept: Kept = Arc::new(register(good, instance, options).await?);
        let seen = Arc::downgrade(&kept);
        tokio::spawn(async move {
            let mut held = Instant::now();
            while let Some(kept) = seen.upgrade() {
                match kept.state() {
                    HandleState::Held => held = Instant::now(),
                    HandleState::Lost if held.elapsed() < patience => {}
                    _ => return kept.release().await,
                }
                drop(kept);
                sleep(Duration::from_millis(500)).await;
            }
            Ok(())
        });
        Ok(registration_over(&service, &id, kept, hooks()))
    }
}

struct FightsBack;

#[async_trait]
impl BrokenProvider for FightsBack {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let first = register(good, instance.clone(), options).await?;
        let (good, mut lost) = (good.clone(), first.lost());
        tokio::spawn(async move {
            let mut again = Vec::new();
            while lost.await == Loss::Superseded {
                sleep(Duration::from_millis(100)).await;
                let next = register(&good, instance.clone(), options).await?;
                lost = next.lost();
                again.push(next);
            }
            Ok::<_, Error>(())
        });
        Ok(first)
    }
}

struct ByPrefix;

#[async_trait]
impl BrokenProvider for ByPrefix {
    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let mut found = good.provider.registry().discover(service).await?;
        let all = good
            .store
            .range(Range::prefix(layout::service(service, "").trim_end_matches('/').to_owned()))
            .await?;
        found.items =
            all.entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect();
        Ok(found)
    }
}

/// Makes something else of what was discovered.
struct Discovers<F>(F);

#[async_trait]
impl<F: Fn(Snapshot<ServiceInstance>) -> Result<Snapshot<ServiceInstance>> + Send + Sync + 'static>
    BrokenProvider for Discovers<F>
{
    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        (self.0)(good.provider.registry().discover(service).await?)
    }
}

struct Cached(Shared<HashMap<String, (Instant, Snapshot<ServiceInstance>)>>);

#[async_trait]
impl BrokenProvider for Cached {
    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let known = locked(&self.0).get(service).cloned();
        if let Some((at, found)) = known.filter(|(at, _)| at.elapsed() < Duration::from_millis(500)) {
            let _ = at;
            return Ok(found);
        }
        let found = good.provider.registry().discover(service).await?;
        locked(&self.0).insert(service.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }
}

struct Asks(fn(RegisterOptions) -> RegisterOptions);

#[async_trait]
impl BrokenProvider for Asks {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        register(good, instance, (self.0)(options)).await
    }
}

struct RemovesFirst;

#[async_trait]
impl BrokenProvider for RemovesFirst {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        instance.validate("registry.register")?;
        if options.takeover == Takeover::Replace {
            good.store
                .txn(Txn::new().then(Op::delete(layout::service(&instance.name, &instance.id))))
                .await?;
        }
        register(good, instance, options).await
    }
}

/// Removes what stands under its key, whoever wrote it, when it is released and when it is dropped.
fn removes_key(good: &Good, registration: &Registration) -> Hooks {
    let (store, key) = (Arc::clone(&good.store), layout::service(registration.service(), registration.id()));
    let remove = move || {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move { store.txn(Txn::new().then(Op::delete(key))).await.map(drop) }
    };
    let removes = remove.clone();
    hooks()
        .release(move |good| {
            let remove = remove();
            async move {
                good.release().await?;
                remove.await
            }
        })
        .dropped(move |_| {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(removes());
            }
        })
}

/// Writes its entry again a second after it was unregistered.
fn resurrects(good: &Good, registration: &Registration) -> Hooks {
    let (store, service, id) = (Arc::clone(&good.store), registration.service(), registration.id());
    let write = Txn::new()
        .then(Op::put(layout::service(service, id), layout::service_record(service, id, "localhost", 80)));
    hooks().release(move |good| {
        let (store, write) = (Arc::clone(&store), write.clone());
        async move {
            good.release().await?;
            tokio::spawn(async move {
                sleep(Duration::from_secs(1)).await;
                store.txn(write).await
            });
            Ok(())
        }
    })
}

/// Writes an update to the store, and does not remember it.
fn updates_store_alone(good: &Good, registration: &Registration) -> Hooks {
    let (store, key) = (Arc::clone(&good.store), layout::service(registration.service(), registration.id()));
    hooks().update(move |good, instance| {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move {
            let Some(entry) = store.range(Range::key(key)).await?.entries.pop() else {
                return good.update(instance).await;
            };
            let value = serde_json::to_vec(&instance)
                .map_err(|fault| Error::json("registry.update", "ServiceInstance", &fault))?;
            let put = Op::Put { key: entry.key, value: value.into(), lease: entry.lease };
            store.txn(Txn::new().then(put)).await.map(drop)
        }
    })
}

/// Waits until a handle is not held, for whatever reason.
async fn not_held(good: Kept) -> Loss {
    while good.is_held() {
        sleep(Duration::from_millis(20)).await;
    }
    Loss::Expired
}

/// How an entry is written again.
#[derive(Clone, Copy)]
enum Heal {
    Never,
    Slowly,
    Once,
    Bare,
}

/// The entries that this client registered, how often, and since when they are to be healed.
struct Heals(Shared<HashMap<bytes::Bytes, (u32, Option<Instant>)>>, Heal);

#[async_trait]
impl BrokenStore for Heals {
    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        let created = txn.compares.iter().find_map(|compare| match compare {
            Compare::Absent(key) if key.starts_with(layout::SERVICES.as_bytes()) => Some(key.clone()),
            _ => None,
        });
        let Some(created) = created else { return good.txn(txn).await };
        let (times, since) = {
            let mut known = locked(&self.0);
            let known = known.entry(created.clone()).or_default();
            (known.0, *known.1.get_or_insert_with(Instant::now))
        };
        let refused = match self.1 {
            Heal::Never => times > 0,
            Heal::Slowly => times > 0 && since.elapsed() < Duration::from_secs(10),
            Heal::Once => times > 1,
            Heal::Bare => false,
        };
        if refused {
            return Err(Error::new(ErrorKind::Unavailable, "store.txn", "not now"));
        }
        if let (Heal::Bare, 1.., Some(Op::Put { lease, .. })) = (self.1, times, txn.then.first_mut()) {
            *lease = None;
        }
        let reply = good.txn(txn).await?;
        locked(&self.0).insert(created, (times + u32::from(reply.succeeded), None));
        Ok(reply)
    }
}

struct AnyPort;

#[async_trait]
impl BrokenProvider for AnyPort {
    async fn register(
        &self,
        good: &Good,
        mut instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        instance.port = instance.port.max(1);
        register(good, instance, options).await
    }
}

struct AnyAddress;

#[async_trait]
impl BrokenProvider for AnyAddress {
    async fn register(
        &self,
        good: &Good,
        mut instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        if instance.address == "0.0.0.0" {
            instance.address = "localhost".to_owned();
        }
        register(good, instance, options).await
    }
}
