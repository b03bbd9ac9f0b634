//! What an operator hears without asking: outages, losses and resyncs at WARN, and the metrics
//! above the store. The page *Operations* of coordkit lists all of it.

mod loss;
mod reach;
mod reached;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use coord_api::store::Span;
use coord_api::{Error, ErrorKind, LeaseId, Loss, Revision};
use coord_home::{Home, aside, meter};
use metrics::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::owner::time_of_day_ms;
pub use loss::LossRecord;
pub(crate) use loss::LossSink;
use reach::{News, Reach};
pub(crate) use reached::Reached;

const OUT_OF_REACH: &str = "coord_store_out_of_reach";
const RENEWALS: &str = "coord_lease_renewals_total";
const MARGIN: &str = "coord_lease_margin_ratio";
const LOSSES: &str = "coord_losses_total";
const WATCHES: &str = "coord_watches";
const RESYNCS: &str = "coord_watch_resyncs_total";

// Why a handle was lost.
const EXPIRED: &str = "expired";
const REMOVED: &str = "removed";
const SUPERSEDED: &str = "superseded";

/// Handles that one session loses at once and that are named in the log; of those beyond, the
/// number is told.
const NAMED: usize = 16;

/// What one provider tells its operator.
#[derive(Debug)]
pub struct Telemetry {
    /// The provider's name.
    provider: String,
    home: Home,
    reach: Mutex<Reach>,
    /// Whether the last request failed: an answer is then news.
    failing: AtomicBool,
    /// Where losses are written down.
    losses: OnceLock<Weak<dyn LossSink>>,
    live_watches: AtomicUsize,
    suspended_watches: AtomicUsize,
}

impl Telemetry {
    pub(crate) fn new(provider: String, home: Home) -> Self {
        describe();
        Telemetry {
            provider,
            home,
            reach: Mutex::default(),
            failing: AtomicBool::new(false),
            losses: OnceLock::new(),
            live_watches: AtomicUsize::new(0),
            suspended_watches: AtomicUsize::new(0),
        }
    }

    /// Losses are written down there from now on.
    pub(crate) fn write_down(&self, losses: Weak<dyn LossSink>) {
        let _ = self.losses.set(losses);
    }

    /// For how long the store has been out of reach.
    pub(crate) fn out_of_reach(&self) -> Option<Duration> {
        match *self.reach.lock() {
            Reach::Out(since) => Some(self.home.now().saturating_duration_since(since)),
            _ => None,
        }
    }

    /// How many watches on the store are live, and how many are suspended.
    pub(crate) fn watches(&self) -> (usize, usize) {
        (self.live_watches.load(Ordering::Relaxed), self.suspended_watches.load(Ordering::Relaxed))
    }

    /// Registers kinds of handles, so that their losses are counted from zero: the first one is
    /// then an increase that an alert can see.
    pub fn declare(&self, contracts: &[&'static str]) {
        for contract in contracts {
            for reason in [EXPIRED, REMOVED, SUPERSEDED] {
                meter::count(LOSSES, &[("contract", contract), ("reason", reason)], 0);
            }
        }
    }

    /// A request to the store was answered, or was not.
    pub(crate) fn heard<T>(&self, answer: &Result<T, Error>) {
        match answer {
            Ok(_) => self.answered(),
            Err(error) => self.failed(error),
        }
    }

    fn answered(&self) {
        if !self.failing.load(Ordering::Relaxed) {
            return;
        }
        let news = {
            let mut reach = self.reach.lock();
            self.failing.store(false, Ordering::Relaxed);
            reach.answered(self.home.now())
        };
        if let Some(News::Back(after)) = news {
            meter::shift(OUT_OF_REACH, &[], -1.0);
            let (provider, after_s) = (self.provider.clone(), after.as_secs_f64());
            coord_home::event!(WARN, provider, after_s, "the store is back");
        }
    }

    /// A request failed. Only what says that the store cannot be reached, or not by us, counts.
    pub(crate) fn failed(&self, error: &Error) {
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Unauthenticated => {}
            // These come from the store itself.
            ErrorKind::LeaseLost
            | ErrorKind::Compacted
            | ErrorKind::Conflict
            | ErrorKind::PermissionDenied => return self.answered(),
            _ => return,
        }
        let news = {
            let mut reach = self.reach.lock();
            self.failing.store(true, Ordering::Relaxed);
            reach.failed(self.home.now())
        };
        if news == Some(News::Out) {
            meter::shift(OUT_OF_REACH, &[], 1.0);
            let (provider, error) = (self.provider.clone(), Chain(error.clone()));
            coord_home::event!(WARN, provider, error = %error, "the store is out of reach; what is held goes on until its lease runs out");
        }
    }

    /// A renewal ended, with this much of the lease's time left before the local deadline.
    pub(crate) fn renewal(&self, failure: Option<&Error>, left: Duration, ttl: Duration) {
        let result = failure.map_or("ok", |error| error.kind().as_str());
        meter::count(RENEWALS, &[("result", result)], 1);
        meter::sample(MARGIN, &[], left.as_secs_f64() / ttl.as_secs_f64().max(f64::MIN_POSITIVE));
    }

    /// Handles were lost.
    pub(crate) fn lost(&self, lost: &[&Subject], loss: Loss, session: LeaseId, renewal: &LastRenewal) {
        let reason = match loss {
            Loss::Expired => EXPIRED,
            Loss::Removed => REMOVED,
            Loss::Superseded => SUPERSEDED,
            // Somebody wanted it so.
            _ => return,
        };
        for subject in lost {
            meter::count(LOSSES, &[("contract", subject.contract), ("reason", reason)], 1);
        }
        for subject in lost.iter().take(NAMED) {
            let (provider, contract, name) = (self.provider.clone(), subject.contract, subject.name.clone());
            let (renewed_ago_s, last_error) = (renewal.ago.as_secs_f64(), renewal.error());
            coord_home::event!(
                WARN,
                provider,
                contract,
                key = name,
                reason,
                renewed_ago_s,
                last_error,
                "lost"
            );
        }
        if let Some(more) = lost.len().checked_sub(NAMED).filter(|more| *more > 0) {
            let provider = self.provider.clone();
            coord_home::event!(WARN, provider, more, reason, "more was lost with the same lease");
        }
        if let Some(losses) = self.losses.get().and_then(Weak::upgrade) {
            let at_ms = time_of_day_ms();
            let renewed_ago_ms = u64::try_from(renewal.ago.as_millis()).unwrap_or(u64::MAX);
            let records = lost.iter().map(|subject| LossRecord {
                provider: self.provider.clone(),
                contract: subject.contract.to_owned(),
                key: subject.name.clone(),
                token: subject.token(),
                session,
                reason: reason.to_owned(),
                renewed_ago_ms,
                last_error: renewal.failure.clone().map(|error| Chain(error).to_string()),
                at_ms,
            });
            losses.record(records.collect());
        }
    }

    /// What was held was dropped, and nobody had given it back. That is no fault; but who forgot it
    /// asks here.
    pub(crate) fn dropped(&self, subject: &Subject) {
        if subject.was_held() {
            let (provider, contract, name) = (self.provider.clone(), subject.contract, subject.name.clone());
            coord_home::event!(DEBUG, provider, contract, key = name, "dropped while it was held");
        }
    }

    /// A watch is over, because trying again cannot repair what is wrong.
    pub(crate) fn watch_ended(&self, span: &Span, error: &Error) {
        if error.kind() != ErrorKind::Closed {
            let (provider, key, error) =
                (self.provider.clone(), span.start().escape_ascii().to_string(), Chain(error.clone()));
            coord_home::event!(WARN, provider, key, error = %error, "the watch is over");
        }
    }

    /// Watchers of a span are given its whole state, because its changes cannot be had any more.
    pub(crate) fn resync(&self, span: &Span, cause: Cause) {
        meter::count(RESYNCS, &[("cause", cause.as_str())], 1);
        let (provider, key, cause) =
            (self.provider.clone(), span.start().escape_ascii().to_string(), cause.as_str());
        coord_home::event!(
            WARN,
            provider,
            key,
            cause,
            "history was lost: the watch goes on with the present state"
        );
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if matches!(self.reach.get_mut(), Reach::Out(_)) && !self.home.is_left_behind() {
            meter::shift(OUT_OF_REACH, &[], -1.0);
        }
    }
}

/// Why the changes of a watch cannot be had any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The store dropped the history that is needed.
    Compacted,
    /// The store was replaced, or restored from a backup.
    Replaced,
    /// The watcher reads too slowly.
    Lagged,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Cause::Compacted => "compacted",
            Cause::Replaced => "replaced",
            Cause::Lagged => "lagged",
        }
    }
}

/// How long something takes, for a histogram in seconds. While nobody records it, no clock is read.
#[derive(Clone, Debug)]
pub struct Timer {
    home: Home,
    histogram: Histogram,
    heard: bool,
}

impl Timer {
    /// A timer for this histogram.
    pub fn new(home: &Home, histogram: Histogram) -> Self {
        Timer { home: home.clone(), heard: meter::is_heard(&histogram), histogram }
    }

    /// When something begins; `None` while nobody listens.
    pub fn begin(&self) -> Option<Instant> {
        self.heard.then(|| self.home.now())
    }

    /// Something ends that [began](Self::begin) then.
    pub fn end(&self, began: Option<Instant>) {
        if let Some(began) = began {
            let (histogram, took) =
                (self.histogram.clone(), self.home.now().saturating_duration_since(began));
            aside(move || histogram.record(took));
        }
    }
}

/// What is known of a handle that is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Since when, if that is timed.
    since: Option<Instant>,
    token: Option<Revision>,
}

/// What a handle stands for, as its user knows it.
#[derive(Debug)]
pub struct Subject {
    contract: &'static str,
    name: String,
    /// Set when it is held. A place in a queue is not held yet, and its loss is nobody's trouble.
    held: OnceLock<Held>,
    timer: Option<Timer>,
}

impl Subject {
    /// Something of this kind, `lock` for example, that its user knows by this name. The kind is a
    /// label of metrics and must be one of few.
    pub fn new(contract: &'static str, name: impl Into<String>) -> Self {
        Subject { contract, name: name.into(), held: OnceLock::new(), timer: None }
    }

    /// Times for how long it is held.
    #[must_use]
    pub fn timed(mut self, timer: &Timer) -> Self {
        self.timer = Some(timer.clone());
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on it is held, under this token.
    pub(crate) fn held(&self, token: Option<Revision>) {
        let _ = self.held.set(Held { since: self.timer.as_ref().and_then(Timer::begin), token });
    }

    fn token(&self) -> Option<u64> {
        self.held.get().and_then(|held| held.token).map(Revision::get)
    }

    /// Whether it was ever held.
    pub(crate) fn was_held(&self) -> bool {
        self.held.get().is_some()
    }

    /// It is held no more.
    pub(crate) fn ended(&self) {
        if let Some(timer) = &self.timer {
            timer.end(self.held.get().and_then(|held| held.since));
        }
    }
}

/// The last renewal of a lease, for whoever asks why it was lost.
#[derive(Clone, Debug)]
pub(crate) struct LastRenewal {
    /// How long ago the last one that was answered had been sent.
    pub(crate) ago: Duration,
    /// How the last one failed, where it failed.
    pub(crate) failure: Option<Error>,
}

impl LastRenewal {
    fn error(&self) -> String {
        self.failure.clone().map_or_else(|| "none".to_owned(), |error| Chain(error).to_string())
    }
}

/// Counts something that is in one of several states, for as long as it lives.
#[derive(Debug)]
pub struct Counted {
    gauge: &'static str,
    state: Option<&'static str>,
}

impl Counted {
    /// Something that this gauge counts, by the label `state`.
    pub const fn by(gauge: &'static str) -> Self {
        Counted { gauge, state: None }
    }

    /// Counts it in this state from now on.
    pub fn is(&mut self, state: &'static str) {
        if self.state != Some(state) {
            self.leave();
            meter::shift(self.gauge, &[("state", state)], 1.0);
            self.state = Some(state);
        }
    }

    /// Counts it no more.
    pub fn leave(&mut self) {
        if let Some(state) = self.state.take() {
            meter::shift(self.gauge, &[("state", state)], -1.0);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Counts a watch on the store, `live` or `suspended`, for as long as it lives.
#[derive(Debug)]
pub(crate) struct CountedWatch {
    telemetry: Arc<Telemetry>,
    counted: Counted,
    is_live: Option<bool>,
}

impl CountedWatch {
    pub(crate) fn new(telemetry: &Arc<Telemetry>) -> Self {
        CountedWatch { telemetry: Arc::clone(telemetry), counted: Counted::by(WATCHES), is_live: None }
    }

    /// Counts it as live, or as suspended, from now on.
    pub(crate) fn is(&mut self, live: bool) {
        if self.is_live == Some(live) {
            return;
        }
        self.leave();
        self.is_live = Some(live);
        self.of(live).fetch_add(1, Ordering::Relaxed);
        self.counted.is(if live { "live" } else { "suspended" });
    }

    fn leave(&mut self) {
        if let Some(live) = self.is_live.take() {
            self.of(live).fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn of(&self, live: bool) -> &AtomicUsize {
        if live { &self.telemetry.live_watches } else { &self.telemetry.suspended_watches }
    }
}

impl Drop for CountedWatch {
    fn drop(&mut self) {
        self.leave();
    }
}

/// An error with its causes, in one line.
#[derive(Debug)]
struct Chain(Error);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(&self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Says what there is to measure. Done for each provider, since the recorder may come after the
/// first one.
fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_gauge!(OUT_OF_REACH, "Providers of this process whose store is out of reach");
    describe_counter!(RENEWALS, "Renewals of leases, by result");
    describe_histogram!(
        MARGIN,
        "Share of a lease's time that was left when a renewal ended, however it ended"
    );
    describe_counter!(LOSSES, "Handles that were lost, by contract and reason");
    describe_gauge!(WATCHES, "Watches, by state");
    describe_counter!(RESYNCS, "Watches whose history was lost, by cause");
    // There from the start: the first of something is then an increase that an alert can see.
    meter::shift(OUT_OF_REACH, &[], 0.0);
    for cause in [Cause::Compacted, Cause::Replaced, Cause::Lagged] {
        meter::count(RESYNCS, &[("cause", cause.as_str())], 0);
    }
}
