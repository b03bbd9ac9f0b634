//! A client that sends what it is told to, however wrong, and gives back what comes.

use etcd_client::proto::*;
use futures_util::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// More than any test asks for.
const WAITING: usize = 100;

/// What only the server knows of an answer: who it is. It is the same in no two servers.
pub(crate) trait Answer: Message + Default + Clone + std::fmt::Debug + PartialEq + 'static {
    fn header(&mut self) -> &mut Option<PbResponseHeader>;

    /// The answer as any server would give it.
    fn anonymous(mut self) -> Self {
        if let Some(header) = self.header() {
            *header = PbResponseHeader { revision: header.revision, ..PbResponseHeader::default() };
        }
        self
    }
}

macro_rules! answers {
    ($($answer:ty),* $(,)?) => {
        $(impl Answer for $answer {
            fn header(&mut self) -> &mut Option<PbResponseHeader> {
                &mut self.header
            }
        })*
    };
}

answers!(
    PbRangeResponse,
    PbPutResponse,
    PbDeleteResponse,
    PbTxnResponse,
    PbCompactionResponse,
    PbLeaseGrantResponse,
    PbLeaseRevokeResponse,
    PbLeaseKeepAliveResponse,
    PbLeaseTimeToLiveResponse,
    PbLeaseLeasesResponse,
    PbWatchResponse,
    PbAlarmResponse,
    PbMemberListResponse,
    PbAuthEnableResponse,
    PbAuthDisableResponse,
    PbAuthenticateResponse,
    PbAuthUserListResponse,
    PbAuthUserGetResponse,
    PbAuthRoleListResponse,
    PbAuthRoleGetResponse,
    PbDefragmentResponse,
);

/// A request for a watch. Its message has no name outside of the client.
macro_rules! watch {
    ($($field:ident: $value:expr),* $(,)?) => {{
        let mut request = PbWatchRequestUnion::CreateRequest(Default::default());
        if let PbWatchRequestUnion::CreateRequest(watch) = &mut request {
            $(watch.$field = $value;)*
        }
        request
    }};
}
pub(crate) use watch;

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    channel: Channel,
}

impl Raw {
    pub(crate) async fn connect(endpoint: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
        Raw { channel: endpoint.connect().await.unwrap() }
    }

    /// Sends a request with one answer.
    pub(crate) async fn call<A: Answer>(
        &self,
        method: &'static str,
        request: impl Message + 'static,
    ) -> Result<A, (tonic::Code, String)> {
        let mut grpc = self.grpc().await;
        let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(method), codec()).await;
        answer.map(|answer: Response<A>| answer.into_inner().anonymous()).map_err(told)
    }

    /// Opens a stream with its first request: etcd's answer begins with that to it.
    pub(crate) async fn open<Q: Message + 'static, A: Answer>(
        &self,
        method: &'static str,
        first: Q,
    ) -> Conversation<Q, A> {
        let (requests, receiver) = mpsc::channel(WAITING);
        requests.send(first).await.unwrap_or_else(|_| panic!("there is room"));
        let mut grpc = self.grpc().await;
        let request = Request::new(ReceiverStream::new(receiver));
        let answers = grpc.streaming(request, PathAndQuery::from_static(method), codec()).await.unwrap();
        Conversation { requests, answers: answers.into_inner() }
    }

    async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        grpc.ready().await.unwrap();
        grpc
    }
}

fn codec<Q: Message + 'static, A: Answer>() -> ProstCodec<Q, A> {
    ProstCodec::default()
}

fn told(status: Status) -> (tonic::Code, String) {
    (status.code(), status.message().to_owned())
}

/// A stream in both directions.
pub(crate) struct Conversation<Q, A> {
    requests: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

impl<Q: Message, A: Answer> Conversation<Q, A> {
    pub(crate) async fn say(&self, request: Q) {
        self.requests.send(request).await.unwrap_or_else(|_| panic!("the server ended the stream"));
    }

    pub(crate) async fn hear(&mut self) -> A {
        self.answers.next().await.expect("the stream goes on").unwrap().anonymous()
    }
}
