//! Schedules: regions, instances and a store that do what such systems do to each other, in an
//! order that a seed gives; and what must hold at the end of each.
//!
//! A schedule is a list of [`Op`]s, which the seed makes and which then runs without chance: so a
//! failing one is cut down to the steps that matter and printed. The code under test is the model
//! itself; [`Broken`] changes one thing around it, and every such change must be found.

#![allow(clippy::print_stdout, reason = "what schedules found is shown on demand")]

mod account;
mod check;
mod ops;
mod store;
mod world;

pub(crate) use ops::{Op, generate, with_kills};
pub(crate) use world::World;

/// One thing that is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
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
pub(crate) fn run(ops: &[Op], broken: Broken) -> Result<World, (usize, String)> {
    let mut world = World::new(broken);
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
pub(crate) fn shrink(ops: &[Op], broken: Broken) -> Vec<Op> {
    let fails = |ops: &[Op]| run(ops, broken).is_err();
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

/// What is printed of a failing schedule.
pub(crate) fn report(seed: u64, ops: &[Op], broken: Broken) -> String {
    let ops = shrink(ops, broken);
    let what = match run(&ops, broken) {
        Err((step, what)) => format!("after step {step}: {what}"),
        Ok(_) => "it holds when it is cut down".to_owned(),
    };
    let steps: String = ops.iter().enumerate().map(|(step, op)| format!("\n  {step:3} {op:?}")).collect();
    format!("seed {seed}: {what}{steps}")
}

/// How many seeds the gate runs; more by `COORD_GLOBAL_SEEDS`.
fn seeds() -> std::ops::Range<u64> {
    let from = std::env::var("COORD_GLOBAL_FIRST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let count: u64 =
        std::env::var("COORD_GLOBAL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    from..from + count
}

/// G1 to G7, G9 to G11, G13 to G15, G17, G21, G22 and G25 on schedules of the whole protocol.
#[test]
fn every_schedule_converges_and_every_edit_is_accounted_for() {
    let mut total = account::Account::default();
    for seed in seeds() {
        let ops = generate(seed);
        match run(&ops, Broken::Nothing) {
            Ok(world) => total.add(&world.account()),
            Err(_) => panic!("{}", report(seed, &ops, Broken::Nothing)),
        }
    }
    println!("{total:?}");
    total.has_seen_everything();
}

/// G3, G4, G8, and the rest again: agents are killed at any point of a step, and go on from what
/// they had written down.
#[test]
fn every_schedule_converges_where_agents_are_killed() {
    let mut killed = account::Account::default();
    for seed in seeds() {
        let ops = with_kills(seed, generate(seed));
        match run(&ops, Broken::Nothing) {
            Ok(world) => killed.add(&world.account()),
            Err(_) => panic!("{}", report(seed, &ops, Broken::Nothing)),
        }
    }
    println!("{killed:?}");
    assert!(killed.killed > 0 && killed.why.contains_key("never written down"), "{killed:?}");
}

/// How many seeds are tried before a change counts as not found.
const SEEDS_FOR_BROKEN: u64 = 20_000;

fn is_found(broken: Broken) {
    let is_of_a_kill = matches!(broken, Broken::NoIntention | Broken::HalfWrittenDown);
    for seed in 0..SEEDS_FOR_BROKEN {
        let ops = generate(seed);
        let ops = if is_of_a_kill { with_kills(seed, ops) } else { ops };
        if let Err((step, what)) = run(&ops, broken) {
            println!("{broken:?}: seed {seed}, step {step}: {what}");
            return;
        }
    }
    panic!("{broken:?} was not found in {SEEDS_FOR_BROKEN} schedules");
}

macro_rules! broken {
    ($($name:ident: $broken:ident;)*) => {
        /// Each breaks one thing, and must be found.
        mod is_found_when {
            use super::{Broken, is_found};
            $(
                #[test]
                fn $name() {
                    is_found(Broken::$broken);
                }
            )*
        }
    };
}

broken! {
    an_append_does_not_compare_the_head: NoHeadCompare;
    log_and_files_are_two_transactions: TwoTransactions;
    the_outbox_drops_at_push: DropAtPush;
    a_reader_skips_instead_of_taking_a_snapshot: SkipInsteadOfSnapshot;
    the_outbox_is_dropped_with_a_snapshot: OutboxDroppedWithSnapshot;
    reading_removes: DrainedOnRead;
    dots_are_used_again_after_a_restore: DotsUsedAgain;
    numbers_are_not_checked: NoSeqCheck;
    a_resolution_covers_what_it_keeps_alone: ResolutionWithoutContext;
    an_edit_is_given_up_after_three_failures: RetriesExhausted;
    a_late_write_is_applied_blindly: LateWriteBlind;
    a_resolution_stands_for_nothing: NoStandsFor;
    below_the_floor_nothing_counts_as_accepted: TrimmedIsNotAccepted;
    below_the_floor_everything_counts_as_accepted: TrimmedIsAccepted;
    edits_are_not_known_by_their_save: NoEditIds;
    a_rollback_is_not_looked_for_at_hello: NoRollbackCheck;
    a_restored_store_keeps_its_epoch: NoEpoch;
    what_a_restored_store_forgot_is_gone: NotIssuedAgain;
    content_is_swept_by_its_hash: SweepByHash;
    an_append_does_not_look_for_its_content: NoContentCheck;
    a_context_is_what_the_agent_knew: ContextOfTheAgent;
    the_writer_does_not_look: BlindWriter;
    a_snapshot_has_no_positions: NoPositionInSnapshot;
    nothing_is_moved_aside: NothingMovedAside;
    what_lost_is_not_counted: NoTally;
    a_writer_does_not_say_what_it_writes: NoIntention;
    a_step_is_written_down_by_halves: HalfWrittenDown;
}

/// That one agent speaks for a region is for its operator: two agents on copies of one disk are
/// told at once. Safety does not stand on it, for the actor's chain finds the second one too.
#[test]
fn sessions_are_defence_in_depth() {
    for seed in 0..2_000 {
        let ops = generate(seed);
        assert!(run(&ops, Broken::NoSessions).is_ok(), "{}", report(seed, &ops, Broken::NoSessions));
    }
}
