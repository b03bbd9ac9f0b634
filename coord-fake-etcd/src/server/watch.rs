//! Watches: one task a stream, which reads requests and tells events.

use std::future::ready;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Services, Shared};
use crate::engine::watchers::{Next, Watchers};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};

/// How many responses wait for a client that reads slowly. Behind them its watches fall behind, and
/// are told from history later; one that was compacted meanwhile ends, as it does in etcd.
const WAITING: usize = 16;

#[tonic::async_trait]
impl Watch for Services {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        requests: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.0.failures.check()?;
        let (responses, receiver) = mpsc::channel(WAITING);
        let stream = WatchStream {
            shared: Arc::clone(&self.0),
            watchers: Watchers::new(self.0.message_limit()),
            responses,
        };
        // It ends with the stream, and with the server's runtime.
        tokio::spawn(stream.run(requests.into_inner()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct WatchStream {
    shared: Arc<Shared>,
    watchers: Watchers,
    responses: mpsc::Sender<Result<WatchResponse, Status>>,
}

/// The client is gone.
struct Gone;

impl WatchStream {
    async fn run(mut self, mut requests: Streaming<WatchRequest>) {
        let mut revisions = self.shared.revisions();
        let interval = self.shared.options.progress_interval.max(std::time::Duration::from_millis(1));
        let mut progress = interval_at(Instant::now() + interval, interval);
        // A client that has nothing more to ask still wants to hear.
        let mut asks = true;
        let mut more = true;
        let gone = self.responses.clone();
        loop {
            let done = tokio::select! {
                biased;
                () = gone.closed() => Err(Gone),
                request = requests.message(), if asks => match request {
                    Ok(Some(request)) => {
                        more = true;
                        self.answer(request).await
                    }
                    Ok(None) => {
                        asks = false;
                        Ok(())
                    }
                    Err(_) => Err(Gone),
                },
                () = ready(()), if more => match self.shared.with(|engine, _| self.watchers.next(engine)) {
                    Next::Respond(responses) => self.send(responses).await,
                    Next::Again => {
                        tokio::task::yield_now().await;
                        Ok(())
                    }
                    Next::Idle => {
                        more = false;
                        Ok(())
                    }
                },
                changed = revisions.changed() => {
                    more = true;
                    changed.map_err(|_| Gone)
                }
                _ = progress.tick() => {
                    self.watchers.notify_progress();
                    more = true;
                    Ok(())
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, request: WatchRequest) -> Result<(), Gone> {
        let watchers = &mut self.watchers;
        let response = match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                Some(self.shared.with(|engine, _| watchers.create(engine, create)))
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                self.shared.with(|engine, _| watchers.cancel(engine, cancel.watch_id))
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                watchers.request_progress();
                None
            }
            None => None,
        };
        self.send(response).await
    }

    async fn send(&self, responses: impl IntoIterator<Item = WatchResponse>) -> Result<(), Gone> {
        for response in responses {
            let response = WatchResponse { header: self.shared.header(response.header), ..response };
            self.responses.send(Ok(response)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }
}
