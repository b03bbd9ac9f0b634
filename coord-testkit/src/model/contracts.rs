//! The model of the contracts: what config, locks, ids and the registry answer when nothing else
//! happens at once (R10 to R14, R25 to R27, R33 to R35, R38, R41 to R44).

use std::collections::BTreeMap;
use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::{
    Error, ErrorKind, FencingToken, HandleState, IdOptions, InstanceId, LockGuard, LockOptions, Provider,
    RegisterOptions, Registration, ServiceInstance, Takeover, Value, Version, Wait,
};
use proptest::prelude::*;

use super::{Extent, Mismatch, check, holds, same};
use crate::fixture::Fixture;

/// How many clients take turns.
const CLIENTS: usize = 3;

/// The names, which meet each other as prefixes do.
const NAMES: [&str; 4] = ["a", "a/b", "ab", "b/c"];

/// The ids of the range.
const IDS: u32 = 3;

/// Which contract a sequence uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contract {
    Config,
    Locks,
    Ids,
    Registry,
}

/// The version that a caller expects.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// The present one; zero where the key is absent.
    Present,
    Absent,
    /// One that the key, or another, had before.
    Past(usize),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Get(usize),
    Set(usize, u8),
    CompareAndSet(usize, u8, Expected),
    Delete(usize),
    CompareAndDelete(usize, Expected),
    /// A directory, by its first segment; everything where there is none.
    List(Option<usize>),
    TryLock(usize),
    /// One of the guards that were ever given out.
    Unlock(usize),
    AcquireId,
    ReleaseId(usize),
    Register(usize, u8, bool),
    Update(usize, u8),
    Unregister(usize),
    Discover,
}

fn name() -> impl Strategy<Value = usize> + Clone {
    0..NAMES.len()
}

fn expected() -> impl Strategy<Value = Expected> + Clone {
    prop_oneof![3 => Just(Expected::Present), 1 => Just(Expected::Absent), 1 => (0..5_usize).prop_map(Expected::Past)]
}

fn step(contract: Contract) -> BoxedStrategy<(usize, Step)> {
    let any_handle = || 0..12_usize;
    let step = match contract {
        Contract::Config => prop_oneof![
            1 => name().prop_map(Step::Get),
            2 => (name(), any::<u8>()).prop_map(|(name, value)| Step::Set(name, value)),
            3 => (name(), any::<u8>(), expected()).prop_map(|(name, value, expected)| Step::CompareAndSet(name, value, expected)),
            1 => name().prop_map(Step::Delete),
            2 => (name(), expected()).prop_map(|(name, expected)| Step::CompareAndDelete(name, expected)),
            1 => prop::option::of(name()).prop_map(Step::List),
        ]
        .boxed(),
        Contract::Locks => prop_oneof![name().prop_map(Step::TryLock), any_handle().prop_map(Step::Unlock)].boxed(),
        Contract::Ids => prop_oneof![3 => Just(Step::AcquireId), 2 => any_handle().prop_map(Step::ReleaseId)].boxed(),
        Contract::Registry => prop_oneof![
            3 => (0..2_usize, any::<u8>(), any::<bool>()).prop_map(|(id, content, exclusive)| Step::Register(id, content, exclusive)),
            2 => (any_handle(), any::<u8>()).prop_map(|(handle, content)| Step::Update(handle, content)),
            2 => any_handle().prop_map(Step::Unregister),
            1 => Just(Step::Discover),
        ]
        .boxed(),
    };
    (0..CLIENTS, step).boxed()
}

/// A handle that was given out, and whether it is held.
struct Given<H> {
    handle: H,
    client: usize,
    held: bool,
}

/// What the contracts should answer: the model.
struct Model {
    tag: String,
    config: BTreeMap<String, (Value, Version)>,
    /// Every version that there was.
    versions: Vec<Version>,
    locks: Vec<Given<LockGuard>>,
    ids: Vec<Given<InstanceId>>,
    /// The registrations, and what each wants to be registered.
    instances: Vec<(Given<Registration>, ServiceInstance)>,
    tokens: BTreeMap<String, FencingToken>,
}

impl Model {
    fn name(&self, name: usize) -> String {
        format!("{}/{}", self.tag, NAMES[name])
    }

    fn version(&self, name: &str) -> Version {
        self.config.get(name).map_or(Version::ZERO, |(_, version)| *version)
    }

    fn expected(&self, name: &str, expected: Expected) -> Version {
        match expected {
            Expected::Present => self.version(name),
            Expected::Absent => Version::ZERO,
            Expected::Past(back) => self.versions.iter().rev().nth(back).copied().unwrap_or_default(),
        }
    }

    fn written(&mut self, name: String, value: Value, version: Version) -> Result<(), Mismatch> {
        let last = self.versions.last().copied().unwrap_or_default();
        holds("r11", version > last, || format!("version {version} after version {last}"))?;
        self.versions.push(version);
        self.config.insert(name, (value, version));
        Ok(())
    }

    /// A grant carries a greater token than every earlier one of the same thing.
    fn granted(&mut self, rule: &'static str, what: String, token: FencingToken) -> Result<(), Mismatch> {
        let last = self.tokens.get(&what).copied();
        holds(rule, last.is_none_or(|last| token > last), || {
            format!("{what}: token {token} after {last:?}")
        })?;
        self.tokens.insert(what, token);
        Ok(())
    }

    /// What a step is about, where there is that.
    fn about(&self, step: Step) -> Option<String> {
        match step {
            Step::Get(name)
            | Step::Set(name, _)
            | Step::CompareAndSet(name, _, _)
            | Step::Delete(name)
            | Step::CompareAndDelete(name, _)
            | Step::TryLock(name) => Some(self.name(name)),
            Step::Unlock(number) => self.locks.get(number).map(|given| given.handle.key().to_owned()),
            Step::ReleaseId(number) => self.ids.get(number).map(|given| format!("id {}", given.handle.id())),
            Step::Register(id, _, _) => Some(format!("{}/i{id}", self.tag)),
            Step::Update(number, _) | Step::Unregister(number) => {
                self.instances.get(number).map(|(_, wanted)| format!("{}/{}", wanted.name, wanted.id))
            }
            Step::List(_) | Step::AcquireId | Step::Discover => Some(self.tag.clone()),
        }
    }

    /// Who holds an instance now.
    fn owner(&self, id: &str) -> Option<usize> {
        self.instances.iter().position(|(given, wanted)| given.held && wanted.id == id)
    }

    async fn config(&mut self, provider: &dyn Provider, step: Step) -> Result<(), Mismatch> {
        let config = provider.config();
        match step {
            Step::Get(name) => {
                let name = self.name(name);
                let found = config.get_raw(&name).await.map_err(|error| failed("r10", &error))?;
                same(
                    "r10",
                    || format!("get {name}"),
                    &found.map(|found| (found.value, found.version)),
                    &self.config.get(&name).cloned(),
                )
            }
            Step::Set(name, value) => {
                let (name, value) = (self.name(name), Value::from(vec![value]));
                let version =
                    config.set_raw(&name, value.clone()).await.map_err(|error| failed("r10", &error))?;
                self.written(name, value, version)
            }
            Step::CompareAndSet(name, value, expected) => {
                let (name, value) = (self.name(name), Value::from(vec![value]));
                let (present, expected) = (self.version(&name), self.expected(&name, expected));
                let what =
                    || format!("compare-and-set {name}, expecting {expected} where there is {present}");
                match config.compare_and_set_raw(&name, value.clone(), expected).await {
                    Ok(version) => {
                        same("r12", what, &expected, &present)?;
                        self.written(name.clone(), value, version)
                    }
                    Err(error) => {
                        same("r12", what, &conflict(&error), &(expected != present).then_some(present))
                    }
                }
            }
            Step::Delete(name) => {
                let name = self.name(name);
                let existed = config.delete(&name).await.map_err(|error| failed("r13", &error))?;
                same("r13", || format!("delete {name}"), &existed, &self.config.remove(&name).is_some())
            }
            Step::CompareAndDelete(name, expected) => {
                let name = self.name(name);
                let (present, expected) = (self.version(&name), self.expected(&name, expected));
                let what =
                    || format!("compare-and-delete {name}, expecting {expected} where there is {present}");
                match config.compare_and_delete(&name, expected).await {
                    Ok(existed) => {
                        same("r13", what, &(expected, existed), &(present, present != Version::ZERO))?;
                        self.config.remove(&name);
                        Ok(())
                    }
                    Err(error) => {
                        same("r13", what, &conflict(&error), &(expected != present).then_some(present))
                    }
                }
            }
            Step::List(name) => {
                let directory = name.map_or_else(|| self.tag.clone(), |name| self.name(name));
                let listed = config.list_raw(&directory).await.map_err(|error| failed("r14", &error))?;
                let listed: Vec<_> =
                    listed.items.into_iter().map(|entry| (entry.key, (entry.value, entry.version))).collect();
                let inside =
                    |key: &&String| key.strip_prefix(&directory).is_some_and(|rest| rest.starts_with('/'));
                let expected: Vec<_> = self
                    .config
                    .iter()
                    .filter(|(key, _)| inside(key))
                    .map(|(key, held)| (key.clone(), held.clone()))
                    .collect();
                same("r14", || format!("list {directory}"), &listed, &expected)
            }
            _ => Ok(()),
        }
    }

    async fn lock(
        &mut self,
        cx: &Fixture,
        client: usize,
        provider: &dyn Provider,
        step: Step,
    ) -> Result<(), Mismatch> {
        match step {
            Step::TryLock(name) => {
                let name = self.name(name);
                let held = self.locks.iter().any(|given| given.held && given.handle.key() == name);
                let options = LockOptions::default().with_ttl(cx.ttl()).with_wait(Wait::Never);
                match provider.lock().acquire_with(&name, options).await {
                    Ok(guard) => {
                        holds("r25", !held, || format!("{name} was granted twice"))?;
                        self.granted("r25", name, guard.fencing_token())?;
                        self.locks.push(Given { handle: guard, client, held: true });
                        Ok(())
                    }
                    Err(error) => same("r27", || format!("try {name}"), &error.kind(), &ErrorKind::Conflict)
                        .and(holds("r33", held, || format!("{name} is free and was refused"))),
                }
            }
            Step::Unlock(number) => {
                let Some(given) = self.locks.get_mut(number) else { return Ok(()) };
                given.held = false;
                // Once more, too: it repeats nothing, and says the same.
                let answer = given.handle.unlock().await.map_err(|error| error.kind());
                same("r33", || format!("unlock {}", given.handle.key()), &answer, &Ok(()))?;
                holds("r33", !given.handle.is_held(), || {
                    format!("{} was unlocked and is held", given.handle.key())
                })
            }
            _ => Ok(()),
        }
    }

    async fn id(
        &mut self,
        cx: &Fixture,
        client: usize,
        provider: &dyn Provider,
        step: Step,
    ) -> Result<(), Mismatch> {
        match step {
            Step::AcquireId => {
                let options = IdOptions::default().with_range(1..=IDS).with_ttl(cx.ttl());
                let held = |id: &u32| self.ids.iter().any(|given| given.held && given.handle.id() == *id);
                let smallest = (1..=IDS).find(|id| !held(id));
                match provider.allocator().acquire_id_with(&self.tag, options).await {
                    Ok(id) => {
                        let number = id.id();
                        holds("r43", !held(&number), || format!("id {number} was given out twice"))?;
                        same("r41", || "an id".to_owned(), &Some(number), &smallest)?;
                        self.granted("r43", format!("id {number}"), id.generation())?;
                        self.ids.push(Given { handle: id, client, held: true });
                        Ok(())
                    }
                    Err(error) => {
                        same("r42", || "no id".to_owned(), &error.kind(), &ErrorKind::Exhausted)?;
                        same("r44", || "exhausted, though".to_owned(), &None, &smallest)
                    }
                }
            }
            Step::ReleaseId(number) => {
                let Some(given) = self.ids.get_mut(number) else { return Ok(()) };
                given.held = false;
                let answer = given.handle.release().await.map_err(|error| error.kind());
                same("r44", || format!("release id {}", given.handle.id()), &answer, &Ok(()))
            }
            _ => Ok(()),
        }
    }

    async fn registry(
        &mut self,
        cx: &Fixture,
        client: usize,
        provider: &dyn Provider,
        step: Step,
    ) -> Result<(), Mismatch> {
        let instance = |id: &str, content: u8| {
            ServiceInstance::new(&self.tag, id, "localhost", 80).with_metadata("content", content.to_string())
        };
        match step {
            Step::Register(id, content, exclusive) => {
                let wanted = instance(&format!("i{id}"), content);
                let owner = self.owner(&wanted.id);
                let foreign = owner.is_some_and(|owner| self.instances[owner].0.client != client);
                let takeover = if exclusive { Takeover::Exclusive } else { Takeover::Replace };
                let options = RegisterOptions::default().with_ttl(cx.ttl()).with_takeover(takeover);
                match provider.registry().register_with(wanted.clone(), options).await {
                    Ok(registration) => {
                        holds("r34", !(exclusive && foreign), || {
                            format!("{} has a live foreign owner, and was to be exclusive", wanted.id)
                        })?;
                        if let Some(owner) = owner {
                            self.instances[owner].0.held = false;
                        }
                        if foreign || owner.is_none() {
                            self.granted("r34", wanted.id.clone(), registration.fencing_token())?;
                        }
                        self.instances.push((Given { handle: registration, client, held: true }, wanted));
                        Ok(())
                    }
                    Err(error) => {
                        same("r34", || format!("register {}", wanted.id), &error.kind(), &ErrorKind::Conflict)
                            .and(holds("r34", exclusive && foreign, || format!("{} was refused", wanted.id)))
                    }
                }
            }
            Step::Update(number, content) => {
                let Some((given, wanted)) = self.instances.get(number) else { return Ok(()) };
                let new = instance(&wanted.id, content);
                let answer = given.handle.update(new.clone()).await.map_err(|error| error.kind());
                same(
                    "r34",
                    || format!("update {}", new.id),
                    &answer,
                    &if given.held { Ok(()) } else { Err(ErrorKind::LeaseLost) },
                )?;
                if self.instances[number].0.held {
                    self.instances[number].1 = new;
                }
                Ok(())
            }
            Step::Unregister(number) => {
                let Some((given, wanted)) = self.instances.get_mut(number) else { return Ok(()) };
                given.held = false;
                let answer = given.handle.unregister().await.map_err(|error| error.kind());
                same("r38", || format!("unregister {}", wanted.id), &answer, &Ok(()))?;
                let ended = matches!(given.handle.state(), HandleState::Ended(_));
                holds("r38", ended, || {
                    format!("{} was unregistered and is {:?}", wanted.id, given.handle.state())
                })
            }
            _ => {
                let found = provider
                    .registry()
                    .discover(&self.tag)
                    .await
                    .map_err(|error| failed("r35", &error))?
                    .items;
                let mut expected: Vec<ServiceInstance> = self
                    .instances
                    .iter()
                    .filter(|(given, _)| given.held)
                    .map(|(_, wanted)| wanted.clone())
                    .collect();
                expected.sort_by(|one, other| one.id.cmp(&other.id));
                same("r35", || "discover".to_owned(), &found, &expected)
            }
        }
    }
}

fn failed(rule: &'static str, error: &Error) -> Mismatch {
    Mismatch { rule, what: format!("it failed: {error:?}") }
}

/// The version that a conflict carries.
fn conflict(error: &Error) -> Option<Version> {
    error.current_version().filter(|_| error.kind() == ErrorKind::Conflict)
}

/// Random sequences on a contract answer as the model does.
pub(crate) async fn contract(cx: Fixture, contract: Contract) {
    // A sequence is shown whole.
    let cx = &cx.unrecorded();
    let providers: &Vec<Arc<dyn Provider>> =
        &futures_util::future::join_all((0..CLIENTS).map(|_| cx.provider())).await;
    let sequence = async |cx: &Fixture, steps: &[(usize, Step)], run: usize| {
        let mut model = Model {
            tag: format!("model-{run}"),
            config: BTreeMap::new(),
            versions: Vec::new(),
            locks: Vec::new(),
            ids: Vec::new(),
            instances: Vec::new(),
            tokens: BTreeMap::new(),
        };
        for (turn, (client, step)) in steps.iter().enumerate() {
            let about = model.about(*step).unwrap_or_else(|| "nothing".to_owned());
            cx.doing(format!("step {turn} of sequence {run}: client {client}, {step:?} on {about}"));
            let provider = &*providers[*client];
            match contract {
                Contract::Config => model.config(provider, *step).await?,
                Contract::Locks => model.lock(cx, *client, provider, *step).await?,
                Contract::Ids => model.id(cx, *client, provider, *step).await?,
                Contract::Registry => model.registry(cx, *client, provider, *step).await?,
            }
        }
        Ok(())
    };
    check(cx, Extent::many(cx), step(contract), sequence).await;
}
