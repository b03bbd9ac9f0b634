//! The channel as clients hold it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use coord_api::Result;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::call;
use crate::discovery::RegistryDiscovery;
use crate::endpoint::Endpoint;
use crate::error::{OPERATION, no_home};
use crate::options::{ChannelOptions, Readiness};
use crate::pool::EndpointPool;
use crate::shared::ChannelShared;
use crate::state::{ChannelState, Skipped};

/// A channel to a set of endpoints, of which it calls only those that are ready: a service for the
/// clients that tonic generates. Cheap to clone.
///
/// - Every endpoint is connected ahead of time, once. It is *ready* when the server has spoken
///   HTTP/2, not when the kernel has accepted the connection.
/// - An endpoint is *ejected* the moment its socket drops, when a ping goes unanswered
///   ([`KeepAlive`](crate::KeepAlive)), and when calls time out on it, nobody gets an answer from
///   it, and another endpoint is ready. It is probed with growing, jittered pauses, and comes back
///   when it answers; after a silence by the one call that may try it first.
/// - An endpoint that leaves the set gets no new calls, and finishes those that it has.
/// - A request that never left, or that the server says it did not look at, is sent to another
///   endpoint; up to 64 KiB of it are kept for the latter. Any other is sent again only if it is
///   idempotent and the channel may ([`ChannelOptions::with_retry`]).
/// - Failures are of code `Unavailable` (no endpoint, or the connection was lost) or
///   `DeadlineExceeded`. After either a call that is not idempotent may have been carried out or
///   not, unless the message says that there was no endpoint.
///
/// A channel lives on a thread of its own ([`ChannelOptions::with_home`]): it may be made in one
/// runtime, or in none, and used in any other, and neither dies nor stands still with any of them.
///
/// Dropping the last clone, and the last answer that is still being read, closes the connections
/// and ends the tasks and the thread. That may be done anywhere.
///
/// # Cancel safety
///
/// A call may be dropped at any time; its stream is then reset.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<ChannelShared>,
}

impl Channel {
    /// A channel to endpoints that do not change.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for options that cannot work; `Unavailable` when no thread is to be had,
    /// or the runtime that was given as [home](ChannelOptions::with_home) has ended; `Closed` when
    /// the given home belongs to the process that this one was forked from. An endpoint that cannot
    /// be used is skipped, and [`state`](Self::state) says so.
    pub fn fixed(endpoints: impl IntoIterator<Item = Endpoint>, options: ChannelOptions) -> Result<Self> {
        let (channel, set) = Channel::dynamic(options)?;
        set.replace(endpoints);
        Ok(channel)
    }

    /// A channel to endpoints that change: the handle sets them. Until it does so for the first
    /// time, calls wait.
    ///
    /// # Errors
    ///
    /// Those of [`fixed`](Self::fixed).
    pub fn dynamic(options: ChannelOptions) -> Result<(Self, EndpointSet)> {
        let channel = Channel::with(options, |_| Ok(None))?;
        let set = EndpointSet { pool: Arc::downgrade(&channel.shared.pool) };
        Ok((channel, set))
    }

    pub(crate) fn with(
        options: ChannelOptions,
        discovery: impl FnOnce(&Arc<EndpointPool>) -> Result<Option<RegistryDiscovery>>,
    ) -> Result<Self> {
        options.validate(OPERATION)?;
        let home = options.home();
        home.ready().map_err(no_home)?;
        let pool = EndpointPool::new(options, home);
        let discovery = discovery(&pool)?;
        Ok(Channel { shared: ChannelShared::new(pool, discovery) })
    }

    /// Waits until an endpoint is ready.
    ///
    /// # Errors
    ///
    /// With [`Readiness::FailFast`] the status `Unavailable` when there is no endpoint, or each has
    /// failed; with [`Readiness::Wait`] it waits as long as it takes.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&self, readiness: Readiness) -> std::result::Result<(), Status> {
        self.shared.pool.ready(readiness).await
    }

    /// Picks the endpoint of a call that is not made. Whether there is one.
    #[doc(hidden)]
    pub fn pick_for_benchmarks(&self) -> bool {
        self.shared.pool.pick(None).is_some()
    }

    /// How the channel is doing at this moment.
    pub fn state(&self) -> ChannelState {
        let (endpoints, skipped, age, unread) = self.shared.pool.states();
        let discovery = self.shared.discovery.as_ref().map(|discovery| discovery.state(unread));
        ChannelState { endpoints, skipped, age, discovery }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Channel")
            .field("endpoints", &state.endpoints.len())
            .field("ready", &state.ready())
            .finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = ResponseFuture;

    /// Always ready: whether there is an endpoint is asked by the call, which can wait for one.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        ResponseFuture(Box::pin(call::make(Arc::clone(&self.shared), request)))
    }
}

/// The head of an answer to come.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = std::result::Result<Response<Body>, Status>> + Send>>);

impl Future for ResponseFuture {
    type Output = std::result::Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Sets the endpoints of a [dynamic](Channel::dynamic) channel. Dropped, it leaves them as they
/// are.
#[derive(Clone, Debug)]
pub struct EndpointSet {
    pool: Weak<EndpointPool>,
}

impl EndpointSet {
    /// Replaces the set; an empty one empties the channel. Endpoints that stay keep their
    /// connections, and those that go finish the calls that they have.
    ///
    /// Does nothing when the channel is gone. Never blocks; may be called anywhere.
    pub fn replace(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        if let Some(pool) = self.pool.upgrade() {
            pool.replace(
                endpoints.into_iter().map(|endpoint| (endpoint.to_string(), endpoint)),
                Vec::<Skipped>::new(),
            );
        }
    }
}
