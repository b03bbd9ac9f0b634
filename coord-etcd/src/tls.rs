//! How a connection is encrypted. Certificates and keys are looked at again for each new
//! connection, for they may be short-lived.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_api::{Error, Result};
use coord_recipes::Home;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::{OPTIONS, refuse};
use crate::recorder::{Recorder, Seen};

/// How long a new connection waits for files to be read, or for the program's function. Then it is
/// made with what was read before.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// How to encrypt, and whom to trust. All in PEM.
///
/// What is named as a file, or handed over by a function, is read again for each new connection.
/// Where it cannot be read then, or is of no use, such as a certificate whose key is not written
/// yet, the connection is made with what was read before, and a warning says why.
///
/// # Examples
///
/// ```
/// use coord_etcd::EtcdTls;
///
/// let tls = EtcdTls::new()
///     .with_authorities_file("/etc/etcd/ca.pem")
///     .with_identity_files("/run/secrets/client.pem", "/run/secrets/client.key");
/// # drop(tls);
/// ```
#[derive(Clone, Debug, Default)]
pub struct EtcdTls {
    authorities: Option<PemSource<String>>,
    identity: Option<(PemSource<String>, PemSource<SecretString>)>,
    server_name: Option<String>,
    renewal: Option<Renewal>,
}

/// Where something is.
#[derive(Clone, Debug)]
enum PemSource<T> {
    Given(T),
    File(PathBuf),
}

/// A function of the program that says how to encrypt from now on.
#[derive(Clone)]
struct Renewal(Arc<dyn Fn() -> Result<EtcdTls> + Send + Sync>);

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewal")
    }
}

impl EtcdTls {
    /// Encrypts and trusts the authorities that the system trusts.
    pub fn new() -> Self {
        EtcdTls::default()
    }

    /// Encrypts as `renew` says, which is asked when the client is made and for each new
    /// connection: for certificates that the program gets by itself. It is called on a thread of
    /// its own, and the name of the servers, [`with_server_name`](Self::with_server_name), is that
    /// of the outer value.
    pub fn from_fn(renew: impl Fn() -> Result<EtcdTls> + Send + Sync + 'static) -> Self {
        EtcdTls { renewal: Some(Renewal(Arc::new(renew))), ..EtcdTls::default() }
    }

    /// Trusts these authorities, and no others.
    #[must_use]
    pub fn with_authorities(mut self, certificates: impl Into<String>) -> Self {
        self.authorities = Some(PemSource::Given(certificates.into()));
        self
    }

    /// Trusts the authorities in this file, and no others. It is read again for each new
    /// connection.
    #[must_use]
    pub fn with_authorities_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities = Some(PemSource::File(path.into()));
        self
    }

    /// Shows who the client is: its certificates, and the private key.
    #[must_use]
    pub fn with_identity(
        mut self,
        certificates: impl Into<String>,
        private_key: impl Into<SecretString>,
    ) -> Self {
        self.identity = Some((PemSource::Given(certificates.into()), PemSource::Given(private_key.into())));
        self
    }

    /// Shows who the client is, by a file with its certificates and one with the private key. Both
    /// are read again for each new connection.
    #[must_use]
    pub fn with_identity_files(
        mut self,
        certificates: impl Into<PathBuf>,
        private_key: impl Into<PathBuf>,
    ) -> Self {
        self.identity = Some((PemSource::File(certificates.into()), PemSource::File(private_key.into())));
        self
    }

    /// The name that the servers' certificates must carry, where it is not the endpoint's own.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Whether it may be another one for the next connection.
    fn changes(&self) -> bool {
        let file = |source: &PemSource<String>| matches!(source, PemSource::File(_));
        self.renewal.is_some()
            || self.authorities.as_ref().is_some_and(file)
            || self
                .identity
                .as_ref()
                .is_some_and(|(certificates, key)| file(certificates) || matches!(key, PemSource::File(_)))
    }

    /// Reads the files, or asks the function. Blocks.
    fn read(&self) -> Result<Material> {
        let Some(renewal) = &self.renewal else {
            return Ok(Material {
                authorities: self
                    .authorities
                    .as_ref()
                    .map(|source| source.read("the authorities"))
                    .transpose()?,
                identity: match &self.identity {
                    Some((certificates, key)) => {
                        Some((certificates.read("the client's certificates")?, key.read("the private key")?))
                    }
                    None => None,
                },
            });
        };
        if self.authorities.is_some() || self.identity.is_some() {
            return refuse("certificates and a function that returns them: leave one of both out");
        }
        let now = (renewal.0)()?;
        if now.renewal.is_some() {
            return refuse("a function that returns a function: it is to return the certificates");
        }
        now.read()
    }
}

impl<T: for<'a> From<&'a str> + Clone> PemSource<T> {
    fn read(&self, what: &'static str) -> Result<T> {
        match self {
            PemSource::Given(given) => Ok(given.clone()),
            PemSource::File(path) => read(what, path).map(|text| T::from(&text)),
        }
    }
}

/// The text of a file.
pub(crate) fn read(what: &'static str, path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        Error::invalid_argument(
            OPTIONS,
            format!("the file with {what}, {}, cannot be read: {error}", path.display()),
        )
    })
}

/// What was read.
#[derive(Clone)]
struct Material {
    authorities: Option<String>,
    identity: Option<(String, SecretString)>,
}

impl PartialEq for Material {
    fn eq(&self, other: &Self) -> bool {
        let exposed = |material: &Self| {
            material.identity.as_ref().map(|(certificates, key)| (certificates.clone(), key.clone()))
        };
        let same = |(a, b): ((String, SecretString), (String, SecretString))| {
            a.0 == b.0 && a.1.expose_secret() == b.1.expose_secret()
        };
        self.authorities == other.authorities
            && match (exposed(self), exposed(other)) {
                (Some(a), Some(b)) => same((a, b)),
                (None, None) => true,
                _ => false,
            }
    }
}

impl Material {
    /// How to encrypt. What servers show is kept in `seen`, where there is one.
    fn config(&self, seen: Option<&Arc<Seen>>) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => roots
                .add_parsable_certificates(certificates(pem, "authorities that are no certificates in PEM")?),
            None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        if roots.is_empty() {
            return refuse("no authority to trust: name one, or install those that the system trusts");
        }
        let provider = Arc::new(ring::default_provider());
        let Ok(builder) =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()
        else {
            return refuse("no version of TLS to speak");
        };
        let builder = match seen {
            None => builder.with_root_certificates(roots),
            Some(seen) => {
                let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
                let Ok(judge) = judge else { return refuse("no authority to trust") };
                let recorder = Recorder { judge, seen: Arc::clone(seen) };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(recorder))
            }
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                const FAULT: &str = "an identity that is no certificate and no private key in PEM";
                let chain = certificates(chain, FAULT)?;
                // The parser's error may quote what it read, and that is a key.
                let Ok(key) = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()) else {
                    return refuse(FAULT);
                };
                match builder.with_client_auth_cert(chain, key) {
                    Ok(config) => config,
                    Err(_) => {
                        return refuse(
                            "a certificate and a private key that do not belong together, or that TLS cannot use",
                        );
                    }
                }
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &str, fault: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    match CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<std::result::Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => refuse(fault),
    }
}

/// What encrypts the connections of one client.
pub(crate) struct Encryption {
    tls: EtcdTls,
    current: Mutex<CurrentTls>,
    /// Whether somebody reads, who may be held up.
    reading: AtomicBool,
    /// Where it is kept what servers show, if it is.
    seen: Option<Arc<Seen>>,
}

struct CurrentTls {
    material: Material,
    config: Arc<ClientConfig>,
    /// Why what was read last is not used.
    complaint: Option<String>,
}

impl Encryption {
    /// Reads what `tls` names. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, or what the program's function says.
    pub(crate) fn new(tls: EtcdTls) -> Result<Self> {
        if let Some(name) = &tls.server_name {
            server_name(name)?;
        }
        let material = tls.read()?;
        Encryption::of(tls, material, None)
    }

    fn of(tls: EtcdTls, material: Material, seen: Option<Arc<Seen>>) -> Result<Self> {
        let config = material.config(seen.as_ref())?;
        Ok(Encryption {
            tls,
            current: Mutex::new(CurrentTls { material, config, complaint: None }),
            reading: AtomicBool::new(false),
            seen,
        })
    }

    /// The same, which keeps in `seen` what servers show. No I/O.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub(crate) fn recording(&self, seen: Arc<Seen>) -> Result<Self> {
        let material = self.current.lock().material.clone();
        Encryption::of(self.tls.clone(), material, Some(seen))
    }

    /// What the client shows, and the authorities that it names.
    pub(crate) fn certificates(&self) -> (Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>) {
        let current = self.current.lock();
        let read = |pem: Option<&String>| {
            // They were read before.
            pem.and_then(|pem| certificates(pem, "no certificates in PEM").ok()).unwrap_or_default()
        };
        let identity = current.material.identity.as_ref().map(|(certificates, _)| certificates);
        (read(identity), read(current.material.authorities.as_ref()))
    }

    /// The name that a server must show which is reached as `host`.
    pub(crate) fn server_name(&self, host: &str) -> Result<ServerName<'static>> {
        server_name(self.tls.server_name.as_deref().unwrap_or(host))
    }

    /// For one new connection. To be called in a runtime.
    pub(crate) async fn config(self: &Arc<Self>, home: &Home) -> Arc<ClientConfig> {
        if self.tls.changes() && !self.reading.swap(true, Ordering::AcqRel) {
            let this = Arc::clone(self);
            // A file may be on a disk that does not answer, and the function is the program's.
            let renewed = home.spawn_blocking(move || this.renew());
            match renewed {
                Ok(renewed) => drop(home.timeout(READ_WITHIN, renewed).await),
                Err(_) => self.reading.store(false, Ordering::Release),
            }
        }
        Arc::clone(&self.current.lock().config)
    }

    fn renew(&self) {
        /// The next connection reads again, also where the program's function panics.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        let _done = Done(&self.reading);
        let renewed = self.tls.read().and_then(|material| {
            let unchanged = self.current.lock().material == material;
            let config = if unchanged { None } else { Some(material.config(self.seen.as_ref())?) };
            Ok((material, config))
        });
        let mut current = self.current.lock();
        match renewed {
            Ok((material, config)) => {
                current.material = material;
                current.complaint = None;
                if let Some(config) = config {
                    current.config = config;
                    drop(current);
                    tracing::info!("certificates were renewed: new connections to etcd use them");
                }
            }
            Err(error) => {
                let why = error.to_string();
                // Once for each reason, not for each connection.
                if current.complaint.as_ref() != Some(&why) {
                    current.complaint = Some(why);
                    drop(current);
                    tracing::warn!(%error, "renewed certificates cannot be used; connections are made with those from before");
                }
            }
        }
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("tls", &self.tls).finish_non_exhaustive()
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match ServerName::try_from(bare.to_owned()) {
        Ok(name) => Ok(name),
        Err(_) => refuse("a name of a server that no certificate can carry"),
    }
}
