//! A good harness whose clients reach their store through something that is broken, and the proof
//! that the cases of a rule fail then.
#![allow(clippy::print_stdout, reason = "a table of what failed")]

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Store, Txn};
use coord_api::{LeaseId, Provider, Revision};
use coord_testkit::{Case, Client, Harness, Hook, Need, Reopened, Time, Verdict, run};

use super::memory::Volatile;
use crate::cases::all;

/// How many cases of a rule must fail a saboteur.
pub const CASES_AGAINST: usize = 2;

/// The variable that names some of the saboteurs, parted by commas: the others are left out.
const ONLY: &str = "COORD_TESTKIT_BACKENDS";

/// Breaks what a client is made of.
type Breaks<T> = Arc<dyn Fn(Arc<T>) -> Arc<T> + Send + Sync>;

/// A type over a store, or over a provider, that breaks one thing, for what it sends is changed, or
/// what it hears.
#[derive(Clone)]
pub struct Sabotage {
    id: &'static str,
    breaks: &'static str,
    rules: &'static [&'static str],
    broken: Broken,
}

/// What breaks the clients.
#[derive(Clone)]
struct Broken {
    store: Breaks<dyn Store>,
    provider: Breaks<dyn Provider>,
}

impl Sabotage {
    /// Named `id`, it breaks this, and with it these rules, in the store of each client.
    pub fn of_stores(
        id: &'static str,
        breaks: &'static str,
        rules: &'static [&'static str],
        store: impl Fn(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync + 'static,
    ) -> Self {
        let broken = Broken { store: Arc::new(store), provider: Arc::new(|good| good) };
        Sabotage { id, breaks, rules, broken }
    }

    /// As [`of_stores`](Self::of_stores), in the provider of each client.
    pub fn of_providers(
        id: &'static str,
        breaks: &'static str,
        rules: &'static [&'static str],
        provider: impl Fn(Arc<dyn Provider>) -> Arc<dyn Provider> + Send + Sync + 'static,
    ) -> Self {
        let broken = Broken { store: Arc::new(|good| good), provider: Arc::new(provider) };
        Sabotage { id, breaks, rules, broken }
    }
}

impl fmt::Debug for Sabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sabotage").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Proves of each that two cases of each rule that it breaks fail it, on the volatile store.
///
/// # Panics
///
/// Where fewer do.
pub fn prove(saboteurs: impl IntoIterator<Item = Sabotage>) {
    let only = env::var(ONLY).ok();
    let is_meant = |id: &str| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == id));
    let mut missed = Vec::new();
    for saboteur in saboteurs.into_iter().filter(|saboteur| is_meant(saboteur.id)) {
        for rule in saboteur.rules {
            let failed = failed_by(&saboteur.broken, rule);
            println!("| {} | {} | {rule} | {}", saboteur.id, saboteur.breaks, failed.join(", "));
            if failed.len() < CASES_AGAINST {
                missed.push(format!("{} at {rule}: {failed:?}", saboteur.id));
            }
        }
    }
    assert_eq!(
        missed,
        Vec::<String>::new(),
        "not failed at the rule that they break by {CASES_AGAINST} cases"
    );
}

/// The cases of a rule that fail a saboteur. Once there are enough the others are not run.
fn failed_by(broken: &Broken, rule: &str) -> Vec<&'static str> {
    let fails = |case: &&'static Case| {
        let broken = broken.clone();
        let verdict = run(case, async move {
            let good: Arc<dyn Harness> = Arc::new(Volatile::start());
            Arc::new(Sabotaged { good, broken }) as Arc<dyn Harness>
        });
        matches!(verdict, Verdict::Failed(_))
    };
    let of_the_rule = |case: &&'static Case| case.rule == rule && case.need != Some(Need::persistent);
    all().filter(of_the_rule).filter(fails).map(|case| case.sentence).take(CASES_AGAINST).collect()
}

/// A transaction without what it compares of a directory.
pub fn without(mut txn: Txn, directory: &str) -> Txn {
    let is_of_it = |key: &Bytes| key.starts_with(directory.as_bytes());
    txn.compares.retain(|compare| !compare.key().is_some_and(is_of_it));
    txn
}

/// A good harness, whose clients are a saboteur's.
struct Sabotaged {
    good: Arc<dyn Harness>,
    broken: Broken,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Harness for Sabotaged {
    async fn client(&self) -> Client {
        let client = self.good.client().await;
        let store = (self.broken.store)(Arc::clone(&client.store));
        let provider = (self.broken.provider)(self.good.assemble(Arc::clone(&store)));
        Client::new(store, provider, move || async move { client.crash().await })
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        self.good.assemble(store)
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.good.namespaced(store, namespace)
    }

    async fn compact(&self, through: Revision) {
        self.good.compact(through).await;
    }

    async fn reopen(&self) -> Reopened {
        self.good.reopen().await
    }

    async fn another(&self) -> Option<Arc<dyn Harness>> {
        None
    }

    async fn expire_lease(&self, lease: LeaseId) -> Hook {
        self.good.expire_lease(lease).await
    }

    fn server_faults(&self) -> &'static [&'static str] {
        &[]
    }

    async fn server_fault(&self, _: &'static str) -> Option<Box<dyn Send>> {
        None
    }

    fn time(&self) -> Time {
        self.good.time()
    }

    fn lag(&self) -> Duration {
        self.good.lag()
    }

    fn batches(&self) -> bool {
        self.good.batches()
    }

    fn ttl(&self) -> Duration {
        self.good.ttl()
    }
}
