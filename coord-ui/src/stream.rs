//! What a viewer is sent: the health, and the page that it looks at, whenever something changes.
//!
//! A stream is pulled: nothing is read for a viewer that does not read, and nothing is kept for it.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query as Asked, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use coord_api::{Error, ErrorKind, WatchStart};
use coord_core::watch::Subscription;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};

use crate::health::Health;
use crate::looks::{Moment, Newer};
use crate::parts::Parts;
use crate::query::{Query, View};
use crate::views::{Shown, Since, look};

/// How often the health is told, and times that run out.
const EVERY: Duration = Duration::from_secs(5);

/// How long there is at least between two readings for one viewer, however much changes. Reading
/// takes at most a fifth of the time: what takes long is read less often.
const PAUSE: Duration = Duration::from_millis(500);
const SHARE: u32 = 4;

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the store may take to begin to tell of changes.
const ARMING: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Failed {
    view: View,
    kind: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Ended {
    message: String,
}

/// Sends what is there until the viewer goes, or the store is closed.
pub(crate) async fn stream_of(
    State(parts): State<Arc<Parts>>,
    Asked(query): Asked<Query>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let Ok(seat) = Arc::clone(&parts.seats).try_acquire_owned() else {
        // A page cannot read the answer that says so, but by an event.
        let message = format!("{} look at this page already; try again later.", parts.viewers);
        let full = stream::iter([Ok(event("end", &Ended { message }))]);
        return Sse::new(full.left_stream()).keep_alive(KeepAlive::default());
    };
    // The health is told also while a reading takes its time.
    let health = health_of(Arc::clone(&parts));
    let viewer = Viewer::new(parts, query, seat);
    let views = stream::unfold(Some(viewer), |viewer| async move {
        let mut viewer = viewer?;
        let event = viewer.next().await;
        let goes_on = !viewer.is_over;
        Some((Ok(event), goes_on.then_some(viewer)))
    });
    let events = stream::select(health, views);
    Sse::new(events.right_stream()).keep_alive(KeepAlive::default())
}

/// The health, now and then, until the client is closed.
fn health_of(parts: Arc<Parts>) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((parts, Instant::now()), |(parts, at)| async move {
        tokio::select! {
            biased;
            () = parts.client.closing() => return None,
            () = sleep_until(at) => {}
        }
        let health: Arc<Health> = parts.doctor.look().await;
        Some((Ok(event("health", &*health)), (parts, Instant::now() + EVERY)))
    })
}

/// Somebody who looks.
struct Viewer {
    parts: Arc<Parts>,
    query: Query,
    _seat: OwnedSemaphorePermit,
    /// When the page is read next, unless something changes before that.
    view_at: Instant,
    /// It is read no earlier.
    pause_until: Instant,
    /// What was committed before that may not be shown yet.
    changed: Moment,
    /// Tells of changes; none until it is armed, and while it cannot be.
    changes: Option<Subscription>,
    /// What was sent last.
    sent: Option<Shown>,
    is_over: bool,
}

impl Viewer {
    fn new(parts: Arc<Parts>, query: Query, seat: OwnedSemaphorePermit) -> Self {
        let now = Instant::now();
        Viewer {
            parts,
            query,
            _seat: seat,
            view_at: now,
            pause_until: now,
            changed: Moment::now(),
            changes: None,
            sent: None,
            is_over: false,
        }
    }

    /// The next thing to tell. Cancel safe: what was not told is read again.
    async fn next(&mut self) -> Event {
        loop {
            let now = Instant::now();
            if self.parts.client.is_closed() {
                self.is_over = true;
                let message = "The client of the store was closed.".to_owned();
                return event("end", &Ended { message });
            }
            let due = self.view_at.max(self.pause_until);
            if due <= now {
                match self.read().await {
                    Some(event) => return event,
                    None => continue,
                }
            }
            tokio::select! {
                biased;
                () = self.parts.client.closing() => {}
                changed = next_change(&mut self.changes) => {
                    // What ended it shows when it is armed anew.
                    if !changed {
                        self.changes = None;
                    }
                    self.changed = Moment::now();
                    self.view_at = Instant::now();
                }
                () = sleep_until(due) => {}
            }
        }
    }

    /// Reads the page, and tells it where it is not as it was.
    async fn read(&mut self) -> Option<Event> {
        self.arm().await;
        let began = Instant::now();
        let a_while_ago = began.checked_sub(EVERY - Duration::from_secs(1)).unwrap_or(began);
        // Where nothing tells of changes, what others have read is good for a while.
        let at = self.changes.is_none().then_some(a_while_ago);
        let since = Since { read: Newer { than: self.changed, at }, sessions: a_while_ago };
        let late = || Error::new(ErrorKind::Timeout, "ui.look", "the store does not answer");
        let found = timeout(PATIENCE, look(&self.parts, &self.query, since)).await;
        let now = Instant::now();
        self.pause_until = now + PAUSE.max(now.saturating_duration_since(began) * SHARE);
        self.view_at = now + EVERY;
        match found.unwrap_or_else(|_| Err(late())) {
            Ok(None) => {
                // There is nothing to read.
                self.view_at = now + Duration::from_secs(86_400);
                None
            }
            Ok(Some(shown)) if !shown.runs_out() && self.sent.as_ref() == Some(&shown) => None,
            Ok(Some(shown)) => {
                let event = event("view", &shown);
                self.sent = Some(shown);
                Some(event)
            }
            Err(error) => {
                self.sent = None;
                let (view, kind) = (self.query.view, error.kind().as_str());
                Some(event("failed", &Failed { view, kind, message: error.to_string() }))
            }
        }
    }

    /// Has the store tell of changes, if it does so soon. What happened before that is read.
    async fn arm(&mut self) {
        if self.changes.is_some() {
            return;
        }
        let Some(span) = self.query.span() else { return };
        let subscribing = self.parts.client.subscribe(span, WatchStart::Now);
        if let Ok(Ok(changes)) = timeout(ARMING, subscribing).await {
            self.changes = Some(changes);
            self.changed = Moment::now();
        }
    }
}

/// Waits for a change, and says whether more can come. Cancel safe.
async fn next_change(changes: &mut Option<Subscription>) -> bool {
    match changes {
        Some(changes) => matches!(changes.next().await, Some(Ok(_))),
        None => pending().await,
    }
}

fn event(name: &str, told: &impl Serialize) -> Event {
    // Texts, numbers and maps by text: there is nothing in it that has no JSON.
    Event::default().event(name).data(serde_json::to_string(told).unwrap_or_default())
}
