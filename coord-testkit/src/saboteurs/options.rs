//! What forgets what it was asked for, and what it was given (R7, R34, R36 to R38, R41 to R44).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Compare, Op, Store, Txn, TxnReply};
use coord_api::{
    Error, ErrorKind, IdOptions, InstanceId, LockGuard, LockOptions, RegisterOptions, Registration, Result,
    ServiceInstance, Takeover, Wait,
};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::handle::{Hooks, Kept, Registrations, hooks, keep_for_ever, registration, registration_over};
use super::provider::{BrokenProvider, Good};
use super::store::BrokenStore;
use super::{Sabotage, Saboteur, Shared, locked};
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "locks-have-the-first-ttl",
        "every lock of a provider has the TTL of its first",
        &["r7"],
        || Sabotage::provider(|| FirstTtl(Shared::default())),
    ),
    Saboteur::new(
        "registrations-have-the-usual-ttl",
        "a registration does not heed its TTL",
        &["r7", "r36"],
        || Sabotage::provider(|| UsualTtl),
    ),
    Saboteur::new("ids-have-the-usual-ttl", "an id does not heed its TTL", &["r7", "r43"], || {
        Sabotage::provider(|| UsualTtl)
    }),
    Saboteur::new("together-is-never-exclusive", "registered together, all take over", &["r34"], || {
        Sabotage::provider(|| TogetherReplaces)
    }),
    Saboteur::new(
        "together-in-another-order",
        "what is registered together comes in another order",
        &["r34"],
        || Sabotage::provider(|| TogetherReversed),
    ),
    Saboteur::new(
        "together-in-part",
        "where one of several cannot be registered, the others are",
        &["r34"],
        || Sabotage::provider(|| TogetherInPart(Shared::default())),
    ),
    Saboteur::new("metadata-lost-by-update", "an update drops the metadata", &["r34", "r37"], || {
        updates(|mut instance| {
            instance.metadata.clear();
            instance
        })
    }),
    Saboteur::new("update-keeps-the-address", "an update changes the metadata alone", &["r34"], || {
        Sabotage::provider(|| KeepsAddress)
    }),
    Saboteur::new(
        "update-moves-to-the-usual-ttl",
        "an update gives the entry another lease",
        &["r34"],
        || Sabotage::provider(|| Registrations(moves_by_update)),
    ),
    Saboteur::new("update-after-the-end-is-ok", "an update of what is over is Ok", &["r34"], || {
        Sabotage::provider(|| {
            Registrations(|_: &Good, _: &Registration| {
                hooks().update(|good, instance| async move {
                    let _ = good.update(instance).await;
                    Ok(())
                })
            })
        })
    }),
    Saboteur::new(
        "unregister-without-compare",
        "an entry is removed without asking whose it is",
        &["r38"],
        || without_compares(layout::SERVICES, |op| matches!(op, Op::Delete { .. })),
    ),
    Saboteur::new(
        "update-without-compare",
        "an update is written without asking whose the entry is",
        &["r34"],
        || without_compares(layout::SERVICES, |op| matches!(op, Op::Put { .. })),
    ),
    Saboteur::new("release-without-compare", "an id is freed without asking whose it is", &["r44"], || {
        without_compares(layout::IDS, |op| matches!(op, Op::Delete { .. }))
    }),
    Saboteur::new(
        "rewritten-at-times",
        "a registration is removed and written again at times",
        &["r36", "r34"],
        || Sabotage::provider(|| Registrations(rewritten)),
    ),
    Saboteur::new("touched-at-times", "a registration is written again at times", &["r36"], || {
        Sabotage::provider(|| Registrations(touched))
    }),
    Saboteur::new("superseded-later", "who was taken over is told after five seconds", &["r34"], || {
        Sabotage::provider(|| {
            Registrations(|_: &Good, _: &Registration| {
                hooks().lost(|good| {
                    let lost = good.lost();
                    async move {
                        let loss = lost.await;
                        if loss == coord_api::Loss::Superseded {
                            sleep(Duration::from_secs(5)).await;
                        }
                        loss
                    }
                })
            })
        })
    }),
    Saboteur::new(
        "dropped-registration-stays",
        "a registration ends only when it is unregistered",
        &["r9", "r34"],
        || Sabotage::provider(|| Registrations(|_: &Good, _: &Registration| hooks().dropped(keep_for_ever))),
    ),
    Saboteur::new("dropped-id-stays", "an id is freed only when it is released", &["r9", "r42"], || {
        Sabotage::provider(|| super::handle::Ids(|_: &Good, _: &InstanceId| hooks().dropped(keep_for_ever)))
    }),
    Saboteur::new(
        "dropped-register-stays",
        "a register that was dropped registers all the same",
        &["r34"],
        || Sabotage::provider(|| GoesOn),
    ),
    Saboteur::new(
        "dropped-acquire-stays",
        "an acquire that was dropped locks all the same",
        &["r29"],
        || Sabotage::provider(|| GoesOn),
    ),
    Saboteur::new(
        "timed-out-as-exhausted",
        "who waited in vain for an id is told that none is left",
        &["r42", "r1"],
        || Sabotage::provider(|| TimesOutAs(ErrorKind::Exhausted)),
    ),
    Saboteur::new(
        "timed-out-as-conflict",
        "who waited in vain for a lock is told of a conflict",
        &["r29", "r1"],
        || Sabotage::provider(|| TimesOutAs(ErrorKind::Conflict)),
    ),
    Saboteur::new("every-wait-is-for-ever", "a limit of the wait is forgotten", &["r29", "r42"], || {
        Sabotage::provider(|| WaitsForEver)
    }),
    Saboteur::new(
        "looks-for-locks-every-five-seconds",
        "who waits for a lock looks every five seconds",
        &["r28"],
        || Sabotage::provider(|| LooksEvery(Duration::from_secs(5))),
    ),
    Saboteur::new(
        "looks-for-locks-every-second-and-a-half",
        "who waits for a lock looks every second and a half",
        &["r28"],
        || Sabotage::provider(|| LooksEvery(Duration::from_millis(1_500))),
    ),
    Saboteur::new(
        "unlock-clears-own-waiters",
        "an unlock removes its provider's waiters, too",
        &["r28"],
        || Sabotage::provider(|| super::handle::Guards(clears_waiters)),
    ),
    Saboteur::new(
        "requeues-every-five-seconds",
        "a waiter stands in line anew every five seconds",
        &["r28"],
        || Sabotage::provider(|| RequeuesEvery(Duration::from_secs(5))),
    ),
    Saboteur::new(
        "old-lease-kept-by-takeover",
        "a takeover leaves the entry on the lease of the old owner",
        &["r34"],
        || Sabotage::client(|| KeepsOldLease),
    ),
    Saboteur::new(
        "close-leaves-registrations",
        "closing leaves registrations where they are for a while",
        &["r8"],
        || Sabotage::provider(|| LeavesRegistrations(Shared::default())),
    ),
    Saboteur::new("reads-after-close", "what reads works after closing, too", &["r8"], || {
        Sabotage::provider(|| ReadsOn(Shared::default()))
    }),
    Saboteur::new(
        "waiting-ends-with-lease-lost",
        "who waits is told of a lost lease when the provider is closed",
        &["r8"],
        || Sabotage::provider(|| LeaseLostOnClose),
    ),
];

fn updates(edit: fn(ServiceInstance) -> ServiceInstance) -> Sabotage {
    Sabotage::provider(move || {
        Registrations(move |_: &Good, _: &Registration| {
            hooks().update(move |good, instance| async move { good.update(edit(instance)).await })
        })
    })
}

/// Leaves out the compares with the keys under `prefix` that an operation of this kind is about.
fn without_compares(prefix: &'static str, is_it: fn(&Op) -> bool) -> Sabotage {
    Sabotage::client(move || Careless { prefix, is_it })
}

struct Careless {
    prefix: &'static str,
    is_it: fn(&Op) -> bool,
}

#[async_trait]
impl BrokenStore for Careless {
    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        let about = |op: &Op| match op {
            Op::Put { key, .. } | Op::Delete { key } => {
                Some(key.clone()).filter(|key| key.starts_with(self.prefix.as_bytes()))
            }
            Op::Range(_) => None,
        };
        let keys: Vec<_> = txn.then.iter().filter(|op| (self.is_it)(op)).filter_map(about).collect();
        txn.compares.retain(|compare| match compare {
            Compare::Modified(key, _)
            | Compare::Created(key, _)
            | Compare::Lease(key, _)
            | Compare::Present(key) => !keys.contains(key),
            _ => true,
        });
        good.txn(txn).await
    }
}

struct FirstTtl(Shared<Option<Duration>>);

#[async_trait]
impl BrokenProvider for FirstTtl {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let ttl = *locked(&self.0).get_or_insert(options.ttl);
        good.provider.lock().acquire_with(key, options.with_ttl(ttl)).await
    }
}

/// Keeps what was asked for only where it is no good.
fn usual(ttl: Duration) -> Duration {
    if ttl.is_zero() || ttl > Duration::from_secs(9_000_000_000) { ttl } else { Duration::from_secs(30) }
}

struct UsualTtl;

#[async_trait]
impl BrokenProvider for UsualTtl {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        good.provider.registry().register_with(instance, options.with_ttl(usual(options.ttl))).await
    }

    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let ttl = usual(options.ttl);
        good.provider.allocator().acquire_id_with(service, options.with_ttl(ttl)).await
    }
}

struct TogetherReplaces;

#[async_trait]
impl BrokenProvider for TogetherReplaces {
    async fn register_all(
        &self,
        good: &Good,
        instances: Vec<ServiceInstance>,
        options: RegisterOptions,
    ) -> Result<Vec<Registration>> {
        good.provider.registry().register_all(instances, options.with_takeover(Takeover::Replace)).await
    }
}

struct TogetherReversed;

#[async_trait]
impl BrokenProvider for TogetherReversed {
    async fn register_all(
        &self,
        good: &Good,
        instances: Vec<ServiceInstance>,
        options: RegisterOptions,
    ) -> Result<Vec<Registration>> {
        let mut registered = good.provider.registry().register_all(instances, options).await?;
        registered.sort_by(|one, other| one.id().cmp(other.id()));
        Ok(registered)
    }
}

/// Keeps what it registered before it failed.
struct TogetherInPart(Shared<Vec<Registration>>);

#[async_trait]
impl BrokenProvider for TogetherInPart {
    async fn register_all(
        &self,
        good: &Good,
        instances: Vec<ServiceInstance>,
        options: RegisterOptions,
    ) -> Result<Vec<Registration>> {
        ServiceInstance::validate_all("registry.register", &instances)?;
        let mut registered = Vec::new();
        for instance in instances {
            match good.provider.registry().register_with(instance, options).await {
                Ok(registration) => registered.push(registration),
                Err(error) => {
                    locked(&self.0).append(&mut registered);
                    return Err(error);
                }
            }
        }
        Ok(registered)
    }
}

struct KeepsAddress;

#[async_trait]
impl BrokenProvider for KeepsAddress {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let (address, port) = (instance.address.clone(), instance.port);
        let inner = good.provider.registry().register_with(instance, options).await?;
        let keeps = hooks().update(move |good, mut instance| {
            let valid = instance.validate("registry.update");
            instance.address.clone_from(&address);
            instance.port = port;
            async move {
                valid?;
                good.update(instance).await
            }
        });
        Ok(registration(inner, keeps))
    }
}

/// Moves the entry to a lease of its own by each update.
fn moves_by_update(good: &Good, _: &Registration) -> Hooks {
    let store = Arc::clone(&good.store);
    hooks().update(move |good, instance| {
        let store = Arc::clone(&store);
        async move {
            let key = layout::service(&instance.name, &instance.id);
            good.update(instance).await?;
            let lease = store.grant_lease(Duration::from_secs(30)).await?.id;
            let there = store.range(coord_api::store::Range::key(key)).await?.entries;
            for entry in there {
                let put = Op::put_leased(entry.key, entry.value, lease);
                store.txn(Txn::new().then(put)).await?;
            }
            Ok(())
        }
    })
}

/// Does something to its entry every few seconds, for as long as it is held.
fn now_and_then(good: &Good, registration: &Registration, removes: bool) -> Hooks {
    let (store, key) = (Arc::clone(&good.store), layout::service(registration.service(), registration.id()));
    let lost = registration.lost();
    tokio::spawn(async move {
        let again = async {
            loop {
                sleep(Duration::from_secs(2)).await;
                let Ok(there) = store.range(coord_api::store::Range::key(key.clone())).await else {
                    continue;
                };
                for entry in there.entries {
                    let same = Compare::Modified(entry.key.clone(), entry.modified);
                    let put = Op::Put { key: entry.key.clone(), value: entry.value, lease: entry.lease };
                    if removes {
                        let _ = store.txn(Txn::new().when(same).then(Op::delete(entry.key))).await;
                        let _ = store.txn(Txn::new().then(put)).await;
                    } else {
                        let _ = store.txn(Txn::new().when(same).then(put)).await;
                    }
                }
            }
        };
        tokio::select! {
            _ = lost => {}
            () = again => {}
        }
    });
    hooks()
}

fn rewritten(good: &Good, registration: &Registration) -> Hooks {
    now_and_then(good, registration, true)
}

fn touched(good: &Good, registration: &Registration) -> Hooks {
    now_and_then(good, registration, false)
}

/// Goes on when its caller has left, and keeps what it gets.
struct GoesOn;

async fn to_the_end<T: Send + 'static>(
    call: impl Future<Output = Result<T>> + Send + 'static,
    keep: fn(T),
) -> Result<T> {
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(Ok(unwanted)) = tell.send(call.await) {
            keep(unwanted);
        }
    });
    told.await.unwrap_or_else(|_| Err(Error::closed("provider")))
}

#[async_trait]
impl BrokenProvider for GoesOn {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let (good, key) = (good.clone(), key.to_owned());
        let call = async move { good.provider.lock().acquire_with(&key, options).await };
        to_the_end(call, |guard| drop(tokio::spawn(async move { guard.lost().await }))).await
    }

    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let good = good.clone();
        let call = async move { good.provider.registry().register_with(instance, options).await };
        to_the_end(call, |held| drop(tokio::spawn(async move { held.lost().await }))).await
    }
}

struct TimesOutAs(ErrorKind);

impl TimesOutAs {
    fn says<T>(&self, waits: bool, answer: Result<T>) -> Result<T> {
        answer.map_err(|error| match error.kind() {
            ErrorKind::Timeout if waits => Error::new(self.0, error.operation(), "it took too long"),
            _ => error,
        })
    }
}

#[async_trait]
impl BrokenProvider for TimesOutAs {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let waits = matches!(options.wait, Wait::For(_));
        self.says(waits, good.provider.lock().acquire_with(key, options).await)
    }

    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let waits = matches!(options.wait, Wait::For(_));
        self.says(waits, good.provider.allocator().acquire_id_with(service, options).await)
    }
}

struct WaitsForEver;

fn for_ever(wait: Wait) -> Wait {
    if matches!(wait, Wait::For(limit) if !limit.is_zero()) { Wait::Forever } else { wait }
}

#[async_trait]
impl BrokenProvider for WaitsForEver {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        good.provider.lock().acquire_with(key, options.with_wait(for_ever(options.wait))).await
    }

    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        let wait = for_ever(options.wait);
        good.provider.allocator().acquire_id_with(service, options.with_wait(wait)).await
    }
}

/// Tells of a grant at the next full tick.
struct LooksEvery(Duration);

#[async_trait]
impl BrokenProvider for LooksEvery {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let start = tokio::time::Instant::now();
        let guard = good.provider.lock().acquire_with(key, options).await?;
        let waited = start.elapsed();
        // What was free at once is told at once.
        if waited > Duration::from_millis(5) && !matches!(options.wait, Wait::For(_)) {
            let ticks = u32::try_from(waited.as_millis() / self.0.as_millis() + 1).unwrap_or(1);
            tokio::time::sleep_until(start + self.0 * ticks).await;
        }
        Ok(guard)
    }
}

/// Removes every entry of its own lease from the queue.
fn clears_waiters(good: &Good, guard: &LockGuard) -> Hooks {
    let (store, queue) = (Arc::clone(&good.store), layout::lock_queue(guard.key()));
    hooks().release(move |good| {
        let (store, queue) = (Arc::clone(&store), queue.clone());
        async move {
            let line = store.range(coord_api::store::Range::prefix(queue)).await?.entries;
            let own = line.iter().find(|entry| entry.created.get() == good.fencing_token().get());
            if let Some(lease) = own.and_then(|entry| entry.lease) {
                for entry in line.iter().filter(|entry| entry.lease == Some(lease)) {
                    if entry.created.get() != good.fencing_token().get() {
                        store.txn(Txn::new().then(Op::delete(entry.key.clone()))).await?;
                    }
                }
            }
            good.release().await
        }
    })
}

struct RequeuesEvery(Duration);

#[async_trait]
impl BrokenProvider for RequeuesEvery {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        if options.wait != Wait::Forever {
            return good.provider.lock().acquire_with(key, options).await;
        }
        loop {
            let turn = options.with_wait(Wait::For(self.0));
            match good.provider.lock().acquire_with(key, turn).await {
                Err(error) if error.kind() == ErrorKind::Timeout => {}
                answer => return answer,
            }
        }
    }
}

struct KeepsOldLease;

#[async_trait]
impl BrokenStore for KeepsOldLease {
    async fn txn(&self, good: &Arc<dyn Store>, mut txn: Txn) -> Result<TxnReply> {
        for op in &mut txn.then {
            if let Op::Put { key, lease, .. } = op {
                if key.starts_with(layout::SERVICES.as_bytes()) {
                    let there = good.range(coord_api::store::Range::key(key.clone())).await?.entries;
                    *lease = there.first().and_then(|entry| entry.lease).or(*lease);
                }
            }
        }
        good.txn(txn).await
    }
}

/// Writes again what closing has removed, for as long as a lease of five seconds.
struct LeavesRegistrations(Shared<HashMap<String, ServiceInstance>>);

#[async_trait]
impl BrokenProvider for LeavesRegistrations {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let inner = good.provider.registry().register_with(instance.clone(), options).await?;
        let key = layout::service(&instance.name, &instance.id);
        locked(&self.0).insert(key.clone(), instance);
        let (known, gone) = (Arc::clone(&self.0), key.clone());
        let known_too = Arc::clone(&self.0);
        let forgets = hooks()
            .release(move |good| {
                locked(&known).remove(&gone);
                async move { good.release().await }
            })
            .dropped(move |_| {
                locked(&known_too).remove(&key);
            });
        let (service, id) = (inner.service().to_owned(), inner.id().to_owned());
        Ok(registration_over(&service, &id, Arc::new(inner) as Kept, forgets))
    }

    async fn close(&self, good: &Good) -> Result<()> {
        let left = std::mem::take(&mut *locked(&self.0));
        let lease = good.store.grant_lease(Duration::from_secs(5)).await;
        good.provider.close().await?;
        if let Ok(lease) = lease {
            for (key, instance) in left {
                let record = serde_json::to_vec(&instance).unwrap_or_default();
                let _ = good.store.txn(Txn::new().then(Op::put_leased(key, record, lease.id))).await;
            }
        }
        Ok(())
    }
}

struct ReadsOn(Shared<bool>);

#[async_trait]
impl BrokenProvider for ReadsOn {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<coord_api::Versioned>> {
        match good.provider.config().get_raw(key).await {
            Err(error) if error.kind() == ErrorKind::Closed => {
                let found = good.store.range(coord_api::store::Range::key(layout::config(key))).await?;
                Ok(found
                    .entries
                    .into_iter()
                    .next()
                    .map(|entry| coord_api::Versioned { value: entry.value, version: entry.modified }))
            }
            answer => answer,
        }
    }

    async fn close(&self, good: &Good) -> Result<()> {
        *locked(&self.0) = true;
        good.provider.close().await
    }
}

struct LeaseLostOnClose;

#[async_trait]
impl BrokenProvider for LeaseLostOnClose {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        let answer = good.provider.lock().acquire_with(key, options).await;
        answer.map_err(|error| match error.kind() {
            ErrorKind::Closed if options.wait == Wait::Forever => {
                Error::lease_lost("lock.acquire", "its session ended")
            }
            _ => error,
        })
    }
}
