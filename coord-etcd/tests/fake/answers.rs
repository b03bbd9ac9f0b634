//! Lost and nonsensical answers to ranges and transactions.

use coord_api::prelude::*;
use coord_api::store::{Compare, Op, Range, Store, Txn};
use coord_api::{ErrorKind, Outcome, Value};
use coord_etcd::{EtcdProvider, EtcdStore};
use etcd_client::proto::{
    PbKeyValue, PbPutResponse, PbRangeResponse, PbResponseOp, PbTxnOpResponse, PbTxnResponse,
};
use tokio::time::Instant;
use tonic::Status;

use crate::server::{ATTEMPT, Answer, CLUSTER, Fake, header};
use crate::{options, store};

/// Sent as a put.
fn put() -> Txn {
    Txn::new().then(Op::put("k", "v"))
}

/// Sent as a transaction.
fn create() -> Txn {
    put().when(Compare::Absent("k".into()))
}

#[tokio::test]
async fn a_lost_answer_leaves_a_write_unknown_and_is_not_repeated() {
    let fake = Fake::start(10).await;
    fake.script(|script| {
        script.puts.push_back(Answer::Swallow);
        script.txns.push_back(Answer::Swallow);
    });
    for (txn, asked) in [(put(), "put"), (create(), "txn")] {
        let error = store(&fake).txn(txn).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
        assert_eq!(fake.asked(asked), 1);
    }

    // Nor by the layers around it, and not at another member.
    let other = Fake::start(10).await;
    for fake in [&fake, &other] {
        fake.script(|script| script.puts.push_back(Answer::Swallow));
    }
    let provider = EtcdProvider::connect_lazy(options([&fake, &other])).unwrap();
    let error = provider.config().set_raw("k", Value::from("v")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
    assert_eq!(fake.asked("put") + other.asked("put"), 2);
}

#[tokio::test]
async fn a_write_that_was_not_applied_goes_to_the_next_member() {
    let (one, two) = (Fake::start(10).await, Fake::start(10).await);
    let status = || Status::unavailable("etcdserver: no leader");
    for fake in [&one, &two] {
        fake.script(|script| {
            script.puts.push_back(Answer::Fail(status()));
            script.txns.push_back(Answer::Fail(status()));
        });
    }
    for (txn, asked) in [(put(), "put"), (create(), "txn")] {
        let store = EtcdStore::connect_lazy(&options([&one, &two])).unwrap();
        let error = store.txn(txn).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied), "{error}");
        assert_eq!((one.asked(asked), two.asked(asked)), (1, 1), "each was asked once");
    }
}

#[tokio::test]
async fn a_transaction_that_only_compares_comes_after_a_read_of_the_same_member_that_is_up_to_date() {
    let (one, two) = (Fake::start(10).await, Fake::start(10).await);
    let store = EtcdStore::connect_lazy(&options([&one, &two])).unwrap();
    let compares = || Txn::new().when(Compare::Absent("k".into()));
    store.txn(compares()).await.unwrap();
    let (first, other) = if one.asked("txn") == 1 { (&one, &two) } else { (&two, &one) };
    assert_eq!(first.requests(), ["range", "txn"]);

    // A member that cannot confirm is not believed; the next one confirms for itself.
    first
        .script(|script| script.ranges.push_back(Answer::Fail(Status::unavailable("etcdserver: no leader"))));
    store.txn(compares()).await.unwrap();
    assert_eq!(first.requests(), ["range", "txn", "range"]);
    assert_eq!(other.requests(), ["range", "txn"]);

    // What reads or writes is asked for at once: etcd itself sees to it.
    for txn in [create(), compares().then(Op::Range(Range::key("k"))), compares().otherwise(Op::delete("k"))]
    {
        other.script(|script| script.asked.clear());
        drop(store.txn(txn).await);
        assert_eq!(other.requests(), ["txn"]);
    }
}

#[tokio::test]
async fn a_read_that_is_swallowed_goes_to_the_next_member_and_stays_there() {
    let (one, two) = (Fake::start(10).await, Fake::start(10).await);
    let store = EtcdStore::connect_lazy(&options([&one, &two])).unwrap();
    store.range(Range::key("k")).await.unwrap();
    let (silent, other) = if one.asked("range") == 1 { (&one, &two) } else { (&two, &one) };
    silent.script(|script| script.ranges.extend([Answer::Swallow, Answer::Swallow]));
    for _ in 0..10 {
        store.range(Range::key("k")).await.unwrap();
    }
    assert_eq!((silent.asked("range"), other.asked("range")), (2, 10));
}

#[tokio::test]
async fn all_attempts_together_are_bounded_and_so_are_all_pages() {
    let total = ATTEMPT + ATTEMPT / 2;
    let in_time = |begun: Instant| {
        assert!(begun.elapsed() >= total && begun.elapsed() < 2 * ATTEMPT, "{:?}", begun.elapsed())
    };
    let (one, two) = (Fake::start(10).await, Fake::start(10).await);
    let mut options = options([&one, &two]);
    options.retry.total_timeout = Some(total);
    for fake in [&one, &two] {
        fake.script(|script| script.ranges.push_back(Answer::Swallow));
    }
    let store = EtcdStore::connect_lazy(&options).unwrap();
    let begun = Instant::now();
    assert_eq!(store.range(Range::key("k")).await.unwrap_err().kind(), ErrorKind::Timeout);
    in_time(begun);

    // Any number of pages, each in time by itself.
    let kv = |n: u8| PbKeyValue { key: vec![b'k', n], ..PbKeyValue::default() };
    let endless = move |n| PbRangeResponse { header: header(10), kvs: vec![kv(n)], more: true, count: 1_000 };
    let begun = Instant::now();
    for fake in [&one, &two] {
        fake.script(|script| {
            script.ranges.clear();
            script.ranges.extend([Answer::Give(endless(0)), Answer::Give(endless(1)), Answer::Swallow]);
        });
    }
    assert_eq!(store.range(Range::prefix("k")).await.unwrap_err().kind(), ErrorKind::Timeout);
    in_time(begun);
}

#[tokio::test]
async fn nonsense_is_internal_and_panics_nobody() {
    let fake = Fake::start(10).await;
    let store = store(&fake);
    fake.script(|script| script.ranges.push_back(Answer::Give(PbRangeResponse::default())));
    assert_eq!(
        store.range(Range::key("k")).await.unwrap_err().kind(),
        ErrorKind::Internal,
        "an answer without a header"
    );

    let range =
        PbTxnOpResponse::ResponseRange(PbRangeResponse { header: header(10), ..PbRangeResponse::default() });
    let responses =
        [vec![], vec![PbResponseOp { response: None }], vec![PbResponseOp { response: Some(range) }]];
    for responses in responses {
        let nonsense = PbTxnResponse { header: header(11), succeeded: true, responses };
        fake.script(|script| script.txns.push_back(Answer::Give(nonsense)));
        let error = store.txn(create()).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Internal, Outcome::Unknown), "{error}");
    }
    assert_eq!(fake.asked("txn"), 3);

    fake.script(|script| script.puts.push_back(Answer::Give(PbPutResponse::default())));
    let error = store.txn(put()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Internal, Outcome::Unknown),
        "an answer without a header: {error}"
    );
}

#[tokio::test]
async fn a_page_that_is_empty_and_not_the_last_ends_the_list() {
    let fake = Fake::start(10).await;
    let more = PbRangeResponse { header: header(10), more: true, ..PbRangeResponse::default() };
    fake.script(|script| script.ranges.push_back(Answer::Give(more)));
    assert!(
        store(&fake).range(Range::prefix("")).await.unwrap().more,
        "it is told, and not asked for without end"
    );
    assert_eq!(fake.asked("range"), 1);
}

#[tokio::test]
async fn a_list_is_begun_anew_when_its_history_is_compacted() {
    let fake = Fake::start(10).await;
    let kv =
        |key: &str| PbKeyValue { key: key.into(), mod_revision: 5, create_revision: 5, ..Default::default() };
    let page = |revision, key: &str, more| PbRangeResponse {
        header: header(revision),
        kvs: vec![kv(key)],
        more,
        count: 2,
    };
    let compacted = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
    fake.script(|script| {
        script.ranges.extend([
            Answer::Give(page(10, "a", true)),
            Answer::Fail(compacted),
            Answer::Give(page(20, "a", true)),
            Answer::Give(page(30, "b", false)),
        ]);
    });
    let listed = store(&fake).range(Range::prefix("")).await.unwrap();
    assert_eq!((listed.revision.get(), listed.entries.len(), listed.more), (20, 2, false));
}

#[tokio::test]
async fn the_identity_is_the_clusters() {
    let fake = Fake::start(10).await;
    let status = store(&fake).status().await.unwrap();
    assert_eq!((status.store_id, status.version), (format!("{CLUSTER:x}"), "etcd 3.5.99".to_owned()));
}
