//! A sample of the histories that the program of this name runs by the hundred thousand, and what
//! they promise of themselves.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, OpReply, Order, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{LeaseId, Provider, Result, Revision};
use coord_testkit::histories::{Blow, Plan, Scale, Workload, execute};
use coord_testkit::{Client, Harness, Hook, Need, Time, Verdict, cases, run};
use coord_tests::harness::{memory, sled};

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
        self.inner.watch(span, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.inner.grant_lease(ttl).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.inner.keep_alive(id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.inner.lease(id).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.inner.revoke_lease(id).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.inner.status().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
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
