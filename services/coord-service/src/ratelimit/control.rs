//! The rules in use, and what every instance knows of the others: all that decisions go by.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use coord::{Error, Registration, WatchState, WatchStatus};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::bucket::{Pace, Ticks, ticks};
use super::buckets::{Buckets, Closed, Counts, Gate};
use super::decision::{Decision, DenialReason};
use super::members::{Members, Membership, Standing};
use super::rule::{LimitRule, LimitScope};
use super::share::Share;
use super::status::{ClusterStanding, ClusterStatus, RuleStatus};

/// The name of the rule for those that there is no rule of.
pub(super) const DEFAULT: &str = "default";

/// A rule in use.
pub(super) struct LimitedRule {
    pub(super) name: Arc<str>,
    pub(super) limit: LimitRule,
    pub(super) buckets: Arc<Buckets>,
}

/// The rules in use.
#[derive(Default)]
struct Rules {
    by_name: HashMap<Arc<str>, Arc<LimitedRule>, foldhash::fast::RandomState>,
    default: Option<Arc<LimitedRule>>,
}

/// All that is known of a rule. One that is gone is kept until its buckets are full, so that it
/// finds them as they were if it comes back.
struct Kept {
    buckets: Arc<Buckets>,
    /// As its document says.
    document: Option<LimitRule>,
    /// As the code says, where there is no document.
    code: Option<LimitRule>,
}

impl Kept {
    fn in_use(&self) -> Option<LimitRule> {
        self.document.or(self.code)
    }
}

struct State {
    rules: BTreeMap<Arc<str>, Kept>,
    members: Members,
}

/// What is counted of a rule.
pub(super) struct RuleCounts {
    pub(super) name: Arc<str>,
    pub(super) counts: Counts,
    pub(super) buckets: usize,
}

/// What decisions go by, and those who change it.
pub(super) struct Control {
    /// From when ticks count.
    origin: Instant,
    /// The most buckets of one rule.
    capacity: usize,
    rules: ArcSwap<Rules>,
    state: Mutex<State>,
    unlimited: AtomicU64,
    /// Wakes whoever waits for the next moment at which something happens by itself.
    pub(super) rescheduled: Notify,
    cluster: watch::Sender<ClusterStatus>,
    /// It is the application's, which ends it where it likes.
    registration: watch::Sender<Option<Weak<Registration>>>,
    watching: Mutex<Option<WatchStatus>>,
    last_error: Mutex<Option<Error>>,
}

impl Control {
    pub(super) fn new(members: Members, capacity: usize, code: BTreeMap<String, LimitRule>) -> Self {
        let control = Control {
            origin: Instant::now(),
            capacity,
            rules: ArcSwap::default(),
            cluster: watch::Sender::new(cluster_status(&members)),
            state: Mutex::new(State { rules: BTreeMap::new(), members }),
            unlimited: AtomicU64::new(0),
            rescheduled: Notify::new(),
            registration: watch::Sender::new(None),
            watching: Mutex::new(None),
            last_error: Mutex::new(None),
        };
        for (name, limit) in code {
            control.set_rule(&name, |kept| kept.code = Some(limit));
        }
        control
    }

    // ---- decisions ----

    #[inline]
    pub(super) fn now(&self) -> Ticks {
        self.ticks(Instant::now())
    }

    #[inline]
    fn ticks(&self, at: Instant) -> Ticks {
        ticks(at.saturating_duration_since(self.origin))
    }

    /// Decides by the rule of this name, on what `by` does of it; what no rule is for is allowed,
    /// and counted.
    #[inline]
    pub(super) fn with_rule(&self, name: &str, by: impl FnOnce(&LimitedRule) -> Decision) -> Decision {
        let rules = self.rules.load();
        match rules.by_name.get(name).or(rules.default.as_ref()) {
            Some(rule) => by(rule),
            None => {
                self.unlimited.fetch_add(1, Ordering::Relaxed);
                Decision::Allowed
            }
        }
    }

    /// The rule of this name, to keep while one waits.
    pub(super) fn rule(&self, name: &str) -> Option<Arc<LimitedRule>> {
        let rules = self.rules.load();
        rules.by_name.get(name).or(rules.default.as_ref()).cloned()
    }

    /// Decides by what this instance has of the limit.
    #[inline]
    pub(super) fn decide(&self, rule: &LimitedRule, key: &str, count: u32) -> Decision {
        if rule.limit.is_strict() && !self.is_sure() {
            rule.buckets.count_denied(key, count);
            return Decision::denied(DenialReason::CutOff, None);
        }
        rule.buckets.decide(key, count, self.now())
    }

    /// Whether this instance is sure to be counted by the others.
    fn is_sure(&self) -> bool {
        match &*self.registration.borrow() {
            Some(registration) => {
                registration.upgrade().is_some_and(|registration| registration.state().is_held())
            }
            None => self.is_connected(),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.watching.lock().as_ref().is_some_and(|watch| watch.state() == WatchState::Live)
    }

    // ---- rules ----

    /// The document of this name says this now; `None`: there is none.
    pub(super) fn set_document(&self, name: &str, limit: Option<LimitRule>) {
        self.set_rule(name, |kept| kept.document = limit);
    }

    fn set_rule(&self, name: &str, change: impl FnOnce(&mut Kept)) {
        let mut state = self.state.lock();
        let State { rules, members } = &mut *state;
        let now = self.now();
        let kept = rules.entry(name.into()).or_insert_with(|| {
            let gate = Gate::open(Pace { interval: 1, depth: 1 });
            Kept { buckets: Arc::new(Buckets::new(gate, self.capacity)), document: None, code: None }
        });
        let before = kept.in_use();
        change(kept);
        if let Some(limit) = kept.in_use() {
            kept.buckets.reshape(self.gate(&limit, members), now);
            // One that was shared with nobody before has nothing to bring along for those who wait.
            let was_shared = before.is_some_and(|before| before.scope().is_shared());
            let is_partial =
                matches!(members.standing(), Standing::Settling { .. } | Standing::Leaving { .. });
            if limit.scope().is_shared() && !was_shared && is_partial {
                kept.buckets.empty(now);
            }
        }
        self.publish(&state.rules);
    }

    fn publish(&self, kept: &BTreeMap<Arc<str>, Kept>) {
        let in_use = |(name, kept): (&Arc<str>, &Kept)| {
            let (name, buckets) = (Arc::clone(name), Arc::clone(&kept.buckets));
            kept.in_use().map(|limit| (Arc::clone(&name), Arc::new(LimitedRule { name, limit, buckets })))
        };
        let by_name: HashMap<_, _, _> = kept.iter().filter_map(in_use).collect();
        let default = by_name.get(DEFAULT).cloned();
        self.rules.store(Arc::new(Rules { by_name, default }));
    }

    /// What holds for the buckets of a rule.
    fn gate(&self, limit: &LimitRule, members: &Members) -> Gate {
        if limit.scope() == LimitScope::Instance {
            return Gate::open(Share::whole(limit).pace);
        }
        let count = members.count();
        let Share { pace, admits } = Share::of(limit, count.instances, count.rank);
        let closed = |reason, opens: Option<Instant>| {
            let closed = Closed { reason, opens: opens.map(|opens| self.ticks(opens)) };
            Gate { closed: Some(closed), ..Gate::open(pace) }
        };
        match members.standing() {
            Standing::Waiting { until } | Standing::Settling { until } => {
                closed(DenialReason::Settling, Some(until))
            }
            Standing::Outside => closed(DenialReason::NotRegistered, None),
            _ if !admits => closed(DenialReason::NoShare, None),
            Standing::Assumed | Standing::Member => Gate::open(pace),
            // Without its burst. What it admits last counts for the time in which it would come
            // back, and that is over when others take its place.
            Standing::Leaving { until } => Gate {
                ends: self.ticks(until).saturating_sub(pace.interval),
                ..Gate::open(Pace { depth: pace.interval, ..pace })
            },
        }
    }

    // ---- members ----

    /// Takes in changes of who is there.
    pub(super) fn members(&self, changes: impl IntoIterator<Item = Membership>, now: Instant) {
        let mut state = self.state.lock();
        let mut emptied = false;
        for change in changes {
            emptied |= state.members.take(change, now);
        }
        self.share_anew(&mut state, emptied);
        self.rescheduled.notify_one();
    }

    /// Waits until then for the registry's first answer, unless there was one.
    pub(super) fn wait(&self, until: Instant) {
        let mut state = self.state.lock();
        state.members.wait(until);
        self.share_anew(&mut state, false);
    }

    /// Goes on to this moment, and says when to do so again.
    pub(super) fn advance(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        state.members.advance(now);
        self.share_anew(&mut state, false);
        state.members.next()
    }

    fn share_anew(&self, state: &mut State, emptied: bool) {
        let now = self.now();
        for kept in state.rules.values() {
            let Some(limit) = kept.in_use().filter(|limit| limit.scope().is_shared()) else { continue };
            kept.buckets.reshape(self.gate(&limit, &state.members), now);
            if emptied {
                kept.buckets.empty(now);
            }
        }
        self.cluster.send_modify(|status| {
            let over = status.over;
            *status = ClusterStatus { over, ..cluster_status(&state.members) };
        });
    }

    /// The watch of the registry, which says itself how it is doing.
    pub(super) fn watching(&self, watch: Option<WatchStatus>) {
        *self.watching.lock() = watch;
    }

    /// Why the members could not be read, until they could.
    pub(super) fn failed(&self, error: Option<Error>) {
        *self.last_error.lock() = error;
    }

    /// This instance's registration.
    pub(super) fn set_registration(&self, registration: Weak<Registration>) {
        self.registration.send_replace(Some(registration));
    }

    pub(super) fn registrations(&self) -> watch::Receiver<Option<Weak<Registration>>> {
        self.registration.subscribe()
    }

    /// Whether anybody follows the members.
    pub(super) fn followed(&self, is_followed: bool) {
        self.cluster.send_modify(|status| status.over = !is_followed);
    }

    pub(super) fn clusters(&self) -> watch::Receiver<ClusterStatus> {
        self.cluster.subscribe()
    }

    // ---- seen from outside ----

    pub(super) fn cluster(&self) -> ClusterStatus {
        let mut status = self.cluster.borrow().clone();
        status.is_connected = self.is_connected();
        status.last_error = self.last_error.lock().clone();
        status
    }

    pub(super) fn unlimited(&self) -> u64 {
        self.unlimited.load(Ordering::Relaxed)
    }

    pub(super) fn rule_statuses(&self) -> BTreeMap<String, RuleStatus> {
        let state = self.state.lock();
        let status = |(name, kept): (&Arc<str>, &Kept)| {
            let limit = kept.in_use()?;
            let closed = self.gate(&limit, &state.members).closed.map(|closed| closed.reason);
            let is_from_code = kept.document.is_none();
            Some((name.to_string(), RuleStatus { limit, is_from_code, buckets: kept.buckets.len(), closed }))
        };
        state.rules.iter().filter_map(status).collect()
    }

    /// Forgets full buckets, and rules that are gone and have no others; says what was decided
    /// since this was called last.
    pub(super) fn sweep(&self) -> Vec<RuleCounts> {
        // Buckets have locks of their own: rules are not to wait for all of them.
        let rules: Vec<(Arc<str>, Arc<Buckets>)> = {
            let state = self.state.lock();
            state.rules.iter().map(|(name, kept)| (Arc::clone(name), Arc::clone(&kept.buckets))).collect()
        };
        let mut empty = BTreeSet::new();
        let counted = rules.into_iter().map(|(name, buckets)| {
            let (counts, buckets) = (buckets.take_counts(), buckets.sweep(self.now()));
            if buckets == 0 {
                empty.insert(Arc::clone(&name));
            }
            RuleCounts { name, counts, buckets }
        });
        let counted: Vec<RuleCounts> = counted.collect();
        self.state.lock().rules.retain(|name, kept| kept.in_use().is_some() || !empty.contains(name));
        counted
    }
}

fn cluster_status(members: &Members) -> ClusterStatus {
    let standing = match members.standing() {
        Standing::Waiting { .. } => ClusterStanding::Waiting,
        Standing::Assumed => ClusterStanding::Assumed,
        Standing::Outside => ClusterStanding::NotRegistered,
        Standing::Settling { .. } => ClusterStanding::Settling,
        Standing::Member => ClusterStanding::Member,
        Standing::Leaving { .. } => ClusterStanding::Leaving,
    };
    ClusterStatus {
        standing,
        live: members.live(),
        divided_by: members.count().instances,
        is_connected: false,
        last_error: None,
        over: false,
    }
}
