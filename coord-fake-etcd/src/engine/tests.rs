//! The engine against a model that keeps every state there ever was.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::check::{check_put, check_txn};
use super::watchers::{Next, Watchers};
use super::*;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{Compare, RequestOp, TxnRequest, WatchCreateRequest, WatchResponse};
use crate::proto::mvccpb::Event;

const NOW: Duration = Duration::ZERO;

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() }
}

fn all() -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() }
}

fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..DeleteRangeRequest::default()
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn txn(ops: Vec<Request>) -> TxnRequest {
    TxnRequest { success: ops.into_iter().map(op).collect(), ..TxnRequest::default() }
}

/// Everything that a stream is told now.
fn told(watchers: &mut Watchers, engine: &Engine) -> Vec<WatchResponse> {
    let mut told = Vec::new();
    loop {
        match watchers.next(engine) {
            Next::Respond(responses) => told.extend(responses),
            Next::Again => {}
            Next::Idle => return told,
        }
    }
}

fn events(responses: &[WatchResponse]) -> Vec<Event> {
    responses.iter().flat_map(|response| response.events.clone()).collect()
}

fn watch_all(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision,
        prev_kv: true,
        ..WatchCreateRequest::default()
    }
}

#[test]
fn a_key_that_was_deleted_begins_anew() {
    let mut engine = Engine::new(1);
    engine.put(&put("k", "1")).unwrap();
    engine.put(&put("k", "2")).unwrap();
    let kv = engine.range(&all()).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    assert_eq!(engine.delete_range(&delete("k", "")).deleted, 1);
    engine.put(&put("k", "3")).unwrap();
    let kv = engine.range(&all()).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn what_is_sorted_in_no_order_is_limited_before() {
    let mut engine = Engine::new(1);
    for key in ["c", "b", "a"] {
        engine.put(&put(key, "")).unwrap();
    }
    let created = |sort_order: SortOrder| {
        let sort_target = SortTarget::Create.into();
        let request = RangeRequest { limit: 1, sort_order: sort_order.into(), sort_target, ..all() };
        engine.range(&request).unwrap().kvs.remove(0).key
    };
    assert_eq!(created(SortOrder::Ascend), "c");
    assert_eq!(created(SortOrder::None), "b", "the first of the two that were found first");
}

#[test]
fn what_changes_nothing_makes_no_revision() {
    let mut engine = Engine::new(1);
    assert_eq!(engine.delete_range(&delete("a", "z")).deleted, 0);
    engine.txn(&txn(vec![Request::RequestDeleteRange(delete("a", ""))])).unwrap();
    engine.grant(NOW, 7, 10).unwrap();
    engine.revoke(7).unwrap();
    assert_eq!(engine.revision(), 1);
}

#[test]
fn a_transaction_that_is_refused_did_nothing() {
    let mut engine = Engine::new(1);
    let keeping = PutRequest { ignore_value: true, ..put("k", "") };
    let leased = PutRequest { lease: 5, ..put("b", "") };
    for (last, why) in [
        (Request::RequestPut(keeping.clone()), Refusal::KeyNotFound),
        (Request::RequestPut(leased), Refusal::LeaseNotFound),
        (Request::RequestRange(RangeRequest { revision: 9, ..all() }), Refusal::FutureRevision),
    ] {
        let request = txn(vec![Request::RequestPut(put("a", "")), last]);
        assert_eq!(engine.txn(&request), Err(why));
    }
    assert_eq!((engine.revision(), engine.range(&all()).unwrap().count), (1, 0));

    // etcd itself does not survive this.
    engine.put(&put("k", "1")).unwrap();
    let request = txn(vec![Request::RequestDeleteRange(delete("k", "\0")), Request::RequestPut(keeping)]);
    check_txn(&request, 128).unwrap();
    assert_eq!(engine.txn(&request), Err(Refusal::KeyNotFound));
    assert_eq!(engine.revision(), 2);
}

#[test]
fn everything_is_compared_before_anything_is_done() {
    let mut engine = Engine::new(1);
    let absent = Compare {
        key: "k".into(),
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Compare::default()
    };
    let inner = TxnRequest { compare: vec![absent], ..txn(vec![Request::RequestPut(put("b", ""))]) };
    let outer = txn(vec![Request::RequestPut(put("k", "")), Request::RequestTxn(inner)]);
    let response = engine.txn(&outer).unwrap();
    assert_eq!(response.header, header(2));
    assert_eq!(engine.range(&all()).unwrap().count, 2, "the inner one saw the state before");
}

#[test]
fn a_key_is_written_once_in_a_transaction() {
    let nested = |then: Vec<Request>, otherwise: Vec<Request>| {
        Request::RequestTxn(TxnRequest { failure: otherwise.into_iter().map(op).collect(), ..txn(then) })
    };
    let put = |key| Request::RequestPut(put(key, ""));
    let delete = |key, end| Request::RequestDeleteRange(delete(key, end));
    for (ops, good) in [
        (vec![put("a"), put("b")], true),
        (vec![put("a"), put("a")], false),
        (vec![put("b"), delete("a", "c")], false),
        (vec![put("c"), delete("a", "c")], true),
        (vec![delete("a", "c"), delete("a", "")], true),
        (vec![nested(vec![put("a")], vec![put("a")])], true),
        (vec![nested(vec![put("a")], vec![]), put("a")], false),
        (vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], false),
        (vec![nested(vec![delete("a", "")], vec![]), put("a")], false),
        (vec![nested(vec![delete("a", "")], vec![]), nested(vec![put("a")], vec![])], false),
        // What etcd does not see.
        (vec![nested(vec![put("a")], vec![]), nested(vec![delete("a", "")], vec![])], true),
        (vec![delete("a", "\0"), put("b")], true),
    ] {
        assert_eq!(check_txn(&txn(ops.clone()), 128).is_ok(), good, "{ops:?}");
    }
}

#[test]
fn what_a_transaction_holds_is_counted_on_each_level() {
    let puts = |count| (0..count).map(|n| Request::RequestPut(put(&n.to_string(), ""))).collect();
    check_txn(&txn(puts(128)), 128).unwrap();
    assert_eq!(check_txn(&txn(puts(129)), 128), Err(Refusal::TooManyOps));
    let inside = |count| txn(vec![Request::RequestTxn(txn(puts(count)))]);
    check_txn(&inside(127), 128).unwrap();
    assert_eq!(check_txn(&inside(128), 128), Err(Refusal::TooManyOps));
}

#[test]
fn what_is_to_be_kept_may_not_be_given() {
    let value = PutRequest { ignore_value: true, ..put("k", "v") };
    let lease = PutRequest { ignore_lease: true, lease: 1, ..put("k", "") };
    assert_eq!(check_put(&value), Err(Refusal::ValueProvided));
    assert_eq!(check_put(&lease), Err(Refusal::LeaseProvided));
    assert_eq!(check_put(&put("", "v")), Err(Refusal::EmptyKey));
}

#[test]
fn a_lease_takes_its_keys_along() {
    let mut engine = Engine::new(2);
    assert_eq!(engine.grant(NOW, 7, 1).unwrap().ttl, 2, "the shortest that there is");
    assert_eq!(engine.grant(NOW, 7, 9), Err(Refusal::LeaseExists));
    for key in ["b", "a", "c"] {
        engine.put(&PutRequest { lease: 7, ..put(key, "") }).unwrap();
    }
    // Moved to none.
    engine.put(&put("c", "")).unwrap();
    assert_eq!(engine.time_to_live(NOW, 7, true).keys, ["a", "b"]);
    assert_eq!(engine.renew(Duration::from_secs(1), 7), Some(2));
    engine.expire(Duration::from_millis(2_999));
    assert_eq!(engine.leases(), [7]);
    engine.expire(Duration::from_secs(3));
    assert_eq!(engine.leases(), [0; 0]);
    assert_eq!(engine.revision(), 6, "all in one");
    assert_eq!(engine.range(&all()).unwrap().count, 1);
    assert_eq!(engine.time_to_live(NOW, 7, true).ttl, -1);
    assert_eq!(engine.renew(NOW, 7), None);
}

#[test]
fn history_ends_where_it_was_compacted() {
    let mut engine = Engine::new(1);
    for value in ["1", "2", "3"] {
        engine.put(&put("k", value)).unwrap();
    }
    engine.delete_range(&delete("k", ""));
    engine.compact(3).unwrap();
    assert_eq!(engine.compact(3), Err(Refusal::Compacted));
    assert_eq!(engine.compact(6), Err(Refusal::FutureRevision));
    let at = |revision| engine.range(&RangeRequest { revision, ..all() }).map(|found| found.count);
    assert_eq!((at(2), at(3), at(4), at(5)), (Err(Refusal::Compacted), Ok(1), Ok(1), Ok(0)));

    let mut watchers = Watchers::new(usize::MAX);
    watchers.create(&engine, watch_all(2));
    watchers.create(&engine, watch_all(3));
    let told = told(&mut watchers, &engine);
    let ends: Vec<_> = told.iter().map(|response| (response.watch_id, response.compact_revision)).collect();
    assert_eq!(ends, [(0, 3), (1, 0)]);
    let revisions: Vec<_> =
        events(&told).iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn a_compaction_does_not_end_a_watch_that_was_told_of_everything() {
    let mut engine = Engine::new(1);
    let mut watchers = Watchers::new(usize::MAX);
    watchers.create(&engine, watch_all(0));
    for value in ["1", "2", "3"] {
        engine.put(&put("k", value)).unwrap();
    }
    engine.compact(4).unwrap();
    assert_eq!(events(&told(&mut watchers, &engine)).len(), 3);

    // Unless it fell behind by more than any buffer holds.
    for value in 0..200 {
        engine.put(&put("k", &value.to_string())).unwrap();
    }
    engine.compact(204).unwrap();
    let told = told(&mut watchers, &engine);
    assert_eq!((told.len(), told[0].compact_revision, told[0].canceled), (1, 204, true));
    assert!(watchers.cancel(&engine, 0).is_some(), "it is known until it is cancelled");
    assert!(watchers.cancel(&engine, 0).is_none());
}

#[test]
fn progress_is_told_when_all_watches_are_there() {
    let mut engine = Engine::new(1);
    let mut watchers = Watchers::new(usize::MAX);
    watchers.request_progress();
    assert_eq!(told(&mut watchers, &engine), [], "there is no watch");
    engine.put(&put("k", "1")).unwrap();
    watchers.create(&engine, watch_all(1));
    watchers.request_progress();
    let responses = told(&mut watchers, &engine);
    assert_eq!((responses.len(), responses[1].watch_id, responses[1].header), (2, -1, header(2)));
    watchers.create(&engine, watch_all(9));
    watchers.request_progress();
    assert_eq!(told(&mut watchers, &engine), [], "one waits for what is yet to come");
}

#[test]
fn who_asks_for_it_hears_that_nothing_happened() {
    let mut engine = Engine::new(1);
    let mut watchers = Watchers::new(usize::MAX);
    watchers.create(&engine, WatchCreateRequest { progress_notify: true, ..watch_all(0) });
    watchers.create(&engine, watch_all(0));
    watchers.notify_progress();
    let responses = told(&mut watchers, &engine);
    assert_eq!((responses.len(), responses[0].watch_id), (1, 0));
    engine.put(&put("k", "1")).unwrap();
    told(&mut watchers, &engine);
    watchers.notify_progress();
    assert_eq!(told(&mut watchers, &engine), [], "something happened");
}

#[test]
fn a_large_response_is_split_between_its_events() {
    let mut engine = Engine::new(1);
    let mut watchers = Watchers::new(1_000);
    watchers.create(&engine, WatchCreateRequest { fragment: true, ..watch_all(0) });
    let large = "x".repeat(400);
    engine.txn(&txn((0..5).map(|n| Request::RequestPut(put(&n.to_string(), &large))).collect())).unwrap();
    let responses = told(&mut watchers, &engine);
    let parts: Vec<_> = responses.iter().map(|part| (part.events.len(), part.fragment)).collect();
    assert_eq!(parts, [(2, true), (2, true), (1, false)]);
}

#[test]
fn a_catch_up_is_told_in_portions() {
    let mut engine = Engine::new(1);
    for n in 0..2_500 {
        engine.put(&put("k", &n.to_string())).unwrap();
    }
    let mut watchers = Watchers::new(usize::MAX);
    watchers.create(&engine, watch_all(2));
    let responses = told(&mut watchers, &engine);
    let parts: Vec<_> = responses.iter().map(|part| part.events.len()).collect();
    assert_eq!(parts, [1_000, 1_000, 500]);
    assert_eq!(responses[0].header, header(1_001), "what it is complete up to");
    assert_eq!(responses[2].header, header(2_501));
}

/// A call of the random sequences.
#[derive(Clone, Debug)]
enum Call {
    Put(u8, u8),
    Delete(u8, u8),
    Txn(Vec<(u8, Option<u8>)>),
    Compact(u8),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (0..6_u8, any::<u8>()).prop_map(|(key, value)| Call::Put(key, value)),
        2 => (0..6_u8, 0..7_u8).prop_map(|(from, to)| Call::Delete(from, to)),
        2 => proptest::collection::vec((0..6_u8, proptest::option::of(any::<u8>())), 0..4).prop_map(Call::Txn),
        1 => any::<u8>().prop_map(Call::Compact),
    ]
}

type State = BTreeMap<Bytes, KeyValue>;

fn key(key: u8) -> Bytes {
    vec![b'a' + key].into()
}

fn model_put(state: &mut State, revision: i64, key: Bytes, value: u8) {
    let before =
        state.get(&key).cloned().unwrap_or(KeyValue { create_revision: revision, ..KeyValue::default() });
    let version = before.version + 1;
    let value = vec![value].into();
    state.insert(key.clone(), KeyValue { key, value, mod_revision: revision, version, ..before });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every revision that history reaches reads as it was; a watch from any of them on tells how
    /// each became the next.
    #[test]
    fn history_is_what_happened(calls in proptest::collection::vec(call(), 1..40)) {
        let mut engine = Engine::new(1);
        // The states at the revisions 1, 2, …
        let mut states: Vec<State> = vec![State::new()];
        let mut compacted = -1;
        let mut live = Watchers::new(usize::MAX);
        live.create(&engine, watch_all(0));
        let mut seen = Vec::new();
        for call in calls {
            let next = engine.revision() + 1;
            let mut state = states.last().unwrap().clone();
            match call {
                Call::Put(k, value) => {
                    model_put(&mut state, next, key(k), value);
                    engine.put(&PutRequest { key: key(k), value: vec![value].into(), ..Default::default() }).unwrap();
                }
                Call::Delete(from, to) => {
                    state.retain(|k, _| !(key(from) <= *k && *k < key(to)));
                    engine.delete_range(&DeleteRangeRequest { key: key(from), range_end: key(to), ..Default::default() });
                }
                Call::Txn(writes) => {
                    let mut ops = Vec::new();
                    for (k, value) in writes {
                        match value {
                            Some(value) => {
                                let put = PutRequest { key: key(k), value: vec![value].into(), ..Default::default() };
                                ops.push(Request::RequestPut(put));
                            }
                            None => ops.push(Request::RequestDeleteRange(DeleteRangeRequest { key: key(k), ..Default::default() })),
                        }
                    }
                    let request = txn(ops);
                    if check_txn(&request, 128).is_err() {
                        continue;
                    }
                    for op in &request.success {
                        match op.request.as_ref().unwrap() {
                            Request::RequestPut(put) => model_put(&mut state, next, put.key.clone(), put.value[0]),
                            Request::RequestDeleteRange(delete) => drop(state.remove(&delete.key)),
                            _ => {}
                        }
                    }
                    engine.txn(&request).unwrap();
                }
                Call::Compact(at) => {
                    let at = 1 + i64::from(at) % engine.revision();
                    if engine.compact(at).is_ok() {
                        compacted = at;
                    }
                }
            }
            if engine.revision() == next {
                states.push(state);
            } else {
                prop_assert_eq!(&state, states.last().unwrap());
            }
            seen.extend(events(&told(&mut live, &engine)));
        }

        let head = engine.revision();
        prop_assert_eq!(head, i64::try_from(states.len()).unwrap());
        for revision in 1..=head {
            let found = engine.range(&RangeRequest { revision, ..all() });
            if revision < compacted {
                prop_assert_eq!(found, Err(Refusal::Compacted));
                continue;
            }
            let expected: Vec<_> = states[usize::try_from(revision - 1).unwrap()].values().cloned().collect();
            prop_assert_eq!(found.unwrap().kvs, expected);
        }

        // The events of a watch from the beginning and of one from later on are the same ones, and
        // lead from state to state.
        let from = compacted.max(1);
        let mut late = Watchers::new(usize::MAX);
        late.create(&engine, watch_all(from));
        let late = events(&told(&mut late, &engine));
        let without_previous = |event: &Event| Event { prev_kv: None, ..event.clone() };
        let expected: Vec<_> = seen
            .iter()
            .filter(|event| event.kv.as_ref().unwrap().mod_revision >= from)
            .map(without_previous)
            .collect();
        prop_assert_eq!(late.iter().map(without_previous).collect::<Vec<_>>(), expected);
        let mut state = State::new();
        for event in &seen {
            let kv = event.kv.clone().unwrap();
            let before = states[usize::try_from(kv.mod_revision - 2).unwrap()].get(&kv.key);
            prop_assert!(event.prev_kv.is_none() || event.prev_kv.as_ref() == before);
            match event.r#type() {
                crate::proto::mvccpb::event::EventType::Put => drop(state.insert(kv.key.clone(), kv)),
                crate::proto::mvccpb::event::EventType::Delete => drop(state.remove(&kv.key)),
            }
        }
        prop_assert_eq!(&state, states.last().unwrap());
        prop_assert!(engine.size() < 40 * 4 * 70 + 1);
    }
}
