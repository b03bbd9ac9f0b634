//! The model of a store (S1 to S5).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{
    Batch, Change, Compare, Entry, Op, OpReply, Order, Range, Span, Store, StoreEvent, StoreWatch, Txn,
};
use coord_api::{ErrorKind, LeaseId, Revision};
use tokio::time::{Instant, sleep, timeout};

use super::steps::{At, Do, If, KEYS, Key, Keys, Mostly, Read, Step, step};
use super::{Extent, Mismatch, check, holds, same};
use crate::fixture::Fixture;

/// How long it is waited before a stream that broke is opened again.
const PAUSE: Duration = Duration::from_millis(20);

/// How many clients take turns.
const CLIENTS: usize = 3;

/// What a store holds: the model. Its revisions are numbers of its own, `0, 1, 2, …`; `revisions`
/// says which of the store's they are.
struct Model {
    prefix: Vec<u8>,
    /// The state at each revision; the last one is the present.
    states: Vec<BTreeMap<Bytes, Held>>,
    /// The changes that made each state.
    changes: Vec<Vec<Told>>,
    /// The store's number of each revision.
    revisions: Vec<Revision>,
    /// The leases that were granted, and whether they live.
    leases: Vec<(LeaseId, bool)>,
}

/// An entry, with revisions of the model's.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    value: Bytes,
    created: usize,
    modified: usize,
    lease: Option<usize>,
}

/// A change: a key, and what it holds since, if anything.
type Told = (Bytes, Option<Held>);

impl Model {
    fn now(&self) -> usize {
        self.states.len() - 1
    }

    fn key(&self, key: Key) -> Bytes {
        [&self.prefix, KEYS[key % KEYS.len()]].concat().into()
    }

    fn span(&self, keys: Keys) -> Span {
        match keys {
            Keys::One(key) => Span::key(self.key(key)),
            Keys::Under(key) => Span::prefix(self.key(key)),
            Keys::All => Span::prefix(self.prefix.clone()),
            Keys::Between(one, two) => {
                let (from, to) = (self.key(one.min(two)), self.key(one.max(two)));
                if from == to { Span::key(from) } else { Span::Interval(from, to) }
            }
        }
    }

    /// Whether a key lies in the span, said once more and in other words than the store's own.
    fn contains(span: &Span, key: &[u8]) -> bool {
        match span {
            Span::Key(own) => key == own.as_ref(),
            Span::Prefix(prefix) => {
                key.len() >= prefix.len()
                    && key.iter().zip(prefix.iter()).all(|(byte, of_prefix)| byte == of_prefix)
            }
            Span::Interval(from, to) => !(key < from.as_ref() || key >= to.as_ref()),
        }
    }

    /// The number of a lease that is counted from the newest: so that the ones that are named live,
    /// however long the sequence.
    fn lease(&self, newest: usize) -> usize {
        self.leases.len().checked_sub(newest + 1).unwrap_or(usize::MAX)
    }

    fn ago(&self, ago: usize) -> usize {
        self.now().saturating_sub(ago)
    }

    fn range(&self, read: Read) -> Range {
        let mut range = Range::new(self.span(read.keys)).with_order(read.order);
        range.after_key = read.after.map(|key| self.key(key));
        range.at = read.ago.map(|ago| self.revisions[self.ago(ago)]);
        range.limit = read.limit;
        range.max_created = read.created_by.map(|ago| self.revisions[self.ago(ago)]);
        range.keys_only = read.keys_only;
        range
    }

    /// What a range finds in a state, without its limit.
    fn found(&self, read: Read, state: &BTreeMap<Bytes, Held>) -> Vec<(Bytes, Held)> {
        let span = self.span(read.keys);
        let mut found: Vec<(Bytes, Held)> = state
            .iter()
            .filter(|(key, held)| {
                Self::contains(&span, key)
                    && read.after.is_none_or(|after| **key > self.key(after))
                    && read.created_by.is_none_or(|ago| held.created <= self.ago(ago))
            })
            .map(|(key, held)| {
                (
                    key.clone(),
                    Held {
                        value: if read.keys_only { Bytes::new() } else { held.value.clone() },
                        ..held.clone()
                    },
                )
            })
            .collect();
        match read.order {
            Order::Key => {}
            Order::OldestFirst => found.sort_by_key(|(_, held)| held.created),
            Order::NewestFirst => found.sort_by_key(|(_, held)| std::cmp::Reverse(held.created)),
        }
        found
    }

    fn compare(&self, condition: If) -> (Compare, bool) {
        let there = |key: Key| self.states[self.now()].get(&self.key(key));
        let revision = |key: Key, at: At, own: fn(&Held) -> usize| match at {
            At::Own => there(key).map_or(self.now(), own),
            At::Ago(ago) => self.ago(ago),
        };
        match condition {
            If::Absent(key) => (Compare::Absent(self.key(key)), there(key).is_none()),
            If::Present(key) => (Compare::Present(self.key(key)), there(key).is_some()),
            If::Modified(key, at) => {
                let revision = revision(key, at, |held| held.modified);
                (
                    Compare::Modified(self.key(key), self.revisions[revision]),
                    there(key).is_some_and(|held| held.modified == revision),
                )
            }
            If::Created(key, at) => {
                let revision = revision(key, at, |held| held.created);
                (
                    Compare::Created(self.key(key), self.revisions[revision]),
                    there(key).is_some_and(|held| held.created == revision),
                )
            }
            If::Lease(key, newest) => match self.leases.get(self.lease(newest)) {
                Some((id, _)) => (
                    Compare::Lease(self.key(key), *id),
                    there(key).is_some_and(|held| held.lease == Some(self.lease(newest))),
                ),
                None => (Compare::Lease(self.key(key), LeaseId::new(u64::MAX)), false),
            },
            If::NoneOf(keys) => {
                let span = self.span(keys);
                let none = !self.states[self.now()].keys().any(|key| Self::contains(&span, key));
                (Compare::RangeAbsent(span), none)
            }
        }
    }

    /// Takes note of the store's number of the newest revision.
    fn learn(&mut self, revision: Revision) -> Result<(), Mismatch> {
        let last = self.revisions[self.revisions.len() - 1];
        self.revisions.push(revision);
        holds("s1", revision > last, || format!("a change after revision {last} came at revision {revision}"))
    }

    /// The state after one more revision that changes something.
    fn change(&mut self, state: BTreeMap<Bytes, Held>, told: Vec<Told>) {
        self.states.push(state);
        self.changes.push(told);
    }

    /// An entry of the store, in the model's words.
    fn entry(&self, entry: &Entry) -> (Bytes, Held) {
        let number = |revision: Revision| {
            self.revisions.iter().position(|known| *known == revision).unwrap_or(usize::MAX)
        };
        let lease = entry
            .lease
            .map(|lease| self.leases.iter().position(|(id, _)| *id == lease).unwrap_or(usize::MAX));
        let held = Held {
            value: entry.value.clone().into_bytes(),
            created: number(entry.created),
            modified: number(entry.modified),
            lease,
        };
        (entry.key.clone(), held)
    }

    /// Judges what a range found: all of `expected`, up to its limit.
    fn check_found(
        &self,
        rule: &'static str,
        read: Read,
        entries: &[Entry],
        more: bool,
        mut expected: Vec<(Bytes, Held)>,
    ) -> Result<(), Mismatch> {
        let mut found: Vec<(Bytes, Held)> = entries.iter().map(|entry| self.entry(entry)).collect();
        let limit = read.limit.unwrap_or(usize::MAX);
        same(rule, || format!("whether {read:?} left something out"), &more, &(expected.len() > limit))?;
        if read.order == Order::Key {
            expected.truncate(limit);
        } else {
            // Keys of one create revision come in any order, so that a limit may leave out any of
            // them.
            let created: Vec<usize> = found.iter().map(|(_, held)| held.created).collect();
            let expected_created: Vec<usize> =
                expected.iter().take(limit).map(|(_, held)| held.created).collect();
            same(rule, || format!("the order of {read:?}"), &created, &expected_created)?;
            expected.retain(|entry| limit == usize::MAX || found.contains(entry));
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            found.sort_by(|one, other| one.0.cmp(&other.0));
        }
        same(rule, || format!("{read:?}"), &found, &expected)
    }
}

/// Runs a sequence on a store and the model.
async fn sequence(cx: &Fixture, steps: &[Step], run: usize, ttl: Duration) -> Result<(), Mismatch> {
    let clients = futures_util::future::join_all((0..CLIENTS).map(|_| cx.store())).await;
    let failed = |rule: &'static str, error: coord_api::Error| Mismatch {
        rule,
        what: format!("it failed: {error:?}"),
    };
    let start =
        clients[0].range(Range::key("no such key")).await.map_err(|error| failed("s2", error))?.revision;
    // A name that no other sequence has used on this store.
    let prefix = format!("model/{start}-{run}/").into_bytes();
    // Every revision that a sequence names was one that there was, so there must be one.
    let first = clients[0]
        .txn(Txn::new().then(Op::put([&prefix[..], b"~"].concat(), "")))
        .await
        .map_err(|error| failed("s3", error))?
        .revision;
    let held = Held { value: Bytes::new(), created: 0, modified: 0, lease: None };
    let mut model = Model {
        states: vec![BTreeMap::from([([&prefix[..], b"~"].concat().into(), held)])],
        prefix,
        changes: vec![Vec::new()],
        revisions: vec![first],
        leases: Vec::new(),
    };
    let mut watches: Vec<(StoreWatch, Span, usize)> = Vec::new();
    for (turn, step) in steps.iter().enumerate() {
        let store = &clients[turn % CLIENTS];
        cx.doing(format!("step {turn} of sequence {run}: {step:?}"));
        match step {
            Step::Range(read) => {
                let reply = store.range(model.range(*read)).await.map_err(|error| failed("s2", error))?;
                let at = read.ago.map_or(model.now(), |ago| model.ago(ago));
                let right = if read.ago.is_some() {
                    reply.revision == model.revisions[at]
                } else {
                    reply.revision >= model.revisions[at]
                };
                holds("s2", right, || format!("{read:?} was read at revision {}", reply.revision))?;
                model.check_found(
                    "s2",
                    *read,
                    &reply.entries,
                    reply.more,
                    model.found(*read, &model.states[at]),
                )?;
            }
            Step::Txn(when, then, otherwise) => txn(&mut model, &**store, when, then, otherwise).await?,
            Step::Watch(keys, ago) => {
                let span = model.span(*keys);
                let after = ago.map(|ago| model.ago(ago));
                let asked = after.map(|after| model.revisions[after]);
                let deadline = Instant::now() + cx.soon();
                let watch = loop {
                    let watch =
                        store.watch(span.clone(), asked).await.map_err(|error| failed("s4", error))?;
                    // A replica that lags says so, and catches up.
                    let lags = asked.is_some_and(|asked| watch.armed() < asked);
                    if !lags || Instant::now() >= deadline {
                        break watch;
                    }
                    sleep(PAUSE).await;
                };
                let present = model.revisions[model.now()];
                let right =
                    after.map_or(watch.armed() >= present, |after| watch.armed() == model.revisions[after]);
                holds("s4", right || after.is_none(), || {
                    format!("a watch after {after:?} is armed at {}", watch.armed())
                })?;
                watches.push((watch, span, after.unwrap_or(model.now())));
            }
            Step::Grant => {
                let lease = store.grant_lease(ttl).await.map_err(|error| failed("s5", error))?;
                let known = model.leases.iter().any(|(id, _)| *id == lease.id);
                holds("s5", !known, || format!("lease {} was granted twice", lease.id))?;
                model.leases.push((lease.id, true));
            }
            Step::KeepAlive(newest) => {
                let Some((id, alive)) = model.leases.get(model.lease(*newest)) else { continue };
                let answer = store.keep_alive(*id).await.map_err(|error| error.kind());
                same(
                    "s5",
                    || "a renewal".to_owned(),
                    &answer,
                    &if *alive { Ok(ttl) } else { Err(ErrorKind::LeaseLost) },
                )?;
            }
            Step::Lookup(newest) => {
                let lease = model.lease(*newest);
                let Some((id, alive)) = model.leases.get(lease) else { continue };
                let info = store.lease(*id).await.map_err(|error| failed("s5", error))?;
                let keys = info.map(|info| info.keys);
                let expected = alive.then(|| on_lease(&model, lease));
                same("s5", || "the keys of a lease".to_owned(), &keys, &expected)?;
            }
            Step::Revoke(newest) => {
                let lease = model.lease(*newest);
                let Some((id, _)) = model.leases.get(lease).copied() else { continue };
                store.revoke_lease(id).await.map_err(|error| failed("s5", error))?;
                let mut state = model.states[model.now()].clone();
                let told: Vec<Told> = on_lease(&model, lease).into_iter().map(|key| (key, None)).collect();
                told.iter().for_each(|(key, _)| drop(state.remove(key)));
                model.leases[lease].1 = false;
                if !told.is_empty() {
                    model.change(state, told);
                    let now = store
                        .range(Range::key("no such key"))
                        .await
                        .map_err(|error| failed("s2", error))?
                        .revision;
                    model.learn(now)?;
                }
            }
        }
    }
    for (watch, span, after) in watches {
        cx.doing(format!("reading the watch of {span:?} in sequence {run}"));
        check_watch(cx, &model, &*clients[0], watch, &span, after).await?;
    }
    clear(&model, &*clients[0]).await;
    Ok(())
}

/// What a put writes, by its number: nothing, at times.
fn written(number: u8) -> Bytes {
    if number == 0 { Bytes::new() } else { vec![number].into() }
}

/// The keys on a lease, in byte order.
fn on_lease(model: &Model, lease: usize) -> Vec<Bytes> {
    model.states[model.now()]
        .iter()
        .filter(|(_, held)| held.lease == Some(lease))
        .map(|(key, _)| key.clone())
        .collect()
}

async fn txn(
    model: &mut Model,
    store: &dyn Store,
    when: &[If],
    then: &[Do],
    otherwise: &[Do],
) -> Result<(), Mismatch> {
    let (then, otherwise) = (one_write_a_key(model, then), one_write_a_key(model, otherwise));
    let compares: Vec<(Compare, bool)> = when.iter().map(|condition| model.compare(*condition)).collect();
    let succeeds = compares.iter().all(|(_, holds)| *holds);
    let runs = if succeeds { &then } else { &otherwise };
    // A lease that was never granted is as dead as one that was revoked.
    let lease_id = |lease: usize| model.leases.get(lease).map_or(LeaseId::new(u64::MAX), |(id, _)| *id);
    let ops = |list: &[Do]| {
        let op = |action: &Do| match action {
            Do::Put(key, value, None) => Op::put(model.key(*key), written(*value)),
            Do::Put(key, value, Some(lease)) => {
                Op::put_leased(model.key(*key), written(*value), lease_id(*lease))
            }
            Do::Delete(key) => Op::delete(model.key(*key)),
            Do::Read(read) => Op::Range(model.range(*read)),
        };
        list.iter().map(op).collect::<Vec<Op>>()
    };
    let request = Txn {
        compares: compares.into_iter().map(|(compare, _)| compare).collect(),
        then: ops(&then),
        otherwise: ops(&otherwise),
    };
    let answer = store.txn(request).await;
    let dead = |action: &Do| matches!(action, Do::Put(_, _, Some(lease)) if !model.leases.get(*lease).is_some_and(|(_, alive)| *alive));
    if runs.iter().any(dead) {
        return same(
            "s5",
            || "a put under a dead lease".to_owned(),
            &answer.map(|_| ()).map_err(|error| error.kind()),
            &Err(ErrorKind::LeaseLost),
        );
    }
    let reply = answer.map_err(|error| Mismatch { rule: "s3", what: format!("it failed: {error:?}") })?;
    same("s3", || "whether all compares held".to_owned(), &reply.succeeded, &succeeds)?;
    same("s3", || "the number of answers".to_owned(), &reply.replies.len(), &runs.len())?;
    let next = model.now() + 1;
    let mut state = model.states[model.now()].clone();
    let (mut told, mut reads): (Vec<Told>, _) = (Vec::new(), Vec::new());
    for (action, reply) in runs.iter().zip(&reply.replies) {
        match (action, reply) {
            (Do::Put(key, value, lease), OpReply::Put) => {
                let key = model.key(*key);
                let created = state.get(&key).map_or(next, |held| held.created);
                let held = Held { value: written(*value), created, modified: next, lease: *lease };
                state.insert(key.clone(), held.clone());
                told.push((key, Some(held)));
            }
            (Do::Delete(key), OpReply::Delete { existed }) => {
                let key = model.key(*key);
                let was = state.remove(&key).is_some();
                same("s3", || format!("whether {key:?} existed"), existed, &was)?;
                told.extend(was.then_some((key, None)));
            }
            (Do::Read(read), OpReply::Range(found)) => {
                reads.push((*read, found.clone(), model.found(*read, &state)))
            }
            other => {
                return Err(Mismatch {
                    rule: "s3",
                    what: format!("the answer to another operation: {other:?}"),
                });
            }
        }
    }
    if told.is_empty() {
        let present = model.revisions[model.now()];
        holds("s1", reply.revision >= present, || format!("at revision {} after {present}", reply.revision))?;
    } else {
        model.change(state, told);
        model.learn(reply.revision)?;
    }
    // Only now is it known which revision the transaction's own writes have.
    reads.into_iter().try_for_each(|(read, found, expected)| {
        model.check_found("s3", read, &found.entries, found.more, expected)
    })
}

/// The list with only the first write of each key, and with leases by their numbers.
fn one_write_a_key(model: &Model, list: &[Do]) -> Vec<Do> {
    let mut written = Vec::new();
    let first = |action: &&Do| match action {
        Do::Put(key, _, _) | Do::Delete(key) => {
            let key = model.key(*key);
            let first = !written.contains(&key);
            written.push(key);
            first
        }
        Do::Read(_) => true,
    };
    let named = |action: &Do| match *action {
        Do::Put(key, value, lease) => Do::Put(key, value, lease.map(|newest| model.lease(newest))),
        other => other,
    };
    list.iter().filter(first).map(named).collect()
}

/// Reads a watch until everything was told that happened in its span, and compares.
async fn check_watch(
    cx: &Fixture,
    model: &Model,
    store: &dyn Store,
    mut watch: StoreWatch,
    span: &Span,
    after: usize,
) -> Result<(), Mismatch> {
    let expected: Vec<(usize, Vec<Told>)> = (after + 1..=model.now())
        .map(|revision| {
            (
                revision,
                model.changes[revision]
                    .iter()
                    .filter(|(key, _)| Model::contains(span, key))
                    .cloned()
                    .collect::<Vec<Told>>(),
            )
        })
        .filter(|(_, told)| !told.is_empty())
        .collect();
    let mut seen = model.revisions[after];
    for (revision, mut expected) in expected {
        let batch = loop {
            match timeout(cx.soon(), watch.next()).await {
                Ok(Some(Ok(StoreEvent::Batch(batch)))) if batch.revision > model.revisions[after] => {
                    break batch;
                }
                // What its caller knew already may come once more, and so may progress.
                Ok(Some(Ok(_))) => {}
                // A stream may break; what was not told yet is told by the next one.
                Ok(Some(Err(error))) if error.is_transient() => {
                    sleep(PAUSE).await;
                    watch = store.watch(span.clone(), Some(seen)).await.map_err(|error| Mismatch {
                        rule: "s4",
                        what: format!("{span:?} could not be watched after revision {seen}: {error:?}"),
                    })?;
                }
                other => {
                    return Err(Mismatch {
                        rule: "s4",
                        what: format!("revision {revision} of {span:?} was not told: {other:?}"),
                    });
                }
            }
        };
        let Batch { revision: at, changes } = batch;
        seen = at;
        same("s4", || format!("the next revision of {span:?}"), &at, &model.revisions[revision])?;
        let told = |change: &Change| match change {
            Change::Put(entry) => {
                let (key, held) = model.entry(entry);
                (key, Some(held))
            }
            Change::Delete { key } => (key.clone(), None),
        };
        let mut found: Vec<Told> = changes.iter().map(told).collect();
        // The keys of a lease that ends go in any order.
        if found.iter().all(|(_, held)| held.is_none()) {
            found.sort_by(|one, other| one.0.cmp(&other.0));
            expected.sort_by(|one, other| one.0.cmp(&other.0));
        }
        same("s4", || format!("what revision {revision} of {span:?} changed"), &found, &expected)?;
    }
    Ok(())
}

/// Leaves nothing behind that could make later sequences slow.
async fn clear(model: &Model, store: &dyn Store) {
    for (lease, _) in &model.leases {
        let _ = store.revoke_lease(*lease).await;
    }
    let delete =
        model.states[model.now()].keys().fold(Txn::new(), |txn, key| txn.then(Op::delete(key.clone())));
    let _ = store.txn(delete).await;
}

/// Random sequences on a store answer as the model does.
pub(crate) async fn store(cx: Fixture) {
    let ttl = cx.ttl();
    check(&cx, Extent::many(&cx), step(Mostly::Anything), async |cx, steps: &[Step], run| {
        sequence(cx, steps, run, ttl).await
    })
    .await;
}

/// One long sequence, most of whose steps are of one sort. Its leases outlive it.
pub(crate) async fn long(cx: Fixture, mostly: Mostly) {
    let ttl = cx.ttl() * 100;
    let granted = async |cx: &Fixture, steps: &[Step], run: usize| {
        let steps: Vec<Step> =
            [Step::Grant, Step::Grant, Step::Grant].into_iter().chain(steps.iter().cloned()).collect();
        sequence(cx, &steps, run, ttl).await
    };
    check(&cx, Extent::ONE_LONG, step(mostly), granted).await;
}
