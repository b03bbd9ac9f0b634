//! What can be seen of a channel.

use std::time::Duration;

use coord_api::{Error, WatchState};

use crate::endpoint::Endpoint;

/// How a channel is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelState {
    /// The endpoints in use, in the order of the set.
    pub endpoints: Vec<EndpointState>,
    /// What is in the set and cannot be used, each with its reason. It harms no other.
    pub skipped: Vec<Skipped>,
    /// How long ago the set was known to be the present one; `None` while there has been no set
    /// yet. During an outage of the registry the last set stays in use and this grows (R40).
    pub age: Option<Duration>,
    /// Where the set comes from, if that is a registry.
    pub discovery: Option<DiscoveryState>,
}

impl ChannelState {
    /// How many endpoints are ready.
    pub fn ready(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.phase == Phase::Ready).count()
    }
}

/// How an endpoint is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointState {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What it is used for at this moment.
    pub phase: Phase,
    /// How long it has been in this phase.
    pub since: Duration,
    /// Why it was not ready the last time; `None` if it always was, or was not connected yet.
    /// `Timeout` when it could not be connected or calls went unanswered, else `Unavailable`.
    pub failure: Option<Error>,
    /// How many connections to it were made so far.
    pub connections: u64,
    /// How long a connection may be silent before it is asked for a sign of life: that of
    /// [`KeepAlive`](crate::KeepAlive), and twice as long each time that the server complained.
    pub ping_after: Duration,
}

/// What an endpoint is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// It is being connected, for the first time or right after its connection was lost, and has
    /// not failed since.
    Connecting,
    /// It takes calls.
    Ready,
    /// It takes no calls, and is probed from time to time.
    Ejected,
    /// It is not connected: the channel has as many connections as it may have
    /// ([`ChannelOptions::with_max_connections`](crate::ChannelOptions::with_max_connections)), or
    /// as the process has files for.
    Idle,
}

/// What is in the set and cannot be used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The instance's id, or the address where there is none.
    pub id: String,
    /// Why: `InvalidArgument` for an address that is none, or asks for another protocol than the
    /// channel's; `Conflict` for an address that another has already; `Codec` for a record that
    /// cannot be read.
    pub error: Error,
}

/// How the discovery behind a channel is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiscoveryState {
    /// The service.
    pub service: String,
    /// `Live` while the set follows the registry; `Suspended` while the registry is out of reach,
    /// or is read for the first time; `Ended` once its provider is closed.
    pub watch: WatchState,
    /// Why the registry could not be read the last time, until it can.
    pub failure: Option<Error>,
}
