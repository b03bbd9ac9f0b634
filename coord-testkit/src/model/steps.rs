//! The steps of a sequence on a store, in the model's words, and how they are drawn.

use coord_api::store::Order;
use proptest::prelude::*;

/// The keys, which meet each other in every way: equal parts, longer ones, bytes that are no text.
pub(super) const KEYS: [&[u8]; 9] = [b"a", b"a\0", b"a/", b"a/b", b"a/b/c", b"a0", b"ab", b"b", b"b\xff"];

/// A key, by its number.
pub(super) type Key = usize;

/// A revision, by where it comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    /// The key's own, if it has one.
    Own,
    /// One that there was, counted from the newest.
    Ago(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Keys {
    One(Key),
    Under(Key),
    All,
    Between(Key, Key),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum If {
    Absent(Key),
    Present(Key),
    Modified(Key, At),
    Created(Key, At),
    /// A lease, counted from the newest.
    Lease(Key, usize),
    NoneOf(Keys),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) keys: Keys,
    pub(super) after: Option<Key>,
    pub(super) ago: Option<usize>,
    pub(super) limit: Option<usize>,
    pub(super) order: Order,
    pub(super) created_by: Option<usize>,
    pub(super) keys_only: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Do {
    Put(Key, u8, Option<usize>),
    Delete(Key),
    Read(Read),
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Range(Read),
    Txn(Vec<If>, Vec<Do>, Vec<Do>),
    Watch(Keys, Option<usize>),
    Grant,
    KeepAlive(usize),
    Lookup(usize),
    Revoke(usize),
}

fn key() -> impl Strategy<Value = Key> + Clone {
    0..KEYS.len()
}

fn keys() -> impl Strategy<Value = Keys> + Clone {
    prop_oneof![
        key().prop_map(Keys::One),
        key().prop_map(Keys::Under),
        Just(Keys::All),
        (key(), key()).prop_map(|(one, two)| Keys::Between(one, two))
    ]
}

fn at() -> impl Strategy<Value = At> + Clone {
    prop_oneof![2 => Just(At::Own), 1 => (0..4_usize).prop_map(At::Ago)]
}

fn read() -> impl Strategy<Value = Read> + Clone {
    let some = |longest: usize| prop::option::weighted(0.3, 0..longest);
    let order =
        prop_oneof![2 => Just(Order::Key), 1 => Just(Order::OldestFirst), 1 => Just(Order::NewestFirst)];
    (keys(), some(KEYS.len()), some(8), some(4), order, some(6), any::<bool>()).prop_map(
        |(keys, after, ago, limit, order, created_by, keys_only)| {
            let after = after.filter(|_| order == Order::Key);
            Read { keys, after, ago, limit: limit.map(|limit| limit + 1), order, created_by, keys_only }
        },
    )
}

fn condition() -> impl Strategy<Value = If> + Clone {
    prop_oneof![
        key().prop_map(If::Absent),
        key().prop_map(If::Present),
        (key(), at()).prop_map(|(key, at)| If::Modified(key, at)),
        (key(), at()).prop_map(|(key, at)| If::Created(key, at)),
        (key(), 0..4_usize).prop_map(|(key, lease)| If::Lease(key, lease)),
        keys().prop_map(If::NoneOf),
    ]
}

fn action() -> impl Strategy<Value = Do> + Clone {
    prop_oneof![
        4 => (key(), 0..4_u8, prop::option::weighted(0.3, 0..4_usize)).prop_map(|(key, value, lease)| Do::Put(key, value, lease)),
        2 => key().prop_map(Do::Delete),
        1 => read().prop_map(|read| Do::Read(Read { ago: None, ..read })),
    ]
}

/// What there is most of in a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mostly {
    /// Of everything.
    Anything,
    Ranges,
    Txns,
    Watches,
    Leases,
}

pub(super) fn step(mostly: Mostly) -> impl Strategy<Value = Step> {
    let [range, txn, watch, grant, keep_alive, lookup, revoke] = match mostly {
        Mostly::Anything => [3, 6, 1, 1, 1, 1, 1],
        Mostly::Ranges => [24, 12, 1, 1, 1, 1, 1],
        Mostly::Txns => [1, 36, 1, 1, 1, 1, 1],
        Mostly::Watches => [1, 24, 4, 1, 1, 1, 1],
        Mostly::Leases => [1, 24, 1, 1, 3, 12, 1],
    };
    let actions = || prop::collection::vec(action(), 0..4);
    prop_oneof![
        range => read().prop_map(Step::Range),
        txn => (prop::collection::vec(condition(), 0..3), actions(), actions()).prop_map(|(when, then, otherwise)| Step::Txn(when, then, otherwise)),
        watch => (keys(), prop::option::of(0..6_usize)).prop_map(|(keys, ago)| Step::Watch(keys, ago)),
        grant => Just(Step::Grant),
        keep_alive => (0..4_usize).prop_map(Step::KeepAlive),
        lookup => (0..4_usize).prop_map(Step::Lookup),
        revoke => (0..4_usize).prop_map(Step::Revoke),
    ]
}
