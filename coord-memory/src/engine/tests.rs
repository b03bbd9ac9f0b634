use std::collections::{BTreeMap, BTreeSet};

use coord_api::ErrorKind;
use coord_api::store::{Change, Order, Range, RangeReply};
use proptest::prelude::*;

use super::*;

const WINDOW: HistoryWindow = HistoryWindow { changes: 1_000, bytes: 1_000_000 };
const SECOND: Duration = Duration::from_secs(1);

fn engine() -> Engine {
    Engine::new(WINDOW)
}

fn put(engine: &mut Engine, key: &'static str, value: &'static str) -> Revision {
    engine.txn(Txn::new().then(Op::put(key, value))).unwrap().revision
}

fn keys(reply: &RangeReply) -> Vec<&str> {
    reply.entries.iter().map(|entry| std::str::from_utf8(&entry.key).unwrap()).collect()
}

fn all(engine: &Engine) -> RangeReply {
    engine.range(&Range::prefix("")).unwrap()
}

#[test]
fn an_empty_store_has_a_revision_and_its_first_write_a_greater_one() {
    let mut engine = engine();
    assert_eq!(engine.revision(), Revision::new(1));
    assert_eq!(put(&mut engine, "a", "1"), Revision::new(2));
}

#[test]
fn what_changes_nothing_leaves_the_revision() {
    let mut engine = engine();
    put(&mut engine, "a", "1");
    let failed = engine.txn(Txn::new().when(Compare::Absent("a".into())).then(Op::put("a", "2"))).unwrap();
    assert_eq!((failed.succeeded, failed.revision), (false, Revision::new(2)));
    let nothing = engine.txn(Txn::new().then(Op::delete("b"))).unwrap();
    assert_eq!((nothing.existed(0), nothing.revision), (Some(false), Revision::new(2)));
    assert_eq!(put(&mut engine, "a", "1"), Revision::new(3), "an equal value is a change");
}

#[test]
fn a_key_that_is_created_anew_has_a_new_create_revision() {
    let mut engine = engine();
    put(&mut engine, "a", "1");
    put(&mut engine, "a", "2");
    let entry = |engine: &Engine| {
        all(engine).entries.first().map(|entry| (entry.created.get(), entry.modified.get()))
    };
    assert_eq!(entry(&engine), Some((2, 3)));
    engine.txn(Txn::new().then(Op::delete("a"))).unwrap();
    put(&mut engine, "a", "3");
    assert_eq!(entry(&engine), Some((5, 5)));
}

#[test]
fn a_range_sees_the_earlier_writes_of_its_transaction() {
    let mut engine = engine();
    put(&mut engine, "a", "1");
    let mut txn = Txn::new();
    txn.then = vec![
        Op::Range(Range::prefix("")),
        Op::put("b", "2"),
        Op::Range(Range::prefix("")),
        Op::delete("a"),
        Op::Range(Range::prefix("")),
    ];
    let reply = engine.txn(txn).unwrap();
    let seen: Vec<_> = [0, 2, 4]
        .iter()
        .filter_map(|index| reply.range(*index))
        .map(|range| (keys(range), range.revision.get()))
        .collect();
    assert_eq!(seen, [(vec!["a"], 2), (vec!["a", "b"], 3), (vec!["b"], 3)]);
    assert_eq!(reply.revision, Revision::new(3));
}

#[test]
fn every_compare_decides() {
    let mut engine = engine();
    let lease = engine.grant(Duration::ZERO, SECOND).id;
    engine.txn(Txn::new().then(Op::put_leased("a", "1", lease))).unwrap();
    put(&mut engine, "b", "1");
    put(&mut engine, "b", "2");
    let mut holds = |compare| engine.txn(Txn::new().when(compare)).unwrap().succeeded;
    let (two, three, four) = (Revision::new(2), Revision::new(3), Revision::new(4));
    for compare in [
        Compare::Absent("c".into()),
        Compare::Present("a".into()),
        Compare::Modified("b".into(), four),
        Compare::Created("b".into(), three),
        Compare::Lease("a".into(), lease),
        Compare::RangeAbsent(Span::prefix("c")),
        Compare::RangeAbsent(Span::Interval("aa".into(), "b".into())),
        Compare::RangeAbsent(Span::Interval("z".into(), "a".into())),
    ] {
        assert!(holds(compare.clone()), "{compare:?}");
    }
    for compare in [
        Compare::Absent("a".into()),
        Compare::Present("c".into()),
        Compare::Modified("b".into(), three),
        Compare::Modified("c".into(), Revision::ZERO),
        Compare::Created("b".into(), four),
        Compare::Created("c".into(), two),
        Compare::Lease("b".into(), lease),
        Compare::Lease("a".into(), LeaseId::new(99)),
        Compare::RangeAbsent(Span::prefix("")),
    ] {
        assert!(!holds(compare.clone()), "{compare:?}");
    }
}

#[test]
fn a_put_under_a_dead_lease_fails_whole() {
    let mut engine = engine();
    let error = engine
        .txn(Txn::new().then(Op::put("a", "1")).then(Op::put_leased("b", "1", LeaseId::new(7))))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert_eq!((engine.revision(), all(&engine).entries.len()), (Revision::new(1), 0));
    let other_branch =
        Txn::new().when(Compare::Present("a".into())).then(Op::put_leased("b", "1", LeaseId::new(7)));
    assert!(engine.txn(other_branch).is_ok(), "only the list that runs counts");
}

#[test]
fn a_lease_expires_strictly_after_its_deadline_with_all_keys_in_one_revision() {
    let mut engine = engine();
    let lease = engine.grant(SECOND, 30 * SECOND).id;
    let other = engine.grant(SECOND, 60 * SECOND).id;
    engine
        .txn(
            Txn::new()
                .then(Op::put_leased("b", "1", lease))
                .then(Op::put_leased("a", "1", lease))
                .then(Op::put_leased("c", "1", other)),
        )
        .unwrap();
    engine.expire(31 * SECOND);
    assert_eq!(engine.lease(31 * SECOND, lease).map(|info| info.remaining), Some(Duration::ZERO));
    let due = engine.next_expiry().unwrap();
    assert!(due > 31 * SECOND);
    engine.expire(due);
    assert_eq!(engine.lease(due, lease), None);
    assert_eq!(keys(&all(&engine)), ["c"]);
    let batch = engine.first_batch(&Span::prefix(""), Revision::new(3), Revision::new(9)).unwrap();
    assert_eq!(batch.changes, [Change::Delete { key: "a".into() }, Change::Delete { key: "b".into() }]);
    assert_eq!(engine.revision(), Revision::new(3));
    assert_eq!(engine.keep_alive(due, lease), None, "what expired is never revived");
}

#[test]
fn a_renewal_gives_the_full_ttl_again() {
    let mut engine = engine();
    let lease = engine.grant(Duration::ZERO, 10 * SECOND).id;
    assert_eq!(engine.keep_alive(9 * SECOND, lease), Some(10 * SECOND));
    engine.expire(18 * SECOND);
    assert_eq!(engine.lease(18 * SECOND, lease).map(|info| info.remaining), Some(SECOND));
    engine.expire(20 * SECOND);
    assert_eq!(engine.lease(20 * SECOND, lease), None);
    assert_eq!(engine.revision(), Revision::new(1), "a lease without keys changes no revision");
}

#[test]
fn a_put_moves_its_key_between_leases() {
    let mut engine = engine();
    let (one, two) = (engine.grant(Duration::ZERO, SECOND).id, engine.grant(Duration::ZERO, SECOND).id);
    assert_ne!(one, two);
    let keys_of = |engine: &Engine, id| engine.lease(Duration::ZERO, id).map(|info| info.keys);
    for key in ["b", "a"] {
        engine.txn(Txn::new().then(Op::put_leased(key, "1", one))).unwrap();
    }
    assert_eq!(keys_of(&engine, one), Some(vec!["a".into(), "b".into()]));
    engine.txn(Txn::new().then(Op::put_leased("a", "2", two))).unwrap();
    put(&mut engine, "b", "2");
    assert_eq!((keys_of(&engine, one), keys_of(&engine, two)), (Some(vec![]), Some(vec!["a".into()])));
    engine.txn(Txn::new().then(Op::delete("a"))).unwrap();
    assert_eq!(keys_of(&engine, two), Some(vec![]));
    engine.revoke(one);
    engine.revoke(one);
    assert_eq!(keys(&all(&engine)), ["b"], "a key that moved away stays");
}

#[test]
fn history_that_is_compacted_is_refused_and_the_rest_stays() {
    let mut engine = engine();
    for value in ["1", "2", "3", "4"] {
        put(&mut engine, "a", value);
    }
    let at = |engine: &Engine, revision| {
        engine
            .range(&Range::key("a").with_at(Revision::new(revision)))
            .map(|reply| reply.entries.first().map(|entry| entry.value.clone()))
    };
    assert_eq!(at(&engine, 1).unwrap(), None);
    engine.compact(Revision::new(3));
    assert_eq!(at(&engine, 3).unwrap(), Some("2".into()));
    let error = at(&engine, 2).unwrap_err();
    assert_eq!((error.kind(), error.oldest_revision()), (ErrorKind::Compacted, Some(Revision::new(3))));
    assert_eq!(at(&engine, 6).unwrap_err().kind(), ErrorKind::Compacted, "not reached yet");
    engine.compact(Revision::new(99));
    assert_eq!(engine.oldest(), Revision::new(5), "compaction never runs ahead of the store");
    assert_eq!(at(&engine, 5).unwrap(), Some("4".into()));
}

#[test]
fn a_restored_key_must_fit() {
    let mut engine = Engine::at(Revision::new(9), 4, WINDOW);
    engine.restore_lease(Lease { id: LeaseId::new(3), ttl: SECOND });
    let stored = |modified, lease| Stored {
        value: "1".into(),
        created: Revision::new(2),
        modified: Revision::new(modified),
        lease,
    };
    assert!(engine.restore_key("a".into(), stored(9, Some(LeaseId::new(3)))));
    assert!(!engine.restore_key("a".into(), stored(9, None)), "twice");
    assert!(!engine.restore_key("b".into(), stored(10, None)), "from the future");
    assert!(!engine.restore_key("b".into(), stored(9, Some(LeaseId::new(2)))), "without its lease");
    assert_eq!(engine.grant(Duration::ZERO, SECOND).id, LeaseId::new(4));
    assert_eq!(engine.oldest(), Revision::new(9));
    engine.expire(2 * SECOND);
    assert!(all(&engine).entries.is_empty(), "a restored lease expires with its keys");
}

/// The plainest store: every revision's whole state.
struct EngineModel {
    states: Vec<BTreeMap<Bytes, Stored>>,
    leases: BTreeSet<LeaseId>,
}

impl EngineModel {
    fn head(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    fn commit(&mut self, state: BTreeMap<Bytes, Stored>, changed: bool) {
        if changed {
            self.states.push(state);
        }
    }

    fn range(&self, range: &Range) -> RangeReply {
        let at = range.at.map_or(self.head(), Revision::get);
        let mut entries: Vec<_> = self.states[usize::try_from(at).unwrap()]
            .iter()
            .filter(|(key, _)| range.span.contains(key))
            .filter(|(key, _)| range.after_key.as_ref().is_none_or(|after| *key > after))
            .filter(|(_, stored)| range.max_created.is_none_or(|newest| stored.created <= newest))
            .map(|(key, stored)| stored.to_entry(key.clone()))
            .collect();
        match range.order {
            Order::Key => {}
            Order::OldestFirst => entries.sort_by_key(|entry| (entry.created, entry.key.clone())),
            Order::NewestFirst => {
                entries.sort_by_key(|entry| std::cmp::Reverse((entry.created, entry.key.clone())))
            }
        }
        let limit = range.limit.unwrap_or(usize::MAX);
        let more = entries.len() > limit;
        entries.truncate(limit);
        if range.keys_only {
            entries.iter_mut().for_each(|entry| entry.value = Value::new());
        }
        RangeReply { revision: Revision::new(at), entries, more }
    }
}

/// A value and which of the granted leases, or a deletion.
type AnyWrite = Option<(u8, Option<usize>)>;

#[derive(Clone, Debug)]
enum EngineStep {
    Write(Vec<(Bytes, AnyWrite)>),
    Grant,
    Revoke(usize),
    Read(Range, u8),
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "a/", "a/b", "a/b/c", "a/c", "ab", "b", "b/\u{ff}"]).prop_map(Bytes::from)
}

fn any_span() -> impl Strategy<Value = Span> {
    prop_oneof![
        any_key().prop_map(Span::Key),
        prop::sample::select(vec!["", "a", "a/", "a/b/", "z"]).prop_map(Span::prefix),
        (any_key(), any_key()).prop_map(|(from, to)| Span::Interval(from, to)),
    ]
}

fn any_range() -> impl Strategy<Value = Range> {
    let order = prop::sample::select(vec![Order::Key, Order::OldestFirst, Order::NewestFirst]);
    (
        any_span(),
        prop::option::of(any_key()),
        prop::option::of(1_usize..4),
        order,
        prop::option::of(0_u64..40),
        any::<bool>(),
    )
        .prop_map(|(span, after_key, limit, order, max_created, keys_only)| {
            let mut range = Range::new(span);
            range.after_key = after_key.filter(|_| order == Order::Key);
            range.limit = limit;
            range.order = order;
            range.max_created = max_created.map(Revision::new);
            range.keys_only = keys_only;
            range
        })
}

fn any_step() -> impl Strategy<Value = EngineStep> {
    let write = prop::option::of((any::<u8>(), prop::option::of(0_usize..3)));
    prop_oneof![
        4 => prop::collection::btree_map(any_key(), write, 0..4).prop_map(|writes| EngineStep::Write(writes.into_iter().collect())),
        1 => Just(EngineStep::Grant),
        1 => (0_usize..3).prop_map(EngineStep::Revoke),
        4 => (any_range(), any::<u8>()).prop_map(|(range, back)| EngineStep::Read(range, back)),
    ]
}

proptest! {
    #[test]
    fn the_engine_does_what_the_plainest_store_does(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut engine = engine();
        let mut model = EngineModel { states: vec![BTreeMap::new(), BTreeMap::new()], leases: BTreeSet::new() };
        let mut granted = vec![LeaseId::new(99)];
        for step in steps {
            match step {
                EngineStep::Write(writes) => {
                    let lease_of = |index: usize| granted[index % granted.len()];
                    let dead = writes.iter().any(|(_, write)| {
                        matches!(write, Some((_, Some(index))) if !model.leases.contains(&lease_of(*index)))
                    });
                    let mut txn = Txn::new();
                    let mut state = model.states.last().unwrap().clone();
                    let mut changed = false;
                    let next = Revision::new(model.head() + 1);
                    for (key, write) in &writes {
                        match write {
                            Some((value, lease)) => {
                                let (value, lease) = (Value::from(vec![*value]), lease.map(lease_of));
                                let created = state.get(key).map_or(next, |stored| stored.created);
                                state.insert(key.clone(), Stored { value: value.clone(), created, modified: next, lease });
                                changed = true;
                                txn = txn.then(Op::Put { key: key.clone(), value, lease });
                            }
                            None => {
                                changed |= state.remove(key).is_some();
                                txn = txn.then(Op::delete(key.clone()));
                            }
                        }
                    }
                    prop_assert_eq!(engine.txn(txn).is_err(), dead);
                    if !dead {
                        model.commit(state, changed);
                    }
                }
                EngineStep::Grant => {
                    let id = engine.grant(Duration::ZERO, SECOND).id;
                    prop_assert!(!granted.contains(&id));
                    granted.push(id);
                    model.leases.insert(id);
                }
                EngineStep::Revoke(index) => {
                    let id = granted[index % granted.len()];
                    engine.revoke(id);
                    let mut state = model.states.last().unwrap().clone();
                    let before = state.len();
                    state.retain(|_, stored| stored.lease != Some(id));
                    let changed = model.leases.remove(&id) && state.len() != before;
                    model.commit(state, changed);
                }
                EngineStep::Read(mut range, back) => {
                    let at = model.head().saturating_sub(u64::from(back) % model.head()).max(1);
                    range.at = (back % 2 == 0).then_some(Revision::new(at));
                    prop_assert_eq!(engine.range(&range).unwrap(), model.range(&range), "{:?}", range);
                }
            }
            prop_assert_eq!(engine.revision().get(), model.head());
            engine.trim();
        }
        for id in &model.leases {
            let keys: Vec<_> = model.states.last().unwrap().iter().filter(|(_, stored)| stored.lease == Some(*id)).map(|(key, _)| key.clone()).collect();
            prop_assert_eq!(engine.lease(Duration::ZERO, *id).map(|info| info.keys), Some(keys));
        }
    }
}
