//! What changes what was written, or what is said of it (R4, R6, R11, R13, R14, R17, R21, R39).

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::{
    ConfigEntry, ConfigEvent, Result, Revision, ServiceChange, ServiceEvent, Snapshot, Value, Version,
    Versioned, Watch, WatchStart,
};

use super::provider::{BrokenProvider, Good, mapped, streamed};
use super::{Sabotage, Saboteur};
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("values-are-text", "a value that is not UTF-8 comes back as text", &["r6"], || {
        values(|bytes| String::from_utf8_lossy(bytes).into_owned().into_bytes())
    }),
    Saboteur::new("values-trimmed", "white space at the end of a value is dropped", &["r6"], || {
        values(|bytes| bytes.trim_ascii_end().to_vec())
    }),
    Saboteur::new("values-end-at-zero", "a value ends at its first zero byte", &["r6"], || {
        values(|bytes| bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
    }),
    Saboteur::new("json-compacted", "a value that is JSON is written anew", &["r6"], || {
        values(|bytes| {
            serde_json::from_slice::<serde_json::Value>(bytes)
                .ok()
                .and_then(|json| serde_json::to_vec(&json).ok())
                .unwrap_or_else(|| bytes.to_vec())
        })
    }),
    Saboteur::new("equal-is-no-write", "setting an equal value writes nothing", &["r11"], || {
        Sabotage::provider(|| SkipsEqual)
    }),
    Saboteur::new("list-at-no-revision", "a list has no revision", &["r14"], || {
        lists(|_, snapshot| snapshot.revision = Revision::ZERO)
    }),
    Saboteur::new("list-at-the-next-revision", "a list is of the revision after it", &["r14"], || {
        lists(|_, snapshot| snapshot.revision = snapshot.revision.next())
    }),
    Saboteur::new("listed-at-one-version", "what is listed has the version of the list", &["r14"], || {
        lists(|_, snapshot| {
            let version = snapshot.revision;
            snapshot.items.iter_mut().for_each(|entry| entry.version = version);
        })
    }),
    Saboteur::new("listed-without-values", "a list of many has no values", &["r14"], || {
        lists(|_, snapshot| {
            if snapshot.items.len() > 8 {
                snapshot.items.iter_mut().for_each(|entry| entry.value = Value::new());
            }
        })
    }),
    Saboteur::new("slash-lists-nothing", "a leading slash of a prefix means something", &["r4"], || {
        lists(|prefix, snapshot| {
            if prefix.starts_with('/') && prefix.len() > 1 {
                snapshot.items.clear();
            }
        })
    }),
    Saboteur::new(
        "absent-is-not-compared",
        "comparing and deleting what is absent is no conflict",
        &["r13"],
        || Sabotage::provider(|| AbsentIsFine),
    ),
    Saboteur::new("told-config-is-text", "a watch tells values as text", &["r21"], || {
        told(|_, event| match event {
            ConfigEvent::Put { mut entry, created, last } => {
                entry.value = Value::from(String::from_utf8_lossy(&entry.value).into_owned());
                ConfigEvent::Put { entry, created, last }
            }
            event => event,
        })
    }),
    Saboteur::new("told-keys-absolute", "a watch tells the keys of the store", &["r21", "r5"], || {
        told(|_, event| match event {
            ConfigEvent::Put { mut entry, created, last } => {
                entry.key = layout::config(&entry.key);
                ConfigEvent::Put { entry, created, last }
            }
            event => event,
        })
    }),
    Saboteur::new("told-keys-below", "a watch tells keys relative to its prefix", &["r21", "r16"], || {
        told(|prefix, event| match event {
            ConfigEvent::Put { mut entry, created, last } => {
                let above = format!("{}/", prefix.trim_matches('/'));
                entry.key = entry.key.strip_prefix(&above).unwrap_or(&entry.key).to_owned();
                ConfigEvent::Put { entry, created, last }
            }
            event => event,
        })
    }),
    Saboteur::new("told-one-version-late", "a put is told with the version before", &["r21", "r18"], || {
        told(|_, event| match event {
            ConfigEvent::Put { mut entry, created, last } => {
                entry.version = Revision::new(entry.version.get() - 1);
                ConfigEvent::Put { entry, created, last }
            }
            event => event,
        })
    }),
    Saboteur::new("deleted-is-empty", "a deletion is told as an empty value", &["r21"], || {
        told(|_, event| match event {
            ConfigEvent::Delete { key, version, last } => ConfigEvent::Put {
                entry: ConfigEntry { key, value: Value::new(), version },
                created: false,
                last,
            },
            event => event,
        })
    }),
    Saboteur::new(
        "resync-of-the-next-revision",
        "a Resync is of the revision after it",
        &["r17", "r19"],
        || {
            told(|_, event| match event {
                ConfigEvent::Resync(mut snapshot) => {
                    snapshot.revision = snapshot.revision.next();
                    ConfigEvent::Resync(snapshot)
                }
                event => event,
            })
        },
    ),
    Saboteur::new("resync-without-values", "a Resync has no values", &["r19"], || {
        told(|_, event| match event {
            ConfigEvent::Resync(mut snapshot) => {
                snapshot.items.iter_mut().for_each(|entry| entry.value = Value::new());
                ConfigEvent::Resync(snapshot)
            }
            event => event,
        })
    }),
    Saboteur::new(
        "service-always-live",
        "a watch of a service always says that it is live",
        &["r39"],
        || Sabotage::provider(|| Services(streamed)),
    ),
    Saboteur::new(
        "service-closed-unsaid",
        "a watch of a service ends and does not say why",
        &["r39"],
        || {
            Sabotage::provider(|| {
                Services(|watch| mapped(watch, |item| if item.is_err() { Vec::new() } else { vec![item] }))
            })
        },
    ),
    Saboteur::new(
        "service-update-in-two",
        "an update is told as a removal and an addition",
        &["r39"],
        || Sabotage::provider(|| Services(in_two)),
    ),
    Saboteur::new(
        "service-never-last",
        "no change of a service is the last of its revision",
        &["r39"],
        || {
            services(|event| match event {
                ServiceEvent::Change { change, revision, .. } => {
                    ServiceEvent::Change { change, revision, last: false }
                }
                event => event,
            })
        },
    ),
    Saboteur::new(
        "service-told-without-metadata",
        "a watch tells instances without metadata",
        &["r39"],
        || {
            services(|event| match event {
                ServiceEvent::Change { change: ServiceChange::Updated(mut instance), revision, last } => {
                    instance.metadata.clear();
                    ServiceEvent::Change { change: ServiceChange::Updated(instance), revision, last }
                }
                event => event,
            })
        },
    ),
    Saboteur::new(
        "service-one-revision-late",
        "a change of a service has the revision before",
        &["r39"],
        || {
            services(|event| match event {
                ServiceEvent::Change { change, revision, last } => {
                    ServiceEvent::Change { change, revision: Revision::new(revision.get() - 1), last }
                }
                event => event,
            })
        },
    ),
];

fn values(edit: fn(&[u8]) -> Vec<u8>) -> Sabotage {
    Sabotage::provider(move || Values(edit))
}

/// Edits what is written; what is too large stays so.
struct Values(fn(&[u8]) -> Vec<u8>);

#[async_trait]
impl BrokenProvider for Values {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        let too_large = value.len() > coord_api::key::MAX_VALUE_BYTES;
        let value = if too_large { value } else { Value::from((self.0)(&value)) };
        good.provider.config().set_raw(key, value).await
    }
}

struct SkipsEqual;

#[async_trait]
impl BrokenProvider for SkipsEqual {
    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        match good.provider.config().get_raw(key).await? {
            Some(Versioned { value: same, version }) if same == value => Ok(version),
            _ => good.provider.config().set_raw(key, value).await,
        }
    }
}

fn lists(edit: fn(&str, &mut Snapshot<ConfigEntry>)) -> Sabotage {
    Sabotage::provider(move || Lists(edit))
}

struct Lists(fn(&str, &mut Snapshot<ConfigEntry>));

#[async_trait]
impl BrokenProvider for Lists {
    async fn list(&self, good: &Good, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        let mut snapshot = good.provider.config().list_raw(prefix).await?;
        (self.0)(prefix, &mut snapshot);
        Ok(snapshot)
    }
}

struct AbsentIsFine;

#[async_trait]
impl BrokenProvider for AbsentIsFine {
    async fn compare_and_delete(&self, good: &Good, key: &str, expected: Version) -> Result<bool> {
        match good.provider.config().compare_and_delete(key, expected).await {
            Err(error) if error.current_version() == Some(Revision::ZERO) => Ok(false),
            answer => answer,
        }
    }
}

fn told(edit: fn(&str, ConfigEvent) -> ConfigEvent) -> Sabotage {
    Sabotage::provider(move || Tells(edit))
}

struct Tells(fn(&str, ConfigEvent) -> ConfigEvent);

#[async_trait]
impl BrokenProvider for Tells {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let config = good.provider.config();
        let watch = if prefix {
            config.watch_prefix_raw(key, start).await?
        } else {
            config.watch_raw(key, start).await?
        };
        let (edit, key) = (self.0, key.to_owned());
        Ok(mapped(watch, move |item: Result<ConfigEvent>| vec![item.map(|event| edit(&key, event))]))
    }
}

fn services(edit: fn(ServiceEvent) -> ServiceEvent) -> Sabotage {
    Sabotage::provider(move || EditsServices(edit))
}

struct EditsServices(fn(ServiceEvent) -> ServiceEvent);

#[async_trait]
impl BrokenProvider for EditsServices {
    async fn watch_service(&self, good: &Good, service: &str) -> Result<Watch<ServiceEvent>> {
        let edit = self.0;
        let watch = good.provider.registry().watch(service).await?;
        Ok(mapped(watch, move |item: Result<ServiceEvent>| vec![item.map(edit)]))
    }
}

struct Services(fn(Watch<ServiceEvent>) -> Watch<ServiceEvent>);

#[async_trait]
impl BrokenProvider for Services {
    async fn watch_service(&self, good: &Good, service: &str) -> Result<Watch<ServiceEvent>> {
        Ok((self.0)(good.provider.registry().watch(service).await?))
    }
}

fn in_two(watch: Watch<ServiceEvent>) -> Watch<ServiceEvent> {
    let mut known = std::collections::BTreeMap::new();
    mapped(watch, move |item| {
        let Ok(event) = item else { return vec![item] };
        match event {
            ServiceEvent::Resync(snapshot) => {
                known = snapshot.items.iter().map(|one| (one.id.clone(), one.clone())).collect();
                vec![Ok(ServiceEvent::Resync(snapshot))]
            }
            ServiceEvent::Change { change: ServiceChange::Updated(now), revision, last } => {
                let was = known.insert(now.id.clone(), now.clone()).unwrap_or_else(|| now.clone());
                vec![
                    Ok(ServiceEvent::Change { change: ServiceChange::Removed(was), revision, last }),
                    Ok(ServiceEvent::Change { change: ServiceChange::Added(now), revision, last }),
                ]
            }
            ServiceEvent::Change { change, revision, last } => {
                if let ServiceChange::Added(one) = &change {
                    known.insert(one.id.clone(), one.clone());
                }
                vec![Ok(ServiceEvent::Change { change, revision, last })]
            }
        }
    })
}
