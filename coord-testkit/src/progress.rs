//! What a case is at, kept beside it, so that its verdict can tell it: also of one that hangs.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::words::Short;

/// So many requests are remembered.
const REMEMBERED: usize = 12;

/// So much is remembered of a request, and of its answer, in bytes.
const LONGEST: usize = 400;

/// What a case is at. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Progress(Arc<State>);

struct State {
    noted: Mutex<Noted>,
    /// Raised with everything that the case is seen to do.
    moves: AtomicU64,
    /// Why the case is to end at once, if it is.
    ended: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Noted {
    step: Option<String>,
    asked: u64,
    requests: VecDeque<Request>,
}

/// A request, and what is known of its answer.
struct Request {
    number: u64,
    asked: String,
    answer: Option<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress(Arc::new(State {
            noted: Mutex::default(),
            moves: AtomicU64::new(0),
            ended: watch::Sender::new(None),
        }))
    }
}

impl Progress {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
        self.0.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The case is about to do this.
    pub(crate) fn note(&self, step: String) {
        self.noted().step = Some(step);
    }

    /// What it said last that it is about to do.
    pub(crate) fn step(&self) -> Option<String> {
        self.noted().step.clone()
    }

    /// Something was asked; its number goes with the answer.
    pub(crate) fn asked(&self, what: impl Display) -> u64 {
        let asked = Short::of(LONGEST, what);
        let mut noted = self.noted();
        noted.asked += 1;
        if noted.requests.len() == REMEMBERED {
            noted.requests.pop_front();
        }
        let number = noted.asked;
        noted.requests.push_back(Request { number, asked, answer: None });
        number
    }

    /// Something was answered. What was asked too long ago is forgotten.
    pub(crate) fn answered(&self, number: u64, what: impl Display) {
        let mut noted = self.noted();
        if let Some(request) = noted.requests.iter_mut().find(|request| request.number == number) {
            request.answer = Some(Short::of(LONGEST, what));
        }
    }

    /// How much it was seen to do so far.
    pub(crate) fn moves(&self) -> u64 {
        self.0.moves.load(Ordering::Relaxed)
    }

    /// The case is to end at once.
    pub(crate) fn end(&self, why: String) {
        self.0.ended.send_modify(|ended| _ = ended.get_or_insert(why));
    }

    /// Why the case was told to end.
    pub(crate) fn ended(&self) -> Option<String> {
        self.0.ended.borrow().clone()
    }

    /// Waits until the case is told to end, and says why.
    pub(crate) async fn end_told(&self) -> String {
        // It cannot fail: the sender is here.
        let _ = self.0.ended.subscribe().wait_for(Option::is_some).await;
        self.ended().unwrap_or_default()
    }

    /// The last requests and their answers, one a line; nothing where there was none.
    pub(crate) fn requests(&self) -> String {
        let noted = self.noted();
        let lines = noted.requests.iter().map(|request| {
            let answer = request.answer.as_deref().unwrap_or("no answer, by then");
            format!("\n  {}\n    -> {answer}", request.asked)
        });
        lines.collect()
    }
}

impl Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step() {
            Some(step) => write!(f, ", at {step}"),
            None => Ok(()),
        }
    }
}
