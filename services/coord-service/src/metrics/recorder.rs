//! The recorder: Prometheus' exporter, twice, so that the kind of a metric is what was called and
//! not what its name looks like.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};

use super::SUMMARY;
use super::limit::{Kind, Series};
use super::options::{MetricsOptions, OTHERS};

/// The type of what [`Metrics::render`] gives, for `content-type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const REFUSED: &str = "metrics_series_refused_total";

/// What quantiles of summaries are shown.
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.95, 0.99, 1.0];

/// The metrics of the process. Cloning it gives the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Recorders>);

#[derive(Debug)]
struct Recorders {
    /// Counters, gauges, and histograms with buckets.
    main: PrometheusRecorder,
    /// Histograms without buckets, which the exporter shows as summaries.
    summaries: PrometheusRecorder,
    series: Series,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The process has a recorder already, which stays.
    #[error("the process has a recorder of metrics already")]
    AlreadyInstalled,
    /// The bounds of buckets are none: there must be some, finite and rising.
    #[error("buckets.{name}: the bounds must be finite, and each greater than the one before")]
    Buckets {
        /// The name, or end of names, that they are for.
        name: String,
    },
}

impl Metrics {
    /// Metrics that are recorded where somebody gives them what to record. See
    /// [`install`](Self::install).
    ///
    /// # Errors
    ///
    /// [`MetricsError::Buckets`].
    pub fn new(options: MetricsOptions) -> Result<Self, MetricsError> {
        let mut main = PrometheusBuilder::new();
        let mut summaries = PrometheusBuilder::new();
        for (name, value) in options.labels {
            main = main.add_global_label(name.clone(), value.clone());
            summaries = summaries.add_global_label(name, value);
        }
        let wrong = |name: &str| MetricsError::Buckets { name: name.to_owned() };
        main = main.set_buckets(&OTHERS).map_err(|_: BuildError| wrong("*"))?;
        for (name, bounds) in options.buckets {
            let rising = bounds.iter().zip(bounds.iter().skip(1)).all(|(one, next)| one < next);
            if name.is_empty() || !rising || !bounds.iter().all(|bound| bound.is_finite()) {
                return Err(wrong(&name));
            }
            let matcher = if name.starts_with('_') {
                Matcher::Suffix(name.clone())
            } else {
                Matcher::Full(name.clone())
            };
            main = main.set_buckets_for_metric(matcher, &bounds).map_err(|_| wrong(&name))?;
        }
        summaries = summaries.set_quantiles(&QUANTILES).map_err(|_| wrong("*"))?;
        Ok(Metrics(Arc::new(Recorders {
            main: main.build_recorder(),
            summaries: summaries.build_recorder(),
            series: Series::new(options.series_per_name, options.series),
        })))
    }

    /// Has the process record here. What was recorded before is lost, and handles that were made
    /// before stay mute.
    ///
    /// # Errors
    ///
    /// [`MetricsError::AlreadyInstalled`].
    pub fn install(&self) -> Result<(), MetricsError> {
        ::metrics::set_global_recorder(self.clone()).map_err(|_| MetricsError::AlreadyInstalled)
    }

    /// The page for Prometheus, of type [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut page = self.0.main.handle().render();
        page.push_str(&self.0.summaries.handle().render());
        page
    }

    /// Sums up the samples that wait. [`render`](Self::render) does so too.
    pub fn run_upkeep(&self) {
        self.0.main.handle().run_upkeep();
        self.0.summaries.handle().run_upkeep();
    }

    /// Sums up the samples that wait, again and again, so that memory stays bounded while nobody
    /// asks for the page. It never ends: whoever spawns it owns it, and ends it.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any time.
    pub async fn upkeep(&self, every: Duration) -> Infallible {
        loop {
            tokio::time::sleep(every).await;
            self.run_upkeep();
        }
    }

    /// Whether a series is recorded. If not, that is counted, and told once for each name.
    fn admits(&self, kind: Kind, key: &Key) -> bool {
        let Err((why, news)) = self.0.series.admit(kind, key) else {
            return true;
        };
        let metadata = Metadata::new(module_path!(), ::metrics::Level::INFO, None);
        self.0.main.register_counter(&Key::from_static_name(REFUSED), &metadata).increment(1);
        if news {
            tracing::warn!(metric = key.name(), %kind, %why, "a series of a metric is not recorded");
        }
        false
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.main.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.main.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.main.describe_histogram(key.clone(), unit, description.clone());
        self.0.summaries.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        match self.admits(Kind::Counter, key) {
            true => self.0.main.register_counter(key, metadata),
            false => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        match self.admits(Kind::Gauge, key) {
            true => self.0.main.register_gauge(key, metadata),
            false => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let (kind, recorder) = match metadata.target() == SUMMARY {
            true => (Kind::Summary, &self.0.summaries),
            false => (Kind::Histogram, &self.0.main),
        };
        match self.admits(kind, key) {
            true => recorder.register_histogram(key, metadata),
            false => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn page(options: MetricsOptions, record: impl FnOnce()) -> String {
        let metrics = Metrics::new(options).unwrap();
        facade::with_local_recorder(&metrics, record);
        metrics.render()
    }

    #[test]
    fn each_kind_is_shown_as_what_was_called() {
        let page = page(MetricsOptions::default().with_label("service", "im-logic"), || {
            inc("sent_total", &[("room", "a")]);
            add("sent_total", 4, &[("room", "a")]);
            add("failed_total", 0, &[]);
            gauge("open", 2.5, &[]);
            histogram("wait_seconds", 0.003, &[]);
            histogram("size_bytes", 300.0, &[]);
            histogram("members", 3.0, &[]);
            summary("took_seconds", 0.25, &[("step", "db")]);
            facade::describe_histogram!("took_seconds", "How long it took");
        });
        for line in [
            "# TYPE sent_total counter",
            "sent_total{service=\"im-logic\",room=\"a\"} 5",
            "failed_total{service=\"im-logic\"} 0",
            "# TYPE open gauge",
            "open{service=\"im-logic\"} 2.5",
            "# TYPE wait_seconds histogram",
            "wait_seconds_bucket{service=\"im-logic\",le=\"0.0025\"} 0",
            "wait_seconds_bucket{service=\"im-logic\",le=\"0.005\"} 1",
            "size_bytes_bucket{service=\"im-logic\",le=\"1024\"} 1",
            "members_bucket{service=\"im-logic\",le=\"5\"} 1",
            "# HELP took_seconds How long it took",
            "# TYPE took_seconds summary",
            "took_seconds_count{service=\"im-logic\",step=\"db\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(!page.contains("took_seconds_bucket"), "{page}");
    }

    #[test]
    fn a_name_counts_before_its_end() {
        let options = MetricsOptions::default().with_buckets("slow_seconds", [60.0, 120.0]);
        let page = page(options, || histogram("slow_seconds", 100.0, &[]));
        assert!(page.contains("slow_seconds_bucket{le=\"60\"} 0"), "{page}");
        for wrong in [vec![], vec![2.0, 1.0], vec![1.0, f64::INFINITY], vec![f64::NAN]] {
            let error = Metrics::new(MetricsOptions::default().with_buckets("_x", wrong)).unwrap_err();
            assert!(error.to_string().starts_with("buckets._x: "), "{error}");
        }
    }

    #[test]
    fn a_label_without_bound_stays_bounded_and_is_counted() {
        let page = page(MetricsOptions::default().with_series(10, 1_000), || {
            for user in 0..500 {
                inc("requests_total", &[("user", &user.to_string())]);
            }
            histogram("requests_total", 1.0, &[]);
        });
        assert_eq!(page.matches("requests_total{user=").count(), 10, "{page}");
        assert!(page.contains("metrics_series_refused_total 491"), "{page}");
        assert_eq!(page.matches("# TYPE requests_total").count(), 1, "{page}");
    }

    #[test]
    fn what_is_no_number_does_not_spoil_the_sum() {
        let page = page(MetricsOptions::default(), || {
            for value in [1.0, f64::NAN, f64::INFINITY, 2.0] {
                histogram("h", value, &[]);
                summary("s", value, &[]);
            }
        });
        assert!(page.contains("h_sum 3") && page.contains("s_sum 3"), "{page}");
    }

    #[test]
    fn without_a_recorder_nothing_happens() {
        inc("nobody_total", &[("a", "b")]);
        summary("nobody", 1.0, &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_sums_up_until_it_is_dropped() {
        let metrics = Metrics::new(MetricsOptions::default()).unwrap();
        facade::with_local_recorder(&metrics, || histogram("h", 1.0, &[]));
        let upkeep = metrics.upkeep(Duration::from_secs(5));
        assert!(tokio::time::timeout(Duration::from_secs(60), upkeep).await.is_err());
        assert!(metrics.render().contains("h_count 1"));
    }
}
