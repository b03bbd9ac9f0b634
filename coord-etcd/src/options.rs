//! What a connection needs to know, checked before any I/O.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use coord_api::Result;
use coord_recipes::Home;
use coord_recipes::layers::RetryPolicy;

use crate::credentials::{Account, Credentials};
use crate::error::{OPTIONS, refuse};
use crate::resolver::EtcdResolver;
use crate::target::Target;
use crate::tls::{Encryption, EtcdTls};

/// The port that etcd listens on where nobody says otherwise.
const DEFAULT_PORT: u16 = 2379;

/// etcd takes more frequent pings for an attack and closes the connection.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(5);

/// How to reach an etcd cluster, and as whom.
///
/// Everything is checked before any I/O ([`validate`](Self::validate)). Passwords and private keys
/// are never shown by `Debug`, in an error or in a log.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use coord_etcd::{Credentials, EtcdOptions};
///
/// let options = EtcdOptions::new(["etcd-1:2379", "etcd-2:2379", "etcd-3:2379"])
///     .with_namespace("shop")
///     .with_credentials(Credentials::new("shop", "secret"))
///     .with_connect_timeout(Duration::from_secs(3));
/// assert!(options.validate().is_ok());
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EtcdOptions {
    /// The members of the cluster: `host:port`, or with `http://` or `https://` before it. Default
    /// `localhost:2379`.
    ///
    /// Name all of them: each is connected to by itself, and where one fails another one is used
    /// until it answers again. Where a name has several addresses, each of them is a member; it is
    /// looked up again by and by.
    pub endpoints: Vec<String>,
    /// The directory that everything is kept in, for example `shop` or `team/shop` (R5). Default
    /// none.
    pub namespace: Option<String>,
    /// A name for people who look into the store. Default `coord`.
    pub name: String,
    /// As whom to sign in. Default as nobody.
    pub credentials: Option<Credentials>,
    /// How to encrypt. Default not at all, or, for `https://` endpoints, trusting the authorities
    /// that the system trusts.
    pub tls: Option<EtcdTls>,
    /// How long connecting may take in all (R3), and one connection. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a connection with something under way may be silent before it is pinged. Default
    /// 30 s, at least 5 s.
    pub keepalive_interval: Duration,
    /// How long a ping may remain unanswered before the connection is given up. Default 10 s.
    pub keepalive_timeout: Duration,
    /// How often and how long a request is tried. Default 3 attempts of 2 s each, 10 s in all. Both
    /// timeouts are needed.
    ///
    /// An attempt that gets no answer makes the next one go to another member, so that the
    /// attempt's timeout says how long a dead member can be noticed.
    pub retry: RetryPolicy,
    /// Where connections, watches and timers live, with all else that goes on in the background.
    /// Default a thread of the client's own: then none of it dies or starves with a runtime of the
    /// program's. A runtime that is given with [`Home::runtime`] is to be kept running.
    /// [`Home::callers`] is that of whoever calls, for tests.
    pub home: Option<Home>,
    /// Whether a request about keys goes over a connection that lives in the runtime which makes
    /// it, for each runtime one of its own, up to 16; from elsewhere it goes over the one in the
    /// [home](Self::home), as everything else does. That saves the hand-over to the home and back,
    /// some 60 µs where nothing else is slow. **Each runtime that makes requests must have its I/O
    /// and its timers enabled** (`enable_all`), as `#[tokio::main]` has: tokio panics in one that
    /// has not. A runtime that stands still, or has ended, harms no other. Default off.
    pub near: bool,
    /// Whether plain reads and writes that come at once share requests, as
    /// [`Batched`](coord_recipes::layers::Batched) says, and how many batches are under way at
    /// most, of reads and of writes each: for services with very many callers. Batches are sent
    /// from the [home](Self::home), also where requests are [`near`](Self::near). Default not at
    /// all.
    pub batching: Option<NonZeroUsize>,
    /// Which cluster is expected: its id in hexadecimal, as etcd writes it into its log and
    /// [`StoreStatus`](coord_api::store::StoreStatus) has it. A member of another one is not used.
    /// Default the one that most endpoints belong to when the client first asks.
    pub cluster_id: Option<String>,
    /// Whether members are used that no endpoint names. Default [`Discovery::Agreeing`].
    pub discovery: Discovery,
    /// Who finds the addresses of the endpoints' names. Default the system.
    pub resolver: EtcdResolver,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        EtcdOptions {
            endpoints: vec![format!("localhost:{DEFAULT_PORT}")],
            namespace: None,
            name: "coord".to_owned(),
            credentials: None,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            retry: RetryPolicy::default()
                .with_attempt_timeout(Duration::from_secs(2))
                .with_total_timeout(Duration::from_secs(10)),
            home: None,
            near: false,
            batching: None,
            cluster_id: None,
            discovery: Discovery::default(),
            resolver: EtcdResolver::default(),
        }
    }
}

impl EtcdOptions {
    /// The defaults, with these endpoints.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        EtcdOptions { endpoints: endpoints.into_iter().map(Into::into).collect(), ..EtcdOptions::default() }
    }

    /// Sets the namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the name for people who look into the store.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets as whom to sign in.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Sets how to encrypt.
    #[must_use]
    pub fn with_tls(mut self, tls: EtcdTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets how long connecting may take.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets after how much silence a connection is pinged, and how long the ping may remain
    /// unanswered.
    #[must_use]
    pub fn with_keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive_interval = interval;
        self.keepalive_timeout = timeout;
        self
    }

    /// Sets how often and how long a request is tried.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets whether requests go over a connection in the runtime that makes them: see
    /// [`near`](Self::near).
    #[must_use]
    pub fn with_near(mut self, near: bool) -> Self {
        self.near = near;
        self
    }

    /// Has plain reads and writes that come at once share requests, with so many batches under way:
    /// see [`batching`](Self::batching).
    #[must_use]
    pub fn with_batching(mut self, lanes: NonZeroUsize) -> Self {
        self.batching = Some(lanes);
        self
    }

    /// Sets where background work lives: see [`home`](Self::home).
    #[must_use]
    pub fn with_home(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// Sets which cluster is expected: see [`cluster_id`](Self::cluster_id).
    #[must_use]
    pub fn with_cluster_id(mut self, id: impl Into<String>) -> Self {
        self.cluster_id = Some(id.into());
        self
    }

    /// Sets whether members are used that only the cluster names.
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    /// Sets who finds the addresses of the endpoints' names.
    #[must_use]
    pub fn with_resolver(mut self, resolver: EtcdResolver) -> Self {
        self.resolver = resolver;
        self
    }

    /// Checks everything. Reads the files that are named, and asks the functions that return
    /// certificates and passwords; without any other I/O.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, which says what is wrong and repeats no secret; or what such a function
    /// says.
    pub fn validate(&self) -> Result<()> {
        self.check().map(drop)
    }

    /// Checks everything, and reads what is to be read.
    pub(crate) fn check(&self) -> Result<CheckedOptions> {
        if let Some(namespace) = &self.namespace {
            coord_api::key::check(OPTIONS, namespace)?;
        }
        if self.connect_timeout.is_zero() || self.keepalive_timeout.is_zero() {
            return refuse("a timeout of zero");
        }
        if self.keepalive_interval < SHORTEST_KEEPALIVE {
            return refuse("a keepalive interval of less than 5 s, which etcd takes for an attack");
        }
        self.retry.validate()?;
        let (Some(attempt), Some(total)) = (self.retry.attempt_timeout, self.retry.total_timeout) else {
            return refuse("a retry policy without an attempt timeout and a total timeout");
        };
        if attempt > total {
            return refuse("an attempt timeout beyond the total timeout");
        }
        if self.endpoints.is_empty() {
            return refuse("no endpoint");
        }
        let mut targets: Vec<Target> = Vec::new();
        for endpoint in &self.endpoints {
            let target = Target::parse(endpoint, self.tls.is_some())?;
            if !targets.iter().any(|known| known.authority() == target.authority()) {
                targets.push(target);
            }
        }
        let encrypts = self.tls.is_some() || targets.iter().any(|target| target.encrypted);
        let encryption = if encrypts {
            Some(Arc::new(Encryption::new(self.tls.clone().unwrap_or_default())?))
        } else {
            None
        };
        if let Some(encryption) = &encryption {
            for target in targets.iter().filter(|target| target.encrypted) {
                encryption.server_name(&target.host)?;
            }
        }
        let cluster =
            match self.cluster_id.as_deref().map(|id| u64::from_str_radix(id.trim_start_matches("0x"), 16)) {
                Some(Ok(0) | Err(_)) => {
                    return refuse(
                        "a cluster id that is no hexadecimal number, as etcd writes it into its log",
                    );
                }
                Some(Ok(id)) => Some(id),
                None => None,
            };
        let account = self.credentials.clone().map(Account::new).transpose()?.map(Arc::new);
        Ok(CheckedOptions {
            targets,
            encryption,
            account,
            cluster,
            attempt_timeout: attempt,
            total_timeout: total,
        })
    }
}

/// What the options come to.
#[derive(Debug)]
pub(crate) struct CheckedOptions {
    pub(crate) targets: Vec<Target>,
    pub(crate) encryption: Option<Arc<Encryption>>,
    pub(crate) account: Option<Arc<Account>>,
    pub(crate) cluster: Option<u64>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) total_timeout: Duration,
}

/// Whether members of the cluster are used that no endpoint names. The cluster is asked for them by
/// and by, so that one whose members were all replaced over time is still reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Discovery {
    /// No: the endpoints are all that there is.
    Off,
    /// Where the endpoints that answer are among the addresses under which the cluster says that
    /// its members are reached (`--advertise-client-urls`), so that it can be believed as to the
    /// others. Behind a proxy, a load balancer or a tunnel they are not.
    #[default]
    Agreeing,
    /// Always. Addresses that cannot be reached from here are tried in vain, when others fail.
    Always,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: &EtcdOptions) -> String {
        let error = options.validate().unwrap_err();
        assert_eq!(error.kind(), coord_api::ErrorKind::InvalidArgument);
        error.to_string()
    }

    #[test]
    fn the_defaults_are_good() {
        assert!(EtcdOptions::default().validate().is_ok());
        assert_eq!(EtcdOptions::default().endpoints, ["localhost:2379"]);
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for good in [
            "a:1",
            "http://a:1",
            "https://a:1",
            "http://a:1/",
            "10.0.0.1:2379",
            "[::1]:2379",
            "http://[fe80::1]:2379",
        ] {
            assert!(EtcdOptions::new([good]).validate().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:b",
            "ftp://a:1",
            "http://",
            "http://a:1/path",
            "a:1?q",
            "user:hunter2@a:1",
            "a b:1",
        ] {
            let error = refused(&EtcdOptions::new([bad]));
            assert!(!error.contains("hunter2"), "{error}");
        }
        refused(&EtcdOptions::new([""; 0]));
    }

    #[test]
    fn an_endpoint_that_is_named_twice_is_one() {
        let options = EtcdOptions::new(["a:1", "http://a:1", "b:1"]);
        let names: Vec<_> = options.check().unwrap().targets.iter().map(Target::authority).collect();
        assert_eq!(names, ["a:1", "b:1"]);
    }

    #[test]
    fn times_are_checked() {
        let options = EtcdOptions::default;
        let second = Duration::from_secs(1);
        refused(&options().with_connect_timeout(Duration::ZERO));
        refused(&options().with_keepalive(second, second));
        refused(&options().with_keepalive(second * 30, Duration::ZERO));
        refused(&options().with_retry(RetryPolicy::default()));
        refused(&options().with_retry(options().retry.with_attempt_timeout(second * 60)));
        refused(&options().with_retry(options().retry.with_max_attempts(0)));
    }

    #[test]
    fn names_are_checked() {
        refused(&EtcdOptions::default().with_namespace("a//b"));
        refused(&EtcdOptions::default().with_namespace(""));
        refused(&EtcdOptions::default().with_credentials(Credentials::new("", "password")));
        refused(&EtcdOptions::default().with_credentials(Credentials::new("user", "")));
        refused(&EtcdOptions::default().with_credentials(Credentials::from_file("user", "no/such/file")));
        refused(&EtcdOptions::default().with_credentials(Credentials::from_fn("user", || Ok("".into()))));
        for bad in ["", "0", "xyz", "-1", "1234567890abcdef0"] {
            refused(&EtcdOptions::default().with_cluster_id(bad));
        }
        assert_eq!(
            EtcdOptions::default().with_cluster_id("cdf818194e3a8c32").check().unwrap().cluster,
            Some(0xcdf8_1819_4e3a_8c32)
        );
    }

    #[test]
    fn tls_is_checked() {
        let with = |tls| EtcdOptions::new(["a:1"]).with_tls(tls);
        assert!(with(EtcdTls::new()).validate().is_ok());
        refused(&with(EtcdTls::new().with_authorities("not PEM")));
        refused(&with(EtcdTls::new().with_identity("not PEM", "hunter2")));
        refused(&with(EtcdTls::new().with_server_name("no name")));
        assert!(
            refused(&with(EtcdTls::new().with_authorities_file("no/such/file"))).contains("no/such/file")
        );
        refused(&with(EtcdTls::new().with_identity_files("no/such/file", "no/such/file")));
        refused(&with(EtcdTls::from_fn(|| Ok(EtcdTls::from_fn(|| Ok(EtcdTls::new()))))));
        refused(&with(EtcdTls::from_fn(|| Ok(EtcdTls::new())).with_authorities("not PEM")));
        let error = refused(&with(
            EtcdTls::new().with_identity("-----BEGIN CERTIFICATE-----", "hunter2 PRIVATE KEY-----"),
        ));
        assert!(!error.contains("hunter2"), "{error}");
        refused(&EtcdOptions::new(["http://a:1"]).with_tls(EtcdTls::new()));
    }

    #[test]
    fn no_secret_is_shown() {
        let options = EtcdOptions::default()
            .with_credentials(Credentials::new("shop", "hunter2"))
            .with_tls(EtcdTls::new().with_identity("-----BEGIN CERTIFICATE-----", "hunter2"));
        let shown = format!("{options:?} {options:#?}");
        assert!(shown.contains("shop") && !shown.contains("hunter2"), "{shown}");
    }
}
