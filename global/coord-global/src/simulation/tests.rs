//! Schedules of the model, and what is broken on purpose.

#![allow(clippy::print_stdout, reason = "what schedules found is shown on demand")]

use super::account::Account;
use super::ops::{Op, generate, with_kills};
use super::{Broken, report, run, shrink};

fn failing(seed: u64, ops: &[Op], broken: Broken) -> String {
    let ops = shrink(ops, |ops| run(ops, broken).is_err());
    report(seed, &ops, run(&ops, broken))
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
    let mut total = Account::default();
    for seed in seeds() {
        let ops = generate(seed);
        match run(&ops, Broken::Nothing) {
            Ok(world) => total.add(&world.account()),
            Err(_) => panic!("{}", failing(seed, &ops, Broken::Nothing)),
        }
    }
    println!("{total:?}");
    total.has_seen_everything();
}

/// G3, G4, G8, and the rest again: agents are killed at any point of a step, and go on from what
/// they had written down.
#[test]
fn every_schedule_converges_where_agents_are_killed() {
    let mut killed = Account::default();
    for seed in seeds() {
        let ops = with_kills(seed, generate(seed));
        match run(&ops, Broken::Nothing) {
            Ok(world) => killed.add(&world.account()),
            Err(_) => panic!("{}", failing(seed, &ops, Broken::Nothing)),
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
        assert!(run(&ops, Broken::NoSessions).is_ok(), "{}", failing(seed, &ops, Broken::NoSessions));
    }
}
