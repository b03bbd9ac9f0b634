//! The clients of a history, and what the nemesis does to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coord_api::store::Store;
use coord_api::{LeaseId, Provider, Revision};
use tokio::time::{Instant, sleep_until};

use super::holdings::Holdings;
use super::nemesis::{Blow, Strike};
use super::plan::Plan;
use super::truth::Truth;
use super::{Breach, Tally};
use crate::fixture::Fixture;
use crate::harness::{Client, Hook, Network};
use crate::linearizability::{Call, Moments};
use crate::wrap::{Delayed, Fault, Faults, Faulty, Link, Replaceable, Signal};

/// A client as its workers see it.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) provider: Arc<dyn Provider>,
    /// The store, through the same link as the provider's.
    pub(super) store: Arc<dyn Store>,
    /// Raised when the client dies and another takes its place.
    pub(super) generation: u64,
}

/// A client, and the ways to disturb it.
struct Slot {
    live: Live,
    raw: Client,
    door: Replaceable,
    faults: Faults,
    network: Option<Arc<dyn Network>>,
}

/// What is written down while a history runs.
#[derive(Default)]
pub(super) struct Notes {
    /// What was called and seen, for people.
    pub(super) lines: Vec<String>,
    /// The calls of each config key.
    pub(super) calls: BTreeMap<u8, Vec<Call>>,
    pub(super) holdings: Holdings,
    /// The leases that were ended behind their owners' backs, and when that began.
    pub(super) ended_leases: Vec<(LeaseId, u64)>,
    /// What was broken, as far as it was noticed on the way.
    pub(super) breaches: Vec<Breach>,
    pub(super) tally: Tally,
    pub(super) registry: super::registry::Registered,
}

/// Everything that a history has to do with.
pub(super) struct World {
    pub(super) cx: Fixture,
    pub(super) ttl: Duration,
    latency: Duration,
    seed: u64,
    /// Part of every name, so that histories on one store do not touch each other.
    pub(super) tag: String,
    pub(super) begun: Instant,
    pub(super) moments: Arc<Moments>,
    pub(super) truth: Arc<Truth>,
    truth_door: Replaceable,
    slots: Mutex<Vec<Slot>>,
    notes: Mutex<Notes>,
    /// The links that faults under way have broken, by the number of the fault.
    broken: Mutex<BTreeMap<usize, (Option<usize>, Link)>>,
    restarted: AtomicBool,
    /// The last revision of the history, once that is over: watchers follow it so far.
    pub(super) last: Signal<Option<Revision>>,
}

impl World {
    pub(super) async fn new(cx: &Fixture, plan: &Plan) -> Result<Arc<Self>, Breach> {
        let truth_door = Replaceable::new(cx.store().await);
        let truth = Truth::begin(Arc::new(truth_door.clone())).await?;
        let world = World {
            cx: cx.clone(),
            ttl: plan.ttl,
            latency: plan.latency,
            seed: plan.seed,
            tag: format!("h{}", truth.start()),
            begun: Instant::now(),
            moments: Arc::default(),
            truth,
            truth_door,
            slots: Mutex::default(),
            notes: Mutex::default(),
            broken: Mutex::default(),
            restarted: AtomicBool::new(false),
            last: Signal::new(None),
        };
        for client in 0..plan.clients {
            let slot = world.connect(client, 0).await;
            world.slots().push(slot);
        }
        Ok(Arc::new(world))
    }

    async fn connect(&self, client: usize, generation: u64) -> Slot {
        let raw = self.cx.client().await;
        let door = Replaceable::new(Arc::clone(&raw.store));
        let faults = Faults::default();
        let seed = self.seed.wrapping_add((client as u64) << 32).wrapping_add(generation << 48);
        let store: Arc<dyn Store> =
            Arc::new(Faulty::new(Delayed::new(door.clone(), self.latency, seed), faults.clone()));
        let provider = self.cx.assemble(Arc::clone(&store));
        let network = raw.network.clone();
        Slot { live: Live { provider, store, generation }, raw, door, faults, network }
    }

    /// The present state of a client.
    pub(super) fn live(&self, client: usize) -> Option<Live> {
        self.slots().get(client).map(|slot| slot.live.clone())
    }

    /// Whether a client died meanwhile.
    pub(super) fn is_dead(&self, client: usize, generation: u64) -> bool {
        self.live(client).is_none_or(|live| live.generation != generation)
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        lock(&self.slots)
    }

    /// Writes a line of the history.
    pub(super) fn line(&self, text: impl AsRef<str>) {
        let at = self.begun.elapsed();
        self.notes().lines.push(format!("{:>9.3} s  {}", at.as_secs_f64(), text.as_ref()));
    }

    /// Something is broken.
    pub(super) fn breach(&self, rule: &'static str, what: impl Into<String>) {
        self.broken(Breach::new(rule, what));
    }

    /// Takes note of what is broken.
    pub(super) fn broken(&self, breach: Breach) {
        self.line(format!("BROKEN {breach}"));
        self.notes().breaches.push(breach);
    }

    /// Carries the faults of a plan out, each at its time, and ends them.
    pub(super) async fn strike(&self, strikes: &[Strike]) {
        // Begin and end of each, in the order of their times.
        let mut moments: Vec<(Duration, bool, usize)> = Vec::new();
        for (number, strike) in strikes.iter().enumerate() {
            moments.push((strike.at, true, number));
            moments.push((strike.at + strike.lasting, false, number));
        }
        moments.sort_by_key(|(at, begins, number)| (*at, *number, !*begins));
        let mut guards: BTreeMap<usize, Box<dyn Send>> = BTreeMap::new();
        for (at, begins, number) in moments {
            sleep_until(self.begun + at).await;
            let Some(strike) = strikes.get(number) else { continue };
            if begins {
                self.line(format!(
                    "fault {number}: {} (client {}) for {:?}",
                    strike.blow, strike.client, strike.lasting
                ));
                if self.begin(number, strike, &mut guards).await {
                    *self.notes().tally.faults.entry(strike.blow).or_default() += 1;
                }
            } else {
                guards.remove(&number);
                self.end(number, strike).await;
            }
        }
    }

    /// Begins a fault; says whether it could be made.
    async fn begin(
        &self,
        number: usize,
        strike: &Strike,
        guards: &mut BTreeMap<usize, Box<dyn Send>>,
    ) -> bool {
        let client = strike.client;
        match strike.blow {
            Blow::Cut => self.break_link(number, Some(client), Link::Down).await,
            Blow::Hang => self.break_link(number, Some(client), Link::Hung).await,
            Blow::CutAll => self.break_link(number, None, Link::Down).await,
            Blow::BreakWatches => self.faults(client, Faults::break_watches),
            Blow::Refuse => self.next_writes(strike, Fault::Refuse),
            Blow::LoseRequest => self.next_writes(strike, Fault::LoseRequest),
            Blow::LoseAnswer => self.next_writes(strike, Fault::LoseAnswer),
            Blow::Hold => self.next_writes(strike, Fault::Hold),
            Blow::Delay => self.faults(client, |faults| {
                (0..strike.times()).for_each(|_| faults.next(Fault::Delay(strike.lasting), |_| true));
            }),
            Blow::LateAnswer => self.next_writes(strike, Fault::LateAnswer(strike.lasting)),
            Blow::ExpireLease => return self.expire_lease(strike).await,
            Blow::Compact => {
                let through = self.truth.through();
                self.cx.compact(through).await;
            }
            Blow::Crash => self.crash(client).await,
            Blow::Restart => self.restart().await,
            Blow::Server(name) => match self.cx.harness().server_fault(name).await {
                Some(guard) => {
                    guards.insert(number, guard);
                }
                None => {
                    self.notes().tally.not_provided.insert(name);
                    return false;
                }
            },
        }
        true
    }

    async fn end(&self, number: usize, strike: &Strike) {
        match strike.blow {
            Blow::Cut | Blow::Hang | Blow::CutAll => {
                lock(&self.broken).remove(&number);
                self.set_links().await;
                self.line(format!("fault {number} ends"));
            }
            Blow::Hold => self.apply_held(strike.client).await,
            _ => {}
        }
    }

    /// Ends every fault that is left.
    pub(super) async fn heal(&self, clients: usize) {
        lock(&self.broken).clear();
        self.set_links().await;
        for client in 0..clients {
            self.faults(client, Faults::forget);
            self.apply_held(client).await;
        }
        self.line("all is healed");
    }

    async fn break_link(&self, number: usize, client: Option<usize>, link: Link) {
        lock(&self.broken).insert(number, (client, link));
        self.set_links().await;
    }

    /// Sets every link to the worst that a fault under way makes of it.
    async fn set_links(&self) {
        let clients = self.slots().len();
        for client in 0..clients {
            let link = {
                let broken = lock(&self.broken);
                let links = broken
                    .values()
                    .filter(|(whom, _)| whom.is_none_or(|whom| whom == client))
                    .map(|(_, link)| *link);
                links.fold(Link::Up, |worst, link| if worst == Link::Hung { worst } else { link })
            };
            let network = self.slots().get(client).and_then(|slot| slot.network.clone());
            match network {
                Some(network) => network.set(link).await,
                None => self.faults(client, |faults| faults.set(link)),
            }
        }
    }

    fn faults(&self, client: usize, disturb: impl FnOnce(&Faults)) {
        if let Some(slot) = self.slots().get(client) {
            disturb(&slot.faults);
        }
    }

    fn next_writes(&self, strike: &Strike, fault: Fault) {
        self.faults(strike.client, |faults| {
            (0..strike.times()).for_each(|_| faults.next(fault, |request| request.is_write()))
        });
    }

    async fn apply_held(&self, client: usize) {
        let held = self.slots().get(client).map(|slot| slot.faults.take_held()).unwrap_or_default();
        for request in held {
            let applied = request.apply().await;
            self.line(format!("a write of client {client} that was stuck comes through: {applied:?}"));
        }
    }

    async fn expire_lease(&self, strike: &Strike) -> bool {
        let leases = self.truth.sessions();
        // Which one, follows from the plan.
        let chosen = usize::try_from(strike.lasting.as_millis()).unwrap_or(0).checked_rem(leases.len());
        let Some(lease) = chosen.and_then(|chosen| leases.get(chosen).copied()) else { return false };
        let at = self.moments.next();
        self.notes().ended_leases.push((lease, at));
        self.line(format!("lease {lease} is ended"));
        match self.cx.harness().expire_lease(lease).await {
            Hook::Done => true,
            Hook::NotProvided(why) => {
                self.notes().tally.not_provided.insert(why);
                false
            }
        }
    }

    async fn crash(&self, client: usize) {
        let Some(generation) = self.live(client).map(|live| live.generation) else { return };
        let next = self.connect(client, generation + 1).await;
        let (dead, handles) = {
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(client) else { return };
            let at = self.moments.next();
            let handles = self.notes().holdings.crashed(client, at);
            (std::mem::replace(slot, next), handles)
        };
        self.set_links().await;
        dead.raw.crash().await;
        // Its stores answer nobody any more, whatever its link was like.
        dead.faults.heal();
        drop(handles);
    }

    /// Whether the store was opened again, or is being: its clients are closed then.
    pub(super) fn has_restarted(&self) -> bool {
        self.restarted.load(Ordering::Acquire)
    }

    async fn restart(&self) {
        self.restarted.store(true, Ordering::Release);
        lock(&self.broken).insert(usize::MAX, (None, Link::Down));
        self.set_links().await;
        // What was committed before the end is in the log, as far as it can be.
        if let Some(head) = self.truth.head().await {
            let deadline = Instant::now() + Duration::from_millis(50);
            while self.truth.through() < head && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.cx.reopen().await;
        let clients = self.slots().len();
        for client in 0..clients {
            let raw = self.cx.client().await;
            if let Some(slot) = self.slots().get_mut(client) {
                slot.door.replace(Arc::clone(&raw.store));
                slot.network = raw.network.clone();
                slot.raw = raw;
            }
        }
        self.truth_door.replace(self.cx.store().await);
        lock(&self.broken).remove(&usize::MAX);
        self.set_links().await;
        self.line("the store is there again");
    }

    /// Waits until the log reaches a revision; says whether it did.
    pub(super) async fn truth_reaches(&self, revision: Revision) -> bool {
        let reached = tokio::time::timeout(self.cx.soon(), async {
            while self.truth.through() < revision {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        reached.await.is_ok()
    }

    /// Closes every client.
    pub(super) async fn close(&self) -> Vec<coord_api::Result<()>> {
        let providers: Vec<_> = self.slots().iter().map(|slot| Arc::clone(&slot.live.provider)).collect();
        futures_util::future::join_all(providers.iter().map(|provider| provider.close())).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
