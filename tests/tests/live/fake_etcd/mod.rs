//! The fake etcd beside a real one: the same calls, and the same answers. And Go's client on it.

mod by_command;
mod calls;
mod conversations;
mod raw;

use std::future::Future;
use std::time::Duration;

use coord_fake_etcd::{FakeEtcd, FakeEtcdOptions};
use coord_servers::etcd::{Binary, Cluster, Series};
use etcd_client::proto::*;
use futures_util::future::join;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use super::SOON;
use calls::{Call, call, leases, watch, watch_at};
use raw::{Conversation, Raw};

/// How many sequences are compared at least; `PROPTEST_CASES` says how many more.
const SEQUENCES: u32 = 300;

/// How long etcd takes at most until it looks after watches that are behind, and some.
const BEHIND: Duration = Duration::from_millis(150);

/// A fake and a real one that were told the same.
struct Pair {
    fake: Raw,
    real: Raw,
    server: FakeEtcd,
    _cluster: Cluster,
}

impl Pair {
    async fn start() -> Self {
        let cluster = Cluster::single(&Binary::find(Series::V3_5));
        let options = FakeEtcdOptions::default().with_min_lease_ttl(Duration::from_secs(1));
        let server = FakeEtcd::start(options).unwrap();
        let (fake, real) =
            (Raw::connect(&server.endpoint()).await, Raw::connect(&cluster.endpoints()[0]).await);
        Pair { fake, real, server, _cluster: cluster }
    }

    /// Asks both of them, and returns what both say.
    async fn both<T, F>(&self, mut ask: impl FnMut(Raw) -> F) -> (T, T)
    where
        F: Future<Output = T>,
    {
        join(ask(self.fake.clone()), ask(self.real.clone())).await
    }

    /// Both at the beginning of a sequence: no keys, no leases, no history. Returns the revision.
    async fn begin(&self) -> i64 {
        let (fake, real) = self.both(begin).await;
        assert_eq!(fake, real, "both stand at one revision");
        fake
    }
}

/// Clears a server.
async fn begin(server: Raw) -> i64 {
    for lease in leases(&server).await.unwrap().leases {
        Call::Revoke(lease.id).ask(&server).await;
    }
    let everything = PbDeleteRequest { key: vec![0], range_end: vec![0], prev_kv: false };
    Call::Put(PbPutRequest { key: b"a".to_vec(), ..PbPutRequest::default() }).ask(&server).await;
    let answer: PbDeleteResponse = server.call("/etcdserverpb.KV/DeleteRange", everything).await.unwrap();
    let revision = answer.header.unwrap().revision;
    let compact = PbCompactionRequest { revision, physical: true };
    let _: PbCompactionResponse = server.call("/etcdserverpb.KV/Compact", compact).await.unwrap();
    revision
}

/// A watch on a stream of its own.
struct Watching {
    stream: Conversation<PbWatchRequest, PbWatchResponse>,
    /// What was said of the watch itself.
    said: Vec<PbWatchResponse>,
    events: Vec<PbEvent>,
    ended: bool,
}

impl Watching {
    async fn begin(server: &Raw, request: PbWatchRequestUnion) -> Self {
        let first = PbWatchRequest { request_union: Some(request) };
        let mut stream = server.open("/etcdserverpb.Watch/Watch", first).await;
        let created: PbWatchResponse = stream.hear().await;
        Watching { stream, ended: created.canceled, said: vec![created], events: Vec::new() }
    }

    /// Hears everything up to a revision.
    async fn catch_up(&mut self, revision: i64) {
        let caught_up = async {
            while !self.ended {
                let progress = PbWatchRequestUnion::ProgressRequest(Default::default());
                self.stream.say(PbWatchRequest { request_union: Some(progress) }).await;
                // While a watch is behind, etcd does not answer.
                while let Ok(response) = tokio::time::timeout(BEHIND, self.stream.hear()).await {
                    self.ended |= response.canceled;
                    if response.canceled {
                        self.said.push(response);
                        break;
                    }
                    let is_progress = response.watch_id == -1;
                    let at = response.header.unwrap().revision;
                    self.events.extend(response.events);
                    if is_progress && at >= revision {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(SOON, caught_up).await.expect("the watch hears of everything");
    }
}

/// Watches on both servers, and what they heard.
async fn watch_both(pair: &Pair, requests: Vec<PbWatchRequestUnion>) -> Vec<(Watching, Watching)> {
    let mut watching = Vec::new();
    for request in requests {
        watching.push(
            join(Watching::begin(&pair.fake, request.clone()), Watching::begin(&pair.real, request)).await,
        );
    }
    watching
}

async fn compare(watching: &mut [(Watching, Watching)], revision: i64) -> Result<(), TestCaseError> {
    for (fake, real) in watching {
        join(fake.catch_up(revision), real.catch_up(revision)).await;
        prop_assert_eq!(&fake.said, &real.said);
        prop_assert_eq!(&fake.events, &real.events);
    }
    Ok(())
}

/// A sequence of calls with watches before and after.
#[derive(Clone, Debug)]
struct Sequence {
    calls: Vec<Call>,
    live: Vec<PbWatchRequestUnion>,
    late: Vec<PbWatchRequestUnion>,
}

fn sequence() -> impl Strategy<Value = Sequence> {
    // What is to come, or the very next revision; and what is gone, and what may be there.
    let live = vec(watch(prop_oneof![2 => Just(0), 1 => Just(4_i64)]), 0..3);
    let late = vec(watch(prop_oneof![1 => Just(-1_i64), 8 => 1..14_i64]), 0..3);
    (vec(call(), 1..30), live, late).prop_map(|(calls, live, late)| Sequence { calls, live, late })
}

async fn run(pair: &Pair, sequence: Sequence) -> Result<(), TestCaseError> {
    let base = pair.begin().await;
    let at = |requests: Vec<PbWatchRequestUnion>| {
        requests.into_iter().map(|request| watch_at(request, base)).collect::<Vec<_>>()
    };
    let mut live = watch_both(pair, at(sequence.live)).await;
    // So that a watch on the next revision is told of it, and can tell how far it is.
    let first = Call::Put(PbPutRequest { key: b"first".to_vec(), ..PbPutRequest::default() });
    for call in std::iter::once(first).chain(sequence.calls) {
        let call = call.at(base);
        if matches!(call, Call::Compact(_)) {
            // What a watch is told of the past depends on whether that is still known when it is.
            compare(&mut live, pair.server.faults().revision()).await?;
        }
        let (fake, real) = join(call.ask(&pair.fake), call.ask(&pair.real)).await;
        prop_assert_eq!(fake, real, "{:?}", call);
    }
    let head = pair.server.faults().revision();
    compare(&mut live, head).await?;
    // Those that wait for what is yet to come hear of nothing.
    let known = |request: &PbWatchRequestUnion| matches!(request, PbWatchRequestUnion::CreateRequest(watch) if watch.start_revision <= head);
    let late: Vec<_> = at(sequence.late).into_iter().filter(known).collect();
    let mut late = watch_both(pair, late).await;
    compare(&mut late, head).await
}

#[test]
fn the_same_calls_have_the_same_answers() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config {
        cases: Config::default().cases.max(SEQUENCES),
        max_shrink_iters: 300,
        failure_persistence: None,
        ..Config::default()
    });
    // After a difference the two no longer are what they have to be, and others begin.
    let pair = std::cell::RefCell::new(None);
    let result = runner.run(&sequence(), |sequence| {
        let compared = runtime.block_on(async {
            let current = match pair.take() {
                Some(current) => current,
                None => Pair::start().await,
            };
            run(&current, sequence).await.map(|()| current)
        });
        compared.map(|current| drop(pair.replace(Some(current))))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, sequence)) => panic!("{why}\n{sequence:#?}"),
        Err(error) => panic!("{error}"),
    }
}
