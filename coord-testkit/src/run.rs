//! Runs a case: in a runtime of its own, with a deadline, and never taking "did not run" for
//! "passed".

use std::any::Any;
use std::cell::RefCell;
use std::env;
use std::fmt;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::fixture::{Fixture, Progress};
use crate::harness::{Harness, NotRun, Time};

/// How long a case may take by the clock on the wall. A case that hangs fails by name.
const REAL_LIMIT: Duration = Duration::from_secs(300);

/// How much longer it is waited for, so that a case that waits for what never comes is told from
/// one that blocks its thread.
const GRACE: Duration = Duration::from_secs(30);

/// How long a case may take by the store's clock, where that is virtual. Idle time passes at once,
/// so that a case that waits for what never comes fails here.
const VIRTUAL_LIMIT: Duration = Duration::from_secs(18_000);

/// The variable that [`seed`] reads.
const SEED: &str = "COORD_TESTKIT_SEED";

thread_local! {
    /// Where the last panic of this thread happened, once [`note_panics`] was called.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "why", rename_all = "snake_case")]
pub enum Verdict {
    /// The rule was kept.
    Passed,
    /// The rule was broken, or the case hung; what was seen.
    Failed(String),
    /// The harness does not provide what the case needs; why. Nothing is proven.
    NotRun(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Passed => f.write_str("passed"),
            Verdict::Failed(why) => write!(f, "failed: {why}"),
            Verdict::NotRun(why) => write!(f, "was not run: {why}"),
        }
    }
}

/// The seed of the runs that do not name another one: the environment's `COORD_TESTKIT_SEED`, else
/// 0.
///
/// # Errors
///
/// The variable holds something else than a number.
pub fn seed() -> Result<u64, String> {
    match env::var(SEED) {
        Err(_) => Ok(0),
        Ok(text) => text.parse().map_err(|_| format!("{SEED} is no number: {text:?}")),
    }
}

/// Runs a case with the environment's [`seed`] on a harness, which `harness` makes inside the
/// runtime of the case.
pub fn run(case: &Case, harness: impl Future<Output = Arc<dyn Harness>> + Send + 'static) -> Verdict {
    match seed() {
        Ok(seed) => run_with_seed(case, seed, harness),
        Err(why) => Verdict::Failed(why),
    }
}

/// Runs a case. With virtual time, what the kit leaves to chance comes out the same for the same
/// seed.
pub fn run_with_seed(
    case: &Case,
    seed: u64,
    harness: impl Future<Output = Arc<dyn Harness>> + Send + 'static,
) -> Verdict {
    let case = *case;
    let (report, reported) = mpsc::channel();
    let progress = Progress::default();
    let noted = progress.clone();
    // A thread of its own: a case that spins or blocks cannot be stopped, but its name can still be
    // told.
    let spawned = thread::Builder::new().name(format!("{}::{}", case.rule, case.sentence)).spawn(move || {
        let verdict = match catch_unwind(AssertUnwindSafe(|| drive(&case, seed, noted, harness))) {
            Ok(verdict) => verdict,
            Err(panic) => match panic.downcast_ref() {
                Some(NotRun(why)) => Verdict::NotRun((*why).to_owned()),
                None => {
                    Verdict::Failed(format!("{}{}", message(&*panic), LAST_PANIC.take().unwrap_or_default()))
                }
            },
        };
        let _ = report.send(verdict);
    });
    match spawned {
        Err(error) => Verdict::Failed(format!("no thread for the case: {error}")),
        Ok(_) => {
            let hung = || {
                Verdict::Failed(format!(
                    "it hung for {:?}, and blocks its thread{progress}",
                    REAL_LIMIT + GRACE
                ))
            };
            reported.recv_timeout(REAL_LIMIT + GRACE).unwrap_or_else(|_| hung())
        }
    }
}

/// The body of the tests that [`conformance!`](crate::conformance) makes.
#[doc(hidden)]
pub fn test<'a>(
    cases: impl IntoIterator<Item = &'a Case>,
    rule: &str,
    sentence: &str,
    harness: impl Future<Output = Arc<dyn Harness>> + Send + 'static,
) {
    let verdict = match cases.into_iter().find(|case| case.rule == rule && case.sentence == sentence) {
        Some(case) => run(case, harness),
        None => Verdict::Failed("no such case".to_owned()),
    };
    assert!(verdict == Verdict::Passed, "{rule}::{sentence} {verdict}");
}

fn drive(
    case: &Case,
    seed: u64,
    progress: Progress,
    harness: impl Future<Output = Arc<dyn Harness>>,
) -> Verdict {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Verdict::Failed(format!("no runtime for the case: {error}")),
    };
    // Dropped last: it may hold the directory, or the server, that the clients work on.
    let mut kept = None;
    let verdict = runtime.block_on(async {
        let harness = harness.await;
        kept = Some(Arc::clone(&harness));
        let limit = match harness.time() {
            Time::Virtual => {
                tokio::time::pause();
                VIRTUAL_LIMIT
            }
            Time::Real => REAL_LIMIT,
        };
        let fixture = Fixture::new(harness).with_seed(seed).with_progress(progress.clone()).of(case);
        match tokio::time::timeout(limit, (case.program)(fixture)).await {
            Ok(()) => Verdict::Passed,
            Err(_) => Verdict::Failed(format!("it was not done after {limit:?} of its own time{progress}")),
        }
    });
    drop(runtime);
    drop(kept);
    verdict
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked with something that is no text")
        .to_owned()
}

/// From now on panics print nothing, and a verdict says where its case failed: for reports, which
/// tell at the end what was seen.
pub fn note_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!(" (at {place})"));
        LAST_PANIC.set(place);
    }));
}
