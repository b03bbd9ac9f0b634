//! Writes that are under way when their client is closed (R2, R8): what is said of them is true.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Compare, Op, Range, Span, Store, Txn};
use coord_api::{ErrorKind, LeaseId, Outcome, Result, Value, Version};
use futures_util::future::join_all;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::fixture::Fixture;
use crate::wait::within;

/// By when pending calls have ended (R8).
const FIVE_SECONDS: Duration = Duration::from_secs(5);

/// How long after the writes were begun the client is closed.
#[derive(Clone, Copy, Debug)]
enum After {
    /// So many times that others had a turn.
    Turns(usize),
    Time(Duration),
}

impl After {
    async fn pass(self) {
        match self {
            After::Turns(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
            After::Time(time) => sleep(time).await,
        }
    }

    /// The moments to close at. Where time is virtual they cost nothing.
    fn all(cx: &Fixture) -> Vec<After> {
        let millis: &[u64] =
            if cx.virtual_time() { &[1, 2, 5, 15, 40, 100, 300, 1_000, 4_000] } else { &[1, 2, 4] };
        let turns = [0, 1, 2, 3, 5, 8].map(After::Turns);
        turns
            .into_iter()
            .chain(millis.iter().map(|millis| After::Time(Duration::from_millis(*millis))))
            .collect()
    }
}

/// How long a write may yet be under way that somebody said was not applied.
async fn settle(cx: &Fixture) {
    sleep(if cx.virtual_time() { Duration::from_secs(60) } else { Duration::from_millis(200) }).await;
}

/// What was said of a write must fit what became of it.
fn judge(what: &str, after: After, answer: Result<()>, applied: bool) {
    match answer {
        Ok(()) => assert!(applied, "{what}, closed after {after:?}: acknowledged, and it is not there"),
        Err(error) => {
            assert!(
                error.kind() == ErrorKind::Closed || error.is_transient(),
                "{what}, closed after {after:?}: {error:?}"
            );
            assert!(
                !applied || error.outcome() == Outcome::Unknown,
                "{what}, closed after {after:?}: it was applied, and said to be {:?}: {error:?}",
                error.outcome()
            );
        }
    }
}

/// The writes of a store, each on keys of its own. What they find is that `held` hangs on the
/// lease, and that `there` is there.
fn writes(lease: LeaseId) -> [(&'static str, Txn); 6] {
    let there = || Compare::Present("there".into());
    [
        ("a put", Txn::new().then(Op::put("put", "1"))),
        ("a create", Txn::new().when(Compare::Absent("created".into())).then(Op::put("created", "1"))),
        (
            "a put of the other list",
            Txn::new().when(Compare::Absent("there".into())).otherwise(Op::put("other", "1")),
        ),
        ("a put under a lease", Txn::new().when(there()).then(Op::put_leased("leased", "1", lease))),
        ("a delete", Txn::new().then(Op::delete("deleted"))),
        ("many writes", (0..50).fold(Txn::new(), |txn, n| txn.then(Op::put(format!("many/{n}"), "1")))),
    ]
}

async fn applied(store: &dyn Store) -> [bool; 6] {
    let there = async |range: Range| !store.range(range).await.unwrap().entries.is_empty();
    let many = store.range(Range::prefix("many/")).await.unwrap().entries.len();
    assert!(many == 0 || many == 50, "{many} of 50 writes of one transaction were applied");
    [
        there(Range::key("put")).await,
        there(Range::key("created")).await,
        there(Range::key("other")).await,
        there(Range::key("leased")).await,
        !there(Range::key("deleted")).await,
        many > 0,
    ]
}

/// Begins all writes on a client of the store, ends the client in the midst of them, and compares.
async fn cut_off(cx: &Fixture, crash: bool) {
    let stranger = cx.store().await;
    for after in After::all(cx) {
        let before = Txn::new().then(Op::put("there", "1")).then(Op::put("deleted", "1"));
        stranger.txn(before).await.unwrap();
        let lease = stranger.grant_lease(cx.ttl() * 100).await.unwrap().id;
        let revoked = stranger.grant_lease(cx.ttl() * 100).await.unwrap().id;
        stranger.txn(Txn::new().then(Op::put_leased("held", "1", revoked))).await.unwrap();
        let client = cx.client().await;
        let tasks = writes(lease).map(|(what, txn)| {
            let store = Arc::clone(&client.store);
            (what, tokio::spawn(async move { store.txn(txn).await.map(|_| ()) }))
        });
        let store = Arc::clone(&client.store);
        let revoking = tokio::spawn(async move { store.revoke_lease(revoked).await });
        after.pass().await;
        let ending = async {
            if crash {
                client.crash().await;
            } else {
                client.store.close().await.unwrap();
            }
        };
        within(FIVE_SECONDS + cx.slack(), "closing ends", ending).await;
        let (whats, tasks): (Vec<_>, Vec<_>) = tasks.into_iter().unzip();
        let answers = within(FIVE_SECONDS + cx.slack(), "what was pending ends", join_all(tasks)).await;
        let revoking = within(FIVE_SECONDS + cx.slack(), "a revocation ends", revoking).await.unwrap();
        settle(cx).await;
        for ((what, answer), applied) in whats.into_iter().zip(answers).zip(applied(&*stranger).await) {
            judge(what, after, answer.unwrap(), applied);
        }
        let gone = stranger.lease(revoked).await.unwrap().is_none();
        judge("a revocation", after, revoking, gone);
        stranger.revoke_lease(lease).await.unwrap();
        stranger.revoke_lease(revoked).await.unwrap();
        let all = stranger.range(Range::prefix("")).await.unwrap().entries;
        let clear = all.into_iter().fold(Txn::new(), |txn, entry| txn.then(Op::delete(entry.key)));
        stranger.txn(clear).await.unwrap();
    }
}

pub(super) async fn by_close(cx: Fixture) {
    cut_off(&cx, false).await;
}

pub(super) async fn by_a_crash(cx: Fixture) {
    cut_off(&cx, true).await;
}

/// The same for a provider, whose store takes its time.
pub(super) async fn by_close_of_a_provider(cx: Fixture) {
    let stranger = cx.provider().await;
    for (n, after) in After::all(&cx).into_iter().enumerate() {
        let config = stranger.config();
        let key = |what: &str| format!("w/{n}/{what}");
        let version = config.set_raw(&key("swapped"), Value::from("before")).await.unwrap();
        let removed = config.set_raw(&key("removed"), Value::from("before")).await.unwrap();
        config.set_raw(&key("deleted"), Value::from("before")).await.unwrap();
        let client = cx.delayed(u64::try_from(n).unwrap_or_default()).await;
        let provider = || Arc::clone(&client.provider);
        let value = || Value::from("after");
        let whats = ["set", "created", "swapped", "deleted", "removed"];
        let keys = whats.map(key);
        let tasks = keys.clone().into_iter().zip(whats).map(|(key, what)| {
            let provider = provider();
            tokio::spawn(async move {
                let config = provider.config();
                match what {
                    "set" => config.set_raw(&key, value()).await.map(drop),
                    "created" => config.compare_and_set_raw(&key, value(), Version::ZERO).await.map(drop),
                    "swapped" => config.compare_and_set_raw(&key, value(), version).await.map(drop),
                    "deleted" => config.delete(&key).await.map(drop),
                    _ => config.compare_and_delete(&key, removed).await.map(drop),
                }
            })
        });
        let tasks: Vec<_> = tasks.collect();
        after.pass().await;
        let _ = within(FIVE_SECONDS + cx.slack(), "closing ends", client.provider.close()).await;
        let answers = within(FIVE_SECONDS + cx.slack(), "what was pending ends", join_all(tasks)).await;
        settle(&cx).await;
        for ((what, key), answer) in whats.into_iter().zip(&keys).zip(answers) {
            let found = config.get_raw(key).await.unwrap().map(|found| found.value);
            let applied = match what {
                "deleted" | "removed" => found.is_none(),
                _ => found == Some(value()),
            };
            judge(what, after, answer.unwrap(), applied);
        }
    }
}

/// Streams that somebody waits for end with their client, and not when they are next asked.
pub(super) async fn waiting_streams(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.store().await);
    let mut waiting = Vec::new();
    for span in [Span::key("k"), Span::prefix("k/"), Span::prefix(""), Span::Interval("a".into(), "b".into())]
    {
        for _ in 0..5 {
            let mut watch = client.store.watch(span.clone(), None).await.unwrap();
            waiting.push(tokio::spawn(async move {
                loop {
                    match watch.next().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Ok((error, watch.next().await.is_none())),
                        None => return Err("it ended and did not say why"),
                    }
                }
            }));
        }
    }
    other.txn(Txn::new().then(Op::put("k", "1"))).await.unwrap();
    After::Turns(20).pass().await;
    assert!(waiting.iter().all(|stream| !stream.is_finished()), "no stream ends by itself");
    client.store.close().await.unwrap();
    let ends =
        within(FIVE_SECONDS + cx.slack(), "every stream of a closed client ends", join_all(waiting)).await;
    for end in ends {
        let (error, ended) = end.unwrap().expect("the last item is an error");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
        assert!(ended, "nothing comes after the error");
    }
}
