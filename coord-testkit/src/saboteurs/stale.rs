//! What answers from what was known before (R10, R14, R35), and finds what is elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Range;
use coord_api::{
    ConfigEntry, Error, RegisterOptions, Registration, Result, Revision, ServiceChange, ServiceEvent,
    ServiceInstance, Snapshot, Versioned, Watch,
};
use tokio::time::Instant;

use super::handle::{hooks, registration};
use super::provider::{BrokenProvider, Good, mapped};
use super::{Sabotage, Saboteur, Shared, locked};
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "found-from-before-where-it-fails",
        "a discovery that fails is answered with what was found before",
        &["r35"],
        || Sabotage::provider(|| Remembers::new(Duration::ZERO)),
    ),
    Saboteur::new(
        "found-from-before-after-a-failure",
        "a discovery after one that failed is answered with what was found before",
        &["r35"],
        || Sabotage::provider(|| Remembers::new(Duration::from_secs(2))),
    ),
    Saboteur::new(
        "found-by-the-watch",
        "a discovery is answered by the watch of the service, where there is one",
        &["r35"],
        || Sabotage::provider(|| FoundByTheWatch(Shared::default())),
    ),
    Saboteur::new(
        "own-instances-are-always-found",
        "what a provider registered it finds, whatever became of it",
        &["r35"],
        || Sabotage::provider(|| FindsItsOwn(Shared::default())),
    ),
    Saboteur::new("service-holds-what-is-below", "`a` lists `a/x`", &["r35"], || {
        Sabotage::provider(|| FindsBelow)
    }),
    Saboteur::new(
        "read-from-before-where-it-fails",
        "a read that fails is answered with what was read before",
        &["r10"],
        || Sabotage::provider(RemembersReads::default),
    ),
    Saboteur::new("found-at-no-revision", "what is found has no revision", &["r35"], || {
        finds(|_, found| found.revision = Revision::ZERO)
    }),
    Saboteur::new(
        "found-at-the-next-revision",
        "what is found is of the revision after it",
        &["r35"],
        || finds(|_, found| found.revision = found.revision.next()),
    ),
    Saboteur::new("found-without-metadata", "what is found has no metadata", &["r34", "r35"], || {
        finds(|_, found| found.items.iter_mut().for_each(|instance| instance.metadata.clear()))
    }),
    Saboteur::new("found-lower-case", "names of metadata are folded", &["r34"], || {
        finds(|_, found| {
            for instance in &mut found.items {
                let folded = std::mem::take(&mut instance.metadata);
                instance.metadata =
                    folded.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
            }
        })
    }),
    Saboteur::new("found-twice", "who was registered twice is found twice", &["r35"], || {
        finds(|_, found| {
            let last = found.items.last().cloned();
            found.items.extend(last);
        })
    }),
];

fn finds(edit: fn(&str, &mut Snapshot<ServiceInstance>)) -> Sabotage {
    Sabotage::provider(move || Finds(edit))
}

struct Finds(fn(&str, &mut Snapshot<ServiceInstance>));

#[async_trait]
impl BrokenProvider for Finds {
    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let mut found = good.provider.registry().discover(service).await?;
        (self.0)(service, &mut found);
        Ok(found)
    }
}

type Found = HashMap<String, Snapshot<ServiceInstance>>;

/// Answers from before where it fails, and for a while after that.
struct Remembers {
    known: Shared<Found>,
    failed: Shared<Option<Instant>>,
    after: Duration,
}

impl Remembers {
    fn new(after: Duration) -> Self {
        Remembers { known: Shared::default(), failed: Shared::default(), after }
    }
}

#[async_trait]
impl BrokenProvider for Remembers {
    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let known = locked(&self.known).get(service).cloned();
        let lately = locked(&self.failed).is_some_and(|failed| failed.elapsed() < self.after);
        if let (true, Some(known)) = (lately, &known) {
            return Ok(known.clone());
        }
        match good.provider.registry().discover(service).await {
            Ok(found) => {
                locked(&self.known).insert(service.to_owned(), found.clone());
                Ok(found)
            }
            Err(error) if error.is_transient() => {
                *locked(&self.failed) = Some(Instant::now());
                if self.after.is_zero() { known.ok_or(error) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }
}

/// The sets that the open watches told.
struct FoundByTheWatch(Shared<HashMap<String, Told>>);

/// What a watch of a service has found, and as of which revision.
type Told = (Revision, BTreeMap<String, ServiceInstance>);

#[async_trait]
impl BrokenProvider for FoundByTheWatch {
    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let known = locked(&self.0).get(service).cloned();
        match known {
            Some((revision, set)) => Ok(Snapshot::new(revision, set.into_values().collect())),
            None => good.provider.registry().discover(service).await,
        }
    }

    async fn watch_service(&self, good: &Good, service: &str) -> Result<Watch<ServiceEvent>> {
        let (sets, name) = (Arc::clone(&self.0), service.to_owned());
        Ok(mapped(good.provider.registry().watch(service).await?, move |item| {
            if let Ok(event) = &item {
                let mut sets = locked(&sets);
                let (at, set) = sets.entry(name.clone()).or_default();
                match event {
                    ServiceEvent::Resync(snapshot) => {
                        *at = snapshot.revision;
                        *set = snapshot
                            .items
                            .iter()
                            .map(|instance| (instance.id.clone(), instance.clone()))
                            .collect();
                    }
                    ServiceEvent::Change { change, revision, .. } => {
                        *at = *revision;
                        match change {
                            ServiceChange::Added(instance) | ServiceChange::Updated(instance) => {
                                set.insert(instance.id.clone(), instance.clone());
                            }
                            ServiceChange::Removed(instance) => {
                                set.remove(&instance.id);
                            }
                            _ => {}
                        }
                    }
                }
            }
            vec![item]
        }))
    }
}

/// What this provider registered and did not unregister.
struct FindsItsOwn(Shared<BTreeMap<(String, String), ServiceInstance>>);

#[async_trait]
impl BrokenProvider for FindsItsOwn {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let place = (instance.name.clone(), instance.id.clone());
        let inner = good.provider.registry().register_with(instance.clone(), options).await?;
        locked(&self.0).insert(place.clone(), instance);
        let (own, updated) = (Arc::clone(&self.0), Arc::clone(&self.0));
        let (gone, dropped) = (place.clone(), place.clone());
        let released = Arc::clone(&self.0);
        let broken = hooks()
            .release(move |good| {
                locked(&released).remove(&gone);
                async move { good.release().await }
            })
            .update(move |good, instance| {
                locked(&updated).insert(place.clone(), instance.clone());
                async move { good.update(instance).await }
            })
            .dropped(move |_| {
                locked(&own).remove(&dropped);
            });
        Ok(registration(inner, broken))
    }

    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let mut found = good.provider.registry().discover(service).await?;
        let own = locked(&self.0).clone();
        for ((name, id), instance) in own {
            if name == service && !found.items.iter().any(|other| other.id == id) {
                found.items.push(instance);
            }
        }
        found.items.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(found)
    }
}

/// Finds every good record under the directory, at whatever depth.
struct FindsBelow;

#[async_trait]
impl BrokenProvider for FindsBelow {
    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let mut found = good.provider.registry().discover(service).await?;
        let all = good.store.range(Range::prefix(layout::service(service, ""))).await?;
        for entry in all.entries {
            if let Some(instance) = below(service, &entry.key, &entry.value) {
                found.items.push(instance);
            }
        }
        found.items.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(found)
    }

    async fn watch_service(&self, good: &Good, service: &str) -> Result<Watch<ServiceEvent>> {
        let name = service.to_owned();
        Ok(mapped(good.provider.registry().watch(service).await?, move |item| {
            let Ok(ServiceEvent::Change { change: ServiceChange::Invalid(record), revision, last }) = &item
            else {
                return vec![item];
            };
            let key = [layout::service(&name, "").as_bytes(), record.key.as_ref()].concat();
            match below(&name, &key, &record.value) {
                Some(instance) => vec![Ok(ServiceEvent::Change {
                    change: ServiceChange::Added(instance),
                    revision: *revision,
                    last: *last,
                })],
                None => vec![item],
            }
        }))
    }
}

/// A good record that lies a level below the instances of the service.
fn below(service: &str, key: &[u8], value: &[u8]) -> Option<ServiceInstance> {
    let path = key.strip_prefix(layout::service(service, "").as_bytes())?;
    let instance: ServiceInstance = serde_json::from_slice(value).ok()?;
    path.contains(&b'/').then_some(instance)
}

#[derive(Default)]
struct RemembersReads {
    read: Shared<HashMap<String, Option<Versioned>>>,
    listed: Shared<HashMap<String, Snapshot<ConfigEntry>>>,
}

fn remembered<T: Clone>(known: &Shared<HashMap<String, T>>, key: &str, answer: Result<T>) -> Result<T> {
    match answer {
        Ok(found) => {
            locked(known).insert(key.to_owned(), found.clone());
            Ok(found)
        }
        Err(error) if Error::is_transient(&error) => locked(known).get(key).cloned().ok_or(error),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl BrokenProvider for RemembersReads {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<Versioned>> {
        remembered(&self.read, key, good.provider.config().get_raw(key).await)
    }

    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        remembered(&self.listed, prefix, good.provider.config().list_raw(prefix).await)
    }
}
