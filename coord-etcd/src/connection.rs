//! The connections to one member: who the client is to it, and for what each of them is used.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coord_api::{ErrorKind, Outcome};
use etcd_client::{Client, ConnectOptions};
use tonic::transport::Endpoint;

use crate::error::Fault;
use crate::options::Credentials;
use crate::watch::Pool;

/// The largest answer that is taken. A page of a list, or the changes of a busy moment, may well exceed tonic's 4 MiB.
pub(crate) const LARGEST_ANSWER: usize = 1 << 30;

/// The connections to one member of the cluster.
#[derive(Debug)]
pub(crate) struct Link {
    /// Tells the client's links apart.
    pub(crate) number: u64,
    /// Keys, and what else is asked once.
    pub(crate) main: Connection,
    /// Watches, on the same transport. The member ends them when it has no leader, which it would otherwise keep to itself.
    pub(crate) watches: Connection,
    /// The streams of the watches.
    pub(crate) streams: Pool,
    /// Renewals, on a transport of their own, so that nothing else can hold them up.
    pub(crate) leases: Connection,
}

impl Link {
    /// Connects when it is first used. Needs a tokio runtime.
    pub(crate) async fn new(number: u64, endpoint: &Endpoint, credentials: Option<Arc<Credentials>>) -> Result<Self, Fault> {
        let transport = endpoint.connect_lazy();
        let leases = endpoint.connect_lazy();
        Ok(Link {
            number,
            main: Connection::new(transport.clone(), false, credentials.clone()).await?,
            watches: Connection::new(transport, true, credentials.clone()).await?,
            streams: Pool::default(),
            leases: Connection::new(leases, true, credentials).await?,
        })
    }
}

/// A client of one member that signs in when it is first used, and again when its token is refused.
pub(crate) struct Connection {
    client: Client,
    credentials: Option<Arc<Credentials>>,
    /// How many tokens were fetched. Zero: nobody signed in yet.
    tokens: AtomicU64,
    /// Held while a token is fetched, so that many who need one fetch one.
    fetching: tokio::sync::Mutex<()>,
}

impl Connection {
    async fn new(transport: tonic::transport::Channel, require_leader: bool, credentials: Option<Arc<Credentials>>) -> Result<Self, Fault> {
        // Without credentials, which would make it sign in here, etcd-client does no I/O.
        let options = ConnectOptions::new().with_require_leader(require_leader);
        let client = Client::from_channel(etcd_client::Channel::Tonic(transport), Some(options)).await?;
        Ok(Connection { client, credentials, tokens: AtomicU64::new(0), fetching: tokio::sync::Mutex::new(()) })
    }

    /// Makes one call; once more with a new token if the old one was the fault, which such a fault says was not applied.
    pub(crate) async fn run<T, F>(&self, call: impl Fn(&Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        // Boxed: a request of tonic's takes several KiB, which everything that awaits it would take as well.
        if self.credentials.is_none() {
            return Box::pin(call(&self.client)).await;
        }
        let token = Box::pin(self.sign_in(0)).await?;
        match Box::pin(call(&self.client)).await {
            Err(fault) if fault.stale_token => {
                tracing::debug!(fault = %fault.message, "the token is refused; signing in again");
                Box::pin(self.sign_in(token)).await?;
                Box::pin(call(&self.client)).await
            }
            answer => answer,
        }
    }

    /// Fetches a token unless there is one that is newer than the one of number `refused`. Returns its number.
    async fn sign_in(&self, refused: u64) -> Result<u64, Fault> {
        let token = self.tokens.load(Ordering::Acquire);
        if token > refused {
            return Ok(token);
        }
        let _turn = self.fetching.lock().await;
        let token = self.tokens.load(Ordering::Acquire);
        if token > refused {
            return Ok(token);
        }
        if let Some(credentials) = &self.credentials {
            match self.client.clone().update_user(Some(credentials.exposed())).await.map_err(Fault::from) {
                Ok(()) => {}
                // A cluster whose authentication is switched off takes everyone, and is not to fail those who could sign in.
                Err(fault) if fault.message.contains("authentication is not enabled") => {
                    tracing::warn!("etcd does not authenticate anybody; the credentials are not used");
                }
                // Signing in is a write of etcd's, but not of the caller's.
                Err(fault) => return Err(Fault { outcome: Outcome::NotApplied, stale_token: false, ..fault }),
            }
        }
        self.tokens.store(token + 1, Ordering::Release);
        Ok(token + 1)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// What a call outside of a tokio runtime is told, where tokio itself would panic.
pub(crate) fn require_runtime() -> Result<(), Fault> {
    // Who is a task has a runtime, and a handle is shared by all threads.
    if tokio::task::try_id().is_some() {
        return Ok(());
    }
    match tokio::runtime::Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(Fault { kind: ErrorKind::Internal, outcome: Outcome::NotApplied, ..Fault::nonsense("called outside of a tokio runtime") })
        }
    }
}
