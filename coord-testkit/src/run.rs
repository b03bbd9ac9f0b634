//! Runs a case: in a runtime of its own, with a deadline, and never taking "did not run" for
//! "passed".

use std::env;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::case::Case;
use crate::failure::{note_panics_here, of_hang, of_panic, panics_here};
use crate::fixture::Fixture;
use crate::guard::Guarded;
use crate::harness::{Harness, NotRun, Time};
use crate::progress::Progress;

/// How long a case may take by the clock on the wall, where its time is real. A case that hangs
/// fails by name.
const REAL_LIMIT: Duration = Duration::from_secs(300);

/// How long a case may stand still by the clock on the wall, where its time is virtual: idle time
/// passes at once there, so that one that does nothing for so long spins, or blocks its thread.
const STILL_LIMIT: Duration = Duration::from_secs(30);

/// The variable that sets both, in seconds.
const LIMIT: &str = "COORD_TESTKIT_LIMIT";

/// How long a case may take by the store's clock, where that is virtual: one that waits for what
/// never comes fails here.
const VIRTUAL_LIMIT: Duration = Duration::from_secs(18_000);

/// How long a case that was told to end is waited for, before its thread is given up.
const GRACE: Duration = Duration::from_secs(3);

/// How often it is looked whether a case stands still.
const LOOK: Duration = Duration::from_millis(100);

/// The variable that [`seed`] reads.
const SEED: &str = "COORD_TESTKIT_SEED";

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

/// What the thread of a case tells.
enum News {
    /// It has a store, and begins.
    Begins(Time, Handle),
    /// It is done.
    Done(Verdict),
}

/// Runs a case. With virtual time, what the kit leaves to chance comes out the same for the same
/// seed.
pub fn run_with_seed(
    case: &Case,
    seed: u64,
    harness: impl Future<Output = Arc<dyn Harness>> + Send + 'static,
) -> Verdict {
    let case = *case;
    let limit = match limit() {
        Ok(limit) => limit,
        Err(why) => return Verdict::Failed(why),
    };
    let (report, reported) = mpsc::channel();
    let progress = Progress::default();
    let noted = progress.clone();
    // A thread of its own: a case that spins or blocks cannot always be stopped, but its name can
    // still be told.
    let spawned = thread::Builder::new().name(format!("{}::{}", case.rule, case.sentence)).spawn(move || {
        note_panics_here();
        let verdict = drive(&case, seed, limit, noted, harness, &report);
        let _ = report.send(News::Done(verdict));
    });
    match spawned {
        Err(error) => Verdict::Failed(format!("no thread for the case: {error}")),
        Ok(_) => watch_over(&case, limit, &progress, &reported),
    }
}

/// The environment's limit, if it has one.
fn limit() -> Result<Option<Duration>, String> {
    match env::var(LIMIT) {
        Err(_) => Ok(None),
        Ok(text) => match text.trim().parse() {
            Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(format!("{LIMIT} is no number of seconds: {text:?}")),
        },
    }
}

/// Waits for the verdict of a case, and ends it when it stands still.
fn watch_over(case: &Case, limit: Option<Duration>, progress: &Progress, news: &Receiver<News>) -> Verdict {
    let (mut clock, mut seen, mut since) = (None, (0, None), Instant::now());
    loop {
        match news.recv_timeout(LOOK) {
            Ok(News::Done(verdict)) => return verdict,
            Ok(News::Begins(time, handle)) => {
                clock = (time == Time::Virtual).then_some(handle);
                since = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Verdict::Failed("the thread of the case went down".to_owned());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let allowed = match &clock {
            Some(handle) => {
                let _entered = handle.enter();
                let now = (progress.moves(), Some(tokio::time::Instant::now()));
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
                limit.unwrap_or(STILL_LIMIT)
            }
            // A case with real time, or one whose store is still being started.
            None => limit.unwrap_or(REAL_LIMIT) + GRACE,
        };
        if since.elapsed() >= allowed {
            return given_up(case, allowed, clock.is_some(), progress, news);
        }
    }
}

/// Tells a case that stands still to end, and says what became of its thread.
fn given_up(
    case: &Case,
    allowed: Duration,
    still: bool,
    progress: &Progress,
    news: &Receiver<News>,
) -> Verdict {
    let why = if still {
        format!(
            "it stood still for {allowed:?}: something spins, so that the paused clock never moves on, or blocks"
        )
    } else {
        format!("it was not done after {allowed:?}")
    };
    let told = of_hang(case.rule, &why, progress, &[]);
    progress.end(told.clone());
    let deadline = Instant::now() + GRACE;
    loop {
        match news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            // It ended, and says what it was told, and perhaps what panicked before.
            Ok(News::Done(verdict)) => return verdict,
            Ok(News::Begins(..)) => {}
            Err(_) => {
                return Verdict::Failed(format!(
                    "{told}\nIts thread could not be stopped. If it spins, it takes a core for as long as this process lives."
                ));
            }
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
    limit: Option<Duration>,
    progress: Progress,
    harness: impl Future<Output = Arc<dyn Harness>>,
    news: &mpsc::Sender<News>,
) -> Verdict {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Verdict::Failed(format!("no runtime for the case: {error}")),
    };
    // Dropped last: it may hold the directory, or the server, that the clients work on.
    let mut kept = None;
    let verdict = runtime.block_on(async {
        let harness = match AssertUnwindSafe(harness).catch_unwind().await {
            Ok(harness) => harness,
            Err(panic) => return verdict_of(case, &*panic, &progress),
        };
        kept = Some(Arc::clone(&harness));
        let time = harness.time();
        let limit = match time {
            Time::Virtual => {
                tokio::time::pause();
                VIRTUAL_LIMIT
            }
            Time::Real => limit.unwrap_or(REAL_LIMIT),
        };
        let _ = news.send(News::Begins(time, Handle::current()));
        let harness: Arc<dyn Harness> = Arc::new(Guarded::new(harness, progress.clone()));
        let fixture = Fixture::new(harness)
            .with_seed(seed)
            .with_progress(progress.clone())
            .of(case.rule, case.sentence);
        let program = AssertUnwindSafe((case.program)(fixture)).catch_unwind();
        tokio::select! {
            biased;
            why = progress.end_told() => Verdict::Failed(why),
            done = tokio::time::timeout(limit, program) => match done {
                Ok(Ok(())) => Verdict::Passed,
                Ok(Err(panic)) => verdict_of(case, &*panic, &progress),
                Err(_) => {
                    let why = format!("it was not done after {limit:?} of its own time");
                    Verdict::Failed(of_hang(case.rule, &why, &progress, &panics_here()))
                }
            },
        }
    });
    // Blocking work of the store's may hang too.
    runtime.shutdown_timeout(GRACE);
    drop(kept);
    verdict
}

/// What is said of a case that ended with a panic.
fn verdict_of(case: &Case, panic: &(dyn std::any::Any + Send), progress: &Progress) -> Verdict {
    match panic.downcast_ref() {
        Some(NotRun(why)) => Verdict::NotRun((*why).to_owned()),
        None => Verdict::Failed(of_panic(case.rule, panic, progress)),
    }
}
