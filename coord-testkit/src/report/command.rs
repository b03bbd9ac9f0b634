//! A program that runs the kit on some backends and writes what it found.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use super::{Counts, Report, Suite};
use crate::run::{note_panics, seed};

const HELP: &str = "Runs the conformance kit and writes what it found.

  --out DIR       writes CONFORMANCE.md and conformance.json into DIR (default: writes nothing)
  --backend NAME  only this backend; may be repeated
  --case PART     only cases whose name contains PART, such as r12::
  --seed N        the seed of the first run (default: COORD_TESTKIT_SEED, else 0)
  --repeat N      runs all of it N times, each time with the next seed (default: 1)
  --threads N     so many cases at a time (default: one for each core)
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
    threads: usize,
    slowest: usize,
}

/// The whole `main` of a program that runs `suites`, as its arguments (`--help` lists them) ask for. It prints a line for each run of a backend, and fails
/// when any case failed.
pub fn command(suites: Vec<Suite>) -> ExitCode {
    note_panics();
    match options(std::env::args().skip(1)).and_then(|options| options.map_or(Ok(true), |options| run(suites, &options))) {
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
fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let mut options = Options { out: None, backends: Vec::new(), case: None, seed: seed()?, repeat: 1, threads, slowest: 0 };
    while let Some(name) = arguments.next() {
        if name == "--help" {
            say(HELP)?;
            return Ok(None);
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value, or is unknown; --help lists what there is"))?;
        match name.as_str() {
            "--out" => options.out = Some(value.into()),
            "--backend" => options.backends.push(value),
            "--case" => options.case = Some(value),
            "--seed" => options.seed = number(&name, &value)?,
            "--repeat" => options.repeat = number(&name, &value)?,
            "--threads" => options.threads = number(&name, &value)?,
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
        return Err(format!(
            "there is no backend {unknown:?}; there are {}",
            suites.iter().map(|suite| &*suite.name).collect::<Vec<_>>().join(", ")
        ));
    }
    suites.retain(|suite| options.backends.is_empty() || options.backends.contains(&suite.name));
    if let Some(part) = &options.case {
        suites = suites.into_iter().map(|suite| suite.only(part)).collect();
    }
    let mut all: Option<Report> = None;
    for seed in (options.seed..).take(options.repeat as usize) {
        let mut backends = Vec::new();
        for suite in &suites {
            let backend = suite.run(seed, options.threads);
            let counts = backend.counts;
            say(format_args!(
                "seed {seed}, {}: {} passed, {} failed, {} not run, {:.1} s\n",
                backend.name, counts.passed, counts.failed, counts.not_run, backend.seconds
            ))?;
            backends.push(backend);
        }
        let report = Report::new(seed, backends);
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
    if let Some(out) = &options.out {
        let json = report.to_json().map_err(|error| error.to_string())?;
        for (name, text) in [(FILES.0, report.to_markdown()), (FILES.1, json + "\n")] {
            let file = out.join(name);
            fs::create_dir_all(out).and_then(|()| fs::write(&file, text)).map_err(|error| format!("{}: {error}", file.display()))?;
        }
    }
    Ok(!report.failed())
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
        run(vec![suite()], &options(arguments.iter().map(|argument| (*argument).to_owned()))?.unwrap())
    }

    #[test]
    fn it_fails_when_a_case_does_and_writes_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("new").display().to_string();
        assert_eq!(run_with(&["--case", "r99::", "--out", &out, "--repeat", "2"]), Ok(false));
        assert!(fs::read_to_string(format!("{out}/{}", FILES.0)).unwrap().contains("as it should"));
        let report: Report = serde_json::from_str(&fs::read_to_string(format!("{out}/{}", FILES.1)).unwrap()).unwrap();
        assert!(report.failed());
        assert_eq!(report.backends.iter().map(|backend| (backend.runs, backend.failed_runs)).collect::<Vec<_>>(), [(2, 2)]);
        assert_eq!(run_with(&["--case", "r99::this_one_passes"]), Ok(true));
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
