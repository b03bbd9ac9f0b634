//! A schedule over the real thing: the ledger over a store that fails, and regions in stores of
//! their own. What the store holds is read back after each step, so that what must hold is looked
//! at in the same way as in the model.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_api::store::{Entry as Stored, MAX_TXN_OPS, Op, Range, Store as RealStore, Txn};
use parking_lot::Mutex;

use super::{Agent, World};
use crate::ledger::keys::Keys;
use crate::ledger::picture::{binary, head, json};
use crate::ledger::{Clock, Ledger, LedgerError, Writer};
use crate::model::Refusal;
use crate::model::append::Draft;
use crate::model::id::{Hash, NodeId, Session, SpaceName};
use crate::model::log::Entry;
use crate::model::path::Names;
use crate::model::replica::{Change, Need, Replica};
use crate::replica::local::Local;
use crate::simulation::Stores;
use crate::simulation::faulty::{Fate, Faulty};
use crate::simulation::store::Store;

/// How many instances there are.
const INSTANCES: usize = 3;

/// How often a store is asked that does not answer.
const ANSWERS: u32 = 1_200;

/// How many keys are read at once.
const PAGE: usize = 1_000;

/// The ledger and the stores below a schedule.
pub(super) struct Over {
    runtime: tokio::runtime::Runtime,
    stores: Stores,
    /// The space, which nobody else uses.
    space: SpaceName,
    faulty: Arc<Faulty>,
    fate: Arc<Mutex<Fate>>,
    ledgers: Vec<Ledger>,
    clock: Arc<AtomicU64>,
    keys: Keys,
    backup: Vec<Stored>,
    /// What callers of the API have heard nothing of, and ask for again.
    unheard: Vec<Vec<Draft>>,
    /// The place of each agent's region.
    locals: BTreeMap<usize, Local>,
}

impl Over {
    pub(super) fn new(stores: Stores, space: SpaceName) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let fate = Arc::new(Mutex::new(Fate::Arrives));
        let is = Arc::clone(&fate);
        let faulty = Faulty::new(Arc::clone(&stores.store), move || *is.lock());
        let keys = Keys::of(&space);
        let clock = Arc::new(AtomicU64::new(0));
        let mut over = Self {
            runtime,
            stores,
            space,
            faulty,
            fate,
            ledgers: Vec::new(),
            clock,
            keys,
            backup: Vec::new(),
            unheard: Vec::new(),
            locals: BTreeMap::new(),
        };
        over.open_ledgers();
        over
    }

    /// All instances start anew.
    fn open_ledgers(&mut self) {
        self.ledgers = (0..INSTANCES)
            .map(|_| {
                let store: Arc<dyn RealStore> = Arc::<Faulty>::clone(&self.faulty);
                let clock = Arc::clone(&self.clock);
                let clock = Arc::new(move || clock.load(Ordering::SeqCst));
                let space = self.space.clone();
                let open = || {
                    let (store, space, clock) = (Arc::clone(&store), space.clone(), Arc::clone(&clock));
                    Ledger::open_with_clock(store, space, Names::Folded, clock as Clock)
                };
                self.until_it_answers(open)
            })
            .collect();
    }

    pub(super) fn late(&self) -> usize {
        self.faulty.late()
    }

    fn all(&self) -> Vec<Stored> {
        let root = self.keys.root().to_owned();
        let mut all: Vec<Stored> = Vec::new();
        loop {
            let mut range = Range::prefix(root.clone()).with_limit(PAGE);
            if let Some(last) = all.last() {
                range = range.with_after_key(last.key.clone());
            }
            let found = self.until_it_answers(|| self.stores.store.range(range.clone())).entries;
            let is_last = found.len() < PAGE;
            all.extend(found);
            if is_last {
                return all;
            }
        }
    }

    fn write(&self, ops: Vec<Op>) {
        for ops in ops.chunks(MAX_TXN_OPS) {
            let txn = ops.iter().cloned().fold(Txn::new(), Txn::then);
            self.until_it_answers(|| self.stores.store.txn(txn.clone()));
        }
    }

    /// Calls until the store answers: what is called may be repeated at any time.
    fn until_it_answers<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> T {
        for _ in 0..ANSWERS {
            match self.runtime.block_on(call()) {
                Ok(value) => return value,
                Err(error) => {
                    assert!(self.stores.may_fail, "{error:?}");
                    self.runtime.block_on(tokio::time::sleep(Duration::from_millis(50)));
                }
            }
        }
        panic!("the store has not answered {ANSWERS} times");
    }

    /// What the store holds.
    fn look(&self) -> Result<Store, String> {
        let (mut store, mut paths) = (Store::new(), BTreeMap::new());
        for found in self.all() {
            let key = &found.key;
            if *key == self.keys.head() {
                (store.head, store.revision) = (said(head(&found))?, found.modified.get());
            } else if self.keys.entry_in(key).is_some() {
                let entry: Entry = said(binary(&found))?;
                store.log.insert(entry.last(), entry);
            } else if let Some(id) = self.keys.node_in(key) {
                store.nodes.insert(id, said(binary(&found))?);
            } else if let Some(actor) = self.keys.actor_in(key) {
                store.actors.insert(actor, said(json(&found))?);
            } else if let Some(hash) = self.keys.content_in(key) {
                store.contents.insert(hash, said(json(&found))?);
            } else if self.keys.in_path(key).is_some() {
                paths.insert(found.key.clone(), String::from_utf8_lossy(&found.value).into_owned());
            }
        }
        let wanted = store.nodes.iter().filter_map(|(id, node)| {
            let visible = node.visible().filter(|visible| !visible.is_deleted())?;
            let folded = Names::Folded.fold(visible.version.path.as_str());
            Some((self.keys.path(&folded, id), node.claimed.to_string()))
        });
        let wanted: BTreeMap<_, _> = wanted.collect();
        if wanted != paths {
            return Err(format!("the index has {paths:?} instead of {wanted:?}"));
        }
        Ok(store)
    }
}

fn said<T>(result: Result<T, LedgerError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// What a call of a ledger came to, of which nobody hears if the answer got lost.
enum Answer<T> {
    Heard(T),
    Unheard,
}

impl World {
    /// A schedule over the real thing.
    pub(crate) fn over(stores: Stores, space: SpaceName) -> Self {
        let mut world = Self::empty(crate::simulation::Broken::Nothing);
        world.over = Some(Box::new(Over::new(stores, space)));
        world.populate();
        world.look();
        world
    }

    fn real(&mut self) -> &mut Over {
        self.over.as_mut().unwrap()
    }

    /// A call of an instance's ledger, with that fate for each transaction that it writes.
    fn call<T, F: Future<Output = Result<T, LedgerError>>>(
        &mut self,
        instance: usize,
        fate: Fate,
        call: impl FnOnce(Ledger) -> F,
    ) -> Result<Answer<T>, LedgerError> {
        let received = self.received();
        let over = self.real();
        over.clock.store(received, Ordering::SeqCst);
        *over.fate.lock() = fate;
        let result = over.runtime.block_on(call(over.ledgers[instance].clone()));
        *over.fate.lock() = Fate::Arrives;
        self.look();
        match result {
            Ok(value) => Ok(Answer::Heard(value)),
            Err(LedgerError::Store(error))
                if error.is_transient() && (fate != Fate::Arrives || self.real().stores.may_fail) =>
            {
                Ok(Answer::Unheard)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes down what the store holds now.
    fn look(&mut self) {
        let (found, before) = (self.real().look(), self.store.head.position);
        let found = match found {
            Ok(found) => found,
            Err(what) => return self.fail(what),
        };
        self.changed |= found.head.position != before;
        self.counted.losers += found.head.tally.listed.saturating_sub(self.store.head.tally.listed);
        for (last, entry) in found.log.range(before + 1..) {
            self.log.insert(*last, entry.clone());
            let of_regions = entry.events.iter().filter(|event| !event.dot().actor.is_instance());
            self.accepted.extend(of_regions.map(|event| event.event().edit));
        }
        self.store = found;
    }

    /// A failure that nothing explains.
    fn unexpected(&mut self, what: &str, error: &LedgerError) {
        self.fail(format!("{what}: {error}"));
    }

    pub(super) fn put_content_over(&mut self, hash: Hash) {
        self.next_object += 1;
        let object = self.next_object;
        let put = self.call(0, Fate::Arrives, |ledger| async move {
            ledger.put_content(&hash, &object.to_string()).await
        });
        match put {
            Ok(_) => {
                // Whoever asks for it anew gives the object that has it.
                self.objects.insert((hash, object));
                self.changed = true;
            }
            Err(error) => self.unexpected("put_content", &error),
        }
    }

    pub(super) fn hello_over(&mut self, agent: usize, heard: bool) {
        let (region, said) = (self.agents[agent].region.clone(), self.agents[agent].replica.hello());
        let others: Vec<Session> = (self.agents.iter().enumerate())
            .filter(|(other, it)| *other != agent && it.up && it.region == region)
            .map(|(_, it)| it.replica.session())
            .collect();
        self.epochs += 1;
        let (fresh, before) = (self.epochs, self.store.head.epoch);
        let alive = move |session: Option<Session>| session.is_some_and(|session| others.contains(&session));
        let hello = said.clone();
        let fate = match (heard, fresh % 2) {
            (true, _) => Fate::Arrives,
            (false, 0) => Fate::AnswerLost,
            (false, _) => Fate::Late,
        };
        let answer = self.call(agent % INSTANCES, fate, |ledger| async move {
            ledger.hello(&region, &hello, alive, fresh).await
        });
        match answer {
            Ok(Answer::Heard((welcome, head))) => {
                self.counted.renewed +=
                    u64::from(said.actor.is_some() && said.actor.as_ref() != Some(&welcome.actor));
                self.counted.restored += u64::from(welcome.epoch != before);
                if heard {
                    self.on(agent, |world| world.agents[agent].replica.welcome(welcome, head));
                }
            }
            Ok(Answer::Unheard) => {}
            Err(LedgerError::Refused(Refusal::Busy { .. })) => self.counted.busy += 1,
            Err(error) => self.unexpected("hello", &error),
        }
    }

    pub(super) fn push_over(&mut self, agent: usize, instance: usize, most: usize, fate: Fate) {
        let replica = &self.agents[agent].replica;
        if replica.need() != Need::Nothing {
            return;
        }
        let (session, events) =
            (replica.session(), replica.to_push().take(most).cloned().collect::<Vec<_>>());
        if events.is_empty() {
            return;
        }
        match self.call(instance, fate, |ledger| async move { ledger.push(session, events).await }) {
            Ok(Answer::Heard(pushed)) => self.on(agent, |world| {
                let replica = &mut world.agents[agent].replica;
                replica.answered(pushed.record);
                if let Some((seq, refusal)) = pushed.refused {
                    replica.refused(seq, refusal);
                }
            }),
            Ok(Answer::Unheard) => {}
            Err(error) => self.unexpected("push", &error),
        }
    }

    pub(super) fn write_over(
        &mut self,
        instance: usize,
        fate: Fate,
        writer: Writer,
        drafts: Vec<Draft>,
        seen: BTreeMap<NodeId, u64>,
    ) {
        if drafts.is_empty() {
            return;
        }
        let asked = drafts.clone();
        match self.call(
            instance,
            fate,
            |ledger| async move { ledger.write(writer, asked, seen.into()).await },
        ) {
            Ok(Answer::Unheard) if writer == Writer::Api => self.real().unheard.push(drafts),
            // It was decided by something older, or of another epoch.
            Ok(_) | Err(LedgerError::Refused(_)) => {}
            Err(error) => self.unexpected("write", &error),
        }
    }

    /// A caller that heard nothing asks again, at whatever instance.
    pub(super) fn repeat_over(&mut self, instance: usize) {
        while let Some(drafts) = self.real().unheard.pop() {
            self.write_over(instance, Fate::Arrives, Writer::Api, drafts, BTreeMap::new());
        }
    }

    pub(super) fn pull_over(&mut self, agent: usize, instance: usize, most: usize) {
        let reads = |replica: &Replica| matches!(replica.need(), Need::Nothing | Need::Pull);
        if !reads(&self.agents[agent].replica) {
            return;
        }
        let cursor = self.agents[agent].replica.base().cursor;
        match self.call(instance, Fate::Arrives, |ledger| async move { ledger.entries(cursor, most).await }) {
            Ok(Answer::Heard((head, entries))) => {
                self.agents[agent].replica.compare(&head);
                for entry in entries {
                    if !reads(&self.agents[agent].replica) {
                        return;
                    }
                    match self.on(agent, |world| world.agents[agent].replica.fold(&entry, most)) {
                        Ok(folded) => self.changed |= folded > 0,
                        Err(crate::model::state::Astray::Unreadable(refusal)) => {
                            return self.fail(refusal.to_string());
                        }
                        Err(_) => return,
                    }
                }
            }
            Ok(Answer::Unheard) => {}
            Err(LedgerError::Trimmed { .. }) => {
                let head = self.store.head.clone();
                self.agents[agent].replica.compare(&head);
            }
            Err(error) => self.unexpected("entries", &error),
        }
    }

    pub(super) fn page_over(&mut self, agent: usize, most: usize) {
        let replica = &self.agents[agent].replica;
        let Some(actor) = replica.actor().cloned().filter(|_| replica.need() == Need::Snapshot) else {
            return;
        };
        if !replica.is_filling() {
            let begun =
                self.call(0, Fate::Arrives, |ledger| async move { ledger.begin_snapshot(&actor).await });
            let (head, record) = match begun {
                Ok(Answer::Heard(begun)) => begun,
                Ok(Answer::Unheard) => return,
                Err(error) => return self.unexpected("begin_snapshot", &error),
            };
            if self.agents[agent].replica.begin_snapshot(&head, record).is_err() {
                return;
            }
            self.counted.snapshots += 1;
        }
        let replica = &self.agents[agent].replica;
        let (after, newer) = (replica.snapshot_after(), replica.snapshot_newer_than());
        let page = self
            .call(0, Fate::Arrives, |ledger| async move { ledger.page(after.as_ref(), newer, most).await });
        let (epoch, page) = match page {
            Ok(Answer::Heard(page)) => page,
            Ok(Answer::Unheard) => return,
            Err(error) => return self.unexpected("page", &error),
        };
        self.changed = true;
        let last = page.is_empty();
        self.on(agent, |world| {
            let replica = &mut world.agents[agent].replica;
            replica.page(epoch, page);
            if last {
                replica.finish_snapshot();
            }
        });
    }

    pub(super) fn trim_over(&mut self, floor: u64) {
        match self.call(0, Fate::Arrives, |ledger| async move { ledger.trim(floor).await }) {
            Ok(_) => {}
            Err(error) => self.unexpected("trim", &error),
        }
    }

    /// Whether it is forgotten.
    pub(super) fn forget_content_over(&mut self, hash: Hash) -> bool {
        let seen = self.store.head.position;
        let fate = if self.next_object % 3 == 0 { Fate::Late } else { Fate::Arrives };
        match self.call(1, fate, |ledger| async move { ledger.forget_content(&hash, seen).await }) {
            Ok(Answer::Heard(forgotten)) => return forgotten.is_some(),
            Ok(Answer::Unheard) => {}
            Err(error) => self.unexpected("forget_content", &error),
        }
        false
    }

    pub(super) fn arrive_over(&mut self, which: u8) {
        let over = self.real();
        let late = super::pick(which, over.late());
        // Where the store does not answer, it may have arrived or not.
        let arrived = over.runtime.block_on(over.faulty.arrives(late));
        assert!(over.stores.may_fail || arrived.is_ok(), "{arrived:?}");
        self.counted.late += 1;
        self.look();
    }

    pub(super) fn back_up_over(&mut self) {
        let all = self.real().all();
        self.real().backup = all;
    }

    /// The keys are what they were, but for the content, which is kept elsewhere.
    pub(super) fn restore_over(&mut self, told: Option<u32>) {
        let over = self.real();
        over.faulty.forget_late();
        over.unheard.clear();
        let content = |key: &[u8]| over.keys.content_in(key).is_some();
        let gone = over.all().into_iter().filter(|found| !content(&found.key));
        let gone = gone.map(|found| Op::delete(found.key)).collect();
        let back = over.backup.iter().filter(|found| !content(&found.key));
        let back = back.map(|found| Op::put(found.key.clone(), found.value.clone())).collect();
        over.write(gone);
        over.write(back);
        over.open_ledgers();
        if let Some(fresh) = told {
            over.until_it_answers(|| over.ledgers[0].restored(fresh));
            over.open_ledgers();
        }
        match over.look() {
            Ok(found) => self.store = found,
            Err(what) => self.fail(what),
        }
        if told.is_some_and(|fresh| fresh != self.store.head.epoch) {
            self.fail("a store that was restored is in the epoch that it was in");
        }
    }

    /// The agent's region is written down in its own store too, and is the same there.
    pub(super) fn write_local(&mut self, agent: usize, changes: Vec<Change>) {
        let Agent { region, replica, .. } = &self.agents[agent];
        let (region, in_use) = (region.clone(), replica.generations_in_use());
        let over = self.over.as_mut().unwrap();
        let local = match over.locals.entry(agent) {
            std::collections::btree_map::Entry::Occupied(local) => local.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let store = (over.stores.local)();
                let mut local = Local::new(store, &over.space, &region);
                over.runtime.block_on(local.claim_and_read()).unwrap();
                place.insert(local)
            }
        };
        over.runtime.block_on(local.write(changes)).unwrap();
        over.runtime.block_on(local.clear(in_use, in_use));
    }

    /// The agent's disk is another one: its region is written down anew.
    pub(super) fn replace_local(&mut self, agent: usize) {
        if self.over.is_none() {
            return;
        }
        self.real().locals.remove(&agent);
        let parts: Vec<Change> =
            self.agents[agent].local.iter().map(|(part, value)| (*part, Some(value.clone()))).collect();
        self.write_local(agent, parts);
    }

    pub(super) fn read_local(&mut self, agent: usize) -> Option<Replica> {
        let over = self.over.as_mut()?;
        let local = over.locals.get_mut(&agent)?;
        over.runtime.block_on(local.claim_and_read()).unwrap()
    }
}
