//! Whether a service, and each part of it, can do its work (K9).
//!
//! Each part has a [`Reporter`] and says how it is; the [`Health`] board sums up. A service that is
//! started by [`Boot`](crate::Boot) has a part `service`, which is down until all others are there.
//! An operator sees it at `/readyz` and `/healthz` of the [admin listener](crate::admin), a load
//! balancer takes the first as the order to send requests, or none.
//!
//! # Examples
//!
//! ```
//! use coord_service::health::{Health, State};
//!
//! let health = Health::new();
//! let db = health.register("db", true);
//! let cache = health.register("cache", false);
//! assert!(!health.is_ready(), "nothing is known of the database yet");
//!
//! db.set(State::Ready);
//! cache.set(State::Down("connection refused".to_owned()));
//! assert!(health.is_ready(), "the service can do without its cache");
//! assert_eq!(health.summary(), State::Degraded("cache: connection refused".to_owned()));
//!
//! health.withdraw("shutting down");
//! assert!(!health.is_ready());
//! ```

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

/// How a part of the service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum State {
    /// It does its work.
    Ready,
    /// It does its work, but not as it should: with an old configuration, or without what it can do
    /// without. The text says why, for people; it must not hold secrets.
    Degraded(String),
    /// It cannot do its work. The text says why, for people; it must not hold secrets.
    Down(String),
}

impl State {
    /// Why it is not [`Ready`](State::Ready).
    pub fn why(&self) -> Option<&str> {
        match self {
            State::Ready => None,
            State::Degraded(why) | State::Down(why) => Some(why),
        }
    }

    /// Whether it does its work, be it degraded.
    pub fn is_serving(&self) -> bool {
        !matches!(self, State::Down(_))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Ready => f.write_str("ready"),
            State::Degraded(why) => write!(f, "degraded: {why}"),
            State::Down(why) => write!(f, "down: {why}"),
        }
    }
}

/// What is known of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartHealth {
    /// Its name.
    pub name: String,
    /// Whether the service is of no use without it.
    pub required: bool,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
}

/// The board on which the parts of a service say how they are (K9). Cheap to clone; all clones are
/// one board.
#[derive(Clone)]
pub struct Health {
    board: Arc<Board>,
}

struct Board {
    parts: Mutex<Parts>,
    /// Raised with each change.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Parts {
    next: u64,
    /// In the order in which they were registered.
    list: Vec<(u64, PartHealth)>,
    withdrawn: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Health::new()
    }
}

impl Health {
    /// A board without parts, which is ready.
    pub fn new() -> Self {
        Health { board: Arc::new(Board { parts: Mutex::default(), changes: watch::Sender::new(0) }) }
    }

    /// Adds a part, which is [`Down`](State::Down) until it says otherwise. While a `required` one
    /// is down, the service is not ready; another one degrades it only.
    ///
    /// It is on the board until its reporter is dropped. Two parts may have one name.
    pub fn register(&self, name: impl Into<String>, required: bool) -> Reporter {
        let name = name.into();
        let state = State::Down("starting".to_owned());
        let part = PartHealth { name, required, state };
        let id = self.board.change(|parts| {
            let id = parts.next;
            parts.next += 1;
            parts.list.push((id, part));
            id
        });
        Reporter { board: Arc::clone(&self.board), id }
    }

    /// Says that the service takes no more work, whatever its parts say: it is shutting down. This
    /// is for good; the first reason is kept.
    pub fn withdraw(&self, why: impl Into<String>) {
        let why = why.into();
        self.board.change(|parts| {
            parts.withdrawn.get_or_insert(why);
        });
    }

    /// Whether requests should come: no required part is down, and the service was not
    /// [withdrawn](Self::withdraw).
    pub fn is_ready(&self) -> bool {
        self.summary().is_serving()
    }

    /// How the service is as a whole: down where it was withdrawn, or a required part is down;
    /// degraded where any part is not ready; ready otherwise. The text names each part that is to
    /// blame.
    pub fn summary(&self) -> State {
        summary(&self.board.parts.lock())
    }

    /// How each part is, in the order in which they were registered.
    pub fn parts(&self) -> Vec<PartHealth> {
        self.board.parts.lock().list.iter().map(|(_, part)| part.clone()).collect()
    }

    /// Waits until `wanted` holds of the summary, which may be at once.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&State) -> bool) -> State {
        let mut changes = self.board.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let summary = self.summary();
            // The board is held by this very call, so that the channel stays open.
            if wanted(&summary) || changes.changed().await.is_err() {
                return summary;
            }
        }
    }
}

fn summary(parts: &Parts) -> State {
    if let Some(why) = &parts.withdrawn {
        return State::Down(why.clone());
    }
    let told = |wanted: fn(&PartHealth) -> bool| -> Option<String> {
        let told: Vec<String> = parts
            .list
            .iter()
            .filter(|(_, part)| wanted(part))
            .map(|(_, part)| format!("{}: {}", part.name, part.state.why().unwrap_or_default()))
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    };
    if let Some(why) = told(|part| part.required && !part.state.is_serving()) {
        return State::Down(why);
    }
    match told(|part| part.state != State::Ready) {
        Some(why) => State::Degraded(why),
        None => State::Ready,
    }
}

impl Board {
    fn change<T>(&self, change: impl FnOnce(&mut Parts) -> T) -> T {
        let changed = change(&mut self.parts.lock());
        self.changes.send_modify(|count| *count += 1);
        changed
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("summary", &self.summary()).field("parts", &self.parts()).finish()
    }
}

/// Says how one part is. When it is dropped, the part leaves the board.
pub struct Reporter {
    board: Arc<Board>,
    id: u64,
}

impl Reporter {
    /// Says how the part is from now on.
    ///
    /// A change is logged: at WARN where the part gets worse, at INFO where it is ready again.
    pub fn set(&self, state: State) {
        let (changed, ending) = {
            let mut parts = self.board.parts.lock();
            let ending = parts.withdrawn.is_some();
            let changed = parts.list.iter_mut().find(|(id, _)| *id == self.id).and_then(|(_, part)| {
                (part.state != state).then(|| {
                    part.state = state.clone();
                    part.name.clone()
                })
            });
            (changed, ending)
        };
        let Some(part) = changed else { return };
        self.board.changes.send_modify(|count| *count += 1);
        match state {
            State::Ready => tracing::info!(part, "ready"),
            // That parts of a service go down one after the other is what its end is.
            State::Degraded(why) | State::Down(why) if ending => tracing::debug!(part, why, "ends"),
            State::Degraded(why) => tracing::warn!(part, why, "degraded"),
            State::Down(why) => tracing::warn!(part, why, "down"),
        }
    }

    /// Whether the service is of no use without the part.
    pub fn is_required(&self) -> bool {
        let parts = self.board.parts.lock();
        parts.list.iter().any(|(id, part)| *id == self.id && part.required)
    }

    /// How the part is.
    pub fn state(&self) -> State {
        let parts = self.board.parts.lock();
        let found = parts.list.iter().find(|(id, _)| *id == self.id);
        found.map_or_else(|| State::Down("gone".to_owned()), |(_, part)| part.state.clone())
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.board.change(|parts| parts.list.retain(|(id, _)| *id != self.id));
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("state", &self.state()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(why: &str) -> State {
        State::Down(why.to_owned())
    }

    fn degraded(why: &str) -> State {
        State::Degraded(why.to_owned())
    }

    #[test]
    fn a_part_of_which_nothing_is_known_is_down() {
        let health = Health::new();
        assert_eq!(health.summary(), State::Ready, "nothing is asked of a service without parts");
        let db = health.register("db", true);
        assert_eq!(health.summary(), down("db: starting"));
        db.set(State::Ready);
        assert_eq!(health.summary(), State::Ready);
    }

    #[test]
    fn only_a_required_part_takes_the_service_down() {
        let health = Health::new();
        let (db, cache) = (health.register("db", true), health.register("cache", false));
        db.set(degraded("old configuration"));
        cache.set(down("refused"));
        assert!(health.is_ready());
        assert_eq!(health.summary(), degraded("db: old configuration; cache: refused"));
        db.set(down("password"));
        assert!(!health.is_ready());
        assert_eq!(health.summary(), down("db: password"), "what takes it down, and nothing else");
    }

    #[test]
    fn a_part_leaves_the_board_with_its_reporter() {
        let health = Health::new();
        let one = health.register("db", true);
        let other = health.register("db", true);
        one.set(State::Ready);
        drop(other);
        assert_eq!(health.summary(), State::Ready);
        assert_eq!(health.parts().len(), 1);
    }

    #[test]
    fn who_is_withdrawn_stays_withdrawn() {
        let health = Health::new();
        let db = health.register("db", true);
        health.withdraw("shutting down");
        health.withdraw("again");
        db.set(State::Ready);
        assert_eq!(health.summary(), down("shutting down"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_sees_the_change_that_it_waits_for() {
        let health = Health::new();
        let db = health.register("db", true);
        let waiting = tokio::spawn({
            let health = health.clone();
            async move { health.wait_for(State::is_serving).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        db.set(degraded("slow"));
        assert_eq!(waiting.await.unwrap(), degraded("db: slow"));
    }
}
