//! Metrics from anywhere: a recorder is the user's and may block, so it is never called on a home,
//! and yet nothing that is counted is lost.
//!
//! On a home's thread counts and gauges are summed up here until the recorder has taken what came
//! before: so a recorder that is slow for a while gets fewer and larger steps, and the right sums
//! in the end. On any other thread the recorder is called at once.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::mem;

use metrics::{Gauge, Histogram, IntoF64, counter, gauge, histogram};
use parking_lot::Mutex;

use crate::{aside, thread};

/// The name and value of a label. Values are known at compile time, so that the number of series is
/// bounded.
pub type Label = (&'static str, &'static str);

/// What was not handed to the recorder yet. Bounded by the number of series.
static LEDGER: Mutex<Ledger> =
    Mutex::new(Ledger { counts: BTreeMap::new(), gauges: BTreeMap::new(), posting: false });

#[derive(Debug)]
struct Ledger {
    counts: BTreeMap<Series, u64>,
    gauges: BTreeMap<Series, f64>,
    /// Somebody is about to hand it over.
    posting: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    name: &'static str,
    labels: Vec<Label>,
}

/// Adds to a counter.
pub fn count(name: &'static str, labels: &[Label], by: u64) {
    if thread::is_home() {
        enter(|ledger| *ledger.counts.entry(Series { name, labels: labels.to_vec() }).or_default() += by);
    } else {
        counter!(name, &labels.to_vec()).increment(by);
    }
}

/// Moves a gauge.
pub fn shift(name: &'static str, labels: &[Label], by: f64) {
    if thread::is_home() {
        enter(|ledger| *ledger.gauges.entry(Series { name, labels: labels.to_vec() }).or_default() += by);
    } else {
        gauge!(name, &labels.to_vec()).increment(by);
    }
}

/// Records a value in a histogram. From a home, while the recorder is very slow, a sample may be
/// [left out](fn@aside), and that is counted there.
pub fn sample(name: &'static str, labels: &[Label], value: f64) {
    let labels = labels.to_vec();
    aside(move || histogram!(name, &labels).record(value));
}

/// Whether anybody records a histogram: a handle that goes nowhere does not ask for its number.
/// Recording anything no times leaves no trace.
pub fn is_heard(histogram: &Histogram) -> bool {
    Listener::hears(|listener| histogram.record_many(listener, 0))
}

/// Whether anybody records a gauge. Adding zero leaves no trace.
pub fn is_gauge_heard(gauge: &Gauge) -> bool {
    Listener::hears(|listener| gauge.increment(listener))
}

/// A number that knows whether it was asked for.
struct Listener<'a>(&'a Cell<bool>);

impl Listener<'_> {
    fn hears(say: impl FnOnce(Listener<'_>)) -> bool {
        let heard = Cell::new(false);
        say(Listener(&heard));
        heard.get()
    }
}

impl IntoF64 for Listener<'_> {
    fn into_f64(self) -> f64 {
        self.0.set(true);
        0.0
    }
}

/// Takes a change down, and sees to it that it is handed over.
fn enter(change: impl FnOnce(&mut Ledger)) {
    let posting = {
        let mut ledger = LEDGER.lock();
        change(&mut ledger);
        mem::replace(&mut ledger.posting, true)
    };
    if !posting {
        let post = Post { done: false };
        aside(move || post.run());
    }
}

/// The handing over. Left out, because too many calls wait already, it leaves the sums to the next
/// one.
struct Post {
    done: bool,
}

impl Post {
    fn run(mut self) {
        self.done = true;
        let (counts, gauges) = {
            let mut ledger = LEDGER.lock();
            ledger.posting = false;
            (mem::take(&mut ledger.counts), mem::take(&mut ledger.gauges))
        };
        for (Series { name, labels }, by) in counts {
            counter!(name, &labels).increment(by);
        }
        for (Series { name, labels }, by) in gauges {
            gauge!(name, &labels).increment(by);
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        if !self.done {
            LEDGER.lock().posting = false;
        }
    }
}
