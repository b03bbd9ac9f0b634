//! The certificates of a client and of its servers, for those who operate them: until when they are
//! valid.

use std::sync::Arc;
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result};
use futures_util::future::join_all;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_cert::der::Decode as _;

use crate::dial::Dialing;
use crate::members::Members;
use crate::recorder::Seen;
use crate::target::Target;
use crate::tls::Encryption;

const OPERATION: &str = "etcd.certificates";

/// The certificates of encrypted connections.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CertificateReport {
    /// What the servers show: each endpoint, and each member that the cluster has told of.
    pub servers: Vec<ServerCertificates>,
    /// What the client shows: its own certificate, and behind it those that vouch for it. Empty
    /// where it shows none.
    pub identity: Vec<Certificate>,
    /// The authorities that the client trusts. Empty where those are the system's.
    pub authorities: Vec<Certificate>,
}

/// What a server shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerCertificates {
    /// Where it is reached.
    pub endpoint: String,
    /// Its own certificate, and behind it those that vouch for it, also where they are not trusted.
    /// Empty where it could not be asked.
    pub certificates: Vec<Certificate>,
    /// Whether the connection was made: `Unavailable` with the reason where the server could not be
    /// reached, or showed something that is not trusted, such as a certificate that is over.
    pub trusted: Result<()>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Certificate {
    /// Whose it is, as `CN=etcd-1,O=shop`.
    pub subject: String,
    /// From when on it is valid, in milliseconds since 1970.
    pub not_before_ms: u64,
    /// Until when it is valid, in milliseconds since 1970.
    pub not_after_ms: u64,
}

impl Certificate {
    /// `None` for what is no certificate.
    fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let read = x509_cert::Certificate::from_der(der).ok()?;
        let read = read.tbs_certificate();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(Certificate {
            subject: read.subject().to_string(),
            not_before_ms: ms(read.validity().not_before.to_unix_duration()),
            not_after_ms: ms(read.validity().not_after.to_unix_duration()),
        })
    }

    pub(crate) fn all_of(ders: &[CertificateDer<'_>]) -> Vec<Self> {
        ders.iter().filter_map(Certificate::of).collect()
    }
}

/// Connects to each server once more, looks at what it shows, and hangs up.
pub(crate) async fn report(members: &Members) -> Option<CertificateReport> {
    let dialing = &members.common.dialing;
    let encryption = dialing.encryption.as_ref()?;
    // What lies in the files now.
    drop(encryption.config(&dialing.home).await);
    let encrypted = members.all().into_iter().filter(|member| member.target.encrypted);
    let servers = encrypted.map(|member| look(dialing, encryption, member.target.clone()));
    let servers = join_all(servers).await;
    let (identity, authorities) = encryption.certificates();
    Some(CertificateReport {
        servers,
        identity: Certificate::all_of(&identity),
        authorities: Certificate::all_of(&authorities),
    })
}

async fn look(dialing: &Dialing, encryption: &Encryption, target: Target) -> ServerCertificates {
    let (endpoint, seen) = (target.to_string(), Arc::new(Seen::default()));
    let trusted = handshake(dialing, encryption, target, &seen).await;
    let certificates = Certificate::all_of(&seen.certificates());
    ServerCertificates { endpoint, certificates, trusted }
}

/// As any connection is made, but that what the server shows is kept. It lives in the home.
async fn handshake(
    dialing: &Dialing,
    encryption: &Encryption,
    target: Target,
    seen: &Arc<Seen>,
) -> Result<()> {
    let failed = |why: String| Error::new(ErrorKind::Unavailable, OPERATION, why);
    let encryption = Some(Arc::new(encryption.recording(Arc::clone(seen))?));
    let dialing = Dialing { encryption, ..dialing.clone() };
    let home = dialing.home.clone();
    let connecting = home.spawn(async move { dialing.connect(&target).await.map(drop) });
    let connecting = connecting.map_err(|error| failed(error.to_string()))?;
    let connected = connecting.await.map_err(|error| failed(error.to_string()))?;
    connected.map_err(|error| failed(error.to_string()))
}
