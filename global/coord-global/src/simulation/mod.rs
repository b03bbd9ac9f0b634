//! Schedules: regions, instances and a store that do what such systems do to each other, in an
//! order that a seed gives; and what must hold at the end of each.
//!
//! A schedule is a list of `Op`s, which the seed makes and which then runs without chance: so a
//! failing one is cut down to the steps that matter and printed. The code under test is the model
//! itself; `Broken` changes one thing around it, and every such change must be found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a schedule that does not hold ends"
)]
#![cfg_attr(not(test), allow(dead_code, reason = "what is broken on purpose is for the tests beside it"))]

mod account;
mod check;
mod faulty;
mod ops;
mod store;
#[cfg(test)]
mod tests;
mod world;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use coord_api::store::Store;

use self::account::Account;
use self::ops::{Op, generate, with_kills};
use self::world::World;
use crate::model::SpaceName;

pub use faulty::{Fate, Faulty};

/// One thing that is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// An append does not compare the head.
    NoHeadCompare,
    /// The log and the files are written in two transactions, and only the first may arrive.
    TwoTransactions,
    /// The outbox drops an edit when it is pushed.
    DropAtPush,
    /// A reader that finds entries trimmed goes on with the next one that there is.
    SkipInsteadOfSnapshot,
    /// A snapshot takes the place of the outbox too.
    OutboxDroppedWithSnapshot,
    /// Reading removes what was read.
    DrainedOnRead,
    /// A restored disk goes on under its old name.
    DotsUsedAgain,
    /// The next edit of an actor is taken whatever its number.
    NoSeqCheck,
    /// A resolution covers what it keeps alone.
    ResolutionWithoutContext,
    /// An edit that fails three times is given up.
    RetriesExhausted,
    /// A write that arrives late is applied without a look.
    LateWriteBlind,
    /// A resolution does not say what it stands for.
    NoStandsFor,
    /// What is in doubt below the floor is taken for not accepted.
    TrimmedIsNotAccepted,
    /// What is in doubt below the floor is taken for accepted.
    TrimmedIsAccepted,
    /// Edits in doubt are not looked for by the save that they carry.
    NoEditIds,
    /// The restart of a restored disk is not told from any other.
    NoRollbackCheck,
    /// Two copies of a disk may both speak.
    NoSessions,
    /// A restored store keeps its epoch.
    NoEpoch,
    /// What a restored store forgot is not issued again.
    NotIssuedAgain,
    /// Content is swept by its hash.
    SweepByHash,
    /// An append does not look whether its content is still there.
    NoContentCheck,
    /// The context of an edit is what the agent knew.
    ContextOfTheAgent,
    /// The writer does not look at what it replaces.
    BlindWriter,
    /// A snapshot's files carry no position.
    NoPositionInSnapshot,
    /// A save replaces an edit that gave way to another version on the disk.
    NothingMovedAside,
    /// What lost is counted as nothing.
    NoTally,
    /// A writer does not say what it is going to write.
    NoIntention,
    /// A step is written down in two transactions, and only the first may arrive.
    HalfWrittenDown,
}

/// Runs a schedule; tells what did not hold, and after which step.
fn run(ops: &[Op], broken: Broken) -> Result<World, (usize, String)> {
    run_in(World::new(broken), ops)
}

fn run_in(mut world: World, ops: &[Op]) -> Result<World, (usize, String)> {
    for (step, op) in ops.iter().enumerate() {
        world.step(op);
        if let Some(what) = world.failure() {
            return Err((step, what));
        }
    }
    world.settle();
    match world.failure() {
        Some(what) => Err((ops.len(), what)),
        None => world.check().map(|()| world).map_err(|what| (ops.len(), what)),
    }
}

/// Cuts a failing schedule down to steps without any of which it holds.
fn shrink(ops: &[Op], mut fails: impl FnMut(&[Op]) -> bool) -> Vec<Op> {
    let mut ops = ops.to_vec();
    let mut chunk = ops.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            if fails(&fewer) {
                ops = fewer;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    ops
}

/// What is printed of a failing schedule that was cut down.
fn report(seed: u64, ops: &[Op], result: Result<World, (usize, String)>) -> String {
    let what = match result {
        Err((step, what)) => format!("after step {step}: {what}"),
        Ok(_) => "it holds when it is cut down".to_owned(),
    };
    let steps: String = ops.iter().enumerate().map(|(step, op)| format!("\n  {step:3} {op:?}")).collect();
    format!("seed {seed}: {what}{steps}")
}

/// Stores that schedules run over.
#[derive(Clone)]
pub struct Stores {
    /// The coordinator's.
    pub store: Arc<dyn Store>,
    /// Makes one that is empty, for a region and for each copy of its disk.
    pub local: Arc<dyn Fn() -> Arc<dyn Store> + Send + Sync>,
    /// Whether the coordinator's store may fail by itself, as a server does that is killed.
    pub may_fail: bool,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

/// Runs the schedules of `seeds` over the [ledger](crate::ledger) in a store and regions in stores
/// of their own, each in a space of its own; in every other one agents are killed. Tells what
/// happened in them.
///
/// Not for a thread that runs tasks: it waits.
///
/// # Panics
///
/// When one does not hold: with its seed, cut down to the steps that matter.
#[must_use]
pub fn run_over(mut stores: impl FnMut() -> Stores, seeds: Range<u64>) -> String {
    let mut total = Account::default();
    let mut spaces = 0_u64;
    for seed in seeds {
        let ops = generate(seed);
        let ops = if seed % 2 == 0 { ops } else { with_kills(seed, ops) };
        let mut run = |ops: &[Op]| {
            spaces += 1;
            let space = SpaceName::new(format!("s{seed}-{spaces}")).expect("a name");
            run_in(World::over(stores(), space), ops)
        };
        match run(&ops) {
            Ok(world) => total.add(&world.account()),
            Err(_) => {
                let ops = shrink(&ops, |ops| run(ops).is_err());
                panic!("{}", report(seed, &ops, run(&ops)));
            }
        }
    }
    format!("{total:?}")
}
