//! Encrypted connections, with and without a certificate of the client's own. Every server and
//! every client here has keys that were made for the test.

use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Outcome, Value, WatchStart};
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdResolver, EtcdStore, EtcdTls};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::{eventually, within};
use etcd_client::{Certificate, ConnectOptions, Identity, Permission, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::{SOON, get, put, timed};

const ALL: [Series; 2] = [Series::V3_4, Series::V3_5];
const CONNECT: Duration = Duration::from_secs(1);
/// What a busy machine adds.
const SLACK: Duration = Duration::from_secs(2);
const HERE: &str = "127.0.0.1";

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, in PEM.
struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of the test's");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server that is reached by `name`, or for a client of that name.
    fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        Signed { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A server with a certificate for `name`, and the files that it reads. With `clients`, it takes
/// those alone whose certificates that authority signed.
fn encrypted(
    series: Series,
    authority: &Authority,
    name: &str,
    clients: Option<&Authority>,
) -> (Cluster, TempDir) {
    let files = TempDir::new().unwrap();
    let signed = authority.sign(name);
    let certificate = written(files.path(), "server.pem", &signed.certificate);
    let key = written(files.path(), "server.key", &signed.key);
    let mut flags = vec!["--cert-file".to_owned(), certificate, "--key-file".to_owned(), key];
    if let Some(clients) = clients {
        let trusted = written(files.path(), "clients.pem", &clients.pem());
        flags.extend(["--client-cert-auth".to_owned(), "--trusted-ca-file".to_owned(), trusted]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    (Cluster::single_encrypted(&Binary::find(series), &flags), files)
}

fn written(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn options(cluster: &Cluster, tls: EtcdTls) -> EtcdOptions {
    super::options(cluster).with_tls(tls).with_connect_timeout(CONNECT)
}

fn trusting(authority: &Authority) -> EtcdTls {
    EtcdTls::new().with_authorities(authority.pem())
}

/// Connecting with these options fails in time and as a member does that is out of reach, for the
/// reason of which `why` is a part. No line of `keys` is shown.
async fn refused(options: &EtcdOptions, why: &[&str], keys: &[&str], what: &str) {
    let (connected, took) = timed(EtcdStore::connect(options)).await;
    let error = connected.expect_err(what);
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::Unavailable, Outcome::NotApplied),
        "{what}: {error}"
    );
    assert!(took < options.connect_timeout + SLACK, "{what}: {took:?}");
    let mut shown = format!("{error} {error:?} {error:#?} {options:?} {options:#?}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        shown.push_str(&format!(" {inner} {inner:?}"));
        cause = inner.source();
    }
    assert!(why.iter().any(|why| shown.contains(why)), "{what}: {shown}");
    for line in keys.iter().flat_map(|key| key.lines()) {
        assert!(
            line.contains("PRIVATE KEY") || !shown.contains(line),
            "{what}: a private key is shown: {shown}"
        );
    }
}

/// Reads, writes, watches and holds a lock.
async fn works(options: &EtcdOptions) {
    let provider = EtcdProvider::connect(options.clone().with_namespace("shop")).await.unwrap();
    let mut watch = provider.config().watch_raw("k", WatchStart::Now).await.unwrap();
    let version = provider.config().set_raw("k", Value::from("v")).await.unwrap();
    within(SOON, "the change", watch.next()).await.unwrap().unwrap();
    let read = provider.config().get_raw("k").await.unwrap().unwrap();
    assert_eq!((read.version, read.value), (version, Value::from("v")));
    // Renewals have a connection of their own.
    let guard = provider.lock().acquire("l", Duration::from_secs(3)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(guard.is_held(), "it was renewed beyond its TTL");
    guard.unlock().await.unwrap();
    provider.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_certificate_is_used_by_whom_trusts_its_authority() {
    for series in ALL {
        let authority = Authority::new();
        let (cluster, _files) = encrypted(series, &authority, HERE, None);
        works(&options(&cluster, trusting(&authority))).await;
        // The same, with the scheme written out.
        let written_out = cluster.endpoints().into_iter().map(|endpoint| format!("https://{endpoint}"));
        let store =
            EtcdStore::connect(&EtcdOptions::new(written_out).with_tls(trusting(&authority))).await.unwrap();
        assert!(get(&store, "/shop/config/k").await.is_ok(), "{series:?}");
    }
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    for series in ALL {
        let (authority, other) = (Authority::new(), Authority::new());
        let (cluster, _files) = encrypted(series, &authority, HERE, None);
        let why = &["UnknownIssuer", "BadSignature"];
        refused(&options(&cluster, trusting(&other)), why, &[], "another authority").await;
        refused(&options(&cluster, EtcdTls::new()), why, &[], "the system's authorities").await;
        let https =
            EtcdOptions::new([format!("https://{}", cluster.endpoints()[0])]).with_connect_timeout(CONNECT);
        refused(&https, why, &[], "the system's authorities, by the scheme alone").await;
        // The server is well.
        EtcdStore::connect(&options(&cluster, trusting(&authority))).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_of_another_name_is_not_trusted_but_under_that_name() {
    for series in ALL {
        let authority = Authority::new();
        let (cluster, _files) = encrypted(series, &authority, "etcd.shop.internal", None);
        let why = &["NotValidForName", "not valid for name"];
        refused(&options(&cluster, trusting(&authority)), why, &[], "the endpoint's own name").await;
        let wrong = trusting(&authority).with_server_name("etcd.other.internal");
        refused(&options(&cluster, wrong), why, &[], "a name that is not its own").await;
        let right = trusting(&authority).with_server_name("etcd.shop.internal");
        let store = EtcdStore::connect(&options(&cluster, right)).await.unwrap();
        put(&store, "k", "v").await.unwrap();
        assert_eq!(get(&store, "k").await.unwrap().unwrap().value, "v".into(), "{series:?}");
    }
}

/// However the name is found, it is the name that the certificate must carry.
#[tokio::test]
async fn each_address_of_a_name_is_trusted_under_that_name_alone() {
    let authority = Authority::new();
    let (cluster, _files) = encrypted(Series::V3_5, &authority, "etcd.shop.internal", None);
    let port = cluster.endpoints()[0].rsplit(':').next().unwrap().to_owned();
    for addresses in [vec![[127, 0, 0, 1]], vec![[127, 0, 0, 2], [127, 0, 0, 1]]] {
        let resolver = EtcdResolver::from_fn(move |_| {
            let addresses = addresses.iter().map(|address| (*address).into()).collect();
            async move { Ok(addresses) }
        });
        let named = |name: &str| {
            let mut options = options(&cluster, trusting(&authority)).with_resolver(resolver.clone());
            options.endpoints = vec![format!("{name}:{port}")];
            options
        };
        let store = EtcdStore::connect(&named("etcd.shop.internal")).await.unwrap();
        put(&store, "k", "v").await.unwrap();
        let why = &["NotValidForName", "not valid for name", "refused"];
        refused(&named("etcd.other.internal"), why, &[], "another name").await;
    }
}

#[tokio::test]
async fn who_does_not_encrypt_where_it_is_asked_for_or_the_other_way_round_is_told_in_time() {
    let authority = Authority::new();
    let (cluster, _files) = encrypted(Series::V3_5, &authority, HERE, None);
    let plain = super::options(&cluster).with_connect_timeout(CONNECT);
    refused(&plain, &["connection"], &[], "no TLS where the server has it").await;
    let open = Cluster::single(&Binary::find(Series::V3_5));
    refused(&options(&open, trusting(&authority)), &["connection"], &[], "TLS where the server has none")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_certificate_where_it_is_asked_for_one() {
    for series in ALL {
        let (authority, clients, other) = (Authority::new(), Authority::new(), Authority::new());
        let (cluster, _files) = encrypted(series, &authority, HERE, Some(&clients));
        let (shop, stranger) = (clients.sign("shop"), other.sign("shop"));
        let known = trusting(&authority).with_identity(&shop.certificate, shop.key.clone());
        works(&options(&cluster, known.clone())).await;
        let told = EtcdStore::connect(&options(&cluster, known)).await.unwrap().certificates().await.unwrap();
        assert!(told.identity[0].subject.contains("CN=shop") && told.authorities.len() == 1, "{told:?}");
        for server in &told.servers {
            assert!(server.trusted.is_ok(), "{series:?}: {server:?}");
            assert!(server.certificates[0].subject.contains(HERE), "{series:?}: {server:?}");
        }

        let why = &["no connection to etcd", "the connection to etcd failed"];
        refused(&options(&cluster, trusting(&authority)), why, &[], "no certificate").await;
        let foreign = trusting(&authority).with_identity(&stranger.certificate, stranger.key.clone());
        refused(&options(&cluster, foreign), why, &[&stranger.key], "a certificate of another authority")
            .await;
        let deceived = trusting(&other).with_identity(&shop.certificate, shop.key.clone());
        refused(
            &options(&cluster, deceived),
            &["UnknownIssuer", "BadSignature"],
            &[&shop.key],
            "a server that is not trusted",
        )
        .await;
        // A key that does not belong to the certificate.
        let torn = trusting(&authority).with_identity(&shop.certificate, stranger.key.clone());
        let error = EtcdStore::connect(&options(&cluster, torn)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{series:?}: {error}");
        assert!(
            !stranger
                .key
                .lines()
                .any(|line| !line.contains("PRIVATE KEY") && format!("{error:?}").contains(line))
        );
    }
}

#[tokio::test]
async fn a_certificate_can_be_the_sign_in() {
    for series in ALL {
        let authority = Authority::new();
        let (cluster, _files) = encrypted(series, &authority, HERE, Some(&authority));
        let (root, shop, nobody) = (authority.sign("root"), authority.sign("shop"), authority.sign("nobody"));
        let identified = |signed: &Signed| {
            let tls = trusting(&authority).with_identity(&signed.certificate, signed.key.clone());
            EtcdStore::connect_lazy(&options(&cluster, tls)).unwrap()
        };
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(authority.pem()))
            .identity(Identity::from_pem(&root.certificate, &root.key));
        let endpoint = format!("https://{}", cluster.endpoints()[0]);
        let mut raw = etcd_client::Client::connect([endpoint], Some(ConnectOptions::new().with_tls(tls)))
            .await
            .unwrap();
        // Users need no password: their certificates' common names are theirs.
        for name in ["root", "shop"] {
            let options = etcd_client::UserAddOptions::new().with_no_pwd();
            raw.user_add(name, "", Some(options)).await.unwrap();
        }
        raw.role_add("shop").await.unwrap();
        raw.role_grant_permission("shop", Permission::read_write("/shop/").with_prefix()).await.unwrap();
        raw.user_grant_role("root", "root").await.unwrap();
        raw.user_grant_role("shop", "shop").await.unwrap();
        raw.auth_enable().await.unwrap();

        put(&identified(&shop), "/shop/k", "v").await.unwrap();
        let denied = put(&identified(&shop), "/other/k", "v").await.unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied, "{series:?}: {denied}");
        let denied = put(&identified(&nobody), "/shop/k", "v").await.unwrap_err();
        assert_eq!(
            (denied.kind(), denied.outcome()),
            (ErrorKind::PermissionDenied, Outcome::NotApplied),
            "{series:?}: {denied}"
        );
    }
}

/// Who signs clients' certificates is replaced, so that a server which is started again takes the
/// new ones alone: as when the old ones have expired.
fn replace_clients(cluster: &mut Cluster, files: &Path, clients: &Authority) {
    written(files, "clients.pem", &clients.pem());
    cluster.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_read_again_for_new_connections() {
    for series in ALL {
        let (authority, before, after) = (Authority::new(), Authority::new(), Authority::new());
        let (mut cluster, server) = encrypted(series, &authority, HERE, Some(&before));
        let mine = TempDir::new().unwrap();
        let renew = |signed: &Signed| {
            (written(mine.path(), "c.pem", &signed.certificate), written(mine.path(), "c.key", &signed.key))
        };
        let (certificate, key) = renew(&before.sign("shop"));
        let ca = written(mine.path(), "ca.pem", &authority.pem());
        let files = EtcdTls::new().with_authorities_file(ca).with_identity_files(certificate, key);
        // The same, by a function of the program.
        let issuer = Arc::new(Mutex::new(before.sign("shop")));
        let (issued, trusted) = (Arc::clone(&issuer), authority.pem());
        let function = EtcdTls::from_fn(move || {
            let signed = issued.lock().unwrap();
            Ok(EtcdTls::new()
                .with_authorities(&trusted)
                .with_identity(&signed.certificate, signed.key.clone()))
        });
        let mut providers = Vec::new();
        for tls in [files, function] {
            let provider = EtcdProvider::connect(options(&cluster, tls)).await.unwrap();
            let guard = provider
                .lock()
                .acquire(&format!("l{}", providers.len()), Duration::from_secs(10))
                .await
                .unwrap();
            providers.push((provider, guard));
        }

        renew(&after.sign("shop"));
        *issuer.lock().unwrap() = after.sign("shop");
        replace_clients(&mut cluster, server.path(), &after);
        for (provider, _) in &providers {
            eventually(SOON, "it is connected anew", async || provider.config().set("k", &1).await.ok())
                .await;
        }

        // What is of no use is not used: a key that is missing, half a file, or one that does not
        // belong to the certificate yet.
        let other = after.sign("shop").key;
        for broken in [None, Some(&other[..other.len() / 2]), Some(&other)] {
            match broken {
                Some(text) => drop(written(mine.path(), "c.key", text)),
                None => fs::remove_file(mine.path().join("c.key")).unwrap(),
            }
            *issuer.lock().unwrap() =
                Signed { certificate: after.sign("shop").certificate, key: other.clone() };
            cluster.restart();
            for (provider, _) in &providers {
                eventually(SOON, "it is connected anew", async || provider.config().set("k", &1).await.ok())
                    .await;
            }
        }
        for (provider, guard) in providers {
            assert!(guard.is_held(), "{series:?}: nothing was lost");
            guard.unlock().await.unwrap();
            provider.close().await.unwrap();
        }
    }
}
