//! Runs the kit on some backends and writes what it found.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use coord_testkit::report::{CaseResult, Report, Suite, VerdictCounts};
use coord_testkit::{note_panics, seed};
use coord_tests::progress;
use indicatif::ProgressBar;

/// The names of the files.
const FILES: (&str, &str) = ("CONFORMANCE.md", "conformance.json");

/// How often a line tells how far a run is, where there is no terminal for a bar.
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Writes CONFORMANCE.md and conformance.json into this folder; what is there of other backends
    /// is kept
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only cases whose name contains this, such as r12::
    #[arg(long, value_name = "PART")]
    case: Option<String>,
    /// The seed of the first run [default: COORD_TESTKIT_SEED, else 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Runs all of it so often, each time with the next seed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// So many cases at a time [default: as many as suit the backend, else one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Lists so many of the slowest cases of each backend
    #[arg(long, value_name = "N", default_value_t = 0)]
    slowest: usize,
}

/// Runs `suites` as the options ask for. It shows how far it is, prints a line for each run of a
/// backend, and fails when any case failed.
///
/// What it writes, it adds to what an earlier run wrote there: a backend of the same name is
/// replaced, the others are kept.
pub(crate) fn run(suites: Vec<Suite>, options: &Options) -> ExitCode {
    note_panics();
    match run_all(suites, options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(2)
        }
    }
}

/// Runs everything. Says whether all of it passed.
fn run_all(mut suites: Vec<Suite>, options: &Options) -> Result<bool, String> {
    if let Some(part) = &options.case {
        suites = suites.into_iter().map(|suite| suite.only(part)).collect();
    }
    // Before anything is run for nothing.
    let kept = options.out.as_deref().map(|out| kept(out, &suites, options)).transpose()?;
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let mut all: Option<Report> = None;
    let first = options.seed.map_or_else(seed, Ok)?;
    for seed in (first..).take(options.repeat as usize) {
        let mut backends = Vec::new();
        for suite in &suites {
            let progress = Progress::new(suite);
            let threads = options.threads.or(suite.threads()).unwrap_or(cores);
            let backend = suite.run_and_tell(seed, threads, |result| progress.one_more(result));
            progress.bar.finish_and_clear();
            let counts = backend.counts;
            println!(
                "seed {seed}, {}: {} passed, {} failed, {} not run, {:.1} s",
                backend.name, counts.passed, counts.failed, counts.not_run, backend.seconds
            );
            backends.push(backend);
        }
        let report = Report { backends };
        match &mut all {
            Some(all) => all.merge(report),
            None => all = Some(report),
        }
    }
    let Some(report) = all else { return Err("there was nothing to run".to_owned()) };
    if report.backends.iter().all(|backend| backend.counts == VerdictCounts::default()) {
        return Err("no case was run".to_owned());
    }
    tell(&report, options.slowest);
    let passed = !report.failed();
    if let (Some(out), Some(mut written)) = (&options.out, kept) {
        written.replace(report);
        let json = written.to_json().map_err(|error| error.to_string())?;
        for (name, text) in [(FILES.0, written.to_markdown()), (FILES.1, json + "\n")] {
            let file = out.join(name);
            fs::create_dir_all(out)
                .and_then(|()| fs::write(&file, text))
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
    }
    Ok(passed)
}

/// What earlier runs wrote, which must not lose a whole run of a backend to one of some cases.
fn kept(out: &Path, suites: &[Suite], options: &Options) -> Result<Report, String> {
    let file = out.join(FILES.1);
    let report: Report = match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| {
            format!(
                "{} is no report that can be added to: {error}; move it away to begin a new one",
                file.display()
            )
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Report::default(),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    let whole =
        |name: &str| report.backends.iter().any(|backend| backend.name == name && backend.only.is_none());
    match suites.iter().find(|suite| options.case.is_some() && whole(suite.name())) {
        Some(suite) => Err(format!(
            "{} has all cases of {}, and some would take their place; name another folder",
            file.display(),
            suite.name()
        )),
        None => Ok(report),
    }
}

/// Shows how far a run is: by a bar, or, where there is no terminal, by a line every now and then.
/// Short runs without a terminal show nothing.
struct Progress<'a> {
    suite: &'a Suite,
    bar: ProgressBar,
    begun: Instant,
    state: Mutex<Shown>,
}

struct Shown {
    failed: usize,
    line: Instant,
}

impl<'a> Progress<'a> {
    fn new(suite: &'a Suite) -> Self {
        let begun = Instant::now();
        let bar = progress::bar(suite.count() as u64).with_message(suite.name().to_owned());
        Progress { suite, bar, begun, state: Mutex::new(Shown { failed: 0, line: begun }) }
    }

    fn one_more(&self, result: &CaseResult) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed += usize::from(result.failures.is_some());
        self.bar.inc(1);
        let told = format!("{}, {} failed", self.suite.name(), state.failed);
        if self.bar.is_hidden() && state.line.elapsed() >= LINE_EVERY {
            state.line = Instant::now();
            eprintln!(
                "{told}, {} of {}, {:.0} s",
                self.bar.position(),
                self.suite.count(),
                self.begun.elapsed().as_secs_f64()
            );
        }
        self.bar.set_message(told);
    }
}

/// What it comes to.
fn tell(report: &Report, slowest: usize) {
    for backend in &report.backends {
        let each = backend.seconds / f64::from(backend.runs.max(1));
        println!(
            "{}: {} of {} runs failed, {each:.2} s each",
            backend.name, backend.failed_runs, backend.runs
        );
        let mut cases: Vec<_> = backend.rules.iter().flat_map(|rule| &rule.cases).collect();
        for case in cases.iter().filter(|case| case.failures.is_some()) {
            println!("  {} {}", case.case, case.verdict);
        }
        cases.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        for case in cases.iter().take(slowest) {
            println!("  {:6.3} s {}", case.seconds, case.case);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test fails by panicking"
    )]

    use clap::Parser;
    use coord_testkit::Case;
    use coord_tests::harness::memory::Volatile;

    use super::*;

    const CASES: &[Case] = &[
        Case { rule: "r99", sentence: "this_one_passes", need: None, program: |_| Box::pin(async {}) },
        Case {
            rule: "r99",
            sentence: "this_one_fails",
            need: None,
            program: |_| Box::pin(async { panic!("as it should") }),
        },
    ];

    #[derive(Debug, Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    fn run_with(arguments: &[&str]) -> Result<bool, String> {
        let suite = Suite::new("memory", "run", || async { Volatile::start() }).with_cases(CASES);
        let arguments = Arguments::try_parse_from([&["conformance"], arguments].concat())
            .map_err(|error| error.to_string())?;
        run_all(vec![suite], &arguments.options)
    }

    fn written(out: &str) -> Report {
        serde_json::from_str(&fs::read_to_string(format!("{out}/{}", FILES.1)).unwrap()).unwrap()
    }

    #[test]
    fn it_fails_when_a_case_does_and_writes_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("new").display().to_string();
        assert_eq!(run_with(&["--case", "r99::", "--out", &out, "--repeat", "2"]), Ok(false));
        assert!(fs::read_to_string(format!("{out}/{}", FILES.0)).unwrap().contains("as it should"));
        let report = written(&out);
        assert!(report.failed());
        assert_eq!(
            report.backends.iter().map(|backend| (backend.runs, backend.failed_runs)).collect::<Vec<_>>(),
            [(2, 2)]
        );
        assert_eq!(run_with(&["--case", "r99::this_one_passes"]), Ok(true));
    }

    #[test]
    fn it_replaces_its_own_backends_and_keeps_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().display().to_string();
        let own = ["--case", "r99::this_one_passes", "--out", &out];
        assert_eq!(run_with(&own), Ok(true));
        let mut earlier = written(&out);
        let mut other = earlier.backends[0].clone();
        (other.name, other.seed, other.server) = ("other".to_owned(), 7, Some("a server 1.2".to_owned()));
        earlier.backends.insert(0, other.clone());
        fs::write(format!("{out}/{}", FILES.1), earlier.to_json().unwrap()).unwrap();

        assert_eq!(run_with(&["--case", "r99::this_one_passes", "--out", &out, "--seed", "3"]), Ok(true));
        let report = written(&out);
        assert_eq!(
            report.backends.iter().map(|backend| (&*backend.name, backend.seed)).collect::<Vec<_>>(),
            [("other", 7), ("memory", 3)]
        );
        assert_eq!(report.backends[0], other);
        let page = fs::read_to_string(format!("{out}/{}", FILES.0)).unwrap();
        assert!(
            page.contains("| rule | other | memory |")
                && page.contains("| **server** | a server 1.2 | none |"),
            "{page}"
        );

        // A run of all cases is not given up for one of some.
        earlier.backends.iter_mut().for_each(|backend| backend.only = None);
        fs::write(format!("{out}/{}", FILES.1), earlier.to_json().unwrap()).unwrap();
        assert!(run_with(&own).unwrap_err().contains("memory"));
        assert_eq!(written(&out), earlier);
        fs::write(format!("{out}/{}", FILES.1), "not a report").unwrap();
        assert!(run_with(&own).is_err());
    }

    #[test]
    fn what_it_does_not_understand_it_does_not_run() {
        let bad: [&[&str]; 5] =
            [&["--seed", "x"], &["--out"], &["--unknown", "1"], &["--case", "r98::"], &["--repeat", "0"]];
        for arguments in bad {
            assert!(run_with(arguments).is_err(), "{arguments:?}");
        }
    }
}
