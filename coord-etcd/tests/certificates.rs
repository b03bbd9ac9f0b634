//! What servers show of themselves is told with its times, also where nobody can connect any more.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;

use coord_api::ErrorKind;
use coord_etcd::{Certificate, CertificateReport, EtcdOptions, EtcdStore, EtcdTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

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
