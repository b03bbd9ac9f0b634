//! What a failed case says: what was seen, the rule that it breaks in the contract's words, and
//! what was asked last.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, PanicHookInfo};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::contract;
use crate::progress::Progress;

/// So many panics of a case are remembered.
const REMEMBERED: usize = 4;

/// Whether panics print nothing.
static QUIET: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// What panicked on this thread so far, where that is one that runs a case.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A failure that knows which rule is broken, and has more to show than fits into a sentence.
pub(crate) struct Failure {
    /// The rule that is broken, which need not be that of the case.
    pub(crate) rule: &'static str,
    /// What was seen.
    pub(crate) what: String,
    /// How to see it again, and what led to it.
    pub(crate) shown: String,
}

impl Failure {
    /// Fails the case with it.
    pub(crate) fn raise(self) -> ! {
        // Not `panic_any`, whose hook could print nothing of it.
        panic::resume_unwind(Box::new(self))
    }
}

/// Notes down what panics on this thread from now on, which runs a case.
pub(crate) fn note_panics_here() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note(info);
            if !QUIET.load(Ordering::Relaxed) {
                others(info);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
}

/// From now on panics print nothing, and a verdict says where its case failed: for reports, which
/// tell at the end what was seen.
pub fn note_panics() {
    QUIET.store(true, Ordering::Relaxed);
    panic::set_hook(Box::new(note));
}

fn note(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|place| format!(" (at {place})")).unwrap_or_default();
    let text = format!("{}{place}", message(info.payload()));
    // Where the thread is ending there is nothing to note any more.
    let _ = PANICS.try_with(|panics| {
        if let Some(panics) = panics.borrow_mut().as_mut().filter(|panics| panics.len() < REMEMBERED) {
            panics.push(text);
        }
    });
}

/// What panicked on this thread so far.
pub(crate) fn panics_here() -> Vec<String> {
    PANICS.with_borrow(|panics| panics.clone().unwrap_or_default())
}

/// What a panic said, in words for somebody who did not write the code that panicked.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .or_else(|| panic.downcast_ref::<Failure>().map(|failure| failure.what.as_str()))
        .unwrap_or("it panicked with something that is no text");
    in_words(text)
}

/// The words of std's own panics, and what they mean in a case.
const WORDS: [(&str, &str); 4] = [
    ("called `Result::unwrap()` on an `Err` value:", "expected to succeed, and it failed:"),
    ("called `Result::unwrap_err()` on an `Ok` value:", "expected to fail, and this was answered:"),
    ("called `Option::unwrap()` on a `None` value", "expected something to be there, and there is nothing"),
    ("index out of bounds:", "expected more than was answered:"),
];

fn in_words(text: &str) -> String {
    if let Some(differs) = text.strip_prefix("assertion `left == right` failed") {
        return assertion(differs, "expected");
    }
    if let Some(same) = text.strip_prefix("assertion `left != right` failed") {
        return assertion(same, "expected: anything but");
    }
    if let Some(holds) = text.strip_prefix("assertion failed: ") {
        return format!("expected, and not so: {holds}");
    }
    let known = WORDS.iter().find_map(|(std, words)| Some(format!("{words}{}", text.strip_prefix(std)?)));
    known.unwrap_or_else(|| text.to_owned())
}

/// One of std's assertions about two things, as cases outside of this crate make them: what is said
/// first, then the two, each on a line of its own.
fn assertion(text: &str, expected: &str) -> String {
    let said = text.replacen("\n  left: ", "\n  answered: ", 1);
    let said = said.replacen("\n right: ", &format!("\n  {expected}: "), 1);
    said.strip_prefix(": ").unwrap_or(&said).trim_start().to_owned()
}

/// What a case of `rule` says that ended with a panic.
pub(crate) fn of_panic(rule: &str, panic: &(dyn Any + Send), progress: &Progress) -> String {
    if let Some(why) = progress.ended() {
        return why;
    }
    let panics = panics_here();
    if let Some(failure) = panic.downcast_ref::<Failure>() {
        let (what, shown) = (&failure.what, &failure.shown);
        return format!("{}: {what}{}\n{shown}", failure.rule, in_contract(failure.rule));
    }
    let own = message(panic);
    // What a task of the case's panicked with, says more than that it panicked.
    let (first, others) = match panics.split_first() {
        Some((first, _)) if own.contains("JoinError::Panic") => (first.clone(), Vec::new()),
        _ => {
            let at = panics.iter().rposition(|text| text.starts_with(&own));
            let first = at.and_then(|at| panics.get(at)).cloned().unwrap_or(own);
            let others = panics.into_iter().enumerate().filter(|(index, _)| Some(*index) != at);
            (first, others.map(|(_, text)| text).collect())
        }
    };
    format!("{first}{}{}{}", in_contract(rule), last_requests(progress), on_the_way(&others))
}

/// What a case of `rule` says that did not end.
pub(crate) fn of_hang(rule: &str, what: &str, progress: &Progress, panics: &[String]) -> String {
    format!("{what}{progress}{}{}{}", on_the_way(panics), in_contract(rule), last_requests(progress))
}

/// The rule in the contract's words.
fn in_contract(rule: &str) -> String {
    let text = contract::text(rule).map(|text| text.replace('\n', "\n  "));
    text.map(|text| format!("\nThe rule, in the contract's words:\n  {text}")).unwrap_or_default()
}

fn last_requests(progress: &Progress) -> String {
    let requests = progress.requests();
    if requests.is_empty() { requests } else { format!("\nWhat was asked last, and answered:{requests}") }
}

fn on_the_way(panics: &[String]) -> String {
    panics.iter().map(|text| format!("\nOn the way something panicked: {text}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_std_are_known() {
        let said = |work: fn()| message(&*panic::catch_unwind(work).expect_err("it panics"));
        std::assert_eq!(
            said(|| _ = std::hint::black_box(Err::<u8, _>("no")).unwrap()),
            "expected to succeed, and it failed: \"no\""
        );
        std::assert_eq!(
            said(|| _ = std::hint::black_box(Ok::<_, u8>("yes")).unwrap_err()),
            "expected to fail, and this was answered: \"yes\""
        );
        std::assert_eq!(
            said(|| _ = std::hint::black_box(None::<u8>).unwrap()),
            "expected something to be there, and there is nothing"
        );
        std::assert_eq!(
            said(|| _ = std::hint::black_box(Vec::<u8>::new())[0]),
            "expected more than was answered: the len is 0 but the index is 0"
        );
        std::assert_eq!(
            said(|| std::assert_eq!(std::hint::black_box(1), 2, "round {}", 7)),
            "round 7\n  answered: 1\n  expected: 2"
        );
        std::assert_eq!(said(|| std::assert_eq!(std::hint::black_box(1), 2)), "answered: 1\n  expected: 2");
        std::assert_eq!(
            said(|| std::assert_ne!(std::hint::black_box(1), 1)),
            "answered: 1\n  expected: anything but: 1"
        );
        std::assert_eq!(
            said(|| std::assert!(std::hint::black_box(1) > 2)),
            "expected, and not so: std::hint::black_box(1) > 2"
        );
    }
}
