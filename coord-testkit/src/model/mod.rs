//! Random sequences of operations against reference models, shrunk by proptest.
//!
//! A model is written to be read: it keeps every state that there ever was, and shares no code with
//! any store. A sequence is drawn from a seed; several clients carry it out, one operation after
//! the other, and the model says what each must answer. Where an answer differs, proptest looks for
//! the shortest sequence that still shows it. `COORD_TESTKIT_SEED` makes them other sequences, and
//! the same ones again for the same seed; `COORD_TESTKIT_SEQUENCES` says how many each case runs.
#![allow(clippy::indexing_slicing, reason = "a case fails by panicking")]

mod contracts;
mod steps;
mod store;

use std::fmt::Debug;
use std::time::Instant;

use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::failure::Failure;
use crate::fixture::Fixture;
use crate::histories::{BY_CHANCE, SHORTENING, number, own_number};

pub(crate) use contracts::{Contract, contract};
pub(crate) use steps::Mostly;
pub(crate) use store::{long, store};

/// How much a case draws.
#[derive(Clone, Copy, Debug)]
struct Extent {
    sequences: u64,
    shortest: usize,
    longest: usize,
    /// How often a sequence that broke something is shortened at most.
    shrinks: usize,
}

impl Extent {
    /// One long sequence, shown as it is.
    const ONE_LONG: Extent = Extent { sequences: 1, shortest: 250, longest: 251, shrinks: 0 };

    /// Many short ones.
    fn many(cx: &Fixture) -> Self {
        let sequences = number("COORD_TESTKIT_SEQUENCES").unwrap_or(if cx.virtual_time() { 60 } else { 10 });
        Extent { sequences, shortest: 1, longest: 40, shrinks: 2_000 }
    }
}

/// An answer that is not the model's: the rule that it breaks, and how.
#[derive(Clone, Debug)]
struct Mismatch {
    rule: &'static str,
    what: String,
}

/// Compares an answer with the model's.
fn same<T: PartialEq + Debug>(
    rule: &'static str,
    what: impl FnOnce() -> String,
    answered: &T,
    expected: &T,
) -> Result<(), Mismatch> {
    holds(rule, answered == expected, || format!("{}: answered {answered:?}, expected {expected:?}", what()))
}

fn holds(rule: &'static str, holds: bool, what: impl FnOnce() -> String) -> Result<(), Mismatch> {
    if holds { Ok(()) } else { Err(Mismatch { rule, what: what() }) }
}

/// Draws sequences and carries them out; fails where one breaks a rule, whichever.
///
/// # Panics
///
/// When one does: with the rule, the seed, the command that shows it again, and the shortest
/// sequence found; or with all of it, where the same sequence is answered rightly when it is
/// carried out again.
async fn check<S: Strategy>(
    cx: &Fixture,
    extent: Extent,
    step: S,
    sequence: impl AsyncFn(&Fixture, &[S::Value], usize) -> Result<(), Mismatch>,
) where
    S::Value: Debug,
{
    // A sequence is shown whole.
    let cx = &cx.unrecorded();
    let seed = cx.seed(own_number(&cx.case_name()));
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(seed.to_le_bytes().into_iter().cycle()).for_each(|(byte, of_seed)| *byte = of_seed);
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let steps = vec(step, extent.shortest..extent.longest);
    let mut run = 0;
    let mut broken = async |steps: &[S::Value]| {
        run += 1;
        let mismatch = sequence(cx, steps, run).await.err()?;
        let at = cx.step().map(|step| format!("\n  at {step}")).unwrap_or_default();
        Some(Mismatch { what: mismatch.what + &at, ..mismatch })
    };
    for _ in 0..extent.sequences {
        let Ok(mut tree) = steps.new_tree(&mut runner) else { continue };
        let whole = tree.current();
        let Some(first) = broken(&whole).await else { continue };
        let same_rule = |mismatch: Option<Mismatch>| mismatch.filter(|found| found.rule == first.rule);
        // What took more than the sequence, such as a stall of the machine, does not get any
        // shorter.
        if same_rule(broken(&whole).await).is_none() {
            fail(cx, &first, BY_CHANCE, &whole);
        }
        let until = Instant::now() + SHORTENING;
        let mut shortest = tree.current();
        let mut more = tree.simplify();
        for _ in 0..extent.shrinks {
            if !more || Instant::now() >= until {
                break;
            }
            let current = tree.current();
            more = match same_rule(broken(&current).await) {
                Some(_) => {
                    shortest = current;
                    tree.simplify()
                }
                None => tree.complicate(),
            };
        }
        match same_rule(broken(&shortest).await) {
            Some(found) if extent.shrinks > 0 => fail(cx, &found, "The shortest sequence found", &shortest),
            Some(found) => fail(cx, &found, "The sequence", &shortest),
            None => fail(cx, &first, BY_CHANCE, &whole),
        }
    }
}

fn fail(cx: &Fixture, mismatch: &Mismatch, title: &str, steps: &[impl Debug]) -> ! {
    let steps: Vec<String> = steps.iter().map(|step| format!("    {step:?}")).collect();
    let shown = format!(
        "Again: COORD_TESTKIT_SEED={} cargo test {}\n{title}:\n{}",
        cx.run_seed(),
        cx.case_name(),
        steps.join("\n")
    );
    Failure { rule: mismatch.rule, what: mismatch.what.clone(), shown }.raise()
}
