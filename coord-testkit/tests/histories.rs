//! A sample of the histories that the example of this name runs by the hundred thousand, and what they promise of themselves.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "harness/memory.rs"]
mod memory;
#[path = "harness/sled.rs"]
mod sled;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply};
use coord_api::{LeaseId, Provider, Result, Revision};
use coord_testkit::histories::{Blow, Plan, Scale, Workload, execute};
use coord_testkit::{Client, Harness, Time, Verdict, cases, run};

fn plan(seed: u64, workload: Workload, restarts: bool) -> Plan {
    let scale = Scale { operations: 200, strikes: 12, restarts, server_faults: &[], ttl: Duration::from_secs(10) };
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
            let history = || execute(async { Arc::new(memory::Volatile::start()) as Arc<dyn Harness> }, &plan).history;
            let (one, other) = (history(), history());
            let differ = one.iter().zip(&other).find(|(one, other)| one != other);
            assert!(differ.is_none() && one.len() == other.len(), "{workload:?} {seed}: {differ:#?}");
        }
    }
}

/// A harness whose stores answer every fifth read with what the last read of the same found.
struct Stale(memory::Volatile);

#[async_trait]
impl Harness for Stale {
    async fn client(&self) -> Client {
        self.0.client().await
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        self.0.assemble(Arc::new(StaleReads { inner: store, reads: AtomicUsize::new(0), last: Mutex::default() }))
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.0.namespaced(store, namespace)
    }

    async fn compact(&self, through: Revision) {
        self.0.compact(through).await;
    }

    fn time(&self) -> Time {
        self.0.time()
    }

    fn lag(&self) -> Duration {
        self.0.lag()
    }
}

#[derive(Debug)]
struct StaleReads {
    inner: Arc<dyn Store>,
    reads: AtomicUsize,
    last: Mutex<HashMap<String, RangeReply>>,
}

#[async_trait]
impl Store for StaleReads {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        let of = format!("{range:?}");
        let last = self.last.lock().expect("nothing panics in here").get(&of).cloned();
        if let Some(stale) = last.filter(|_| self.reads.fetch_add(1, Ordering::SeqCst) % 5 == 4) {
            return Ok(stale);
        }
        let reply = self.inner.range(range).await?;
        self.last.lock().expect("nothing panics in here").insert(of, reply.clone());
        Ok(reply)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.inner.txn(txn).await
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

/// A stale read needs three operations to be seen: two writes, or a write and what it wrote over, and the read.
#[test]
fn a_failure_names_rule_and_seed_and_shows_the_shortest_history() {
    let sentence = "random_histories_under_faults_are_linearizable";
    let case = cases().find(|case| case.sentence == sentence).expect("the case is there");
    let verdict = run(case, async { Arc::new(Stale(memory::Volatile::start())) as Arc<dyn Harness> });
    let Verdict::Failed(why) = verdict else { panic!("a stale read was not noticed: {verdict}") };
    assert!(why.contains("r10: "), "{why}");
    assert!(why.contains(&format!("Again: COORD_TESTKIT_SEED=0 cargo test r10::{sentence}")), "{why}");
    let shown = why.lines().filter(|line| line.contains("worker ")).count();
    assert!(shown > 0 && shown <= 25, "{shown} operations of 200 are left:\n{why}");
}
