//! The watchers of a history: each folds what it is told into a view, across watches that it drops
//! and clients that die (R18 to R20, R39).

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ConfigEvent, ErrorKind, Revision, ServiceInstance, Watch, WatchStart};
use tokio::time::sleep;

use super::plan::Watcher;
use super::world::{Live, World};
use crate::view::{ConfigView, ServiceView};

/// How long a watcher waits before it looks whether its client is there again.
const PAUSE: Duration = Duration::from_millis(50);

/// Opens a watch, as often as it takes; `None` when what kept it from opening is no fault.
macro_rules! open {
    ($world:expr, $watcher:expr, $open:expr) => {
        loop {
            let live = $world.live($watcher.client)?;
            match $open(&live).await {
                Ok(watch) => break (live, watch),
                Err(error) if error.is_transient() || error.kind() == ErrorKind::Closed => sleep(PAUSE).await,
                Err(error) => {
                    $world.breach("r20", format!("a watch could not be opened: {error:?}"));
                    return None;
                }
            }
        }
    };
}

/// Follows the config centre until everything up to the last revision was told, which is told once
/// the history is over.
pub(super) async fn config(world: Arc<World>, watcher: Watcher) -> Option<ConfigView> {
    let start = world.truth.start();
    let mut view = ConfigView::after(if watcher.snapshot { Revision::ZERO } else { start });
    let mut begin = if watcher.snapshot { WatchStart::Snapshot } else { WatchStart::After(start) };
    loop {
        let (live, mut watch) = open!(world, watcher, async |live: &Live| {
            let config = live.provider.config();
            match watcher.key {
                Some(key) => config.watch_raw(&world.config_key(key), begin).await,
                None => config.watch_prefix_raw(&world.tag, begin).await,
            }
        });
        // A revision is taken as a whole, so that the next watch can begin where this one ended.
        let mut revision = Vec::new();
        let mut taken = 0;
        while taken < watcher.resumes_after || !revision.is_empty() {
            let event = match next(&world, &watcher, &live, &mut watch, |target| view.seen() >= target).await
            {
                Next::Event(event) => event,
                Next::Over => break,
                Next::Told => return Some(view),
                Next::Broken => return None,
            };
            taken += 1;
            let whole = match &event {
                ConfigEvent::Put { last, .. }
                | ConfigEvent::Delete { last, .. }
                | ConfigEvent::Invalid { last, .. }
                | ConfigEvent::InvalidDeleted { last, .. } => *last,
                ConfigEvent::Resync(_) => true,
            };
            revision.push(event);
            if whole {
                for event in revision.drain(..) {
                    if let Err((rule, what)) = view.follow_up(event) {
                        world.breach(rule, format!("watcher of client {}: {what}", watcher.client));
                        return None;
                    }
                }
            }
        }
        if view.seen() > Revision::ZERO {
            begin = WatchStart::After(view.seen());
        }
    }
}

/// A service as a watcher saw it at one revision, and whether that came as a `Resync`.
pub(super) type Sight = (Revision, bool, Vec<ServiceInstance>);

/// Follows a service until everything up to the last revision was told.
pub(super) async fn service(world: Arc<World>, watcher: Watcher) -> Option<Vec<Sight>> {
    let mut sights = Vec::new();
    loop {
        let (live, mut watch) =
            open!(world, watcher, async |live: &Live| live.provider.registry().watch(world.service()).await);
        let mut view = ServiceView::new();
        let mut taken = 0;
        while taken < watcher.resumes_after {
            let event = match next(&world, &watcher, &live, &mut watch, |target| view.seen() >= target).await
            {
                Next::Event(event) => event,
                Next::Over => break,
                Next::Told => return Some(sights),
                Next::Broken => return None,
            };
            taken += 1;
            let (before, resyncs) = (view.seen(), view.resyncs());
            if let Err((rule, what)) = view.follow_up(event) {
                world.breach(rule, format!("watcher of client {}: {what}", watcher.client));
                return None;
            }
            if view.seen() != before || view.resyncs() != resyncs {
                sights.push((view.seen(), view.resyncs() != resyncs, view.instances()));
            }
        }
    }
}

/// What comes next from a watch.
enum Next<E> {
    Event(E),
    /// Its client is gone: a new watch goes on.
    Over,
    /// Everything was told that will be asked for.
    Told,
    /// It is broken, and that was said.
    Broken,
}

async fn next<E: std::fmt::Debug>(
    world: &World,
    watcher: &Watcher,
    live: &Live,
    watch: &mut Watch<E>,
    told: impl Fn(Revision) -> bool,
) -> Next<E> {
    let item = tokio::select! {
        biased;
        _ = world.last.wait_for(|last| last.is_some_and(&told)) => return Next::Told,
        item = watch.next() => item,
    };
    match item {
        Some(Ok(event)) => Next::Event(event),
        Some(Err(error)) if error.kind() == ErrorKind::Closed && ended(world, watcher, live) => {
            sleep(PAUSE).await;
            Next::Over
        }
        end => {
            world
                .breach("r20", format!("watcher of client {}: its watch ended with {end:?}", watcher.client));
            Next::Broken
        }
    }
}

/// Whether a client that says it is closed has a reason to.
fn ended(world: &World, watcher: &Watcher, live: &Live) -> bool {
    world.is_dead(watcher.client, live.generation) || world.has_restarted()
}
