//! Opening each kind of store by its URL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use coord::prelude::*;
use coord::{ErrorKind, Source};

/// Two clients of one store see the same, and are two owners.
async fn two_clients_share_a_store(url: &str) {
    let source = Source::open(url).await.unwrap();
    let (one, two) = (source.client().await.unwrap(), source.client().await.unwrap());
    one.config().set("greeting", "hello").await.unwrap();
    assert_eq!(two.config().get::<String>("greeting").await.unwrap().as_deref(), Some("hello"));
    let ttl = Duration::from_secs(10);
    let guard = one.lock().acquire("job", ttl).await.unwrap();
    assert_eq!(two.lock().try_acquire("job", ttl).await.unwrap_err().kind(), ErrorKind::Conflict);
    guard.unlock().await.unwrap();
    one.close().await.unwrap();
    two.lock().try_acquire("job", ttl).await.unwrap().unlock().await.unwrap();
    two.close().await.unwrap();
}

#[tokio::test]
async fn memory() {
    two_clients_share_a_store("memory://").await;
    two_clients_share_a_store("memory://?namespace=shop").await;
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn sled() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sled://{}", directory.path().join("store").display());
    two_clients_share_a_store(&url).await;
    let again = coord::open(&url).await.unwrap();
    assert_eq!(
        again.config().get::<String>("greeting").await.unwrap().as_deref(),
        Some("hello"),
        "it was kept"
    );
}

#[cfg(not(feature = "etcd"))]
#[tokio::test]
async fn etcd_without_its_feature_says_which_one() {
    let error = coord::open("etcd://localhost:2379").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("feature `etcd`"), "{error}");
}

/// The environment of this process cannot be changed safely, so other processes run the half of
/// this test that reads it.
#[cfg(unix)]
#[tokio::test]
async fn the_url_comes_from_the_environment() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    const WANTED: &str = "COORD_TEST_WANTED";
    if let Ok(wanted) = std::env::var(WANTED) {
        let said =
            coord::open_from_env().await.map_or_else(|error| error.to_string(), |_| "opened".to_owned());
        assert!(said.contains(&wanted), "{said}");
        return;
    }
    let cases: [(Option<&[u8]>, &str); 5] = [
        (None, "COORD_URL does not name a store"),
        (Some(b""), "COORD_URL does not name a store"),
        (Some(b"memory://"), "opened"),
        (Some(b"memory://\n"), "white space around the URL"),
        (Some(b"sled:///\xff"), "COORD_URL is not UTF-8"),
    ];
    for (url, wanted) in cases {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "the_url_comes_from_the_environment"])
            .env(WANTED, wanted)
            .env_remove("COORD_URL");
        if let Some(url) = url {
            child.env("COORD_URL", OsStr::from_bytes(url));
        }
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{wanted}: {said}");
    }
}
