//! An etcd in this process that answers what it is told to, however wrong.

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::proto::*;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// The cluster's id, in every header but of a fake that [is of another one](Fake::start_in).
pub(crate) const CLUSTER: u64 = 0xc0de;

/// One answer to a request with one answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer<T> {
    /// This.
    Give(T),
    /// This failure.
    Fail(Status),
    /// None, ever. The request was received, and counts.
    Swallow,
}

/// One step of a stream's script.
#[derive(Clone, Debug)]
pub(crate) enum Step<T> {
    /// Wait for the client's next request.
    Await,
    /// Send this.
    Send(T),
    /// End the stream with this failure.
    Fail(Status),
    /// End the stream.
    End,
    /// Answer each further request with this.
    Always(T),
    /// Send nothing more, and keep the stream open.
    Stall,
}

/// What happened in a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Happened {
    Nothing,
    /// A key was written.
    Put,
    /// A key was deleted.
    Deletion,
}

impl Happened {
    /// What one of two reads finds: the keys that were written since, with the number of all; or
    /// their number before.
    fn read(self, request: &PbTxnRequestOp) -> PbResponseOp {
        let Some(PbTxnOpRequest::RequestRange(read)) = &request.request else { panic!("{request:?}") };
        let kvs =
            if self == Happened::Put && !read.count_only { vec![PbKeyValue::default()] } else { Vec::new() };
        let count = if self == Happened::Deletion && !read.count_only { 2 } else { 3 };
        let range = PbRangeResponse { kvs, count, ..PbRangeResponse::default() };
        PbResponseOp { response: Some(PbTxnOpResponse::ResponseRange(range)) }
    }
}

/// What the fake does, in the order of the requests, and what it was asked. What no script covers
/// is answered as a healthy, empty store at [`head`](Self::head) would.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The store's revision.
    pub(crate) head: i64,
    /// The cluster that it says it is of.
    pub(crate) cluster: u64,
    /// What everything is answered with, where this is no etcd.
    pub(crate) refuses: Option<Status>,
    pub(crate) ranges: VecDeque<Answer<PbRangeResponse>>,
    pub(crate) puts: VecDeque<Answer<PbPutResponse>>,
    pub(crate) txns: VecDeque<Answer<PbTxnResponse>>,
    pub(crate) look_ups: VecDeque<Answer<PbLeaseTimeToLiveResponse>>,
    pub(crate) watches: VecDeque<Vec<Step<PbWatchResponse>>>,
    pub(crate) renewals: VecDeque<Vec<Step<PbLeaseKeepAliveResponse>>>,
    /// What is read to have happened in each watched range, by those who ask.
    pub(crate) happened: Option<Happened>,
    /// Where it says that the members are reached.
    pub(crate) members: Vec<String>,
    /// What was asked, in order.
    pub(crate) asked: Vec<&'static str>,
    /// Whence keys were written.
    pub(crate) writers: BTreeSet<SocketAddr>,
    pub(crate) watch_requests: Vec<PbWatchRequestUnion>,
}

#[derive(Clone)]
pub(crate) struct Fake {
    script: Arc<Mutex<Script>>,
    endpoint: String,
}

impl Fake {
    /// Starts a fake on a free port. It ends with the runtime of its test.
    pub(crate) async fn start(head: i64) -> Self {
        Fake::start_in(CLUSTER, head).await
    }

    /// Starts a fake that says it is of this cluster.
    pub(crate) async fn start_in(cluster: u64, head: i64) -> Self {
        Fake::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), cluster, head).await
    }

    /// Starts a fake that listens here.
    pub(crate) async fn start_on(listener: TcpListener, cluster: u64, head: i64) -> Self {
        let endpoint = listener.local_addr().unwrap().to_string();
        let fake =
            Fake { script: Arc::new(Mutex::new(Script { head, cluster, ..Script::default() })), endpoint };
        let server = Server::builder()
            .add_service(PbKvServer::new(fake.clone()))
            .add_service(PbWatchServer::new(fake.clone()))
            .add_service(PbLeaseServer::new(fake.clone()))
            .add_service(PbMaintenanceServer::new(fake.clone()))
            .add_service(PbClusterServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        fake
    }

    /// Starts a fake on a thread of its own, for tests whose own runtime ends, or stands still. It
    /// ends with the answer's second half.
    pub(crate) fn apart(head: i64) -> (Self, oneshot::Sender<()>) {
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                started.send(Fake::start(head).await).unwrap();
                let _ = stopped.await;
            });
        });
        (starting.recv().unwrap(), stop)
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Changes the script, or looks at what was asked.
    pub(crate) fn script<T>(&self, edit: impl FnOnce(&mut Script) -> T) -> T {
        edit(&mut self.script.lock().unwrap())
    }

    /// What was asked, but for who it is.
    pub(crate) fn requests(&self) -> Vec<&'static str> {
        self.script(|script| {
            script
                .asked
                .iter()
                .copied()
                .filter(|asked| !matches!(*asked, "status" | "identify" | "members"))
                .collect()
        })
    }

    /// How often something was asked.
    pub(crate) fn asked(&self, what: &str) -> usize {
        self.script(|script| script.asked.iter().filter(|asked| **asked == what).count())
    }

    async fn answer<T>(
        &self,
        what: &'static str,
        scripted: impl FnOnce(&mut Script) -> Option<Answer<T>>,
        usual: impl FnOnce(Option<PbResponseHeader>) -> T,
    ) -> Result<Response<T>, Status> {
        let answer = self.script(|script| {
            script.asked.push(what);
            if let Some(status) = &script.refuses {
                return Answer::Fail(status.clone());
            }
            let header =
                header(script.head).map(|header| PbResponseHeader { cluster_id: script.cluster, ..header });
            scripted(script).unwrap_or_else(|| Answer::Give(usual(header)))
        });
        match answer {
            Answer::Give(answer) => Ok(Response::new(answer)),
            Answer::Fail(status) => Err(status),
            Answer::Swallow => pending().await,
        }
    }
}

pub(crate) fn header(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader { cluster_id: CLUSTER, member_id: 1, revision, raft_term: 1 })
}

/// Plays a script to a client, and notes what it asks.
fn play<Q: Send + 'static, T: Clone + Send + 'static>(
    mut requests: Streaming<Q>,
    steps: Vec<Step<T>>,
    note: impl Fn(Q) + Send + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    let (sender, receiver) = mpsc::channel(100);
    tokio::spawn(async move {
        for step in steps {
            match step {
                Step::Await => match requests.message().await {
                    Ok(Some(request)) => note(request),
                    _ => return,
                },
                Step::Send(response) => drop(sender.send(Ok(response)).await),
                Step::Fail(status) => {
                    drop(sender.send(Err(status)).await);
                    return;
                }
                Step::End => return,
                Step::Always(response) => {
                    while let Ok(Some(request)) = requests.message().await {
                        note(request);
                        drop(sender.send(Ok(response.clone())).await);
                    }
                    return;
                }
                Step::Stall => sender.closed().await,
            }
        }
        sender.closed().await;
    });
    ReceiverStream::new(receiver).boxed()
}

#[tonic::async_trait]
impl PbKvService for Fake {
    type RangeStreamStream = BoxStream<'static, Result<PbRangeStreamResponse, Status>>;

    async fn range(&self, _: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let usual = |header| PbRangeResponse { header, ..PbRangeResponse::default() };
        self.answer("range", |script| script.ranges.pop_front(), usual).await
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let usual = |header| PbTxnResponse { header, succeeded: true, responses: Vec::new() };
        let asks = request.get_ref();
        if asks.compare.is_empty() && asks.success.is_empty() && asks.failure.is_empty() {
            return self.answer("identify", |_| None, usual).await;
        }
        if let Some(happened) = self.script(|script| script.happened) {
            let responses = asks.success.iter().map(|request| happened.read(request)).collect();
            let usual = |header| PbTxnResponse { header, succeeded: true, responses };
            return self.answer("probe", |_| None, usual).await;
        }
        self.answer("txn", |script| script.txns.pop_front(), usual).await
    }

    async fn range_stream(
        &self,
        _: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        self.script(|script| script.writers.extend(request.remote_addr()));
        let usual = |header| PbPutResponse { header, prev_kv: None };
        self.answer("put", |script| script.puts.pop_front(), usual).await
    }

    async fn delete_range(&self, _: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn compact(
        &self,
        _: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[tonic::async_trait]
impl PbWatchService for Fake {
    type WatchStream = BoxStream<'static, Result<PbWatchResponse, Status>>;

    async fn watch(
        &self,
        requests: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let steps = self.script(|script| {
            script.asked.push("watch");
            script
                .watches
                .pop_front()
                .unwrap_or_else(|| vec![Step::Await, Step::Send(created(script.head)), Step::Stall])
        });
        let fake = self.clone();
        let note = move |request: PbWatchRequest| {
            let Some(union) = request.request_union else { return };
            fake.script(|script| script.watch_requests.push(union));
        };
        Ok(Response::new(play(requests.into_inner(), steps, note)))
    }
}

/// The confirmation of the first watch on a stream.
pub(crate) fn created(head: i64) -> PbWatchResponse {
    PbWatchResponse { header: header(head), created: true, ..PbWatchResponse::default() }
}

#[tonic::async_trait]
impl PbLeaseService for Fake {
    type LeaseKeepAliveStream = BoxStream<'static, Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let ttl = request.get_ref().ttl;
        let usual = |header| PbLeaseGrantResponse { header, id: 7, ttl, error: String::new() };
        self.answer("grant", |_| None, usual).await
    }

    async fn lease_revoke(
        &self,
        _: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        self.answer("revoke", |_| None, |header| PbLeaseRevokeResponse { header }).await
    }

    async fn lease_keep_alive(
        &self,
        requests: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let steps = self.script(|script| {
            script.asked.push("renewal");
            script.renewals.pop_front().unwrap_or_else(|| vec![Step::Always(renewed(7, 5))])
        });
        Ok(Response::new(play(requests.into_inner(), steps, |_| {})))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let usual = |header| PbLeaseTimeToLiveResponse {
            header,
            id: 7,
            ttl: 4,
            granted_ttl: 5,
            ..PbLeaseTimeToLiveResponse::default()
        };
        self.answer("look_up", |script| script.look_ups.pop_front(), usual).await
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

pub(crate) fn renewed(id: i64, ttl: i64) -> PbLeaseKeepAliveResponse {
    PbLeaseKeepAliveResponse { header: header(1), id, ttl }
}

#[tonic::async_trait]
impl PbMaintenanceService for Fake {
    type SnapshotStream = BoxStream<'static, Result<PbSnapshotResponse, Status>>;

    async fn status(&self, _: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        let usual =
            |header| PbStatusResponse { header, version: "3.5.99".into(), ..PbStatusResponse::default() };
        self.answer("status", |_| None, usual).await
    }

    async fn alarm(&self, _: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn defragment(
        &self,
        _: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn hash_kv(&self, _: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn snapshot(
        &self,
        _: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[tonic::async_trait]
impl PbClusterService for Fake {
    async fn member_list(
        &self,
        _: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        let urls = self.script(|script| script.members.clone());
        let member = |(id, url)| PbMember { id, client_ur_ls: vec![url], ..PbMember::default() };
        let members = (1..).zip(urls).map(member).collect();
        self.answer("members", |_| None, |header| PbMemberListResponse { header, members }).await
    }

    async fn member_add(
        &self,
        _: Request<PbMemberAddRequest>,
    ) -> Result<Response<PbMemberAddResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn member_remove(
        &self,
        _: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// How long an attempt of the tests' clients takes at most.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(1);
