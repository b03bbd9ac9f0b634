//! Runs the quickstart as its readers do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const RULES: &str = include_str!("../data/ratelimit.json");

/// The example's program, which stands beside the tests. Cargo builds it with all tests of the
/// package; `--test quickstart` alone runs the one that was built last.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/quickstart")
        .with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--package", "coord-examples", "--example", "quickstart"])
            .args(cfg!(feature = "etcd").then_some("--features=etcd"))
            .status()
            .unwrap();
        assert!(built.success());
    }
    program
}

fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let program = program();
    let started = Instant::now();
    let output = Command::new(program).args(arguments).env_remove("APP_ENV").output().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    output
}

fn good<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn bad<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// The number behind the last `words` of a text.
fn number_after(text: &str, words: &str) -> u64 {
    let rest = &text[text.rfind(words).unwrap_or_else(|| panic!("no `{words}` in:\n{text}")) + words.len()..];
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// The version at which a run found or wrote the rules of a service.
fn version_of(text: &str, service: &str) -> u64 {
    let line = text.lines().find(|line| line.contains(&format!("dev/{service}/ratelimit"))).unwrap();
    number_after(line, "version ")
}

#[test]
fn it_shows_all_contracts_in_memory() {
    let text = good([""; 0]);
    for expected in [
        "An empty store",
        "50 for 6 services",
        "user-service-1 has instance id 1",
        "user-service-2 has instance id 2",
        "user-service-1 discovers user-service-1 at 127.0.0.1:8081, user-service-2 at 127.0.0.1:8082",
        "a late write of user-service-1 is refused",
        "20 a second, 4 at once",
        "60 a second, 12 at once",
        "the service has kept its rules",
        "still registered: 0",
    ] {
        assert!(text.contains(expected), "no `{expected}` in:\n{text}");
    }
}

#[cfg(not(feature = "etcd"))]
#[test]
fn without_etcd_it_says_which_feature_brings_it() {
    let refused = bad(["--store", "etcd://localhost:2379"]);
    assert!(refused.contains("feature `etcd`"), "{refused}");
}

#[test]
fn a_second_run_on_sled_finds_what_the_first_one_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sled:{}", directory.path().join("store").display());
    let first = good(["--store", &store]);
    let second = good(["--store", &store]);

    assert!(first.contains("An empty store"), "{first}");
    assert!(second.contains("left by an earlier run (1 so far)"), "{second}");
    assert!(second.contains("dev/order-service/ratelimit") && second.contains("there already"), "{second}");
    assert!(second.contains("edited since they were loaded"), "the operator's edit is kept:\n{second}");
    assert!(
        number_after(&second, "user-service-1 holds the lock, fencing token ")
            > number_after(&first, "fencing token "),
        "{first}\n{second}"
    );
}

#[test]
fn other_rules_replace_those_in_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = format!("sled:{}", directory.path().join("store").display());
    let rules = directory.path().join("rules.json");
    fs::write(&rules, r#"{"services": {"mail-service": {"default": {"requests": 20, "per": "second", "burst": 4}, "rules": []}}}"#)
        .unwrap();
    let arguments = ["--store", &store, "--rules", rules.to_str().unwrap()];
    let first = good(arguments);
    assert!(first.contains("mail-service-2 has instance id 2"), "{first}");
    let second = good(arguments);
    assert!(
        second.contains("written, version"),
        "the operator's edit of the first run is replaced:\n{second}"
    );
}

#[test]
fn a_bad_rules_file_is_named_with_line_and_field_and_nothing_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules.json");
    let place = directory.path().join("store");
    let store = format!("sled:{}", place.display());

    // The fault stands in the last service, so that whoever writes while reading has written the
    // others.
    let at = RULES.rfind("\"requests\": ").unwrap();
    let line = RULES[..at].lines().count();
    fs::write(&rules, format!("{}\"requests\": -{}", &RULES[..at], &RULES[at + "\"requests\": ".len()..]))
        .unwrap();

    let fault = bad(["--store", &store, "--rules", rules.to_str().unwrap()]);
    assert!(fault.contains(&format!("{}:{line}:", rules.display())), "{fault}");
    assert!(fault.contains("services.notification-service.rules[5].requests"), "{fault}");
    assert!(!place.exists(), "the store was touched");

    // In a store that is there already, everything stays as it is.
    let before = good(["--store", &store]);
    bad(["--store", &store, "--rules", rules.to_str().unwrap()]);
    let after = good(["--store", &store]);
    assert!(after.contains("left by an earlier run (1 so far)"), "{after}");
    for service in ["gateway", "notification-service", "order-service", "payment-service", "search-service"] {
        assert_eq!(version_of(&after, service), version_of(&before, service));
    }
    assert_eq!(
        version_of(&after, "user-service"),
        number_after(&before, "puts them right: version "),
        "the operator's edit stays"
    );
}

#[test]
fn what_it_cannot_use_is_refused_in_plain_words() {
    let missing = bad(["--rules", "no/such/rules.json"]);
    assert!(missing.contains("no/such/rules.json: the file cannot be read"), "{missing}");
    for store in ["sled:", "etcd", ""] {
        let refused = bad(["--store", store]);
        assert!(
            refused.contains("neither `memory`, nor `sled:DIR`, nor a store's URL"),
            "{store}: {refused}"
        );
    }
    let refused = bad(["--store", "redis://localhost:6379"]);
    assert!(refused.contains("unknown scheme"), "{refused}");
    let refused = bad(["--store", "etcd://shop:hunter2@localhost:2379"]);
    assert!(refused.contains("a password in the URL") && !refused.contains("hunter2"), "{refused}");
}
