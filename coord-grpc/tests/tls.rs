//! TLS: servers prove who they are, and clients where they must.
#![cfg(feature = "tls")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use common::*;
use coord_api::ErrorKind;
use coord_grpc::{Channel, ChannelOptions, ChannelTls, Endpoint, Phase};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, Identity, Server as Tonic, ServerTlsConfig};

/// An authority, and a certificate that it signed for some names, with its key.
struct Pki {
    ca: String,
    certificate: String,
    key: String,
}

impl Pki {
    fn new(names: &[&str]) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        Pki { ca: issuer.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(Identity::from_pem(&self.certificate, &self.key))
    }
}

async fn serve(tls: ServerTlsConfig) -> Server {
    Server::start_with("tls", "127.0.0.1:0".parse().unwrap(), Tonic::builder().tls_config(tls).unwrap()).await
}

fn trusting(pki: &Pki) -> ChannelOptions {
    options().with_tls(ChannelTls::from_ca(pki.ca.as_bytes()).unwrap())
}

/// Why an endpoint is not ready.
async fn failure(endpoint: Endpoint, options: ChannelOptions) -> coord_api::Error {
    let channel = Channel::fixed([endpoint.clone()], options).unwrap();
    eventually("it is ejected", || phase(&channel, &endpoint) == Some(Phase::Ejected)).await;
    let failure = channel.state().endpoints[0].failure.clone().unwrap();
    assert_eq!(ask(&channel).await.unwrap_err().code(), tonic::Code::Unavailable);
    failure
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_through_tls() {
    let pki = Pki::new(&["127.0.0.1", "localhost"]);
    let server = serve(pki.server()).await;
    let localhost = format!("https://localhost:{}", server.address.port()).parse().unwrap();
    let channel = Channel::fixed([server.endpoint(), localhost], trusting(&pki)).unwrap();
    all_ready(&channel).await;
    assert_eq!(tally(&channel, 100).await.into_iter().collect::<Vec<_>>(), [("tls".into(), 100)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_its_own_is_expected_where_it_is_set() {
    let pki = Pki::new(&["service.internal"]);
    let server = serve(pki.server()).await;
    let message = failure(server.endpoint(), trusting(&pki)).await;
    assert!(message.message().contains("certificate"), "{message}");
    let tls = ChannelTls::from_ca(pki.ca.as_bytes()).unwrap().with_server_name("service.internal").unwrap();
    let channel = channel_to(&[&server], options().with_tls(tls)).await;
    assert_eq!(ask(&channel).await.unwrap(), "tls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_prove_who_they_are() {
    let pki = Pki::new(&["127.0.0.1"]);
    let server = serve(pki.server().client_ca_root(Certificate::from_pem(&pki.ca))).await;
    let identity =
        ChannelTls::from_ca_and_identity(pki.ca.as_bytes(), pki.certificate.as_bytes(), pki.key.as_bytes())
            .unwrap();
    let channel = channel_to(&[&server], options().with_tls(identity)).await;
    assert_eq!(ask(&channel).await.unwrap(), "tls");
    let failure = failure(server.endpoint(), trusting(&pki)).await;
    assert_eq!(failure.kind(), ErrorKind::Unavailable, "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_those_who_do_not_speak_tls_are_never_ready() {
    let (pki, other) = (Pki::new(&["127.0.0.1"]), Pki::new(&["127.0.0.1"]));
    let (secure, plain) = (serve(pki.server()).await, Server::start("plain").await);
    let stranger = failure(secure.endpoint(), trusting(&other)).await;
    assert!(
        stranger.kind() == ErrorKind::Unavailable && stranger.message().contains("certificate"),
        "{stranger}"
    );
    let silent = failure(plain.endpoint(), trusting(&pki)).await;
    assert!(silent.kind() == ErrorKind::Unavailable && silent.message().contains("TLS"), "{silent}");
    let unexpected = failure(secure.endpoint(), options()).await;
    assert!(
        unexpected.kind() == ErrorKind::Unavailable && unexpected.message().contains("speaks TLS"),
        "{unexpected}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secure_endpoint_beside_plain_ones_harms_none() {
    let pki = Pki::new(&["127.0.0.1"]);
    let (secure, plain) = (serve(pki.server()).await, Server::start("plain").await);
    let channel = Channel::fixed([secure.endpoint(), plain.endpoint()], options()).unwrap();
    eventually("the plain one is ready", || channel.state().ready() == 1).await;
    assert_eq!(tally(&channel, 50).await.into_iter().collect::<Vec<_>>(), [("plain".into(), 50)]);
}

#[test]
fn what_is_no_certificate_is_an_invalid_argument_and_no_key_is_shown() {
    let pki = Pki::new(&["a"]);
    let kind = |tls: coord_api::Result<ChannelTls>| tls.unwrap_err().kind();
    assert_eq!(kind(ChannelTls::from_ca(b"")), ErrorKind::InvalidArgument);
    assert_eq!(kind(ChannelTls::from_ca(pki.key.as_bytes())), ErrorKind::InvalidArgument);
    let (ca, certificate, key) = (pki.ca.as_bytes(), pki.certificate.as_bytes(), pki.key.as_bytes());
    assert_eq!(
        kind(ChannelTls::from_ca_and_identity(ca, certificate, certificate)),
        ErrorKind::InvalidArgument
    );
    assert_eq!(
        kind(ChannelTls::from_ca_and_identity(ca, ca, key)),
        ErrorKind::InvalidArgument,
        "of another's certificate"
    );
    assert_eq!(
        kind(ChannelTls::from_ca(ca).unwrap().with_server_name("not a name")),
        ErrorKind::InvalidArgument
    );
    let secret: String = pki.key.lines().nth(1).unwrap().to_owned();
    let broken = pki.key.replace("END", "NED");
    let shown = [
        format!("{:?}", ChannelTls::from_ca_and_identity(ca, certificate, key).unwrap()),
        format!("{:?}", options().with_tls(ChannelTls::from_ca_and_identity(ca, certificate, key).unwrap())),
        format!("{:?}", ChannelTls::from_ca_and_identity(ca, certificate, broken.as_bytes()).unwrap_err()),
    ];
    assert!(shown.iter().all(|shown| !shown.contains(&secret)), "{shown:?}");
}
