//! What a connection needs to know, checked before any I/O.

use std::time::Duration;

use coord_api::{Error, Result};
use coord_recipes::layers::RetryPolicy;
use secrecy::{ExposeSecret, SecretString};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri};

const OPERATION: &str = "etcd.options";

/// The port that etcd listens on where nobody says otherwise.
const DEFAULT_PORT: u16 = 2379;

/// etcd takes more frequent pings for an attack and closes the connection.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(5);

/// How to reach an etcd cluster, and as whom.
///
/// Everything is checked before any I/O ([`validate`](Self::validate)). Passwords and private keys are never shown by `Debug`, in an error or in a log.
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
    /// The members of the cluster: `host:port`, or with `http://` or `https://` before it. Default `localhost:2379`.
    ///
    /// Name all of them: each is connected to by itself, and where one fails another one is used until it answers again.
    pub endpoints: Vec<String>,
    /// The directory that everything is kept in, for example `shop` or `team/shop` (R5). Default none.
    pub namespace: Option<String>,
    /// A name for people who look into the store. Default `coord`.
    pub name: String,
    /// As whom to sign in. Default as nobody.
    pub credentials: Option<Credentials>,
    /// How to encrypt. Default not at all, or, for `https://` endpoints, trusting the authorities that the system trusts.
    pub tls: Option<Tls>,
    /// How long connecting may take in all (R3), and one connection. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a connection with something under way may be silent before it is pinged. Default 30 s, at least 5 s.
    pub keepalive_interval: Duration,
    /// How long a ping may remain unanswered before the connection is given up. Default 10 s.
    pub keepalive_timeout: Duration,
    /// How often and how long a request is tried. Default 3 attempts of 2 s each, 10 s in all. Both timeouts are needed.
    ///
    /// An attempt that gets no answer makes the next one go to another member, so that the attempt's timeout says how long a dead member can be noticed.
    pub retry: RetryPolicy,
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
            retry: RetryPolicy::default().with_attempt_timeout(Duration::from_secs(2)).with_total_timeout(Duration::from_secs(10)),
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
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets how long connecting may take.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets after how much silence a connection is pinged, and how long the ping may remain unanswered.
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

    /// Checks everything, without any I/O.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, which says what is wrong and repeats no secret.
    pub fn validate(&self) -> Result<()> {
        self.endpoints().map(drop)
    }

    /// The endpoints, ready to connect to, each with its name. Checks everything on the way.
    pub(crate) fn endpoints(&self) -> Result<Vec<(String, Endpoint)>> {
        if let Some(namespace) = &self.namespace {
            coord_api::key::check(OPERATION, namespace)?;
        }
        if let Some(credentials) = &self.credentials {
            credentials.validate()?;
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
        let tls = self.tls.as_ref().map(Tls::config).transpose()?;
        let mut endpoints: Vec<(String, Endpoint)> = Vec::new();
        for endpoint in &self.endpoints {
            let (name, endpoint) = self.endpoint(endpoint, tls.clone())?;
            if !endpoints.iter().any(|(known, _)| *known == name) {
                endpoints.push((name, endpoint));
            }
        }
        Ok(endpoints)
    }

    fn endpoint(&self, text: &str, tls: Option<ClientTlsConfig>) -> Result<(String, Endpoint)> {
        // Not repeated in the error: somebody may have written a password into it.
        const FAULT: &str = "an endpoint that is no `host:port`, `http://host:port` or `https://host:port`";
        let (encrypted, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return refuse(FAULT),
            None => (tls.is_some(), text),
        };
        if tls.is_some() && !encrypted {
            return refuse("an `http://` endpoint although TLS is asked for");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let scheme = if encrypted { "https" } else { "http" };
        let Ok(uri) = format!("{scheme}://{authority}").parse::<Uri>() else { return refuse(FAULT) };
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return refuse(FAULT) };
        if host.is_empty() || port == 0 || authority.contains(['@', '/', '?', '#']) {
            return refuse(FAULT);
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            // etcd takes pings without anything under way for an attack.
            .keep_alive_while_idle(false)
            .tcp_nodelay(true);
        let endpoint = match (encrypted, tls) {
            (false, _) => Ok(endpoint),
            (true, Some(tls)) => endpoint.tls_config(tls),
            (true, None) => endpoint.tls_config(ClientTlsConfig::new().with_native_roots()),
        };
        let Ok(endpoint) = endpoint else { return refuse("certificates or a private key that TLS cannot use") };
        Ok((authority.to_owned(), endpoint))
    }
}

/// A user of etcd, and the password.
#[derive(Clone, Debug)]
pub struct Credentials {
    user: String,
    password: SecretString,
}

impl Credentials {
    /// A user and the password.
    pub fn new(user: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Credentials { user: user.into(), password: password.into() }
    }

    fn validate(&self) -> Result<()> {
        if self.user.is_empty() || self.password.expose_secret().is_empty() {
            return refuse("credentials without a user or without a password");
        }
        Ok(())
    }

    /// As etcd-client takes them. Its own options are never shown: their `Debug` has the password in it.
    pub(crate) fn exposed(&self) -> (String, String) {
        (self.user.clone(), self.password.expose_secret().to_owned())
    }
}

/// How to encrypt, and whom to trust. All in PEM.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    authorities: Option<String>,
    identity: Option<(String, SecretString)>,
    server_name: Option<String>,
}

impl Tls {
    /// Encrypts and trusts the authorities that the system trusts.
    pub fn new() -> Self {
        Tls::default()
    }

    /// Trusts these authorities, and no others.
    #[must_use]
    pub fn with_authorities(mut self, certificates: impl Into<String>) -> Self {
        self.authorities = Some(certificates.into());
        self
    }

    /// Shows who the client is: its certificates, and the private key.
    #[must_use]
    pub fn with_identity(mut self, certificates: impl Into<String>, private_key: impl Into<SecretString>) -> Self {
        self.identity = Some((certificates.into(), private_key.into()));
        self
    }

    /// The name that the servers' certificates must carry, where it is not the endpoint's own.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    fn config(&self) -> Result<ClientTlsConfig> {
        const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
        const PRIVATE_KEY: &str = "PRIVATE KEY-----";
        let mut config = match &self.authorities {
            Some(pem) if !pem.contains(CERTIFICATE) => return refuse("authorities that are no certificates in PEM"),
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificates, key)) = &self.identity {
            if !certificates.contains(CERTIFICATE) || !key.expose_secret().contains(PRIVATE_KEY) {
                return refuse("an identity that is no certificate and no private key in PEM");
            }
            config = config.identity(Identity::from_pem(certificates, key.expose_secret()));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

fn refuse<T>(message: &'static str) -> Result<T> {
    Err(Error::invalid_argument(OPERATION, message))
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
        for good in ["a:1", "http://a:1", "https://a:1", "http://a:1/", "10.0.0.1:2379", "[::1]:2379", "http://[fe80::1]:2379"] {
            assert!(EtcdOptions::new([good]).validate().is_ok(), "{good}");
        }
        for bad in
            ["", "a", "a:", ":1", "a:0", "a:65536", "a:b", "ftp://a:1", "http://", "http://a:1/path", "a:1?q", "user:hunter2@a:1", "a b:1"]
        {
            let error = refused(&EtcdOptions::new([bad]));
            assert!(!error.contains("hunter2"), "{error}");
        }
        refused(&EtcdOptions::new([""; 0]));
    }

    #[test]
    fn an_endpoint_that_is_named_twice_is_one() {
        let options = EtcdOptions::new(["a:1", "http://a:1", "b:1"]);
        let names: Vec<_> = options.endpoints().unwrap().into_iter().map(|(name, _)| name).collect();
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
    }

    #[test]
    fn tls_is_checked() {
        let with = |tls| EtcdOptions::new(["a:1"]).with_tls(tls);
        assert!(with(Tls::new()).validate().is_ok());
        refused(&with(Tls::new().with_authorities("not PEM")));
        refused(&with(Tls::new().with_identity("not PEM", "hunter2")));
        let error = refused(&with(Tls::new().with_identity("-----BEGIN CERTIFICATE-----", "hunter2 PRIVATE KEY-----")));
        assert!(!error.contains("hunter2"), "{error}");
        refused(&EtcdOptions::new(["http://a:1"]).with_tls(Tls::new()));
    }

    #[test]
    fn no_secret_is_shown() {
        let options = EtcdOptions::default()
            .with_credentials(Credentials::new("shop", "hunter2"))
            .with_tls(Tls::new().with_identity("-----BEGIN CERTIFICATE-----", "hunter2"));
        let shown = format!("{options:?} {options:#?}");
        assert!(shown.contains("shop") && !shown.contains("hunter2"), "{shown}");
    }
}
