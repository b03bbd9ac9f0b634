//! What is counted on a home arrives whole, however slow the recorder is, and holds up nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use coord_home::{Home, meter};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A recorder that can be stuck, as one is that writes into a full pipe.
#[derive(Clone, Default)]
struct Sticky {
    stuck: Arc<Mutex<()>>,
    sums: Arc<Mutex<HashMap<String, f64>>>,
}

static RECORDER: LazyLock<Sticky> = LazyLock::new(Sticky::default);

impl Sticky {
    fn sum(&self, series: &str) -> f64 {
        self.sums.lock().unwrap().get(series).copied().unwrap_or_default()
    }
}

struct Series(Sticky, String);

impl Series {
    fn of(recorder: &Sticky, key: &Key) -> Arc<Series> {
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        Arc::new(Series(recorder.clone(), format!("{}{{{}}}", key.name(), labels.join(","))))
    }

    fn add(&self, by: f64) {
        let _free = self.0.stuck.lock().unwrap();
        *self.0.sums.lock().unwrap().entry(self.1.clone()).or_default() += by;
    }
}

impl CounterFn for Series {
    fn increment(&self, by: u64) {
        self.add(by as f64);
    }

    fn absolute(&self, _: u64) {}
}

impl GaugeFn for Series {
    fn increment(&self, by: f64) {
        self.add(by);
    }

    fn decrement(&self, by: f64) {
        self.add(-by);
    }

    fn set(&self, _: f64) {}
}

impl Recorder for Sticky {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Series::of(self, key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Series::of(self, key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn sums_are_right_in_the_end_however_slow_the_recorder_is() {
    metrics::set_global_recorder(RECORDER.clone()).unwrap();
    let home = Home::new("counts");
    let stuck = RECORDER.stuck.lock().unwrap();
    let (done, counted) = std::sync::mpsc::channel();
    home.spawn(async move {
        for number in 0..100_000_u32 {
            meter::count("coord_test_total", &[("parity", if number % 2 == 0 { "even" } else { "odd" })], 1);
            meter::shift("coord_test", &[], 1.0);
            meter::shift("coord_test", &[], -0.5);
            meter::sample("coord_test_seconds", &[], 0.1);
        }
        done.send(()).unwrap();
    })
    .unwrap();
    counted.recv_timeout(LONG).expect("nobody on a home waits for a recorder");
    assert_eq!(RECORDER.sum("coord_test{}"), 0.0, "the recorder is stuck");
    drop(stuck);
    let begun = Instant::now();
    loop {
        // One more, because whoever found no room left its sums to the next one.
        home.spawn(async { meter::shift("coord_test", &[], 0.0) }).unwrap();
        let sums = ["coord_test_total{even}", "coord_test_total{odd}", "coord_test{}"]
            .map(|series| RECORDER.sum(series));
        if sums == [50_000.0, 50_000.0, 50_000.0] {
            break;
        }
        assert!(begun.elapsed() < LONG, "{sums:?}");
        std::thread::yield_now();
    }
    meter::count("coord_test_total", &[("parity", "even")], 1);
    assert_eq!(RECORDER.sum("coord_test_total{even}"), 50_001.0, "on any other thread at once");
}
