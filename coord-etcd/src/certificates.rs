//! The certificates of a client and of its servers, for those who operate them: until when they are
//! valid.

use std::sync::Arc;
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, DigitallySignedStruct, SignatureScheme};
use x509_cert::der::Decode as _;

use crate::dial::Dialing;
use crate::members::Members;
use crate::target::Target;
use crate::tls::Encryption;

const OPERATION: &str = "etcd.certificates";

/// The certificates of encrypted connections:
/// [`EtcdStore::certificates`](crate::EtcdStore::certificates).
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
    let certificates = Certificate::all_of(&seen.0.lock());
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

/// What a server has shown last.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Vec<CertificateDer<'static>>>);

/// Keeps what a server shows, and has it judged as on any other connection.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) judge: Arc<WebPkiServerVerifier>,
    pub(crate) seen: Arc<Seen>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let shown = [end_entity].into_iter().chain(intermediates);
        *self.seen.0.lock() = shown.map(|certificate| certificate.clone().into_owned()).collect();
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::{EtcdOptions, EtcdStore, EtcdTls};

    /// What dates of the test's are in milliseconds since 1970.
    const IN_2001: u64 = 978_307_200_000;
    const IN_2002: u64 = 1_009_843_200_000;
    const IN_4000: u64 = 64_060_588_800_000;

    fn params(name: &str, until: i32) -> CertificateParams {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(until, 1, 1));
        params
    }

    /// The port of a server that shows a certificate that is valid until then, and its authority.
    async fn server(until: i32) -> (u16, CertifiedIssuer<'static, KeyPair>) {
        let mut authority = params("authority", 4_000);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let shown = params("etcd-1", until).signed_by(&key, &authority).unwrap();
        let chain = vec![shown.der().clone(), authority.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(tokio::spawn(acceptor.accept(stream)));
            }
        });
        (port, authority)
    }

    async fn told(ports: &[u16], tls: EtcdTls) -> CertificateReport {
        let endpoints = ports.iter().map(|port| format!("https://127.0.0.1:{port}"));
        let store = EtcdStore::connect_lazy(&EtcdOptions::new(endpoints).with_tls(tls)).unwrap();
        store.certificates().await.unwrap()
    }

    #[tokio::test]
    async fn what_servers_show_is_told_with_its_times() {
        let (port, authority) = server(4_000).await;
        let report = told(&[port], EtcdTls::new().with_authorities(authority.pem())).await;
        let [server] = &report.servers[..] else { panic!("{report:?}") };
        assert_eq!((&server.endpoint, server.trusted.is_ok()), (&format!("127.0.0.1:{port}"), true));
        let times = |certificate: &Certificate| (certificate.not_before_ms, certificate.not_after_ms);
        assert_eq!(server.certificates.iter().map(times).collect::<Vec<_>>(), [(IN_2001, IN_4000); 2]);
        assert!(server.certificates[0].subject.contains("CN=etcd-1"), "{report:?}");
        assert_eq!(report.authorities, server.certificates[1..]);
        assert_eq!(report.identity, []);
    }

    #[tokio::test]
    async fn what_is_over_is_told_also_where_nobody_can_connect() {
        let (port, authority) = server(2_002).await;
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let key = KeyPair::generate().unwrap();
        let own = params("client", 4_000).signed_by(&key, &authority).unwrap();
        let tls = EtcdTls::new().with_authorities(authority.pem());
        let tls = tls.with_identity(own.pem(), key.serialize_pem());
        let report = told(&[port, nobody], tls).await;
        let [over, away] = &report.servers[..] else { panic!("{report:?}") };
        assert_eq!(over.certificates[0].not_after_ms, IN_2002);
        let error = over.trusted.clone().unwrap_err();
        assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("expired"), "{error}");
        assert!(away.certificates.is_empty() && away.trusted.is_err(), "{away:?}");
        assert!(report.identity[0].subject.contains("CN=client"), "{report:?}");
    }

    #[tokio::test]
    async fn without_encryption_there_is_none() {
        let store = EtcdStore::connect_lazy(&EtcdOptions::new(["127.0.0.1:1"])).unwrap();
        assert!(store.certificates().await.is_none());
    }
}
