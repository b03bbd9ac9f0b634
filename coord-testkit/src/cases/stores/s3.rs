//! S3 Transaction.

use coord_api::store::{Compare, MAX_TXN_BYTES, MAX_TXN_OPS, Op, OpReply, Order, Range, Span, Txn};
use coord_api::{ErrorKind, LeaseId, Outcome, Revision};
use futures_util::future::join_all;

use super::{delete, get, head, keys, put, put_leased};
use crate::bad;
use crate::fixture::Fixture;

pub(super) async fn each_compare_holds_when_it_should_and_only_then(cx: Fixture) {
    let store = cx.store().await;
    let (one, two) = (
        store.grant_lease(cx.long_ttl()).await.unwrap().id,
        store.grant_lease(cx.long_ttl()).await.unwrap().id,
    );
    let before = put(&*store, "before", "1").await;
    delete(&*store, "before").await;
    let created = put(&*store, "k", "1").await;
    let modified = put_leased(&*store, "k", "2", one).await;
    put(&*store, "bare", "").await;
    let key = |key: &'static str| key.into();
    let expected = [
        (Compare::Absent(key("no")), true),
        (Compare::Absent(key("k")), false),
        (Compare::Absent(key("bare")), false),
        (Compare::Present(key("k")), true),
        (Compare::Present(key("bare")), true),
        (Compare::Present(key("no")), false),
        (Compare::Modified(key("k"), modified), true),
        (Compare::Modified(key("k"), created), false),
        (Compare::Modified(key("k"), modified.next()), false),
        (Compare::Modified(key("no"), modified), false),
        (Compare::Created(key("k"), created), true),
        (Compare::Created(key("k"), modified), false),
        (Compare::Created(key("k"), before), false),
        (Compare::Created(key("k"), created.next()), false),
        (Compare::Created(key("no"), created), false),
        (Compare::Lease(key("k"), one), true),
        (Compare::Lease(key("k"), two), false),
        (Compare::Lease(key("bare"), one), false),
        (Compare::Lease(key("no"), one), false),
        (Compare::RangeAbsent(Span::prefix("no")), true),
        (Compare::RangeAbsent(Span::prefix("k/")), true),
        (Compare::RangeAbsent(Span::prefix("")), false),
        (Compare::RangeAbsent(Span::prefix("k")), false),
        (Compare::RangeAbsent(Span::key("k")), false),
        (Compare::RangeAbsent(Span::key("no")), true),
        (Compare::RangeAbsent(Span::Interval(key("a"), key("bare"))), true),
        (Compare::RangeAbsent(Span::Interval(key("bare"), key("c"))), false),
    ];
    for (compare, holds) in expected {
        let reply = store.txn(Txn::new().when(compare.clone())).await.unwrap();
        assert_eq!(reply.succeeded, holds, "{compare:?}");
    }
}

pub(super) async fn one_compare_that_does_not_hold_decides(cx: Fixture) {
    let store = cx.store().await;
    let modified = put(&*store, "k", "1").await;
    let txn = |wrong: Compare| {
        Txn::new()
            .when(Compare::Present("k".into()))
            .when(wrong)
            .when(Compare::Modified("k".into(), modified))
            .then(Op::put("then", "1"))
            .otherwise(Op::put("otherwise", "1"))
            .otherwise(Op::Range(Range::key("k")))
    };
    let reply = store.txn(txn(Compare::Present("no".into()))).await.unwrap();
    assert!(!reply.succeeded);
    assert_eq!(reply.range(1).unwrap().entries[0].modified, modified);
    assert_eq!(get(&*store, "then").await, None);
    assert_eq!(get(&*store, "otherwise").await.unwrap().modified, reply.revision);
    let reply = store.txn(txn(Compare::Absent("no".into()))).await.unwrap();
    assert!(reply.succeeded);
    assert_eq!(get(&*store, "then").await.unwrap().modified, reply.revision);
    assert!(get(&*store, "otherwise").await.unwrap().modified < reply.revision, "only one list runs");
}

pub(super) async fn operations_run_in_order_and_a_range_sees_earlier_writes(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "p/a", "old").await;
    let txn = Txn::new()
        .then(Op::Range(Range::prefix("p/")))
        .then(Op::put("p/b", "new"))
        .then(Op::Range(Range::prefix("p/")))
        .then(Op::delete("p/a"))
        .then(Op::Range(Range::prefix("p/")));
    let reply = store.txn(txn).await.unwrap();
    let seen = |index: usize| {
        reply.range(index).unwrap().entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(seen(0), ["p/a"]);
    assert_eq!(seen(2), ["p/a", "p/b"]);
    assert_eq!(seen(4), ["p/b"]);
    let written = &reply.range(4).unwrap().entries[0];
    assert_eq!((written.created, written.modified), (reply.revision, reply.revision));
    assert_eq!(written.value, "new".into());
}

pub(super) async fn a_range_inside_has_every_option(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "q/c", "1").await;
    let second = put(&*store, "q/a", "1").await;
    put(&*store, "q/b", "1").await;
    let txn = Txn::new()
        .then(Op::Range(Range::prefix("q/").with_order(Order::NewestFirst).with_limit(2)))
        .then(Op::Range(Range::prefix("q/").with_max_created(second).with_order(Order::OldestFirst)))
        .then(Op::Range(Range::prefix("q/").with_after_key("q/a").with_keys_only()));
    let reply = store.txn(txn).await.unwrap();
    let seen = |index: usize| {
        reply.range(index).unwrap().entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(seen(0), ["q/b", "q/a"]);
    assert!(reply.range(0).unwrap().more);
    assert_eq!(seen(1), ["q/c", "q/a"]);
    assert_eq!(seen(2), ["q/b", "q/c"]);
    assert!(reply.range(2).unwrap().entries.iter().all(|entry| entry.value.is_empty()));
}

pub(super) async fn every_operation_is_answered(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "there", "1").await;
    let txn = Txn::new()
        .then(Op::delete("there"))
        .then(Op::delete("absent"))
        .then(Op::put("new", "1"))
        .then(Op::Range(Range::key("new")));
    let reply = store.txn(txn).await.unwrap();
    assert_eq!(reply.replies.len(), 4);
    assert_eq!((reply.existed(0), reply.existed(1)), (Some(true), Some(false)));
    assert_eq!(reply.replies[2], OpReply::Put);
    assert_eq!(reply.range(3).unwrap().entries.len(), 1);
}

pub(super) async fn what_a_transaction_read_is_not_older_than_any_acknowledged_write(cx: Fixture) {
    let stores = join_all((0..4).map(|_| cx.store())).await;
    for n in 0..40 {
        let (writer, reader) = (&stores[n % 4], &stores[(n + 1) % 4]);
        let written = writer.txn(Txn::new().then(Op::put("k", n.to_string()))).await.unwrap().revision;
        let inside = reader.txn(Txn::new().then(Op::Range(Range::key("k")))).await.unwrap();
        assert_eq!(inside.range(0).unwrap().entries[0].modified, written);
        assert!(inside.revision >= written);
        assert_eq!(get(&**reader, "k").await.unwrap().modified, written, "a plain read is no older");
    }
}

pub(super) async fn what_a_transaction_compared_is_not_older_than_any_acknowledged_write(cx: Fixture) {
    let stores = join_all((0..4).map(|_| cx.store())).await;
    for n in 0..40 {
        let (writer, reader) = (&stores[n % 4], &stores[(n + 1) % 4]);
        let there = n % 2 == 0;
        let written = if there { put(&**writer, "k", "1").await } else { delete(&**writer, "k").await };
        // Nothing in it reads or writes, so that a store might take it for a read that may be old.
        let reply = reader.txn(Txn::new().when(Compare::Present("k".into()))).await.unwrap();
        assert_eq!(reply.succeeded, there, "{n}");
        assert!(reply.revision >= written, "{n}: at revision {} after {written}", reply.revision);
        let reply = reader.txn(Txn::new()).await.unwrap();
        assert!(
            reply.revision >= written,
            "{n}: nothing at all, at revision {} after {written}",
            reply.revision
        );
    }
}

pub(super) async fn increments_of_many_clients_add_up(cx: Fixture) {
    let stores = join_all((0..5).map(|_| cx.store())).await;
    put(&*stores[0], "n", "0").await;
    let tasks = stores.into_iter().map(|store| {
        tokio::spawn(async move {
            let mut tries = 0;
            for _ in 0..10 {
                loop {
                    tries += 1;
                    let entry = get(&*store, "n").await.unwrap();
                    let n: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    tokio::task::yield_now().await;
                    let next = Txn::new()
                        .when(Compare::Modified("n".into(), entry.modified))
                        .then(Op::put("n", (n + 1).to_string()));
                    if store.txn(next).await.unwrap().succeeded {
                        break;
                    }
                }
            }
            tries
        })
    });
    let tries: u32 = join_all(tasks).await.into_iter().map(Result::unwrap).sum();
    let store = cx.store().await;
    assert_eq!(get(&*store, "n").await.unwrap().value, "50".into());
    assert!(tries >= 50);
}

pub(super) async fn one_write_for_each_key(cx: Fixture) {
    let store = cx.store().await;
    let before = head(&*store).await;
    let twice = [
        Txn::new().then(Op::put("a", "1")).then(Op::put("a", "2")),
        Txn::new().then(Op::put("a", "1")).then(Op::put("b", "1")).then(Op::delete("a")),
        Txn::new().otherwise(Op::delete("a")).otherwise(Op::delete("a")),
    ];
    for txn in twice {
        assert_eq!(store.txn(txn.clone()).await.unwrap_err().kind(), ErrorKind::InvalidArgument, "{txn:?}");
    }
    assert_eq!(head(&*store).await, before);
    let either =
        Txn::new().when(Compare::Absent("a".into())).then(Op::put("a", "1")).otherwise(Op::delete("a"));
    assert!(store.txn(either).await.unwrap().succeeded, "once in each list is legal");
}

pub(super) async fn a_full_list_of_operations_passes_and_one_more_does_not(cx: Fixture) {
    let store = cx.store().await;
    let puts =
        |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.then(Op::put(format!("k/{n:03}"), "1")));
    let before = head(&*store).await;
    let too_many = [
        puts(MAX_TXN_OPS + 1),
        (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, n| txn.otherwise(Op::delete(n.to_string()))),
        (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, n| txn.when(Compare::Absent(n.to_string().into()))),
    ];
    for txn in too_many {
        assert_eq!(store.txn(txn).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(head(&*store).await, before);
    let full = (0..MAX_TXN_OPS)
        .fold(puts(MAX_TXN_OPS), |txn, n| txn.when(Compare::Absent(format!("k/{n:03}").into())));
    let reply = store.txn(full).await.unwrap();
    assert!(reply.succeeded);
    assert_eq!(keys(&*store, Range::prefix("k/")).await.len(), MAX_TXN_OPS);
}

pub(super) async fn a_transaction_is_bounded_in_bytes(cx: Fixture) {
    let store = cx.store().await;
    let before = head(&*store).await;
    let mebibyte = bad::value().len() - 1;
    let too_large = [
        Txn::new().then(Op::put("a", bad::value())),
        Txn::new()
            .then(Op::put("a", vec![b'x'; mebibyte]))
            .then(Op::put("b", vec![b'x'; MAX_TXN_BYTES - mebibyte - 1])),
    ];
    for txn in too_large {
        assert_eq!(store.txn(txn).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(head(&*store).await, before);
    let full = Txn::new()
        .then(Op::put("a", vec![b'x'; mebibyte]))
        .then(Op::put("b", vec![b'y'; MAX_TXN_BYTES - mebibyte - 2]));
    store.txn(full).await.unwrap();
    assert_eq!(get(&*store, "a").await.unwrap().value.len(), mebibyte);
    assert_eq!(get(&*store, "b").await.unwrap().value.len(), MAX_TXN_BYTES - mebibyte - 2);
}

pub(super) async fn a_refused_transaction_changes_nothing(cx: Fixture) {
    let store = cx.store().await;
    let dead = store.grant_lease(cx.ttl()).await.unwrap().id;
    store.revoke_lease(dead).await.unwrap();
    put(&*store, "kept", "1").await;
    let before = head(&*store).await;
    let refused = [
        (Txn::new().then(Op::put("a", "1")).then(Op::put("", "no key")), ErrorKind::InvalidArgument),
        (Txn::new().then(Op::delete("kept")).then(Op::put_leased("b", "1", dead)), ErrorKind::LeaseLost),
        (Txn::new().then(Op::put_leased("b", "1", dead)).then(Op::delete("kept")), ErrorKind::LeaseLost),
    ];
    for (txn, kind) in refused {
        let error = store.txn(txn.clone()).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotApplied), "{txn:?}");
    }
    assert_eq!(head(&*store).await, before);
    assert_eq!(keys(&*store, Range::prefix("")).await, ["kept"]);
}

pub(super) async fn a_bad_transaction_is_an_invalid_argument(cx: Fixture) {
    let store = cx.store().await;
    put(&*store, "k", "1").await;
    let before = head(&*store).await;
    let none = LeaseId::new(0);
    // What means "absent", "none" or "now" to some stores means nothing here.
    let bad = [
        Txn::new().then(Op::put("", "1")),
        Txn::new().then(Op::delete("")),
        Txn::new().then(Op::put_leased("a", "1", none)),
        Txn::new().otherwise(Op::put_leased("a", "1", none)),
        Txn::new().when(Compare::Absent("".into())).then(Op::put("a", "1")),
        Txn::new().when(Compare::Lease("k".into(), none)).then(Op::put("a", "1")),
        Txn::new().when(Compare::Modified("k".into(), Revision::ZERO)).otherwise(Op::put("a", "1")),
        Txn::new().when(Compare::Created("k".into(), Revision::ZERO)).otherwise(Op::put("a", "1")),
    ];
    for txn in bad {
        let error = store.txn(txn.clone()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{txn:?}"
        );
    }
    assert_eq!(head(&*store).await, before);
}

pub(super) async fn of_many_creators_exactly_one_succeeds(cx: Fixture) {
    let clients = join_all((0..4).map(|seed| cx.delayed(seed))).await;
    for (round, compare) in [Compare::Absent("c/k".into()), Compare::RangeAbsent(Span::prefix("c/"))]
        .into_iter()
        .cycle()
        .take(8)
        .enumerate()
    {
        let creates = (0..12).zip(clients.iter().cycle()).map(|(n, client)| {
            // By several names, where it is the range that must be empty.
            let key = if round % 2 == 0 { "c/k".to_owned() } else { format!("c/{n}") };
            client.store.txn(
                Txn::new()
                    .when(compare.clone())
                    .then(Op::put(key, n.to_string()))
                    .otherwise(Op::Range(Range::prefix("c/"))),
            )
        });
        let replies: Vec<_> = join_all(creates).await.into_iter().map(Result::unwrap).collect();
        let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.succeeded);
        assert_eq!((won.len(), lost.len()), (1, 11));
        for reply in lost {
            let found = &reply.range(0).unwrap().entries;
            assert!(
                found.len() == 1 && found[0].created == won[0].revision,
                "who comes later sees the first"
            );
        }
        let store = &clients[0].store;
        let key = keys(&**store, Range::prefix("c/")).await.remove(0);
        store.txn(Txn::new().then(Op::delete(key))).await.unwrap();
    }
}
