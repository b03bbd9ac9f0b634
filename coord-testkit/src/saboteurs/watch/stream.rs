//! What breaks the streams that users read (R16 to R22, R39).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::{
    ConfigEntry, ConfigEvent, Error, ErrorKind, Result, Revision, ServiceChange, ServiceEvent,
    ServiceInstance, Watch, WatchStart, WatchState,
};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::super::provider::{BrokenProvider, Good, mapped, streamed};
use super::super::store::loses_oldest;
use super::super::{Sabotage, Saboteur};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("first-event-lost", "first event after subscribing lost", &["r16"], || {
        watches(|watch| {
            let mut first = true;
            mapped(watch, move |item| {
                let lost = first && !matches!(item, Ok(ConfigEvent::Resync(_)));
                first &= !lost;
                if lost { Vec::new() } else { vec![item] }
            })
        })
    }),
    Saboteur::new("armed-when-polled", "a watch is armed when it is first polled", &["r16"], || {
        Sabotage::provider(|| ArmedWhenPolled)
    }),
    Saboteur::new("gap-after-snapshot", "gap between snapshot and stream", &["r17"], || {
        Sabotage::provider(|| GapAfterSnapshot)
    }),
    Saboteur::new("resync-without-deletions", "Resync without the deletions", &["r19"], || {
        watches(|watch| {
            let mut known = BTreeMap::new();
            mapped(watch, move |item| vec![item.map(|event| without_deletions(&mut known, event))])
        })
    }),
    Saboteur::new("revisions-swapped", "two revisions swapped", &["r18"], || {
        watches(|watch| {
            let swapped = |mut pair: Vec<Result<ConfigEvent>>| {
                if pair.iter().all(|item| {
                    matches!(
                        item,
                        Ok(ConfigEvent::Put { last: true, .. } | ConfigEvent::Delete { last: true, .. })
                    )
                }) {
                    pair.reverse();
                }
                stream::iter(pair)
            };
            streamed(watch.ready_chunks(2).flat_map(swapped))
        })
    }),
    Saboteur::new("laggard-loses-oldest", "a lagging subscriber loses the oldest", &["r22"], || {
        watches(|watch| streamed(loses_oldest(watch, 64)))
    }),
    Saboteur::new("ends-quietly", "ends quietly on disconnect", &["r20"], || {
        watches(|watch| ends_when_suspended(watch, Duration::ZERO, None))
    }),
    Saboteur::new("gives-up", "a watch gives up after a minute", &["r20"], || {
        watches(|watch| {
            ends_when_suspended(
                watch,
                Duration::from_secs(60),
                Some(Error::new(ErrorKind::Unavailable, "watch", "gave up")),
            )
        })
    }),
    Saboteur::new(
        "deaf-with-its-runtime",
        "a watch is fed by the runtime that opened it, and silent when that ends",
        &["r20"],
        || Sabotage::provider(|| FedByItsRuntime),
    ),
    Saboteur::new("always-live", "a watch always says that it is live", &["r20"], || watches(streamed)),
    Saboteur::new("closed-unsaid", "closing ends a watch and it does not say why", &["r20", "r8"], || {
        watches(|watch| {
            mapped(watch, |item| if is(&item, ErrorKind::Closed) { Vec::new() } else { vec![item] })
        })
    }),
    Saboteur::new("outlives-close", "a watch goes on, silently, after closing", &["r20", "r8"], || {
        watches(|watch| {
            streamed(
                watch
                    .take_while(|item| std::future::ready(!is(item, ErrorKind::Closed)))
                    .chain(stream::pending()),
            )
        })
    }),
    Saboteur::new("events-doubled", "every fifth event is told twice", &["r18"], || {
        watches(|watch| {
            let mut told = 0;
            mapped(watch, move |item| {
                told += 1;
                if told % 5 == 0 { vec![item.clone(), item] } else { vec![item] }
            })
        })
    }),
    Saboteur::new(
        "every-change-is-last",
        "each change of a revision is marked as its last",
        &["r18"],
        || edits(|event| vec![all_last(event)]),
    ),
    Saboteur::new(
        "no-change-is-last",
        "no change of a revision is marked as its last but single ones",
        &["r18"],
        || {
            watches(|watch| {
                let mut open = Revision::ZERO;
                mapped(watch, move |item| vec![item.map(|event| never_last(&mut open, event))])
            })
        },
    ),
    Saboteur::new("never-created", "a put never says that it created", &["r21"], || {
        edits(|event| match event {
            ConfigEvent::Put { entry, last, .. } => vec![ConfigEvent::Put { entry, created: false, last }],
            event => vec![event],
        })
    }),
    Saboteur::new(
        "delete-without-revision",
        "a deletion has the version of nothing",
        &["r21", "r18"],
        || {
            edits(|event| match event {
                ConfigEvent::Delete { key, version, last } => {
                    vec![ConfigEvent::Delete { key, version: Revision::new(version.get() - 1), last }]
                }
                event => vec![event],
            })
        },
    ),
    Saboteur::new("invalid-ends-the-stream", "what does not decode ends the stream", &["r21"], || {
        watches(|watch| {
            let broken = |item: Result<ConfigEvent>| match item {
                Ok(ConfigEvent::Invalid { record, .. }) => Err(record.error),
                item => item,
            };
            streamed(watch.map(broken).scan(false, |over, item| {
                let ended = std::mem::replace(over, item.is_err());
                std::future::ready((!ended).then_some(item))
            }))
        })
    }),
    Saboteur::new("invalid-is-skipped", "what does not decode is not told", &["r21"], || {
        edits(|event| if matches!(event, ConfigEvent::Invalid { .. }) { Vec::new() } else { vec![event] })
    }),
    Saboteur::new("invalid-is-a-put", "a key that no call takes is told as a good one", &["r21"], || {
        edits(|event| match event {
            ConfigEvent::Invalid { record, last } => match String::from_utf8(record.key.to_vec()) {
                Ok(key) => {
                    let entry = ConfigEntry { key, value: record.value, version: record.version };
                    vec![ConfigEvent::Put { entry, created: false, last }]
                }
                Err(_) => vec![ConfigEvent::Invalid { record, last }],
            },
            event => vec![event],
        })
    }),
    Saboteur::new(
        "deletion-of-a-likeness",
        "the deletion of what is not UTF-8 names a key that looks like it",
        &["r21"],
        || {
            edits(|event| match event {
                ConfigEvent::InvalidDeleted { key, version, last } => {
                    vec![ConfigEvent::Delete {
                        key: String::from_utf8_lossy(&key).into_owned(),
                        version,
                        last,
                    }]
                }
                event => vec![event],
            })
        },
    ),
    Saboteur::new("invalid-never-goes", "the deletion of what no call takes is not told", &["r21"], || {
        edits(
            |event| {
                if matches!(event, ConfigEvent::InvalidDeleted { .. }) { Vec::new() } else { vec![event] }
            },
        )
    }),
    Saboteur::new("slash-is-the-key", "a watch of `a/` is one of `a`", &["r16"], || {
        Sabotage::provider(|| SlashIsKey)
    }),
    Saboteur::new("missing-cannot-be-watched", "a missing key cannot be watched", &["r16"], || {
        Sabotage::provider(|| MissingFails)
    }),
    Saboteur::new("after-is-inclusive", "what comes after a revision begins with it", &["r17"], || {
        Sabotage::provider(|| AfterShifted(false))
    }),
    Saboteur::new("after-skips-one", "what comes after a revision begins one late", &["r17"], || {
        Sabotage::provider(|| AfterShifted(true))
    }),
    Saboteur::new("resync-is-partial", "a Resync holds only what changed", &["r19"], || {
        watches(|watch| {
            let mut seen = Revision::ZERO;
            mapped(watch, move |item| vec![item.map(|event| only_newer(&mut seen, event))])
        })
    }),
    Saboteur::new("compaction-ends-it", "lost history ends the stream", &["r19"], || {
        watches(|watch| {
            let mut resyncs = 0;
            streamed(watch.map(move |item| {
                resyncs += usize::from(matches!(item, Ok(ConfigEvent::Resync(_))));
                if resyncs > 1 { Err(Error::compacted("watch", None)) } else { item }
            }))
        })
    }),
    Saboteur::new("stalled-stalls-others", "one who does not read stalls the others", &["r22"], || {
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        Sabotage::provider(move || {
            Watches({
                let turn = Arc::clone(&turn);
                move |watch| one_after_the_other(Arc::clone(&turn), watch)
            })
        })
    }),
    Saboteur::new(
        "service-starts-empty",
        "a service watch does not start with the full set",
        &["r39"],
        || {
            let first =
                |event| if matches!(event, ServiceEvent::Resync(_)) { Vec::new() } else { vec![event] };
            Sabotage::provider(move || Services(first))
        },
    ),
    Saboteur::new("removal-without-content", "a removal has no content", &["r39"], || {
        Sabotage::provider(|| {
            Services(|event| {
                vec![instead(event, |change| match change {
                    ServiceChange::Removed(gone) => {
                        ServiceChange::Removed(ServiceInstance::new(gone.name, gone.id, "", 0))
                    }
                    change => change,
                })]
            })
        })
    }),
    Saboteur::new("update-as-addition", "an update is told as an addition", &["r39"], || {
        Sabotage::provider(|| {
            Services(|event| {
                vec![instead(event, |change| match change {
                    ServiceChange::Updated(instance) => ServiceChange::Added(instance),
                    change => change,
                })]
            })
        })
    }),
    Saboteur::new("removal-untold", "a removal is not told", &["r39"], || {
        Sabotage::provider(|| {
            Services(|event| {
                let gone = matches!(event, ServiceEvent::Change { change: ServiceChange::Removed(_), .. });
                if gone { Vec::new() } else { vec![event] }
            })
        })
    }),
];

/// Breaks every watch of the config centre.
struct Watches<F>(F);

#[async_trait]
impl<F: Fn(Watch<ConfigEvent>) -> Watch<ConfigEvent> + Send + Sync + 'static> BrokenProvider for Watches<F> {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        Ok((self.0)(opened(good, key, prefix, start).await?))
    }
}

fn watches(wrap: fn(Watch<ConfigEvent>) -> Watch<ConfigEvent>) -> Sabotage {
    Sabotage::provider(move || Watches(wrap))
}

fn edits(edit: fn(ConfigEvent) -> Vec<ConfigEvent>) -> Sabotage {
    Sabotage::provider(move || {
        Watches(move |watch| {
            mapped(watch, move |item| match item {
                Ok(event) => edit(event).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        })
    })
}

async fn opened(good: &Good, key: &str, prefix: bool, start: WatchStart) -> Result<Watch<ConfigEvent>> {
    let config = good.provider.config();
    if prefix { config.watch_prefix_raw(key, start).await } else { config.watch_raw(key, start).await }
}

/// Has a task of the runtime that opened it read the good watch. Whoever reads it is not told when
/// that is gone.
struct FedByItsRuntime;

#[async_trait]
impl BrokenProvider for FedByItsRuntime {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let mut watch = opened(good, key, prefix, start).await?;
        let (feed, fed) = mpsc::unbounded_channel();
        let silent = feed.clone();
        tokio::spawn(async move {
            while let Some(item) = watch.next().await {
                let ended = item.is_err();
                if feed.send(Some(item)).is_err() || ended {
                    break;
                }
            }
            let _ = feed.send(None);
        });
        let items = stream::unfold((fed, silent), |(mut fed, silent)| async move {
            Some((fed.recv().await??, (fed, silent)))
        });
        Ok(streamed(items))
    }
}

struct ArmedWhenPolled;

#[async_trait]
impl BrokenProvider for ArmedWhenPolled {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let (good, key) = (good.clone(), key.to_owned());
        let later = stream::once(async move { opened(&good, &key, prefix, start).await });
        Ok(streamed(later.flat_map(|watch| match watch {
            Ok(watch) => watch.boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        })))
    }
}

struct GapAfterSnapshot;

#[async_trait]
impl BrokenProvider for GapAfterSnapshot {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        if start != WatchStart::Snapshot {
            return opened(good, key, prefix, start).await;
        }
        let first = opened(good, key, prefix, start).await?.next().await.into_iter();
        sleep(Duration::from_millis(5)).await;
        Ok(streamed(stream::iter(first).chain(opened(good, key, prefix, WatchStart::Now).await?)))
    }
}

fn without_deletions(known: &mut BTreeMap<String, ConfigEntry>, event: ConfigEvent) -> ConfigEvent {
    match event {
        ConfigEvent::Resync(mut snapshot) => {
            for entry in &snapshot.items {
                known.insert(entry.key.clone(), entry.clone());
            }
            snapshot.items = known.values().cloned().collect();
            ConfigEvent::Resync(snapshot)
        }
        ConfigEvent::Put { entry, created, last } => {
            known.insert(entry.key.clone(), entry.clone());
            ConfigEvent::Put { entry, created, last }
        }
        ConfigEvent::Delete { key, version, last } => {
            known.remove(&key);
            ConfigEvent::Delete { key, version, last }
        }
        event => event,
    }
}

fn ends_when_suspended(
    watch: Watch<ConfigEvent>,
    patience: Duration,
    last: Option<Error>,
) -> Watch<ConfigEvent> {
    let state = (Some(watch), Instant::now());
    streamed(stream::unfold(state, move |(watch, mut live)| {
        let last = last.clone();
        async move {
            let mut watch = watch?;
            loop {
                tokio::select! {
                    biased;
                    item = watch.next() => return item.map(|item| (item, (Some(watch), Instant::now()))),
                    () = sleep(Duration::from_millis(10)) => {}
                }
                if watch.state() != WatchState::Suspended {
                    live = Instant::now();
                } else if live.elapsed() > patience {
                    return last.map(|error| (Err(error), (None, live)));
                }
            }
        }
    }))
}

fn all_last(event: ConfigEvent) -> ConfigEvent {
    match event {
        ConfigEvent::Put { entry, created, .. } => ConfigEvent::Put { entry, created, last: true },
        ConfigEvent::Delete { key, version, .. } => ConfigEvent::Delete { key, version, last: true },
        event => event,
    }
}

fn never_last(open: &mut Revision, event: ConfigEvent) -> ConfigEvent {
    let revision = match &event {
        ConfigEvent::Put { entry, .. } => entry.version,
        ConfigEvent::Delete { version, .. } => *version,
        _ => return event,
    };
    let several = std::mem::replace(open, revision) == revision;
    match event {
        ConfigEvent::Put { entry, created, last } => {
            ConfigEvent::Put { entry, created, last: last && !several }
        }
        ConfigEvent::Delete { key, version, last } => {
            ConfigEvent::Delete { key, version, last: last && !several }
        }
        event => event,
    }
}

struct SlashIsKey;

#[async_trait]
impl BrokenProvider for SlashIsKey {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let key = if prefix { key } else { key.strip_suffix('/').unwrap_or(key) };
        opened(good, key, prefix, start).await
    }
}

struct MissingFails;

#[async_trait]
impl BrokenProvider for MissingFails {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let watch = opened(good, key, prefix, start).await?;
        if !prefix && !key.ends_with('/') && good.provider.config().get_raw(key).await?.is_none() {
            return Err(Error::invalid_argument("config.watch", "no such key"));
        }
        Ok(watch)
    }
}

/// Starts one revision early, or late.
struct AfterShifted(bool);

#[async_trait]
impl BrokenProvider for AfterShifted {
    async fn watch(
        &self,
        good: &Good,
        key: &str,
        prefix: bool,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let start = match start {
            WatchStart::After(after) if self.0 => WatchStart::After(after.next()),
            WatchStart::After(after) => WatchStart::After(Revision::new(after.get().saturating_sub(1))),
            start => start,
        };
        opened(good, key, prefix, start).await
    }
}

fn only_newer(seen: &mut Revision, event: ConfigEvent) -> ConfigEvent {
    match event {
        ConfigEvent::Resync(mut snapshot) => {
            snapshot.items.retain(|entry| entry.version > *seen);
            *seen = snapshot.revision;
            ConfigEvent::Resync(snapshot)
        }
        ConfigEvent::Put { entry, created, last } => {
            *seen = entry.version;
            ConfigEvent::Put { entry, created, last }
        }
        event => event,
    }
}

/// Passes events on to one watcher after the other, and waits for each to take them.
fn one_after_the_other(
    turn: Arc<tokio::sync::Mutex<()>>,
    mut watch: Watch<ConfigEvent>,
) -> Watch<ConfigEvent> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(item) = watch.next().await {
            let _turn = turn.lock().await;
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    streamed(stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    }))
}

/// Edits the events of every service watch.
struct Services(fn(ServiceEvent) -> Vec<ServiceEvent>);

#[async_trait]
impl BrokenProvider for Services {
    async fn watch_service(&self, good: &Good, service: &str) -> Result<Watch<ServiceEvent>> {
        let edit = self.0;
        Ok(mapped(good.provider.registry().watch(service).await?, move |item| match item {
            Ok(event) => edit(event).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }))
    }
}

fn instead(event: ServiceEvent, edit: impl FnOnce(ServiceChange) -> ServiceChange) -> ServiceEvent {
    match event {
        ServiceEvent::Change { change, revision, last } => {
            ServiceEvent::Change { change: edit(change), revision, last }
        }
        event => event,
    }
}

fn is<E>(item: &Result<E>, kind: ErrorKind) -> bool {
    item.as_ref().err().is_some_and(|error| error.kind() == kind)
}
