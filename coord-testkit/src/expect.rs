//! Assertions that say what was answered and what was expected, in the names of those of std, which
//! they stand in for in this crate: a case reads like any test, and what it says is meant for the
//! author of a backend, who does not know the case.

use std::fmt::{Arguments, Debug};

use crate::words::Short;

/// So much is shown of an answer, in bytes.
const LONGEST: usize = 2_000;

/// So much is shown of the expression that it came from.
const LONGEST_EXPRESSION: usize = 200;

macro_rules! assert_eq {
    ($answered:expr, $expected:expr $(,)?) => { assert_eq!($answered, $expected, "") };
    ($answered:expr, $expected:expr, $($context:tt)+) => {
        match (&$answered, &$expected) {
            (answered, expected) => {
                if !(*answered == *expected) {
                    $crate::expect::differs(
                        stringify!($answered),
                        &answered,
                        &expected,
                        format_args!($($context)+),
                    );
                }
            }
        }
    };
}

macro_rules! assert_ne {
    ($answered:expr, $other:expr $(,)?) => { assert_ne!($answered, $other, "") };
    ($answered:expr, $other:expr, $($context:tt)+) => {
        match (&$answered, &$other) {
            (answered, other) => {
                if *answered == *other {
                    $crate::expect::is_the_same(
                        stringify!($answered),
                        stringify!($other),
                        &answered,
                        format_args!($($context)+),
                    );
                }
            }
        }
    };
}

macro_rules! assert {
    ($holds:expr $(,)?) => { assert!($holds, "") };
    ($holds:expr, $($context:tt)+) => {
        if !$holds {
            $crate::expect::does_not_hold(stringify!($holds), format_args!($($context)+));
        }
    };
}

/// Fails: something else was answered.
#[cold]
#[track_caller]
#[expect(clippy::panic, reason = "a case fails by panicking")]
pub(crate) fn differs(asked: &str, answered: &dyn Debug, expected: &dyn Debug, context: Arguments<'_>) -> ! {
    let (answered, expected) = (shown(answered), shown(expected));
    let alike = if answered == expected { "\n  (a value is shown by its length alone)" } else { "" };
    panic!(
        "{}of: {}\n  answered: {answered}\n  expected: {expected}{alike}",
        begun(context),
        expression(asked)
    )
}

/// Fails: the same was answered.
#[cold]
#[track_caller]
#[expect(clippy::panic, reason = "a case fails by panicking")]
pub(crate) fn is_the_same(asked: &str, other: &str, answered: &dyn Debug, context: Arguments<'_>) -> ! {
    panic!(
        "{}of: {}\n  answered: {}\n  expected: anything but that, which is {}",
        begun(context),
        expression(asked),
        shown(answered),
        expression(other)
    )
}

/// Fails: what is to hold does not.
#[cold]
#[track_caller]
#[expect(clippy::panic, reason = "a case fails by panicking")]
pub(crate) fn does_not_hold(expected: &str, context: Arguments<'_>) -> ! {
    panic!("{}expected, and not so: {}", begun(context), expression(expected))
}

/// What is said first, where something is.
fn begun(context: Arguments<'_>) -> String {
    let context = context.to_string();
    if context.is_empty() { context } else { context + "\n  " }
}

fn shown(answer: &dyn Debug) -> String {
    Short::of(LONGEST, format_args!("{answer:?}"))
}

/// An expression in one line.
fn expression(source: &str) -> String {
    Short::of(LONGEST_EXPRESSION, source.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::panic::{UnwindSafe, catch_unwind};

    fn said(work: impl FnOnce() + UnwindSafe) -> String {
        let panic = catch_unwind(work).expect_err("it fails");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    fn what_was_answered_and_what_was_expected_is_told() {
        let (held, found) = (false, vec![1, 2]);
        std::assert_eq!(
            said(|| assert_eq!(found.iter().sum::<i32>(), 4, "round {}", 7)),
            "round 7\n  of: found.iter().sum::<i32>()\n  answered: 3\n  expected: 4"
        );
        std::assert_eq!(said(|| assert_eq!(1, 2)), "of: 1\n  answered: 1\n  expected: 2");
        std::assert_eq!(
            said(|| assert_ne!(found[0], found[1] - 1, "two of them")),
            "two of them\n  of: found[0]\n  answered: 1\n  expected: anything but that, which is found[1] - 1"
        );
        std::assert_eq!(said(|| assert!(held)), "expected, and not so: held");
        std::assert_eq!(said(|| assert!(held, "after {} s", 3)), "after 3 s\n  expected, and not so: held");
        let (one, other) = (coord_api::Value::from("1"), coord_api::Value::from("2"));
        std::assert!(said(|| assert_eq!(one, other)).ends_with("(a value is shown by its length alone)"));
    }
}
