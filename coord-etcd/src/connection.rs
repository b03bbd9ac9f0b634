//! The connections to one member: signing in on them, making sure that the member belongs to the
//! cluster, and one connection for each use.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use coord_api::store::Effect;
use coord_api::{ErrorKind, Outcome};
use coord_recipes::Home;
use etcd_client::proto::PbResponseHeader;
use etcd_client::{Client, ConnectOptions, KvClient, TxnResponse};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};
use tonic::transport::Channel;

use crate::credentials::Account;
use crate::dial::Dialing;
use crate::error::Fault;
use crate::flight::Flight;
use crate::identity::{EtcdAnswer, Identity};
use crate::target::Target;

/// The largest answer that is accepted, in bytes. A page of a list, or the changes of a busy
/// moment, may exceed tonic's own limit of 4 MiB.
pub(crate) const LARGEST_ANSWER: usize = 1 << 30;

/// In how many runtimes a link has a connection of its own at most. The requests of further
/// runtimes go over the connection in the client's home.
const NEAR: usize = 16;

/// What all connections of a client need.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) dialing: Dialing,
    pub(crate) account: Option<Arc<Account>>,
    pub(crate) identity: Arc<Identity>,
    /// How long a sign-in may take. It is a task of the home, so that no caller that stands still
    /// holds it up.
    pub(crate) sign_in_within: Duration,
    /// Whether requests go over a connection in the runtime that makes them.
    pub(crate) near: bool,
}

/// The connections to one member of the cluster. Once one of them has ended, the link is replaced
/// by another one.
#[derive(Debug)]
pub(crate) struct Link {
    /// Tells the client's links apart.
    pub(crate) number: u64,
    /// For requests about keys, and all others with a single answer.
    pub(crate) main: Arc<MemberConnection>,
    near: Near,
    /// For watches, on the same transport. The member is asked to end a watch when it has no
    /// leader: without that it would go on and deliver nothing.
    pub(crate) watches: MemberConnection,
    /// For renewals of leases, on a transport of their own, so that nothing else can delay them.
    pub(crate) leases: MemberConnection,
}

impl Link {
    /// Connects when it is first used. No I/O.
    pub(crate) fn new(number: u64, target: &Target, common: &Common) -> Result<Self, Fault> {
        let channel = || channel(&common.dialing, target);
        let transport = channel()?;
        Ok(Link {
            number,
            main: Arc::new(MemberConnection::new(transport.clone(), false, common)?),
            near: Near { made: Mutex::default(), target: target.clone(), common: common.clone() },
            watches: MemberConnection::new(transport, true, common)?,
            leases: MemberConnection::new(channel()?, true, common)?,
        })
    }

    /// The connection for a request about keys: one in the runtime that makes it, where that is
    /// wanted.
    pub(crate) fn requests(&self) -> Arc<MemberConnection> {
        self.near.get().unwrap_or_else(|| Arc::clone(&self.main))
    }
}

fn channel(dialing: &Dialing, target: &Target) -> Result<Channel, Fault> {
    dialing.channel(target).map_err(|_| Fault::nonsense("the address of the member cannot be asked"))
}

/// Connections in the runtimes that make requests. A connection carries only the requests of its
/// own runtime, so that a runtime that stands still or has ended harms no other.
#[derive(Debug)]
struct Near {
    made: Mutex<Vec<(Id, Home, Arc<MemberConnection>)>>,
    target: Target,
    common: Common,
}

impl Near {
    /// The connection in the present runtime, which is made if there is none. `None` if the
    /// connection in the home is to be used.
    fn get(&self) -> Option<Arc<MemberConnection>> {
        if !self.common.near || Home::is_here() {
            return None;
        }
        let runtime = Handle::try_current().ok()?;
        let mut made = self.made.lock();
        if let Some((_, _, connection)) = made.iter().find(|(id, _, _)| *id == runtime.id()) {
            return Some(Arc::clone(connection));
        }
        made.retain(|(_, home, _)| home.ready().is_ok());
        if made.len() >= NEAR {
            return None;
        }
        let (id, home) = (runtime.id(), Home::runtime(runtime));
        let dialing = Dialing { home: home.clone(), ..self.common.dialing.clone() };
        let connection =
            Arc::new(MemberConnection::new(channel(&dialing, &self.target).ok()?, false, &self.common).ok()?);
        made.push((id, home, Arc::clone(&connection)));
        Some(connection)
    }
}

/// A client of one member that signs in when it is first used, and again when its token is refused.
pub(crate) struct MemberConnection {
    client: Client,
    identity: Arc<Identity>,
    /// Whether the server has said that it belongs to the cluster. Once said this holds for as long
    /// as the connection lasts.
    identified: AtomicBool,
    signing_in: Option<Arc<SigningIn>>,
}

impl MemberConnection {
    fn new(channel: Channel, require_leader: bool, common: &Common) -> Result<Self, Fault> {
        let options = ConnectOptions::new().with_require_leader(require_leader);
        // The future is ready at once: only with credentials, which we do not give it, would
        // etcd-client do I/O here.
        let made = Client::from_channel(etcd_client::Channel::Tonic(channel), Some(options)).now_or_never();
        let client = made.unwrap_or(Err(etcd_client::Error::EndpointsNotManaged))?;
        let signing_in = common.account.clone().map(|account| {
            Arc::new(SigningIn {
                client: client.clone(),
                account,
                home: common.dialing.home.clone(),
                within: common.sign_in_within,
                tokens: AtomicU64::new(0),
                under_way: Flight::default(),
            })
        });
        Ok(MemberConnection {
            client,
            identity: Arc::clone(&common.identity),
            identified: AtomicBool::new(false),
            signing_in,
        })
    }

    /// Makes one request to one of etcd's services. Every request goes this way: it signs in first,
    /// repeats the request with a new token if the old one is refused, and accepts an answer only
    /// from a member of the cluster. A request that writes is sent only to a server that is known
    /// to belong to the cluster.
    pub(crate) async fn ask<S, T, F>(
        &self,
        effect: Effect,
        service: impl Fn(&Client) -> S,
        request: impl Fn(S) -> F,
    ) -> Result<T, Fault>
    where
        T: EtcdAnswer,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        if effect != Effect::Read {
            self.identify().await?;
        }
        let answer = self.ask_anybody(service, request).await?;
        self.recognise(answer.pb_header())?;
        Ok(answer)
    }

    /// As [`ask`](Self::ask), but accepts an answer from a server of any cluster.
    pub(crate) async fn ask_anybody<S, T, F>(
        &self,
        service: impl Fn(&Client) -> S,
        request: impl Fn(S) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.run(|client| request(service(client))).await.map_err(|fault| self.judge(fault))
    }

    /// Makes sure that the other end belongs to the cluster.
    pub(crate) async fn identify(&self) -> Result<(), Fault> {
        if self.is_identified() {
            return Ok(());
        }
        // Boxed: it is rare.
        match Box::pin(self.ask_anybody(kv, nothing)).await {
            Ok(answer) => self.recognise(answer.pb_header()),
            // The request itself was not sent.
            Err(fault) => Err(Fault { outcome: Outcome::NotApplied, ..fault }),
        }
    }

    /// Whether the other end has said that it belongs to the cluster.
    pub(crate) fn is_identified(&self) -> bool {
        self.identified.load(Ordering::Acquire)
    }

    /// Takes note of who has answered.
    pub(crate) fn recognise(&self, header: Option<&PbResponseHeader>) -> Result<(), Fault> {
        self.identity.check(header)?;
        self.identified.store(true, Ordering::Release);
        Ok(())
    }

    /// Blames the member for a failure that no etcd would report in this way, unless the server has
    /// already answered as etcd does.
    fn judge(&self, fault: Fault) -> Fault {
        let is_known = fault.blames_member || fault.of_etcd || fault.over || self.is_identified();
        if is_known || fault.kind == ErrorKind::Closed {
            return fault;
        }
        Fault::unavailable(format!("it answers as no etcd does: {}", fault.message))
    }

    /// Makes one call. If its token is refused, it is made once more with a new one: a call with a
    /// refused token was not applied.
    pub(crate) async fn run<T, E, F>(&self, call: impl Fn(&Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, E>>,
        Fault: From<E>,
    {
        // Boxed: a request of tonic takes several KiB, and every future that awaits it would be as
        // large.
        let Some(signing_in) = &self.signing_in else { return Ok(Box::pin(call(&self.client)).await?) };
        let token = Box::pin(signing_in.newer_than(0)).await?;
        match Box::pin(call(&self.client)).await.map_err(Fault::from) {
            Err(fault) if fault.stale_token => {
                let why = fault.message;
                coord_home::event!(DEBUG, %why, "the token is refused; signing in again");
                Box::pin(signing_in.newer_than(token)).await?;
                Ok(Box::pin(call(&self.client)).await?)
            }
            answer => answer,
        }
    }
}

/// The service for keys.
pub(crate) fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(LARGEST_ANSWER)
}

/// A transaction that does nothing. Every user who is signed in may make it, and a member answers
/// it also without a majority.
pub(crate) async fn nothing(mut kv: KvClient) -> Result<TxnResponse, etcd_client::Error> {
    kv.txn(etcd_client::Txn::new()).await
}

impl std::fmt::Debug for MemberConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("identified", &self.identified).finish_non_exhaustive()
    }
}

/// The sign-ins on one connection, one at a time for all who need a token.
struct SigningIn {
    client: Client,
    account: Arc<Account>,
    home: Home,
    /// How long one may take.
    within: Duration,
    /// How many tokens were fetched so far; zero before the first sign-in.
    tokens: AtomicU64,
    under_way: Flight<u64>,
}

impl SigningIn {
    /// The number of a token that is newer than the one of number `refused`.
    async fn newer_than(self: &Arc<Self>, refused: u64) -> Result<u64, Fault> {
        let fetched = || Some(self.tokens.load(Ordering::Acquire)).filter(|token| *token > refused);
        let fetch = || {
            let this = Arc::clone(self);
            async move {
                let signed_in = this.home.timeout(this.within, this.sign_in()).await;
                signed_in
                    .unwrap_or_else(|_| Err(Fault { outcome: Outcome::NotApplied, ..Fault::silent() }))?;
                Ok(this.tokens.fetch_add(1, Ordering::AcqRel) + 1)
            }
        };
        self.under_way.join(&self.home, fetched, fetch).await
    }

    async fn sign_in(&self) -> Result<(), Fault> {
        let (user, password) = self.account.exposed(&self.home).await?;
        let signed_in = match self
            .client
            .clone()
            .update_user(Some((user, password.clone())))
            .await
            .map_err(Fault::from)
        {
            // A cluster whose authentication is switched off takes everyone, and is not to fail
            // those who could sign in.
            Err(fault) if fault.message.contains("authentication is not enabled") => {
                coord_home::event!(WARN, "etcd does not authenticate anybody; the credentials are not used");
                Ok(())
            }
            // For etcd a sign-in is a write, but the caller's request was not sent.
            Err(fault) => Err(Fault { outcome: Outcome::NotApplied, stale_token: false, ..fault }),
            Ok(()) => Ok(()),
        };
        self.account.learn(&password, &signed_in, self.home.now());
        signed_in
    }
}
