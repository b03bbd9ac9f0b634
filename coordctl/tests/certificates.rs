//! `coordctl doctor` tells of certificates before they are over, and afterwards why nobody can
//! connect.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::sync::Arc;

use coord::coord_core::time_of_day_ms;
use coordctl::{Terminal, exit, run};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A certificate that is valid from `from` days from now until `until` days from now.
#[allow(clippy::disallowed_types, reason = "a certificate has times of day in it")]
fn params(name: &str, from: i64, until: i64) -> CertificateParams {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let day = |days: i64| {
        // Half a day more, so that no test depends on how long it takes.
        let seconds = i64::try_from(time_of_day_ms() / 1_000).unwrap() + days * 86_400 + 43_200;
        let since = std::time::Duration::from_secs(seconds.try_into().unwrap());
        std::time::SystemTime::UNIX_EPOCH + since
    };
    (params.not_before, params.not_after) = (day(from).into(), day(until).into());
    params
}

fn authority(until: i64) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params("authority", -400, until);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The port of something that encrypts, and says nothing after that.
async fn server(of: CertificateParams, by: &CertifiedIssuer<'static, KeyPair>) -> u16 {
    let key = KeyPair::generate().unwrap();
    let chain = vec![of.signed_by(&key, by).unwrap().der().clone()];
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
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
    port
}

/// What the doctor finds about certificates: verdicts, and what was found. The server is no etcd,
/// so that something else is wrong in any case.
async fn found(port: u16, directory: &Path, more: &str) -> Vec<(String, String)> {
    let url = format!("etcds://127.0.0.1:{port}?ca={}/ca.pem{more}", directory.display());
    let arguments = ["coordctl", "--url", &url, "--timeout", "3s", "doctor", "-o", "json"].map(Into::into);
    let mut terminal = Terminal::in_memory([]);
    assert_eq!(run(arguments, None, &mut terminal).await, exit::UNWELL, "{:?}", terminal.written());
    let findings: Vec<Value> = serde_json::from_str(terminal.written().0).unwrap();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    assert!(findings.iter().any(|finding| text(finding, "verdict") == "bad"), "{findings:?}");
    let of_certificates = findings.iter().filter(|finding| finding["what"] == "certificates");
    of_certificates.map(|finding| (text(finding, "verdict"), text(finding, "found"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_soon_is_told_of_each_that_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let lasting = authority(400);
    file("ca.pem", &lasting.pem());
    let port = server(params("etcd-1", -100, 200), &lasting).await;
    let told = found(port, directory.path(), "").await;
    assert!(told.len() == 1 && told[0].0 == "ok" && told[0].1.starts_with("2, the first"), "{told:?}");

    let port = server(params("etcd-1", -100, 9), &lasting).await;
    let key = KeyPair::generate().unwrap();
    file("own.pem", &params("client", -100, -1).signed_by(&key, &lasting).unwrap().pem());
    file("own.key", &key.serialize_pem());
    let own = format!("&cert={0}/own.pem&key={0}/own.key", directory.path().display());
    let told = found(port, directory.path(), &own).await;
    let [(bad, client), (warn, server)] = &told[..] else { panic!("{told:?}") };
    assert!(bad == "bad" && client.starts_with("this client (CN=client): over since"), "{told:?}");
    assert_eq!(warn, "warn");
    assert!(server.starts_with(&format!("127.0.0.1:{port} (CN=etcd-1): over in 9d")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_nobody_can_connect_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let short = authority(20);
    std::fs::write(directory.path().join("ca.pem"), short.pem()).unwrap();
    let port = server(params("etcd-1", -100, -2), &short).await;
    let told = found(port, directory.path(), "").await;
    let [(bad, server_is), (warn, authority_is)] = &told[..] else { panic!("{told:?}") };
    assert!(bad == "bad" && server_is.contains("(CN=etcd-1): over since 20"), "{told:?}");
    assert!(
        warn == "warn" && authority_is.starts_with("an authority (CN=authority): over in 20d"),
        "{told:?}"
    );

    let port = server(params("etcd-1", -100, 200), &authority(400)).await;
    let told = found(port, directory.path(), "").await;
    assert!(told[0].0 == "bad" && told[0].1.contains("is not trusted: "), "{told:?}");

    let port = server(params("etcd-1", 3, 200), &short).await;
    let told = found(port, directory.path(), "").await;
    assert!(told[0].0 == "bad" && told[0].1.contains("not valid before"), "{told:?}");
}
