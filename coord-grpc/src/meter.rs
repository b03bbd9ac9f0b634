//! What can be seen of channels from afar: metrics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use coord_home::{aside, meter};
use metrics::Gauge;
use parking_lot::Mutex;

use crate::state::Phase;

const ENDPOINTS: &str = "coord_grpc_endpoints";
const AGE: &str = "coord_grpc_registry_age_seconds";

/// The phases, and their labels.
const PHASES: [(Phase, &str); 4] = [
    (Phase::Connecting, "connecting"),
    (Phase::Ready, "ready"),
    (Phase::Ejected, "ejected"),
    (Phase::Idle, "idle"),
];

/// What the channels of one name show, by that name: a gauge has one value, however many channels
/// there are.
static SHOWN: LazyLock<Mutex<HashMap<String, Weak<MeterShown>>>> = LazyLock::new(Mutex::default);

/// What one channel contributes. It is taken back when this is dropped.
#[derive(Debug)]
pub(crate) struct ChannelMeter {
    shown: Arc<MeterShown>,
    /// Who this is among those of one name.
    id: u64,
    counts: Mutex<[i64; PHASES.len()]>,
}

#[derive(Debug)]
struct MeterShown {
    endpoints: [(Gauge, AtomicI64); PHASES.len()],
    age: Gauge,
    ages: Mutex<HashMap<u64, Duration>>,
    /// Held while a value is read and shown, so that no older one is shown after it.
    showing: Mutex<()>,
    /// Whether anyone records metrics.
    heard: bool,
}

impl ChannelMeter {
    pub(crate) fn new(channel: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut all = SHOWN.lock();
        all.retain(|_, shown| shown.strong_count() > 0);
        let shown = all.get(channel).and_then(Weak::upgrade).unwrap_or_else(|| {
            let shown = Arc::new(MeterShown::new(channel));
            all.insert(channel.to_owned(), Arc::downgrade(&shown));
            shown
        });
        ChannelMeter { shown, id: NEXT.fetch_add(1, Ordering::Relaxed), counts: Mutex::default() }
    }

    /// Whether it is of use to anyone.
    pub(crate) fn is_heard(&self) -> bool {
        self.shown.heard
    }

    /// Shows in which phases the channel's endpoints are.
    pub(crate) fn show_phases(&self, phases: impl Iterator<Item = Phase>) {
        if !self.is_heard() {
            return;
        }
        let mut now = [0; PHASES.len()];
        for phase in phases {
            for (count, _) in now.iter_mut().zip(PHASES).filter(|(_, (known, _))| *known == phase) {
                *count += 1;
            }
        }
        self.change(now);
    }

    fn change(&self, now: [i64; PHASES.len()]) {
        let mut counts = self.counts.lock();
        for (((_, total), before), now) in self.shown.endpoints.iter().zip(counts.iter_mut()).zip(now) {
            total.fetch_add(now - *before, Ordering::Relaxed);
            *before = now;
        }
        drop(counts);
        let shown = Arc::clone(&self.shown);
        aside(move || {
            // What is true when it is shown, so that nothing is wrong for long where showing is
            // slow or left out.
            let _one_at_a_time = shown.showing.lock();
            for (gauge, total) in &shown.endpoints {
                gauge.set(total.load(Ordering::Relaxed) as f64);
            }
        });
    }

    /// Shows how old the channel's set of endpoints is.
    pub(crate) fn show_age(&self, age: Duration) {
        if self.is_heard() {
            self.shown.ages.lock().insert(self.id, age);
            self.show_oldest();
        }
    }

    fn show_oldest(&self) {
        let shown = Arc::clone(&self.shown);
        aside(move || {
            let _one_at_a_time = shown.showing.lock();
            let oldest = shown.ages.lock().values().max().copied();
            shown.age.set(oldest.unwrap_or_default().as_secs_f64());
        });
    }
}

impl Drop for ChannelMeter {
    fn drop(&mut self) {
        if self.is_heard() {
            self.change([0; PHASES.len()]);
            let shown_before = self.shown.ages.lock().remove(&self.id).is_some();
            if shown_before {
                self.show_oldest();
            }
        }
    }
}

impl MeterShown {
    fn new(channel: &str) -> Self {
        metrics::describe_gauge!(ENDPOINTS, metrics::Unit::Count, "Endpoints of gRPC channels, by phase");
        metrics::describe_gauge!(
            AGE,
            metrics::Unit::Seconds,
            "For how long the set of endpoints was not known to be the registry's"
        );
        let endpoints = PHASES.map(|(_, phase)| {
            let gauge = metrics::gauge!(ENDPOINTS, "channel" => channel.to_owned(), "phase" => phase);
            (gauge, AtomicI64::new(0))
        });
        let heard = endpoints.iter().any(|(gauge, _)| meter::is_gauge_heard(gauge));
        MeterShown {
            endpoints,
            age: metrics::gauge!(AGE, "channel" => channel.to_owned()),
            ages: Mutex::default(),
            showing: Mutex::default(),
            heard,
        }
    }
}
