//! The workers: each does what its plan says, one thing after the other, and writes down what it
//! saw.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op as StoreOp, Txn};
use coord_api::{
    Error, ErrorKind, IdOptions, LockMode, LockOptions, Outcome, RegisterOptions, Result, ServiceInstance,
    Takeover, Value, Version, Wait,
};
use tokio::time::{sleep, timeout};

use super::holdings::{Answer, End, Held, Holding};
use super::plan::{Act, LetGo, Step, Worker};
use super::registry::Attempt;
use super::world::{Live, World};
use crate::handle::Handle;
use crate::layout;
use crate::linearizability::{Call, Op};

/// One who works.
pub(super) struct Work {
    world: Arc<World>,
    number: usize,
    client: usize,
    /// The versions that it saw last.
    known: BTreeMap<u8, Version>,
    /// What it holds, the oldest first, by its number among the holdings.
    holds: VecDeque<usize>,
    /// Its last registration.
    registered: Option<usize>,
}

impl World {
    pub(super) fn config_key(&self, key: u8) -> String {
        format!("{}/k{key}", self.tag)
    }

    pub(super) fn lock_key(&self, key: u8) -> String {
        format!("{}/l{key}", self.tag)
    }

    pub(super) fn id_service(&self, key: u8) -> String {
        format!("{}-{key}", self.tag)
    }

    pub(super) fn service(&self) -> &str {
        &self.tag
    }
}

/// Ids that each service has.
pub(super) const IDS: u32 = 3;

impl Work {
    pub(super) fn new(world: Arc<World>, number: usize, worker: &Worker) -> Self {
        Work {
            world,
            number,
            client: worker.client,
            known: BTreeMap::new(),
            holds: VecDeque::new(),
            registered: None,
        }
    }

    /// Does all the steps.
    pub(super) async fn run(mut self, steps: &[Step]) {
        for step in steps {
            sleep(step.after).await;
            let Some(live) = self.world.live(self.client) else { return };
            self.world.notes().tally.operations += 1;
            match step.act {
                Act::Acquire { mode, wait, patience } => {
                    self.acquire(&live, step, (mode, wait), patience).await
                }
                Act::Downgrade { patience } => self.downgrade(&live, patience).await,
                Act::AcquireId { wait, patience } => self.acquire_id(&live, step, wait, patience).await,
                Act::Register { exclusive, patience } => {
                    self.register(&live, step, exclusive, patience).await
                }
                Act::Update => self.update(&live, step).await,
                Act::Discover => self.discover(&live).await,
                Act::LetGo(how) => self.let_go(&live, how).await,
                Act::List => self.list(&live).await,
                Act::SetTwo => self.set_two(&live, step).await,
                _ => self.config(&live, step).await,
            }
        }
    }

    fn say(&self, what: impl AsRef<str>) {
        self.world.line(format!("worker {} (client {}): {}", self.number, self.client, what.as_ref()));
    }

    /// Whether a failure is one that faults explain, and others than `also` do not.
    fn explained(&self, live: &Live, error: &Error, also: &[ErrorKind]) -> bool {
        let dead = error.kind() == ErrorKind::Closed && self.world.is_dead(self.client, live.generation);
        let restarting = error.kind() == ErrorKind::Closed && self.world.has_restarted();
        if error.is_transient() || dead || restarting || also.contains(&error.kind()) {
            return true;
        }
        self.world.breach(
            "r1",
            format!("worker {} (client {}): nothing explains {error:?}", self.number, self.client),
        );
        false
    }

    // Config

    async fn config(&mut self, live: &Live, step: &Step) {
        let key = self.world.config_key(step.key);
        let called = self.world.moments.next();
        let Some(op) = self.operate(live, step, &key).await else { return };
        let call = Call::new(op, called, self.world.moments.next());
        self.say(format!("k{}: {call}", step.key));
        self.world.notes().calls.entry(step.key).or_default().push(call);
    }

    fn unknown(&self, live: &Live, error: &Error) -> Option<()> {
        (self.explained(live, error, &[]) && error.outcome() == Outcome::Unknown).then_some(())
    }

    async fn operate(&mut self, live: &Live, step: &Step, key: &str) -> Option<Op> {
        let config = live.provider.config();
        let new = Value::from(format!("{}/{}", self.number, step.number));
        let known = self.known.get(&step.key).copied().unwrap_or_default();
        let expected = if step.act == Act::Create { Version::ZERO } else { known };
        let (op, now) = match step.act {
            Act::Get => match config.get_raw(key).await {
                Ok(found) => {
                    let version = found.as_ref().map_or(Version::ZERO, |found| found.version);
                    (Op::Get(found.map(|found| (found.value, found.version))), version)
                }
                Err(error) => {
                    self.explained(live, &error, &[]);
                    return None;
                }
            },
            Act::Set => match config.set_raw(key, new.clone()).await {
                Ok(version) => (Op::Set(new, Some(version)), version),
                Err(error) => (self.unknown(live, &error).map(|()| Op::Set(new, None))?, known),
            },
            Act::CompareAndSet | Act::Create => {
                match config.compare_and_set_raw(key, new.clone(), expected).await {
                    Ok(version) => (Op::CompareAndSet(expected, new, Some(Ok(version))), version),
                    Err(error) => match self.conflict(&error) {
                        Some(current) => (Op::CompareAndSet(expected, new, Some(Err(current))), current),
                        None => (
                            self.unknown(live, &error).map(|()| Op::CompareAndSet(expected, new, None))?,
                            known,
                        ),
                    },
                }
            }
            Act::CompareAndDelete => match config.compare_and_delete(key, expected).await {
                Ok(existed) => (Op::CompareAndDelete(expected, Some(Ok(existed))), Version::ZERO),
                Err(error) => match self.conflict(&error) {
                    Some(current) => (Op::CompareAndDelete(expected, Some(Err(current))), current),
                    None => {
                        (self.unknown(live, &error).map(|()| Op::CompareAndDelete(expected, None))?, known)
                    }
                },
            },
            _ => match config.delete(key).await {
                Ok(existed) => (Op::Delete(Some(existed)), Version::ZERO),
                Err(error) => (self.unknown(live, &error).map(|()| Op::Delete(None))?, known),
            },
        };
        self.known.insert(step.key, now);
        Some(op)
    }

    /// The version that a conflict carries.
    fn conflict(&self, error: &Error) -> Option<Version> {
        if error.kind() != ErrorKind::Conflict {
            return None;
        }
        let current = error.current_version();
        if current.is_none() {
            self.world.breach("r12", format!("a conflict carries the current version: {error:?}"));
        }
        current
    }

    async fn set_two(&mut self, live: &Live, step: &Step) {
        let keys = [step.key, (step.key + 1) % super::plan::KEYS];
        let value = |key: u8| Value::from(format!("{}/{}/{key}", self.number, step.number));
        let txn = keys.iter().fold(Txn::new(), |txn, key| {
            txn.then(StoreOp::put(layout::config(&self.world.config_key(*key)), value(*key)))
        });
        let called = self.world.moments.next();
        let version = match live.store.txn(txn).await {
            Ok(reply) => Some(reply.revision),
            Err(error) if self.unknown(live, &error).is_some() => None,
            Err(_) => return,
        };
        let returned = self.world.moments.next();
        for key in keys {
            self.known.extend(version.map(|version| (key, version)));
            let call = Call::new(Op::Set(value(key), version), called, returned);
            self.say(format!("k{key}, with another: {call}"));
            self.world.notes().calls.entry(key).or_default().push(call);
        }
    }

    async fn list(&mut self, live: &Live) {
        let from = self.world.truth.through();
        match live.provider.config().list_raw(&self.world.tag).await {
            Ok(snapshot) => {
                self.say(format!("list -> {} keys at {}", snapshot.items.len(), snapshot.revision));
                let items = snapshot
                    .items
                    .into_iter()
                    .map(|entry| (layout::config(&entry.key), entry.version, entry.value))
                    .collect();
                self.world.notes().registry.snapshots.push(super::registry::Snapshot {
                    rule: "r14",
                    prefix: layout::config(&format!("{}/", self.world.tag)),
                    from,
                    at: snapshot.revision,
                    items,
                });
            }
            Err(error) => {
                self.explained(live, &error, &[]);
            }
        }
    }

    // Everything leased

    async fn acquire(
        &mut self,
        live: &Live,
        step: &Step,
        (mode, wait): (LockMode, Duration),
        patience: Option<Duration>,
    ) {
        let key = self.world.lock_key(step.key);
        let options =
            LockOptions::default().with_ttl(self.world.ttl).with_wait(waiting(wait)).with_mode(mode);
        let from = self.world.truth.through();
        let answer = patiently(patience, live.provider.lock().acquire_with(&key, options)).await;
        match self.answered(
            live,
            &format!("acquire l{}, {mode:?}, within {wait:?}", step.key),
            &answer,
            &[ErrorKind::Conflict],
        ) {
            true => {
                if let Some(Ok(guard)) = answer {
                    self.granted(live, (Held::Lock(key), mode), guard, from);
                }
            }
            false => drop(answer),
        }
    }

    async fn downgrade(&self, live: &Live, patience: Option<Duration>) {
        let Some(number) = self.holds.front() else { return };
        let Some((handle, held)) = self.world.notes().holdings.downgrade(*number) else { return };
        let answer = patiently(patience, handle.downgrade()).await;
        self.say(format!("downgrade {held} -> {answer:?}"));
        match answer {
            Some(Err(error)) => {
                self.explained(live, &error, &[ErrorKind::LeaseLost]);
            }
            Some(Ok(())) if handle.mode() != LockMode::Shared => {
                self.world.breach("r46", format!("{held} was downgraded, and says that it is not shared"));
            }
            _ => {}
        }
    }

    async fn acquire_id(&mut self, live: &Live, step: &Step, wait: Duration, patience: Option<Duration>) {
        let service = self.world.id_service(step.key);
        let options =
            IdOptions::default().with_range(1..=IDS).with_ttl(self.world.ttl).with_wait(waiting(wait));
        let from = self.world.truth.through();
        let answer = patiently(patience, live.provider.allocator().acquire_id_with(&service, options)).await;
        match self.answered(
            live,
            &format!("acquire an id of s{} within {wait:?}", step.key),
            &answer,
            &[ErrorKind::Exhausted],
        ) {
            true => {
                if let Some(Ok(id)) = answer {
                    self.granted(live, (Held::Id(service, id.id()), LockMode::Exclusive), id, from);
                }
            }
            false => drop(answer),
        }
    }

    /// Writes down the answer to a call for a handle, and says whether it is a handle.
    fn answered<T>(&self, live: &Live, call: &str, answer: &Option<Result<T>>, also: &[ErrorKind]) -> bool {
        match answer {
            None => self.say(format!("{call} -> dropped")),
            Some(Ok(_)) => return true,
            Some(Err(error)) => {
                self.say(format!("{call} -> {error}"));
                self.explained(live, error, &[also, &[ErrorKind::LeaseLost]].concat());
            }
        }
        false
    }

    fn granted(
        &mut self,
        live: &Live,
        (held, mode): (Held, LockMode),
        handle: impl Handle,
        from: coord_api::Revision,
    ) -> Option<usize> {
        if self.world.is_dead(self.client, live.generation) {
            // It died with its client before anybody could use it.
            return None;
        }
        if matches!(held, Held::Lock(_)) && !handle.state().is_held() {
            self.world.breach(
                "r30",
                format!("{held} was granted to worker {} and is {:?}", self.number, handle.state()),
            );
        }
        if handle.mode() != mode {
            self.world.breach("r45", format!("{held} was asked for as {mode:?}, and is {:?}", handle.mode()));
        }
        let (token, returned) = (handle.fencing_token(), self.world.moments.next());
        self.say(format!("{held} -> token {token}"));
        let holding = Holding {
            mode,
            downgraded: false,
            held,
            token,
            worker: self.number,
            client: self.client,
            returned,
            from,
            contents: Vec::new(),
            handle: Some(Arc::new(handle)),
            end: End::None,
        };
        let number = self.world.notes().holdings.granted(holding);
        self.world.notes().tally.grants += 1;
        self.holds.push_back(number);
        Some(number)
    }

    async fn let_go(&mut self, live: &Live, how: LetGo) {
        let Some(number) = self.holds.pop_front() else { return };
        let began = self.world.moments.next();
        let (handle, held) = {
            let mut notes = self.world.notes();
            let Some(handle) = notes.holdings.let_go(number, began) else { return };
            (handle, notes.holdings.all.get(number).map(ToString::to_string).unwrap_or_default())
        };
        let released = match how {
            LetGo::Release => Some(handle.release().await),
            LetGo::Impatiently(patience) => timeout(patience, handle.release()).await.ok(),
            LetGo::Drop => None,
        };
        drop(handle);
        self.say(format!("lets {held} go, {how:?} -> {released:?}"));
        let Some(released) = released else { return };
        let head = if released.is_ok() { self.world.truth.head().await } else { None };
        if let Err(error) = &released {
            self.explained(live, error, &[ErrorKind::LeaseLost]);
        }
        if let Some(holding) = self.world.notes().holdings.all.get_mut(number) {
            let answer = released.map_or_else(Answer::Failed, |()| Answer::Released);
            holding.end = End::LetGo { began, answer, head };
        }
    }

    // The registry

    fn instance(&self, key: u8, tag: &str) -> ServiceInstance {
        ServiceInstance::new(self.world.service(), format!("i{key}"), "localhost", 80)
            .with_metadata("by", tag)
    }

    async fn register(&mut self, live: &Live, step: &Step, exclusive: bool, patience: Option<Duration>) {
        let tag = format!("{}/{}", self.number, step.number);
        let id = format!("i{}", step.key);
        let takeover = if exclusive { Takeover::Exclusive } else { Takeover::Replace };
        let options = RegisterOptions::default().with_ttl(self.world.ttl).with_takeover(takeover);
        let (called, from) = (self.world.moments.next(), self.world.truth.through());
        let attempt = Attempt {
            tag: tag.clone(),
            client: self.client,
            id: id.clone(),
            called,
            exclusive,
            holding: None,
        };
        let attempt = self.world.notes().registry.begin(attempt);
        let call = live.provider.registry().register_with(self.instance(step.key, &tag), options);
        let answer = patiently(patience, call).await;
        if !self.answered(
            live,
            &format!("register {id} as {tag}, {takeover:?}"),
            &answer,
            &[ErrorKind::Conflict],
        ) {
            return;
        }
        if let Some(Ok(registration)) = answer {
            if let Some(number) =
                self.granted(live, (Held::Instance(id), LockMode::Exclusive), registration, from)
            {
                self.registered = Some(number);
                self.world.notes().registry.granted(attempt, number);
                if let Some(holding) = self.world.notes().holdings.all.get_mut(number) {
                    holding.contents.push(tag);
                }
            }
        }
    }

    async fn update(&mut self, live: &Live, step: &Step) {
        let Some(number) = self.registered else { return };
        let tag = format!("{}/{}", self.number, step.number);
        let (id, handle) = {
            let mut notes = self.world.notes();
            let Some(holding) = notes.holdings.all.get_mut(number) else { return };
            let (Held::Instance(id), Some(handle)) = (holding.held.clone(), holding.handle.clone()) else {
                return;
            };
            holding.contents.push(tag.clone());
            notes.registry.updates(&tag, number);
            (id, handle)
        };
        let key: u8 = id.trim_start_matches('i').parse().unwrap_or_default();
        let answer = handle.update(self.instance(key, &tag)).await;
        self.say(format!("update {id} to {tag} -> {answer:?}"));
        if let Err(error) = &answer {
            self.explained(live, error, &[ErrorKind::LeaseLost]);
        }
    }

    async fn discover(&mut self, live: &Live) {
        let from = self.world.truth.through();
        match live.provider.registry().discover(self.world.service()).await {
            Ok(found) => {
                self.say(format!("discover -> {} instances at {}", found.items.len(), found.revision));
                self.world.notes().registry.discovered(self.world.service(), from, found);
            }
            Err(error) => {
                self.explained(live, &error, &[]);
            }
        }
    }
}

fn waiting(wait: Duration) -> Wait {
    if wait.is_zero() { Wait::Never } else { Wait::For(wait) }
}

/// Waits for a call, as long as patience lasts; then drops it.
async fn patiently<T>(patience: Option<Duration>, call: impl Future<Output = T>) -> Option<T> {
    match patience {
        Some(patience) => timeout(patience, call).await.ok(),
        None => Some(call.await),
    }
}
