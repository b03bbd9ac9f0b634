//! What random calls would not come upon: each asked of both, and answered in the same way.

use etcd_client::proto::*;
use futures_util::future::join;
use prost::Message;
use tonic::Code;

use super::raw::{Answer, Raw, watch};
use super::{Pair, Watching};

type Said<A> = Result<A, (Code, String)>;

impl Pair {
    /// Asks both, and returns what both say.
    async fn same<A: Answer>(
        &self,
        method: &'static str,
        request: impl Message + Clone + 'static,
    ) -> Said<A> {
        let ask = |server: Raw| {
            let request = request.clone();
            async move { server.call(method, request).await }
        };
        let (fake, real): (Said<A>, Said<A>) = self.both(ask).await;
        assert_eq!(fake, real, "{method}");
        fake
    }
}

fn on(key: &str) -> PbWatchRequestUnion {
    watch! { key: key.as_bytes().to_vec() }
}

fn cancel(id: i64) -> PbWatchRequestUnion {
    let mut request = PbWatchRequestUnion::CancelRequest(Default::default());
    if let PbWatchRequestUnion::CancelRequest(cancel) = &mut request {
        cancel.watch_id = id;
    }
    request
}

fn put(key: &str, value: Vec<u8>) -> PbPutRequest {
    PbPutRequest { key: key.as_bytes().to_vec(), value, ..PbPutRequest::default() }
}

/// Several watches on one stream: numbers, cancelling, ranges without a key.
#[tokio::test]
async fn a_stream_of_watches_is_answered_alike() {
    let pair = Pair::start().await;
    pair.begin().await;
    let (fake, real) = pair
        .both(|server| async move {
            let first = PbWatchRequest { request_union: Some(on("a")) };
            let mut stream = server.open("/etcdserverpb.Watch/Watch", first).await;
            let mut heard: Vec<PbWatchResponse> = vec![stream.hear().await];
            for (request, answers) in [
                (watch! { watch_id: 2 }, 1),
                (on("b"), 1),
                (on("c"), 1),
                (watch! { key: b"d".to_vec(), watch_id: 2 }, 1),
                (watch! { start_revision: -5 }, 1),
                (watch! { key: b"b".to_vec(), range_end: b"a".to_vec() }, 1),
                (watch! { key: b"b".to_vec(), range_end: b"b".to_vec() }, 1),
                (watch! { range_end: vec![0] }, 1),
                (cancel(77), 0),
                (cancel(1), 1),
                (cancel(1), 0),
                (on("e"), 1),
                (watch! { key: b"e".to_vec(), watch_id: 1 }, 1),
                (watch! { key: b"e".to_vec(), start_revision: 1 }, 2),
                // The one that ended since history did has its number still.
                (cancel(6), 1),
                (PbWatchRequestUnion::ProgressRequest(Default::default()), 1),
            ] {
                stream.say(PbWatchRequest { request_union: Some(request) }).await;
                for _ in 0..answers {
                    heard.push(stream.hear().await);
                }
            }
            heard
        })
        .await;
    assert_eq!(fake, real);
}

/// One transaction is one response for each watch, and a large one is split for who can take it.
#[tokio::test]
async fn a_large_response_is_split_alike() {
    let pair = Pair::start().await;
    pair.begin().await;
    let half = |letter: u8| vec![letter; 700_000];
    let both = PbTxnRequest {
        success: [("a", b'1'), ("b", b'2')]
            .map(|(key, letter)| PbTxnRequestOp {
                request: Some(PbTxnOpRequest::RequestPut(put(key, half(letter)))),
            })
            .into(),
        ..PbTxnRequest::default()
    };
    let _: PbTxnResponse = pair.same("/etcdserverpb.KV/Txn", both.clone()).await.unwrap();
    for fragment in [false, true] {
        let request =
            watch! { key: b"a".to_vec(), range_end: b"z".to_vec(), prev_kv: true, fragment: fragment };
        let (mut fake, mut real) =
            join(Watching::begin(&pair.fake, request.clone()), Watching::begin(&pair.real, request)).await;
        let _: PbTxnResponse = pair.same("/etcdserverpb.KV/Txn", both.clone()).await.unwrap();
        loop {
            let (fake, real) = join(fake.stream.hear(), real.stream.hear()).await;
            assert!(fake == real, "{fragment}: {} and {} events", fake.events.len(), real.events.len());
            if !fake.fragment {
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_alike() {
    let pair = Pair::start().await;
    pair.begin().await;
    for size in [1_572_000, 1_573_000, 2_097_000, 2_098_000, 5_000_000] {
        let put = put("k", vec![0; size]);
        let said: Said<PbPutResponse> = pair.same("/etcdserverpb.KV/Put", put.clone()).await;
        assert_eq!(said.is_ok(), size < 1_572_864, "{size}");
        let within = PbTxnRequest {
            failure: vec![PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestPut(put)) }],
            ..PbTxnRequest::default()
        };
        let _: Said<PbTxnResponse> = pair.same("/etcdserverpb.KV/Txn", within).await;
    }
    for count in [128, 129] {
        let ops = (0..count).map(|n| PbTxnOpRequest::RequestPut(put(&n.to_string(), Vec::new())));
        let many = PbTxnRequest {
            success: ops.map(|put| PbTxnRequestOp { request: Some(put) }).collect(),
            ..PbTxnRequest::default()
        };
        let said: Said<PbTxnResponse> = pair.same("/etcdserverpb.KV/Txn", many.clone()).await;
        assert_eq!(said.is_ok(), count == 128);
        let within = PbTxnRequest {
            success: vec![PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestTxn(many)) }],
            ..PbTxnRequest::default()
        };
        let _: Said<PbTxnResponse> = pair.same("/etcdserverpb.KV/Txn", within).await;
    }
}

#[tokio::test]
async fn a_full_store_refuses_alike_what_would_fill_it() {
    let pair = Pair::start().await;
    pair.begin().await;
    let alarm = |action| PbAlarmRequest { action, member_id: 0, alarm: 1 };
    let listed = async |action| {
        let (fake, real) = pair
            .both(|server| async move {
                server.call("/etcdserverpb.Maintenance/Alarm", alarm(action)).await.map(
                    |answer: PbAlarmResponse| {
                        answer.alarms.iter().map(|alarm| alarm.alarm).collect::<Vec<_>>()
                    },
                )
            })
            .await;
        assert_eq!(fake, real);
        fake.unwrap()
    };
    assert_eq!(listed(0).await, [0; 0]);
    let delete = PbDeleteRequest { key: b"k".to_vec(), ..PbDeleteRequest::default() };
    let within = |request| PbTxnRequest {
        success: vec![PbTxnRequestOp { request: Some(request) }],
        ..PbTxnRequest::default()
    };
    for (action, listing, full) in [(1, 1, true), (0, 1, true), (2, 1, false), (2, 0, false)] {
        assert_eq!(listed(action).await.len(), listing);
        let said: Said<PbPutResponse> = pair.same("/etcdserverpb.KV/Put", put("k", Vec::new())).await;
        assert_eq!(said.is_err(), full);
        let puts = within(PbTxnOpRequest::RequestPut(put("k", Vec::new())));
        let _: Said<PbTxnResponse> = pair.same("/etcdserverpb.KV/Txn", puts).await;
        let deletes = within(PbTxnOpRequest::RequestDeleteRange(delete.clone()));
        let _: Said<PbTxnResponse> = pair.same("/etcdserverpb.KV/Txn", deletes).await;
        let grant = PbLeaseGrantRequest { ttl: 60, id: 100 + i64::from(action) };
        let _: Said<PbLeaseGrantResponse> = pair.same("/etcdserverpb.Lease/LeaseGrant", grant).await;
        let _: Said<PbDeleteResponse> = pair.same("/etcdserverpb.KV/DeleteRange", delete.clone()).await;
    }
}

/// What of users and roles is answered at all.
#[tokio::test]
async fn nobody_signs_in_alike() {
    let pair = Pair::start().await;
    pair.begin().await;
    let who = || "somebody".to_owned();
    let _: Said<PbAuthEnableResponse> =
        pair.same("/etcdserverpb.Auth/AuthEnable", PbAuthEnableRequest {}).await;
    let _: Said<PbAuthDisableResponse> =
        pair.same("/etcdserverpb.Auth/AuthDisable", PbAuthDisableRequest {}).await;
    let sign_in = PbAuthenticateRequest { name: who(), password: who() };
    let _: Said<PbAuthenticateResponse> = pair.same("/etcdserverpb.Auth/Authenticate", sign_in).await;
    let _: Said<PbAuthUserListResponse> =
        pair.same("/etcdserverpb.Auth/UserList", PbAuthUserListRequest {}).await;
    let _: Said<PbAuthRoleListResponse> =
        pair.same("/etcdserverpb.Auth/RoleList", PbAuthRoleListRequest {}).await;
    let user = PbAuthUserGetRequest { name: who() };
    let _: Said<PbAuthUserGetResponse> = pair.same("/etcdserverpb.Auth/UserGet", user).await;
    let role = PbAuthRoleGetRequest { role: who() };
    let _: Said<PbAuthRoleGetResponse> = pair.same("/etcdserverpb.Auth/RoleGet", role).await;
    let _: Said<PbDefragmentResponse> =
        pair.same("/etcdserverpb.Maintenance/Defragment", PbDefragmentRequest {}).await;
}

/// The shortest leases, and how they end.
#[tokio::test]
async fn a_lease_ends_alike() {
    let pair = Pair::start().await;
    pair.begin().await;
    for ttl in [-1, 0, 1] {
        let grant = PbLeaseGrantRequest { ttl, id: 100 + ttl };
        let granted: Said<PbLeaseGrantResponse> = pair.same("/etcdserverpb.Lease/LeaseGrant", grant).await;
        assert_eq!(granted.unwrap().ttl, 1);
    }
    let leased = PbPutRequest { lease: 101, ..put("k", Vec::new()) };
    let _: PbPutResponse = pair.same("/etcdserverpb.KV/Put", leased).await.unwrap();
    let request = watch! { key: b"k".to_vec(), prev_kv: true };
    let (mut fake, mut real) =
        join(Watching::begin(&pair.fake, request.clone()), Watching::begin(&pair.real, request)).await;
    let (fake, real) = join(fake.stream.hear(), real.stream.hear()).await;
    assert_eq!(fake, real, "the key goes with its lease");
}

/// What was before is told where history still reaches it.
#[tokio::test]
async fn the_edge_of_history_is_told_alike() {
    let pair = Pair::start().await;
    let begin = pair.begin().await;
    for value in [b"1", b"2", b"3"] {
        let _: PbPutResponse = pair.same("/etcdserverpb.KV/Put", put("k", value.to_vec())).await.unwrap();
    }
    let start = begin + 2;
    let compact = PbCompactionRequest { revision: start, physical: true };
    let _: PbCompactionResponse = pair.same("/etcdserverpb.KV/Compact", compact).await.unwrap();
    let request = watch! { key: b"k".to_vec(), start_revision: start, prev_kv: true };
    let (mut fake, mut real) =
        join(Watching::begin(&pair.fake, request.clone()), Watching::begin(&pair.real, request)).await;
    join(fake.catch_up(begin + 3), real.catch_up(begin + 3)).await;
    assert_eq!(fake.events, real.events);
    let before = fake.events.iter().map(|event| event.prev_kv.is_some());
    assert_eq!(before.collect::<Vec<_>>(), [false, true]);
}
