//! A program that runs the kit on some backends and writes what it found.

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{CaseResult, Counts, Report, Suite};
use crate::run::{note_panics, seed};

const HELP: &str = "Runs the conformance kit and writes what it found.

  --out DIR       writes CONFORMANCE.md and conformance.json into DIR (default: writes nothing). What is there of other backends is kept
  --backend NAME  only this backend; may be repeated
  --case PART     only cases whose name contains PART, such as r12::
  --seed N        the seed of the first run (default: COORD_TESTKIT_SEED, else 0)
  --repeat N      runs all of it N times, each time with the next seed (default: 1)
  --threads N     so many cases at a time (default: as many as suit the backend, else one for each core)
  --slowest N     lists the N slowest cases of each backend
";

/// The names of the files.
const FILES: (&str, &str) = ("CONFORMANCE.md", "conformance.json");

struct Options {
    out: Option<PathBuf>,
    backends: Vec<String>,
    case: Option<String>,
    seed: u64,
    repeat: u32,
    threads: Option<usize>,
    slowest: usize,
}

/// The whole `main` of a program that runs `suites`, as its arguments (`--help` lists them) ask for. It shows how far it is, prints a line for each run of a
/// backend, and fails when any case failed.
///
/// What it writes, it adds to what an earlier run wrote there, its own or that of another program: a backend of the same name is replaced, the others are kept.
pub fn command(suites: Vec<Suite>) -> ExitCode {
    note_panics();
    match options(std::env::args().skip(1), &suites).and_then(|options| options.map_or(Ok(true), |options| run(suites, &options))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            // Nobody is left to hear that this failed too.
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::from(2)
        }
    }
}

/// Reads the arguments; `None` when they ask for help, which it then gives.
fn options(mut arguments: impl Iterator<Item = String>, suites: &[Suite]) -> Result<Option<Options>, String> {
    let mut options = Options { out: None, backends: Vec::new(), case: None, seed: seed()?, repeat: 1, threads: None, slowest: 0 };
    while let Some(name) = arguments.next() {
        if name == "--help" {
            say(format_args!("{HELP}\nThe backends are {}.\n", names(suites)))?;
            return Ok(None);
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value, or is unknown; --help lists what there is"))?;
        match name.as_str() {
            "--out" => options.out = Some(value.into()),
            "--backend" => options.backends.push(value),
            "--case" => options.case = Some(value),
            "--seed" => options.seed = number(&name, &value)?,
            "--repeat" => options.repeat = number(&name, &value)?,
            "--threads" => options.threads = Some(number(&name, &value)?),
            "--slowest" => options.slowest = number(&name, &value)?,
            _ => return Err(format!("{name} is unknown; --help lists what there is")),
        }
    }
    Ok(Some(options))
}

fn number<N: std::str::FromStr>(name: &str, value: &str) -> Result<N, String> {
    value.parse().map_err(|_| format!("{name} needs a number and not {value:?}"))
}

/// Runs everything. Says whether all of it passed.
fn run(mut suites: Vec<Suite>, options: &Options) -> Result<bool, String> {
    if let Some(unknown) = options.backends.iter().find(|name| !suites.iter().any(|suite| suite.name == **name)) {
        return Err(format!("there is no backend {unknown:?}; there are {}", names(&suites)));
    }
    suites.retain(|suite| options.backends.is_empty() || options.backends.contains(&suite.name));
    if let Some(part) = &options.case {
        suites = suites.into_iter().map(|suite| suite.only(part)).collect();
    }
    // Before anything is run for nothing.
    let kept = options.out.as_deref().map(|out| kept(out, &suites, options)).transpose()?;
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let mut all: Option<Report> = None;
    for seed in (options.seed..).take(options.repeat as usize) {
        let mut backends = Vec::new();
        for suite in &suites {
            let progress = Progress::new(suite);
            let threads = options.threads.or(suite.threads).unwrap_or(cores);
            let backend = suite.run_and_tell(seed, threads, |result| progress.one_more(result));
            progress.end();
            let counts = backend.counts;
            say(format_args!(
                "seed {seed}, {}: {} passed, {} failed, {} not run, {:.1} s\n",
                backend.name, counts.passed, counts.failed, counts.not_run, backend.seconds
            ))?;
            backends.push(backend);
        }
        let report = Report { backends };
        match &mut all {
            Some(all) => all.merge(report),
            None => all = Some(report),
        }
    }
    let Some(report) = all else { return Err("there was nothing to run".to_owned()) };
    if report.backends.iter().all(|backend| backend.counts == Counts::default()) {
        return Err("no case was run".to_owned());
    }
    tell(&report, options.slowest)?;
    let passed = !report.failed();
    if let (Some(out), Some(mut written)) = (&options.out, kept) {
        written.replace(report);
        let json = written.to_json().map_err(|error| error.to_string())?;
        for (name, text) in [(FILES.0, written.to_markdown()), (FILES.1, json + "\n")] {
            let file = out.join(name);
            fs::create_dir_all(out).and_then(|()| fs::write(&file, text)).map_err(|error| format!("{}: {error}", file.display()))?;
        }
    }
    Ok(passed)
}

/// What earlier runs wrote, which must not lose a whole run of a backend to one of some cases.
fn kept(out: &Path, suites: &[Suite], options: &Options) -> Result<Report, String> {
    let file = out.join(FILES.1);
    let report: Report = match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| format!("{} is no report that can be added to: {error}; move it away to begin a new one", file.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Report::default(),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    let whole = |name: &str| report.backends.iter().any(|backend| backend.name == name && backend.only.is_none());
    match suites.iter().find(|suite| options.case.is_some() && whole(&suite.name)) {
        Some(suite) => {
            Err(format!("{} has all cases of {}, and some would take their place; name another folder", file.display(), suite.name))
        }
        None => Ok(report),
    }
}

fn names(suites: &[Suite]) -> String {
    suites.iter().map(|suite| &*suite.name).collect::<Vec<_>>().join(", ")
}

/// Shows how far a run is: on a line that changes, or, where there is no terminal, a line every now and then. Short runs without a terminal show nothing.
struct Progress<'a> {
    suite: &'a Suite,
    terminal: bool,
    begun: Instant,
    state: Mutex<Shown>,
}

struct Shown {
    done: usize,
    failed: usize,
    last: Instant,
}

impl<'a> Progress<'a> {
    fn new(suite: &'a Suite) -> Self {
        let begun = Instant::now();
        Progress { suite, terminal: io::stderr().is_terminal(), begun, state: Mutex::new(Shown { done: 0, failed: 0, last: begun }) }
    }

    fn one_more(&self, result: &CaseResult) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += 1;
        state.failed += usize::from(result.failures.is_some());
        let pause = if self.terminal { Duration::from_millis(100) } else { Duration::from_secs(10) };
        if state.last.elapsed() < pause {
            return;
        }
        state.last = Instant::now();
        let (before, after) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // Nobody misses it where it cannot be shown.
        let _ = write!(
            io::stderr(),
            "{before}{}: {} of {} cases, {} failed, {:.0} s{after}",
            self.suite.name,
            state.done,
            self.suite.len(),
            state.failed,
            self.begun.elapsed().as_secs_f64()
        );
    }

    /// Makes room for the next line.
    fn end(self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// What it comes to.
fn tell(report: &Report, slowest: usize) -> Result<(), String> {
    for backend in &report.backends {
        let each = backend.seconds / f64::from(backend.runs.max(1));
        say(format_args!("{}: {} of {} runs failed, {each:.2} s each\n", backend.name, backend.failed_runs, backend.runs))?;
        let mut cases: Vec<_> = backend.rules.iter().flat_map(|rule| &rule.cases).collect();
        for case in cases.iter().filter(|case| case.failures.is_some()) {
            say(format_args!("  {} {}\n", case.case, case.verdict))?;
        }
        cases.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        for case in cases.iter().take(slowest) {
            say(format_args!("  {:6.3} s {}\n", case.seconds, case.case))?;
        }
    }
    Ok(())
}

fn say(text: impl fmt::Display) -> Result<(), String> {
    write!(io::stdout(), "{text}").map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use coord_memory::MemoryProvider;
    use coord_recipes::layers::Namespace;
    use coord_recipes::{ProviderOptions, StoreProvider};

    use super::*;
    use crate::case::Case;
    use crate::store_harness::StoreHarness;

    const CASES: &[Case] = &[
        Case { rule: "r99", sentence: "this_one_passes", need: None, program: |_| Box::pin(async {}) },
        Case { rule: "r99", sentence: "this_one_fails", need: None, program: |_| Box::pin(async { panic!("as it should") }) },
    ];

    fn suite() -> Suite {
        let harness = || {
            StoreHarness::new(
                MemoryProvider::new(),
                |server| async move { server.client().store().clone() },
                |server, through| async move { server.compact(through).await.unwrap() },
                |store| StoreProvider::new(store, ProviderOptions::default()),
                Namespace::new,
            )
        };
        Suite::new("memory", "run", move || async move { harness() }).with_cases(CASES)
    }

    fn run_with(arguments: &[&str]) -> Result<bool, String> {
        run(vec![suite()], &options(arguments.iter().map(|argument| (*argument).to_owned()), &[])?.unwrap())
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
        assert_eq!(report.backends.iter().map(|backend| (backend.runs, backend.failed_runs)).collect::<Vec<_>>(), [(2, 2)]);
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
        assert_eq!(report.backends.iter().map(|backend| (&*backend.name, backend.seed)).collect::<Vec<_>>(), [("other", 7), ("memory", 3)]);
        assert_eq!(report.backends[0], other);
        let page = fs::read_to_string(format!("{out}/{}", FILES.0)).unwrap();
        assert!(page.contains("| rule | other | memory |") && page.contains("| **server** | a server 1.2 | none |"), "{page}");

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
        let bad: [&[&str]; 6] =
            [&["--seed", "x"], &["--out"], &["--unknown", "1"], &["--backend", "other"], &["--case", "r98::"], &["--repeat", "0"]];
        for arguments in bad {
            assert!(run_with(arguments).is_err(), "{arguments:?}");
        }
    }
}
