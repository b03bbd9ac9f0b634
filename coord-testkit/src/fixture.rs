//! What a case is given: a fresh store, clients of it, and the times that are right for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_api::store::{Range, Store};
use coord_api::{Provider, Revision};
use tokio::time::timeout;

use crate::cancel::{Polled, poll_times};
use crate::harness::{Client, Harness, NotRun, Reopened, Time};
use crate::progress::Progress;
use crate::record::{RecordedProvider, RecordedStore};
use crate::wrap::{Counter, Counting, Delayed, Faults, Faulty};

/// What a case is given. Cheap to clone.
#[derive(Clone)]
pub struct Fixture {
    harness: Arc<dyn Harness>,
    seed: u64,
    /// The case that it is for: its rule, and its sentence.
    case: (&'static str, &'static str),
    /// Where what the case does is noted down, if it is.
    progress: Progress,
    /// Whether what its clients are asked is noted there, too.
    records: bool,
    /// How many clients were made.
    clients: Arc<AtomicU64>,
}

impl Fixture {
    /// The fixture of a harness: for programs that run cases, or histories, by themselves.
    pub fn new(harness: Arc<dyn Harness>) -> Self {
        Fixture {
            harness,
            seed: 0,
            progress: Progress::default(),
            records: false,
            clients: Arc::default(),
            case: ("", ""),
        }
    }

    /// Makes what is left to chance come out in another way, the same for the same seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Notes there what it is at, and what its clients are asked.
    pub(crate) fn with_progress(mut self, progress: Progress) -> Self {
        (self.progress, self.records) = (progress, true);
        self
    }

    /// The same, and what its clients are asked is not noted: for what writes down by itself what
    /// it does.
    pub(crate) fn unrecorded(&self) -> Self {
        Fixture { records: false, ..self.clone() }
    }

    /// The case is about to do this, which its verdict names should it hang.
    pub(crate) fn doing(&self, step: String) {
        self.progress.note(step);
    }

    /// What the case said last that it is about to do.
    pub(crate) fn step(&self) -> Option<String> {
        self.progress.step()
    }

    /// A further client that has spoken with its store once: how long it takes to connect, which is
    /// its own affair, is part of no other request then.
    async fn connected(&self) -> Client {
        let client = self.harness.client().await;
        // It need not be answered: servers may be out of reach at this moment.
        let first = timeout(self.soon() / 4, client.store.range(Range::key("no such key"))).await;
        if let Ok(Err(error)) = first {
            assert!(error.is_transient(), "the first request of a client failed: {error:?}");
        }
        client
    }

    /// The client, with what it is asked noted down.
    fn recorded(&self, client: Client) -> Client {
        if !self.records {
            return client;
        }
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        let store = RecordedStore::new(Arc::clone(&client.store), self.progress.clone(), number);
        let provider = RecordedProvider::new(Arc::clone(&client.provider), self.progress.clone(), number);
        client.inside(Arc::new(store), Arc::new(provider))
    }

    /// As [`recorded`](Self::recorded), of a provider.
    fn recorded_provider(&self, provider: Arc<dyn Provider>) -> Arc<dyn Provider> {
        if !self.records {
            return provider;
        }
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        Arc::new(RecordedProvider::new(provider, self.progress.clone(), number))
    }

    /// Says which case it is for.
    pub(crate) fn of(mut self, rule: &'static str, sentence: &'static str) -> Self {
        self.case = (rule, sentence);
        self
    }

    /// The rule of the case that runs.
    pub(crate) fn rule(&self) -> &'static str {
        self.case.0
    }

    /// The whole name of the case that runs: `r12::of_many_racers_exactly_one_wins`.
    pub(crate) fn case_name(&self) -> String {
        format!("{}::{}", self.case.0, self.case.1)
    }

    /// The seed of the run: with it the case does the same again.
    pub(crate) fn run_seed(&self) -> u64 {
        self.seed
    }

    /// The seed of the `n`th thing that is left to chance.
    pub fn seed(&self, n: u64) -> u64 {
        self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n
    }

    /// A further client of the store.
    pub async fn client(&self) -> Client {
        self.recorded(self.connected().await)
    }

    /// The provider of a further client, for cases that need no more of it.
    pub async fn provider(&self) -> Arc<dyn Provider> {
        self.client().await.provider
    }

    /// The store of a further client, bare.
    pub async fn store(&self) -> Arc<dyn Store> {
        self.client().await.store
    }

    /// A further client whose requests are counted.
    pub async fn counting(&self) -> (Client, Counter) {
        let counter = Counter::default();
        let client = self.wrapped(|store| Arc::new(Counting::new(store, counter.clone()))).await;
        (client, counter)
    }

    /// A further client that can be cut off, and whose answers can be lost. Its requests are
    /// counted too: [`Faults::counter`].
    pub async fn faulty(&self) -> (Client, Faults) {
        let faults = Faults::default();
        let client = self
            .wrapped(|store| {
                Arc::new(Counting::new(Faulty::new(store, faults.clone()), faults.counter().clone()))
            })
            .await;
        (client, faults)
    }

    /// A further client whose requests and answers take their time, so that they overlap with those
    /// of other clients. Each `n` has delays of its own.
    pub async fn delayed(&self, n: u64) -> Client {
        self.wrapped(|store| Arc::new(Delayed::new(store, Duration::from_millis(20), self.seed(n)))).await
    }

    /// A further client over a store inside a wrapper.
    pub async fn wrapped(&self, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Client {
        let client = self.connected().await;
        let store = wrap(Arc::clone(&client.store));
        let provider = self.harness.assemble(Arc::clone(&store));
        self.recorded(client.rewrapped(store, provider))
    }

    /// The backend's provider over any store.
    pub fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        self.recorded_provider(self.harness.assemble(store))
    }

    /// The provider of a further client, inside a namespace.
    pub async fn namespaced(&self, namespace: &str) -> Arc<dyn Provider> {
        let client = self.connected().await;
        self.recorded_provider(self.harness.namespaced(client.store, namespace))
    }

    /// Another store, fresh and empty, that has nothing to do with this one. Ends the case as *not
    /// run* where the harness makes only one.
    pub async fn another(&self) -> Fixture {
        match self.harness.another().await {
            Some(harness) => Fixture { harness, ..self.clone() },
            None => self.not_run("the harness makes no other store"),
        }
    }

    /// Forgets the history up to and including `through`.
    pub async fn compact(&self, through: Revision) {
        self.harness.compact(through).await;
    }

    /// Ends the case as *not run*, because the harness does not provide what it needs.
    pub(crate) fn not_run(&self, reason: &'static str) -> ! {
        // Not `panic_any`: nothing went wrong, so nothing is printed.
        std::panic::resume_unwind(Box::new(NotRun(reason)))
    }

    /// What the harness can do.
    pub(crate) fn harness(&self) -> &dyn Harness {
        &*self.harness
    }

    /// Kills the store and opens its data again. Only for cases that need a persistent store.
    pub async fn reopen(&self) {
        if self.harness.reopen().await == Reopened::Volatile {
            self.not_run("a volatile store has nothing to open again");
        }
    }

    /// Whether time is the kit's own.
    pub fn virtual_time(&self) -> bool {
        self.harness.time() == Time::Virtual
    }

    /// Whether calls of one client that come at once may share a revision (R82).
    pub fn batches(&self) -> bool {
        self.harness.batches()
    }

    /// A TTL, where any would do.
    pub fn ttl(&self) -> Duration {
        self.harness.ttl()
    }

    /// A TTL that no case outlives, however slow the machine is: where nothing is to expire.
    pub fn long_ttl(&self) -> Duration {
        self.ttl() * 100
    }

    /// How late the store may notice an expiry (R7).
    pub fn lag(&self) -> Duration {
        self.harness.lag()
    }

    /// By when what nobody renews is gone (R7): granted TTL + lag, and what scheduling takes.
    pub fn gone_by(&self, granted: Duration) -> Duration {
        granted + self.lag() + self.slack()
    }

    /// How much later than promised something may be seen to happen, because of scheduling alone.
    pub fn slack(&self) -> Duration {
        match self.harness.time() {
            Time::Virtual => Duration::from_millis(100),
            Time::Real => Duration::from_secs(1),
        }
    }

    /// How long a call is polled that is to be dropped at one of its await points: long enough for
    /// a store whose first requests take a while, and no longer, for some of these calls wait for
    /// what never comes.
    pub fn patience(&self) -> Duration {
        match self.harness.time() {
            Time::Virtual => Duration::from_secs(1),
            Time::Real => Duration::from_secs(2),
        }
    }

    /// Polls a call that nothing holds up at most so often and drops it then; its output, where it
    /// was done before.
    pub(crate) async fn dropped_after<F: Future>(&self, polls: usize, call: F) -> Option<F::Output> {
        match poll_times(polls, self.soon(), call).await {
            Polled::Done(output) => Some(output),
            Polled::Dropped => None,
            #[expect(clippy::panic, reason = "a case fails by panicking")]
            Polled::Idle => panic!("not within {:?}: a call is done that nothing holds up", self.soon()),
        }
    }

    /// By when something that needs a few requests and no waiting is done: for deadlines that a
    /// good backend never comes near.
    pub fn soon(&self) -> Duration {
        Duration::from_secs(20)
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture").field("time", &self.harness.time()).finish_non_exhaustive()
    }
}
