//! What a Prometheus would have stored of a process, in virtual time, and what promtool says of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use coord::operations::{DURATION_BUCKETS, RATIO_BUCKETS};
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::time::sleep;

/// Between two scrapes.
pub(crate) const INTERVAL: Duration = Duration::from_secs(15);

/// Runs promtool on a file; what it says where that does not pass.
fn promtool(command: &[&str], file: &Path) -> Result<(), String> {
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/prometheus");
    let found =
        on_path.chain([cached]).map(|directory| directory.join("promtool")).find(|path| path.is_file());
    let program =
        found.expect("NOT TESTED: there is no promtool to evaluate with; run scripts/prometheus.sh");
    let output = Command::new(program).args(command).arg(file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

/// Whether a file of rules is one, and what is wrong with it.
pub(crate) fn check_rules(file: &Path) -> Result<(), String> {
    promtool(&["check", "rules"], file)
}

/// A recorder as OPERATIONS.md sets one up, for the present thread.
fn recorder() -> &'static PrometheusRecorder {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &DURATION_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_ratio".to_owned()), &RATIO_BUCKETS)
        });
    Box::leak(Box::new(builder.unwrap().build_recorder()))
}

/// What an expression must give at a time: the labels of each series, as `{a="b"}`, and its value.
pub(crate) struct Expected {
    pub(crate) expression: String,
    pub(crate) at: Duration,
    pub(crate) samples: Vec<(String, u32)>,
}

/// What a Prometheus would have stored.
pub(crate) struct Scrapes {
    handle: PrometheusHandle,
    series: BTreeMap<String, Vec<Option<f64>>>,
    count: usize,
    _recording: LocalRecorderGuard<'static>,
}

impl Scrapes {
    pub(crate) fn begin() -> Self {
        let recorder = recorder();
        let _recording = metrics::set_default_local_recorder(recorder);
        Scrapes { handle: recorder.handle(), series: BTreeMap::new(), count: 0, _recording }
    }

    fn scrape(&mut self) {
        for line in self.handle.render().lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let samples = self.series.entry(name.to_owned()).or_default();
            samples.resize(self.count, None);
            samples.push(Some(value.parse().unwrap()));
        }
        self.count += 1;
        self.series.values_mut().for_each(|samples| samples.resize(self.count, None));
    }

    /// Lets virtual time pass, and scrapes.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            sleep(INTERVAL).await;
            self.scrape();
        }
    }

    /// The time of the last scrape.
    pub(crate) fn now(&self) -> Duration {
        INTERVAL * u32::try_from(self.count - 1).unwrap()
    }

    /// Has promtool evaluate expressions on what was scraped from the target `api-1` of the job
    /// `api`, with the rules of a file. What it says where something else comes out.
    pub(crate) fn evaluate(&self, rules: Option<&Path>, expected: &[Expected]) -> Result<(), String> {
        let rules = rules.map(|rules| format!("'{}'", rules.display())).unwrap_or_default();
        let mut test = format!(
            "rule_files: [{rules}]\nevaluation_interval: 15s\ntests:\n- interval: 15s\n  input_series:\n"
        );
        for (name, samples) in &self.series {
            let values: Vec<_> = samples
                .iter()
                .map(|sample| sample.map_or_else(|| "_".to_owned(), |value| value.to_string()))
                .collect();
            let labelled = match name.split_once('{') {
                Some((name, labels)) => format!("{name}{{instance=\"api-1\",job=\"api\",{labels}"),
                None => format!("{name}{{instance=\"api-1\",job=\"api\"}}"),
            };
            writeln!(test, "  - series: '{labelled}'\n    values: '{}'", values.join(" ")).unwrap();
        }
        test.push_str("  promql_expr_test:\n");
        for Expected { expression, at, samples } in expected {
            let expression = expression.replace('\'', "''");
            writeln!(test, "  - expr: '{expression}'\n    eval_time: {}s", at.as_secs()).unwrap();
            if !samples.is_empty() {
                test.push_str("    exp_samples:\n");
            }
            for (labels, value) in samples {
                writeln!(test, "    - labels: '{labels}'\n      value: {value}").unwrap();
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.yml");
        std::fs::write(&path, &test).unwrap();
        promtool(&["test", "rules"], &path).map_err(|said| format!("{said}\n{test}"))
    }
}
