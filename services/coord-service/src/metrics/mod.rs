//! Metrics: four kinds, over the facade of the `metrics` crate, shown to Prometheus.
//!
//! A library or a service counts with [`inc`], [`gauge`], [`histogram`] and [`summary`], from
//! anywhere. Without a recorder that goes nowhere: what it costs then is to make the key, which is
//! one allocation where there are labels. The program's [`Metrics`] is the recorder, and renders
//! what `/metrics` answers.
//!
//! ```
//! use coord_service::metrics::{self, Metrics, MetricsOptions, facade};
//!
//! let recorder = Metrics::new(MetricsOptions::default()).unwrap();
//! facade::with_local_recorder(&recorder, || { // In a program: `recorder.install()`.
//!     metrics::inc("messages_total", &[("result", "ok")]);
//!     metrics::gauge("connections", 12.0, &[]);
//!     metrics::histogram("send_duration_seconds", 0.004, &[]);
//!     metrics::summary("batch_length", 31.0, &[]);
//! });
//! let page = recorder.render();
//! assert!(page.contains(r#"messages_total{result="ok"} 1"#));
//! assert!(page.contains(r#"send_duration_seconds_bucket{le="0.005"} 1"#));
//! assert!(page.contains("# TYPE batch_length summary"));
//! ```
//!
//! # What is promised (K11)
//!
//! - **The kind is what was called.** A histogram has buckets (below), whatever its name; a summary
//!   has none, but quantiles of the last minute, estimated here (to some ten thousandths), so that
//!   those of several instances cannot be added up. The first use of a name decides its kind:
//!   another one is refused, since Prometheus would refuse the page.
//! - **Memory is bounded.** A name has at most 1,000 series (combinations of labels), all names
//!   together 20,000 ([`MetricsOptions`]). What is more is left out, counted in
//!   `metrics_series_refused_total`, and a WARN names it, once for each name. A label whose values
//!   are not known beforehand (a user, a key, a path with ids) belongs into the log.
//! - **Samples wait for upkeep.** Those of histograms and summaries are kept one by one until they
//!   are summed up, by [`render`](Metrics::render) or [`upkeep`](Metrics::upkeep), which its owner
//!   runs.
//! - A value of a histogram or summary that is infinite or no number is left out: it would spoil
//!   the sum for ever.
//!
//! # Names and buckets
//!
//! A name ends in its unit, and a counter in `_total`. Buckets go by that end:
//!
//! | name ends in | buckets |
//! |---|---|
//! | `_seconds` | 0.5 ms to 30 s |
//! | `_bytes` | 64 B to 16 MiB, each four times the one before |
//! | `_ratio` | 0.01 to 1 |
//! | anything else | 1 to 10,000, as 1, 2, 5, 10, … |
//!
//! [`MetricsOptions::with_buckets`] sets others for a name or an end of names.
//!
//! # Names of the seeds
//!
//! | seeds (Go) | here |
//! |---|---|
//! | `metrics.New(ctx, cfg)` | [`Metrics::new`], [`Metrics::install`] |
//! | `metrics.NewCounter(name, help)`, `Inc(ctx, attrs…)`, `Add(ctx, n, attrs…)` | [`inc`], [`add`]; `facade::describe_counter!` |
//! | `metrics.NewHistogram(name, help, unit)`, `Record(ctx, v, attrs…)` | [`histogram`]; `facade::describe_histogram!` |
//! | gauge, summary | [`gauge`], [`summary`] |
//! | `attribute.String(k, v)` | a pair `("k", v)` |
//! | `cfg.PrometheusListenAddr` | the admin listener, which answers with [`Metrics::render`] |
//! | `cfg.ServiceName` | [`MetricsOptions::with_label`]`("service", …)` |
//! | `cfg.ExporterType`, `SamplerType`, … | none: traces are [`trace`](crate::trace), spans are of `tracing`, exported by whatever layer the program has |
//! | `provider.HTTPMiddleware()`, `GRPCServerInterceptor()` | [`TraceLayer`](crate::trace::TraceLayer) |
//! | `provider.Shutdown(ctx)` | none: nothing is sent that could be lost |

mod limit;
mod options;
mod recorder;

use ::metrics::{Histogram, Key, Label as FacadeLabel, Level, Metadata};

pub use options::MetricsOptions;
pub use recorder::{CONTENT_TYPE, Metrics, MetricsError};

/// The facade: `facade::counter!` and its like give handles, which cost less in a loop than
/// functions that look the series up each time.
pub use ::metrics as facade;

/// The name and value of a label.
pub type Label<'a> = (&'static str, &'a str);

/// Says to our recorder that a histogram is a summary. Another recorder takes it for a histogram.
const SUMMARY: &str = "coord_service::metrics::summary";

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);
const SUMMARY_METADATA: Metadata<'static> = Metadata::new(SUMMARY, Level::INFO, None);

/// Adds one to a counter.
pub fn inc(name: &'static str, labels: &[Label<'_>]) {
    add(name, 1, labels);
}

/// Adds to a counter. Adding 0 makes it known, so that its first increase is one that an alert can
/// see.
pub fn add(name: &'static str, by: u64, labels: &[Label<'_>]) {
    let key = key(name, labels);
    facade::with_recorder(|recorder| recorder.register_counter(&key, &METADATA).increment(by));
}

/// Sets a gauge.
pub fn gauge(name: &'static str, value: f64, labels: &[Label<'_>]) {
    let key = key(name, labels);
    facade::with_recorder(|recorder| recorder.register_gauge(&key, &METADATA).set(value));
}

/// Records a value in a histogram, which has buckets.
pub fn histogram(name: &'static str, value: f64, labels: &[Label<'_>]) {
    if value.is_finite() {
        let key = key(name, labels);
        facade::with_recorder(|recorder| recorder.register_histogram(&key, &METADATA).record(value));
    }
}

/// Records a value in a summary, which has quantiles of the last minute.
pub fn summary(name: &'static str, value: f64, labels: &[Label<'_>]) {
    if value.is_finite() {
        summary_handle(name, labels).record(value);
    }
}

/// The handle of a summary, for loops: the facade has one for each of the other kinds.
pub fn summary_handle(name: &'static str, labels: &[Label<'_>]) -> Histogram {
    let key = key(name, labels);
    facade::with_recorder(|recorder| recorder.register_histogram(&key, &SUMMARY_METADATA))
}

fn key(name: &'static str, labels: &[Label<'_>]) -> Key {
    if labels.is_empty() {
        return Key::from_static_name(name);
    }
    let labels: Vec<_> =
        labels.iter().map(|(name, value)| FacadeLabel::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}
