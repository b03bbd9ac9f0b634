//! One view of a queue for all who claim over one client: kept by a watch, for as long as one of
//! them is there.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use coord_api::store::Span;
use coord_api::{Error, Result, Revision};
use coord_core::{Client, homeless, keys};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::line::{FreeItem, Line};

/// What a claimer that waits is told.
#[derive(Debug)]
pub(super) enum Turn {
    /// This item is for it.
    Item(FreeItem),
    /// Its place is gone.
    Gone,
}

/// How far a view is.
#[derive(Clone, Debug)]
enum Progress {
    Loading,
    Loaded,
    /// It is followed no more; for this reason, if trying again cannot repair it.
    Ended(Option<Error>),
}

/// A queue, as far as its watch has come.
pub(super) struct Follower {
    view: Mutex<View>,
    progress: watch::Sender<Progress>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

struct View {
    line: Line,
    /// The revision of the line; `None` until it was read.
    at: Option<Revision>,
    /// Those of this client that wait and try nothing at the moment.
    waiting: HashMap<Arc<str>, oneshot::Sender<Turn>>,
    /// The items that are tried at the moment by those who do not wait.
    tried: HashSet<Arc<str>>,
}

impl Follower {
    /// Follows the queue in this directory, for as long as somebody has it.
    ///
    /// # Errors
    ///
    /// No place for its task is to be had.
    pub(super) fn start(
        client: &Client,
        operation: &'static str,
        queue: &Bytes,
        is_ordered: bool,
    ) -> Result<Arc<Self>> {
        let view = View {
            line: Line::new(queue.clone(), is_ordered),
            at: None,
            waiting: HashMap::new(),
            tried: HashSet::new(),
        };
        let follower = Arc::new(Follower {
            view: Mutex::new(view),
            progress: watch::Sender::new(Progress::Loading),
            task: OnceLock::new(),
        });
        let task = follow(EndWhenDropped(Arc::downgrade(&follower)), client.clone(), queue.clone());
        let task = client.home().spawn(task).map_err(|error| homeless(operation, error))?;
        let _ = follower.task.set(AbortOnDropHandle::new(task));
        Ok(follower)
    }

    /// Whether it follows the queue no more.
    pub(super) fn is_over(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Ended(_))
    }

    /// Waits until the queue was read. Says whether it was: else another follower is to be had.
    ///
    /// # Errors
    ///
    /// What trying again cannot repair.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn loaded(&self) -> Result<bool> {
        let mut progress = self.progress.subscribe();
        let progress = progress.wait_for(|progress| !matches!(progress, Progress::Loading)).await;
        match progress.as_deref() {
            Ok(Progress::Loaded) => Ok(true),
            Ok(Progress::Ended(Some(error))) => Err(error.clone()),
            _ => Ok(false),
        }
    }

    /// What someone may have who does not wait, as far as the view has come. It is the caller's to
    /// try until it is dropped.
    pub(super) fn try_next(self: &Arc<Self>) -> Option<Trial> {
        let mut view = self.view.lock();
        // Who waits is served in order; whoever comes now waits as well, so that they do not get
        // into each other's way.
        if view.line.waiting() > 0 {
            return None;
        }
        let item = view.line.for_newcomer(|id| view.tried.contains(id))?;
        view.tried.insert(Arc::clone(&item.id));
        Some(Trial { follower: Arc::clone(self), item })
    }

    /// This item was claimed, or the claim was refused: it is not as the view has it.
    pub(super) fn outdated(&self, item: &FreeItem) {
        self.view.lock().line.outdated(item);
    }

    /// Waits for the turn of one that joined at `joined`. `None` where the follower has ended, and
    /// another one is to be had.
    ///
    /// # Errors
    ///
    /// What trying again cannot repair.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. The place itself is the caller's.
    pub(super) async fn turn(self: &Arc<Self>, name: &Arc<str>, joined: Revision) -> Result<Option<Turn>> {
        let (tell, told) = oneshot::channel();
        {
            let mut view = self.view.lock();
            if view.at.is_some_and(|at| at >= joined) && !view.line.waits(name) {
                return Ok(Some(Turn::Gone));
            }
            view.waiting.insert(Arc::clone(name), tell);
            // It may have ended just before.
            if self.is_over() {
                view.waiting.clear();
            }
            view.tell_turns();
        }
        let waiting = Waiting { follower: self, name };
        let turn = told.await;
        drop(waiting);
        match (turn, &*self.progress.borrow()) {
            (Ok(turn), _) => Ok(Some(turn)),
            (Err(_), Progress::Ended(Some(error))) => Err(error.clone()),
            (Err(_), _) => Ok(None),
        }
    }

    fn end(&self, error: Option<Error>) {
        self.progress.send_if_modified(|progress| {
            let first = !matches!(progress, Progress::Ended(_));
            if first {
                *progress = Progress::Ended(error);
            }
            first
        });
        let waiting = std::mem::take(&mut self.view.lock().waiting);
        drop(waiting);
    }
}

impl View {
    /// Tells those whose turn it is, and those whose place is gone.
    fn tell_turns(&mut self) {
        let View { line, waiting, .. } = self;
        if waiting.is_empty() {
            return;
        }
        for (name, item) in line.turns() {
            if let Some(tell) = waiting.remove(name) {
                // One that went away meanwhile gives its place back by itself.
                let _ = tell.send(Turn::Item(item));
            }
        }
    }

    /// Tells those of this client whose place is gone.
    fn tell_gone(&mut self, gone: Vec<Arc<str>>) {
        for tell in gone.into_iter().filter_map(|name| self.waiting.remove(&name)) {
            let _ = tell.send(Turn::Gone);
        }
    }
}

/// An item that one who does not wait tries to have; for others of this client it is none
/// meanwhile.
pub(super) struct Trial {
    follower: Arc<Follower>,
    pub(super) item: FreeItem,
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.follower.view.lock().tried.remove(&self.item.id);
    }
}

/// One that waits in a view.
struct Waiting<'a> {
    follower: &'a Follower,
    name: &'a Arc<str>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.follower.view.lock().waiting.remove(self.name);
    }
}

/// Lets those who wait go when what moves the view ends, so that none of them waits for ever.
struct EndWhenDropped(Weak<Follower>);

impl Drop for EndWhenDropped {
    fn drop(&mut self) {
        if let Some(follower) = self.0.upgrade() {
            follower.end(None);
        }
    }
}

/// Follows a queue until nobody has the follower any more.
async fn follow(guard: EndWhenDropped, client: Client, queue: Bytes) {
    let mut watch = client.follow(Span::prefix(keys::queue_line(&queue)));
    loop {
        let news = watch.next().await;
        let Some(follower) = guard.0.upgrade() else { return };
        let news = match news {
            Ok(news) => news,
            Err(error) => return follower.end(Some(error)),
        };
        let mut view = follower.view.lock();
        let gone = view.line.apply(news);
        view.at = Some(watch.seen());
        view.tell_gone(gone);
        view.tell_turns();
        drop(view);
        follower.progress.send_if_modified(|progress| {
            let first = matches!(progress, Progress::Loading);
            if first {
                *progress = Progress::Loaded;
            }
            first
        });
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}
