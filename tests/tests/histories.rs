//! A sample of the histories that the program of this name runs by the hundred thousand, and what
//! they promise of themselves.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    OpReply, Order, Range, RangeReply, Span, Store, StoreEvent, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, ErrorKind, LeaseId, Provider, Result, Revision};
use coord_testkit::histories::{Blow, Plan, Scale, Workload, execute};
use coord_testkit::saboteurs::saboteurs;
use coord_testkit::{Client, Harness, Hook, Need, Time, Verdict, cases, run};
use coord_tests::harness::{memory, sled, sqlite};
use futures_util::StreamExt;

fn plan(seed: u64, workload: Workload, restarts: bool) -> Plan {
    let scale =
        Scale { operations: 200, strikes: 12, restarts, server_faults: &[], ttl: Duration::from_secs(10) };
    Plan::draw(seed, workload, &scale)
}

/// Runs histories of all workloads with seeds that nothing else uses.
fn sample(seeds: std::ops::Range<u64>, restarts: bool, harness: impl Fn() -> Arc<dyn Harness>) {
    for (seed, workload) in seeds.zip(Workload::ALL.into_iter().cycle()) {
        let plan = plan(seed, workload, restarts);
        let outcome = execute(async { harness() }, &plan);
        assert!(outcome.breaches.is_empty(), "{plan}{}", outcome.history.join("\n"));
        assert_eq!(outcome.tally.operations, 200);
    }
}

#[test]
fn a_sample_on_memory_breaks_nothing() {
    sample(1_000_000..1_000_200, false, || Arc::new(memory::Volatile::start()));
}

#[test]
fn a_sample_on_sled_breaks_nothing() {
    sample(2_000_000..2_000_050, true, || Arc::new(sled::Durable::start()));
}

#[test]
fn a_sample_on_sqlite_breaks_nothing() {
    sample(3_000_000..3_000_015, true, || Arc::new(sqlite::File::start()));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for workload in Workload::ALL {
        for seed in 0..10 {
            let mut plan = plan(seed, workload, false);
            // The store wakes the streams of a client that ends in the order of a hash map.
            plan.strikes.retain(|strike| strike.blow != Blow::Crash);
            let history =
                || execute(async { Arc::new(memory::Volatile::start()) as Arc<dyn Harness> }, &plan).history;
            let (one, other) = (history(), history());
            let differ = one.iter().zip(&other).find(|(one, other)| one != other);
            assert!(differ.is_none() && one.len() == other.len(), "{workload:?} {seed}: {differ:#?}");
        }
    }
}

#[test]
fn what_needs_a_restart_is_not_run_on_a_store_that_cannot() {
    for case in cases().filter(|case| case.need == Some(Need::persistent)) {
        let verdict = run(case, async { Arc::new(memory::Volatile::start()) as Arc<dyn Harness> });
        assert!(matches!(verdict, Verdict::NotRun(_)), "{}::{} {verdict}", case.rule, case.sentence);
    }
}

/// What is wrong with a store, or missing from its harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twist {
    /// Every fifth read finds what the last read of the same found.
    StaleReads,
    /// A range by create revision comes by key.
    AlwaysByKey,
    /// A deletion says that there was something to delete.
    AlwaysExisted,
    /// Some transactions fail as a bug would.
    Buggy,
    /// Whoever closes a client is told that it failed.
    NoClose,
    /// A watch leaves some revisions out.
    Forgetful,
    /// The harness panics where history is to be compacted.
    NoCompaction,
    /// Nothing is wrong; but no lease can be ended.
    NoExpiry,
}

struct Twisted(memory::Volatile, Twist);

#[async_trait]
impl Harness for Twisted {
    async fn client(&self) -> Client {
        let client = self.0.client().await;
        let store: Arc<dyn Store> = Arc::new(TwistedStore {
            inner: Arc::clone(&client.store),
            twist: self.1,
            reads: Mutex::default(),
            written: AtomicUsize::new(0),
        });
        Client::new(Arc::clone(&store), self.0.assemble(store), move || client.crash())
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        self.0.assemble(store)
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.0.namespaced(store, namespace)
    }

    async fn compact(&self, through: Revision) {
        assert!(self.1 != Twist::NoCompaction, "I cannot compact");
        self.0.compact(through).await;
    }

    async fn expire_lease(&self, lease: LeaseId) -> Hook {
        if self.1 == Twist::NoExpiry {
            return Hook::NotProvided("nobody can end a lease");
        }
        self.0.expire_lease(lease).await
    }

    fn time(&self) -> Time {
        self.0.time()
    }

    fn lag(&self) -> Duration {
        self.0.lag()
    }
}

#[derive(Debug)]
struct TwistedStore {
    inner: Arc<dyn Store>,
    twist: Twist,
    reads: Mutex<HashMap<String, (u32, RangeReply)>>,
    written: AtomicUsize,
}

#[async_trait]
impl Store for TwistedStore {
    async fn range(&self, mut range: Range) -> Result<RangeReply> {
        if self.twist == Twist::AlwaysByKey {
            range.order = Order::Key;
        }
        let of = format!("{range:?}");
        let last = self.reads.lock().expect("nothing panics in here").get(&of).cloned();
        let times = last.as_ref().map_or(0, |(times, _)| times + 1);
        let reply = match last {
            Some((_, stale)) if self.twist == Twist::StaleReads && times % 5 == 4 => stale,
            _ => self.inner.range(range).await?,
        };
        self.reads.lock().expect("nothing panics in here").insert(of, (times, reply.clone()));
        Ok(reply)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        if self.twist == Twist::Buggy && self.written.fetch_add(1, Ordering::SeqCst) % 30 == 29 {
            return Err(Error::new(ErrorKind::Internal, "store.txn", "a bug"));
        }
        let mut reply = self.inner.txn(txn).await?;
        if self.twist == Twist::AlwaysExisted {
            for reply in &mut reply.replies {
                if let OpReply::Delete { existed } = reply {
                    *existed = true;
                }
            }
        }
        Ok(reply)
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = self.inner.watch(span, after).await?;
        if self.twist != Twist::Forgetful {
            return Ok(watch);
        }
        let told = |item: &Result<StoreEvent>| {
            let forgotten = matches!(item, Ok(StoreEvent::Batch(batch)) if batch.revision.get() % 9 == 8);
            std::future::ready(!forgotten)
        };
        Ok(StoreWatch::new(watch.armed(), watch.filter(told)))
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await?;
        match self.twist {
            Twist::NoClose => Err(Error::new(ErrorKind::Internal, "store.close", "it does not close")),
            _ => Ok(()),
        }
    }

    coord_api::forward_store! {
        self => self.inner;
        grant_lease, keep_alive, lease, revoke_lease, status
    }
}

/// What one of the kit's cases says of a twisted store.
fn verdict(rule: &str, sentence: &str, twist: Twist) -> Verdict {
    let case =
        cases().find(|case| case.rule == rule && case.sentence == sentence).expect("the case is there");
    run(case, async move { Arc::new(Twisted(memory::Volatile::start(), twist)) as Arc<dyn Harness> })
}

/// What it failed with.
fn failure(rule: &str, sentence: &str, twist: Twist) -> String {
    match verdict(rule, sentence, twist) {
        Verdict::Failed(why) => {
            assert!(why.contains(&format!("{rule}: ")), "{why}");
            assert!(
                why.contains(&format!("Again: COORD_TESTKIT_SEED=0 cargo test {rule}::{sentence}")),
                "{why}"
            );
            why
        }
        other => panic!("{twist:?} was not noticed: {other}"),
    }
}

/// A stale read needs few operations to be seen: what wrote, what wrote over it, and reads.
#[test]
fn a_failed_history_names_rule_and_seed_and_is_the_shortest() {
    let why = failure("r10", "random_histories_under_faults_are_linearizable", Twist::StaleReads);
    let shown = why.lines().filter(|line| line.contains("worker ")).count();
    assert!(shown > 0 && shown <= 20, "{shown} operations of 200 are left:\n{why}");
}

#[test]
fn a_failed_sequence_names_rule_and_seed_and_is_the_shortest() {
    let sentence = "random_sequences_answer_as_the_model_does";
    for (rule, twist, longest) in
        [("s2", Twist::AlwaysByKey, 5), ("s3", Twist::AlwaysExisted, 1), ("r13", Twist::AlwaysExisted, 1)]
    {
        let why = failure(rule, sentence, twist);
        let shown = why.lines().filter(|line| line.starts_with("    ")).count();
        assert!(shown > 0 && shown <= longest, "{shown} operations are left:\n{why}");
    }
}

#[test]
fn without_a_hook_that_it_needs_a_history_is_not_run() {
    let verdict = verdict("r25", "in_random_histories_grants_never_overlap_and_tokens_rise", Twist::NoExpiry);
    assert_eq!(verdict, Verdict::NotRun("nobody can end a lease".to_owned()));
}

/// Also where faults are under way that only the nemesis would have ended.
#[test]
fn a_nemesis_that_goes_down_fails_its_history_and_ends_it() {
    let mut met = 0;
    for seed in 0..20 {
        let plan = plan(seed, Workload::Locks, false);
        if !plan.strikes.iter().any(|strike| strike.blow == Blow::Compact) {
            continue;
        }
        met += 1;
        let harness =
            async { Arc::new(Twisted(memory::Volatile::start(), Twist::NoCompaction)) as Arc<dyn Harness> };
        let outcome = execute(harness, &plan);
        let told: Vec<String> = outcome.breaches.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|what| what == "r1: the nemesis went down: I cannot compact"), "{told:?}");
    }
    assert!(met > 0);
}

/// Whichever rule a history, or a sequence, is run for: what it shows to be broken fails it, under
/// the name and in the words of the rule that is broken.
#[test]
fn a_breach_of_any_rule_fails_the_case_that_shows_it() {
    let sequences = "random_sequences_answer_as_the_model_does";
    for (case, sentence, twist, broken) in [
        ("r35", "in_random_histories_a_discovery_is_one_snapshot", Twist::StaleReads, "r35"),
        ("r21", "in_random_histories_what_is_told_was_done", Twist::StaleReads, "r10"),
        ("r14", "in_random_histories_a_list_is_one_snapshot", Twist::Buggy, "r1"),
        ("r10", "random_histories_under_faults_are_linearizable", Twist::NoClose, "r8"),
        ("r29", "random_histories_leave_no_ghost", Twist::NoClose, "r8"),
        ("r10", "random_histories_under_faults_are_linearizable", Twist::Forgetful, "r11"),
        ("s1", sequences, Twist::AlwaysByKey, "s2"),
        ("s5", sequences, Twist::AlwaysExisted, "s3"),
    ] {
        let why = match verdict(case, sentence, twist) {
            Verdict::Failed(why) => why,
            other => panic!("{case} with {twist:?}: {other}"),
        };
        assert!(why.starts_with(&format!("{broken}: ")), "{case} with {twist:?}: {why}");
        let rule = format!("\nThe rule, in the contract's words:\n  {} ", broken.to_uppercase());
        assert!(why.contains(&rule), "{why}");
        let again = format!("\nAgain: COORD_TESTKIT_SEED=0 cargo test {case}::{sentence}\n");
        assert!(why.contains(&again), "{why}");
    }
}

/// Whether histories of shared locks show that a saboteur of the kit breaks a rule.
fn show(id: &str, rule: &str) -> bool {
    let saboteur = saboteurs().find(|saboteur| saboteur.id == id).expect("it is one of the kit's");
    (0..20).any(|seed| {
        let harness = async { saboteur.over(Arc::new(memory::Volatile::start())) };
        execute(harness, &plan(seed, Workload::SharedLocks, false)).breaks(rule)
    })
}

#[test]
fn what_is_wrong_with_shared_locks_shows_in_their_histories() {
    for (id, rule) in [
        ("all-shared", "r45"),
        ("mode-ignored", "r45"),
        ("says-exclusive", "r45"),
        ("reader-overtakes-writer", "r45"),
        // Its holder counts on an entry that is gone.
        ("downgrade-removes-the-entry", "r33"),
        ("downgrade-unlocks", "r33"),
    ] {
        assert!(show(id, rule), "{id}: nothing shows that it breaks {rule}");
    }
}
