//! Go's own client on the fake etcd.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use coord_fake_etcd::{FakeEtcd, FakeEtcdOptions};
use coord_servers::etcd::etcdctl;

/// Runs etcdctl with these arguments and this on its standard input, and returns what it says.
fn say(server: &FakeEtcd, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut process = command(server, arguments);
    let mut process = process.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn command(server: &FakeEtcd, arguments: &[&str]) -> Command {
    let mut command = Command::new(etcdctl());
    command.env("ETCDCTL_API", "3").args(["--endpoints", &server.endpoint()]).args(arguments);
    command.stdout(Stdio::piped());
    command
}

fn start() -> FakeEtcd {
    FakeEtcd::start(FakeEtcdOptions::default()).unwrap()
}

#[test]
fn keys_are_put_read_and_deleted() {
    let server = start();
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("b", "4")] {
        assert_eq!(say(&server, &["put", key, value], "").unwrap(), "OK\n");
    }
    let get = |arguments: &[&str]| say(&server, &[&["get"], arguments].concat(), "").unwrap();
    assert_eq!(get(&["b"]), "b\n4\n");
    assert_eq!(get(&["--prefix", "", "--keys-only", "--limit", "2"]), "a\n\nb\n\n");
    assert_eq!(get(&["--from-key", "b", "--order", "DESCEND"]), "c\n3\nb\n4\n");
    assert_eq!(get(&["b", "--rev", "3"]), "b\n2\n");
    assert_eq!(say(&server, &["del", "a", "c", "--prev-kv"], "").unwrap(), "2\na\n1\nb\n4\n");
    assert_eq!(say(&server, &["compaction", "5"], "").unwrap(), "compacted revision 5\n");
    let error = say(&server, &["get", "b", "--rev", "3"], "").unwrap_err();
    assert!(error.contains("mvcc: required revision has been compacted"), "{error}");
}

#[test]
fn a_transaction_takes_one_way_or_the_other() {
    let server = start();
    let txn = "mod(\"k\") = \"0\"\n\nput k 1\nget k\n\nget k\n\n";
    assert_eq!(say(&server, &["txn"], txn).unwrap(), "SUCCESS\n\nOK\n\nk\n1\n");
    assert_eq!(say(&server, &["txn"], txn).unwrap(), "FAILURE\n\nk\n1\n");
}

#[test]
fn leases_are_granted_kept_and_revoked() {
    let server = start();
    let granted = say(&server, &["lease", "grant", "60"], "").unwrap();
    let id = granted.split_whitespace().nth(1).unwrap();
    assert_eq!(granted, format!("lease {id} granted with TTL(60s)\n"));
    say(&server, &["put", "k", "v", "--lease", id], "").unwrap();
    let kept = say(&server, &["lease", "keep-alive", "--once", id], "").unwrap();
    assert_eq!(kept, format!("lease {id} keepalived with TTL(60)\n"));
    let left = say(&server, &["lease", "timetolive", id, "--keys"], "").unwrap();
    assert!(left.starts_with(&format!("lease {id} granted with TTL(60s), remaining(")), "{left}");
    assert!(left.ends_with("attached keys([k])\n"), "{left}");
    assert_eq!(say(&server, &["lease", "list"], "").unwrap(), format!("found 1 leases\n{id}\n"));
    assert_eq!(say(&server, &["lease", "revoke", id], "").unwrap(), format!("lease {id} revoked\n"));
    assert_eq!(say(&server, &["get", "k"], "").unwrap(), "");
    let left = say(&server, &["lease", "timetolive", id], "").unwrap();
    assert_eq!(left, format!("lease {id} already expired\n"));
}

#[test]
fn a_watch_tells_what_was_and_what_comes() {
    let server = start();
    say(&server, &["put", "k", "1"], "").unwrap();
    let mut watch = command(&server, &["watch", "k", "--rev", "1", "--prev-kv"]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut heard = |count: usize| lines.by_ref().take(count).collect::<Vec<_>>();
    assert_eq!(heard(3), ["PUT", "k", "1"]);
    say(&server, &["put", "k", "2"], "").unwrap();
    assert_eq!(heard(5), ["PUT", "k", "1", "k", "2"]);
    say(&server, &["del", "k"], "").unwrap();
    assert_eq!(heard(4), ["DELETE", "k", "2", "k"]);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn locks_and_the_state_of_the_server_are_shown() {
    let server = start();
    let locked = say(&server, &["lock", "l", "echo", "held"], "").unwrap();
    assert_eq!(locked, "held\n");
    let status = say(&server, &["endpoint", "status", "-w", "simple"], "").unwrap();
    let fields: Vec<&str> = status.trim().split(", ").collect();
    assert_eq!((fields[0], fields[2]), (server.endpoint().as_str(), "3.5.30"));
    assert_eq!(fields[4], "true", "it leads: {status}");
    let members = say(&server, &["member", "list"], "").unwrap();
    assert!(members.contains(&format!("http://{}", server.address())), "{members}");
    let health = say(&server, &["endpoint", "health"], "");
    assert!(health.is_ok(), "{health:?}");
    assert_eq!(say(&server, &["alarm", "list"], "").unwrap(), "");
    server.faults().set_no_space(true);
    let error = say(&server, &["put", "k", "v"], "").unwrap_err();
    assert!(error.contains("mvcc: database space exceeded"), "{error}");
    assert!(say(&server, &["alarm", "disarm"], "").unwrap().contains("NOSPACE"));
    say(&server, &["put", "k", "v"], "").unwrap();
}
