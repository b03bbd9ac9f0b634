//! One watch for all registrations of one service, or one for each where they are few.
//!
//! A program that registers a thousand instances of a service costs its store one watch. One that
//! registers a single instance among ten thousand foreign ones is not sent their changes: it
//! watches its own key alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Entry, Span};
use coord_api::{Error, Result, Revision};
use coord_core::Client;
use coord_core::watch::{Delivery, ResumingWatch};
use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::fate::{Fate, Verdict};

/// Registrations of one service up to which each key is watched by itself.
const FEW: usize = 4;

/// What the service's watch has told of one key.
#[derive(Debug, Default)]
pub(super) struct KeyFate {
    fate: Mutex<Fate>,
    changed: Notify,
}

impl KeyFate {
    /// What became of the entry that was written at `known`. Cancel safe.
    pub(super) async fn verdict(&self, known: Revision) -> Verdict {
        loop {
            let verdict = self.fate.lock().verdict(known);
            match verdict {
                Some(verdict) => return verdict,
                // One registration waits; a permit is stored for it when something comes between
                // the look and the wait.
                None => self.changed.notified().await,
            }
        }
    }

    fn tell(&self, news: impl FnOnce(&mut Fate)) {
        news(&mut self.fate.lock());
        self.changed.notify_one();
    }
}

/// What a registration tells its follower. Bounded: one for each time that an entry is written.
#[derive(Debug)]
enum Wish {
    /// The key is about to be written: what happens to it from now on counts.
    Expect(Bytes, Arc<KeyFate>),
    /// It was written at this revision, and is to be watched.
    Follow(Bytes, Revision),
    /// It is of no interest any more to who was told this.
    Forget(Bytes, Arc<KeyFate>),
}

/// A registration's end of a follower.
#[derive(Debug)]
pub(super) struct Followed {
    key: Bytes,
    wishes: mpsc::UnboundedSender<Wish>,
    told: Arc<KeyFate>,
}

impl Followed {
    /// It was written at this revision: what happens to it from then on is told.
    pub(super) fn placed(&self, at: Revision) {
        self.told.fate.lock().placed();
        let _ = self.wishes.send(Wish::Follow(self.key.clone(), at));
    }

    /// What became of the entry that was written at `known`. Cancel safe.
    pub(super) async fn verdict(&self, known: Revision) -> Verdict {
        self.told.verdict(known).await
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.wishes.send(Wish::Forget(self.key.clone(), Arc::clone(&self.told)));
    }
}

/// Asks a follower to follow keys.
#[derive(Clone, Debug)]
pub(super) struct Interest(mpsc::UnboundedSender<Wish>);

impl Interest {
    /// Follows a key, which is about to be written.
    pub(super) fn follow(&self, key: Bytes) -> Followed {
        let told = Arc::new(KeyFate::default());
        let _ = self.0.send(Wish::Expect(key.clone(), Arc::clone(&told)));
        Followed { key, wishes: self.0.clone(), told }
    }
}

/// A key that is followed.
#[derive(Debug)]
struct FollowedKey {
    told: Arc<KeyFate>,
    /// Everything that happened to it up to here was told; none before it was written.
    seen: Option<Revision>,
}

/// What is watched: one key, or the whole directory.
type Watched = Option<Bytes>;

/// A step of a watch, and how far it is.
type WatchStep = std::result::Result<(Watched, ResumingWatch, Result<Option<Delivery>>), Aborted>;

/// Follows the registrations of one service. Moved on by [`run`](Self::run).
pub(super) struct Follower {
    client: Client,
    directory: Bytes,
    wishes: mpsc::UnboundedReceiver<Wish>,
    keys: BTreeMap<Bytes, FollowedKey>,
    /// How many of them were written: counted, for registrations come and go by the thousand.
    written: usize,
    /// The watches under way.
    steps: FuturesUnordered<BoxFuture<'static, WatchStep>>,
    /// What ends each of them.
    stops: HashMap<Watched, AbortHandle>,
    /// Where the watch of the directory began, and how far it has come.
    directory_seen: Option<(Revision, Revision)>,
    /// The directory may not be watched, only its keys.
    forbidden: bool,
}

impl Follower {
    /// A follower of the instances in `directory`, and what it is asked with.
    pub(super) fn new(client: Client, directory: Bytes) -> (Self, Interest) {
        let (wish, wishes) = mpsc::unbounded_channel();
        let follower = Follower {
            client,
            directory,
            wishes,
            keys: BTreeMap::new(),
            written: 0,
            steps: FuturesUnordered::new(),
            stops: HashMap::new(),
            directory_seen: None,
            forbidden: false,
        };
        (follower, Interest(wish))
    }

    /// Follows until nobody can ask any more. Cancel safe.
    pub(super) async fn run(&mut self) {
        loop {
            tokio::select! {
                biased;
                wish = self.wishes.recv() => match wish {
                    Some(wish) => self.grant(wish),
                    None => return,
                },
                Some(step) = self.steps.next() => if let Ok((watched, watch, delivery)) = step {
                    self.stepped(watched, watch, delivery);
                },
            }
        }
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Expect(key, told) => {
                let before = self.keys.insert(key, FollowedKey { told, seen: None });
                self.leave(before);
            }
            Wish::Follow(key, at) => self.follow(key, at),
            // A later registration of the key may have come before the end of this one was noticed.
            Wish::Forget(key, told)
                if self.keys.get(&key).is_some_and(|followed| Arc::ptr_eq(&followed.told, &told)) =>
            {
                let before = self.keys.remove(&key);
                self.leave(before);
                self.stop(&Some(key));
                if self.is_directory() && self.written <= FEW / 2 {
                    self.watch_keys();
                }
            }
            Wish::Forget(..) => {}
        }
    }

    /// This key is followed no more.
    fn leave(&mut self, before: Option<FollowedKey>) {
        self.written -= usize::from(before.is_some_and(|followed| followed.seen.is_some()));
    }

    /// The keys that were written, and how far each is told.
    fn written(&self) -> impl Iterator<Item = (&Bytes, Revision)> {
        self.keys.iter().filter_map(|(key, followed)| Some((key, followed.seen?)))
    }

    fn is_directory(&self) -> bool {
        self.directory_seen.is_some()
    }

    fn follow(&mut self, key: Bytes, at: Revision) {
        let Some(followed) = self.keys.get_mut(&key) else { return };
        let first = followed.seen.is_none();
        followed.seen.get_or_insert(at);
        self.written += usize::from(first);
        match self.directory_seen {
            // It began with what came after this entry: what happened in between is read again, and
            // counts once.
            Some((began, _)) if began > at => self.watch_directory(at),
            Some(_) => {}
            None if self.written > FEW && !self.forbidden => self.watch_directory(at),
            None if first => self.watch_key(key, at),
            None => {}
        }
    }

    /// Watches the directory instead of its keys, from where all of them were told, or from `at`
    /// where that is earlier.
    fn watch_directory(&mut self, at: Revision) {
        let told = match self.directory_seen {
            Some((began, _)) => began,
            None => self.written().map(|(_, seen)| seen).min().unwrap_or(at),
        };
        self.stop_all();
        let after = told.min(at);
        self.directory_seen = Some((after, after));
        self.watch(None, self.client.follow_after(Span::Prefix(self.directory.clone()), after));
    }

    /// Watches each key by itself, from where the directory's watch has come.
    fn watch_keys(&mut self) {
        self.stop_all();
        let seen = self.directory_seen.take().map(|(_, seen)| seen);
        let keys: Vec<(Bytes, Revision)> =
            self.written().map(|(key, at)| (key.clone(), seen.unwrap_or(at))).collect();
        for (key, seen) in keys {
            self.watch_key(key, seen);
        }
    }

    fn watch_key(&mut self, key: Bytes, after: Revision) {
        let watch = self.client.follow_after(Span::Key(key.clone()), after);
        self.watch(Some(key), watch);
    }

    fn watch(&mut self, watched: Watched, mut watch: ResumingWatch) {
        let (stop, stopped) = AbortHandle::new_pair();
        if let Some(before) = self.stops.insert(watched.clone(), stop) {
            before.abort();
        }
        let step = async move {
            let delivery = watch.step().await;
            (watched, watch, delivery)
        };
        self.steps.push(Abortable::new(step, stopped).boxed());
    }

    fn stop(&mut self, watched: &Watched) {
        if let Some(stop) = self.stops.remove(watched) {
            stop.abort();
        }
    }

    fn stop_all(&mut self) {
        self.stops.clear();
        self.steps.clear();
    }

    /// A watch has come on by a step.
    fn stepped(&mut self, watched: Watched, watch: ResumingWatch, delivery: Result<Option<Delivery>>) {
        match delivery {
            Ok(delivery) => {
                if let Some(delivery) = delivery {
                    self.tell(&watched, delivery);
                }
                self.note_seen(&watched, watch.seen());
                self.watch(watched, watch);
            }
            Err(error) => self.ended(&watched, &error),
        }
    }

    fn note_seen(&mut self, watched: &Watched, seen: Revision) {
        match watched {
            None => {
                if let Some((_, directory)) = &mut self.directory_seen {
                    *directory = seen;
                }
            }
            Some(key) => {
                if let Some(at) = self.keys.get_mut(key).and_then(|followed| followed.seen.as_mut()) {
                    *at = seen;
                }
            }
        }
    }

    /// A watch is over for good. What cannot be watched is still noticed by the renewals, only
    /// later.
    fn ended(&mut self, watched: &Watched, error: &Error) {
        self.stops.remove(watched);
        if watched.is_none() && !self.client.is_closed() {
            let kind = error.kind();
            coord_home::event!(DEBUG, kind = %kind, "a service's directory cannot be watched, so each key is");
            self.forbidden = true;
            self.watch_keys();
        }
    }

    fn tell(&self, watched: &Watched, delivery: Delivery) {
        let ours = |entry: &Entry| entry.lease.is_some_and(|lease| self.client.owns(lease));
        match delivery {
            Delivery::Batch(batch) => {
                for change in &batch.changes {
                    if let Some(followed) = self.keys.get(change.key()) {
                        followed.told.tell(|fate| fate.change(change, batch.revision, ours));
                    }
                }
            }
            Delivery::Resync { state, replaced } => {
                let concerned = self
                    .keys
                    .iter()
                    .filter(|(key, _)| watched.as_ref().is_none_or(|watched| watched == *key));
                let found: HashMap<&Bytes, &Entry> =
                    state.entries.iter().map(|entry| (&entry.key, entry)).collect();
                for (key, followed) in concerned {
                    let found = found.get(key).copied();
                    followed.told.tell(|fate| fate.resync(found, state.revision, replaced, ours));
                }
            }
        }
    }
}
