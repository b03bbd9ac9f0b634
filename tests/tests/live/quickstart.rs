//! The quickstart on a real server.

use std::path::{Path, PathBuf};
use std::process::Command;

use coord_servers::etcd::{Binary, Cluster, Series};

/// Runs the program of the example, which lies beside the tests once it is built: its output, or
/// what it complained of.
fn run(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .env_remove("APP_ENV")
        .output()
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The program, which knows `store`: it is built if it is not there, or was built without etcd.
fn program(store: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/quickstart")
        .with_extension(std::env::consts::EXE_EXTENSION);
    let knows_etcd = program.exists()
        && !run(&program, &["--store", store]).is_err_and(|error| error.contains("feature `etcd`"));
    if !knows_etcd {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--workspace", "--all-features", "--example", "quickstart"])
            .status();
        assert!(built.unwrap().success());
    }
    program
}

/// The number behind the last `words` of a text.
fn number_after(text: &str, words: &str) -> u64 {
    let rest = &text[text.rfind(words).unwrap_or_else(|| panic!("no `{words}` in:\n{text}")) + words.len()..];
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// The same lines as in memory but for revisions, and what the second run finds.
#[test]
fn the_quickstart_does_on_etcd_what_it_does_in_memory() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let store = |namespace: &str| format!("etcd://{}/{namespace}", cluster.endpoints()[0]);
    let (program, store) = (program(&store("tried")), store("quickstart"));
    // What differs from run to run: numbers, what the limiter drew, and which rules came from
    // where.
    let plain = |text: &str| -> Vec<String> {
        let words =
            |line: &str| line.split(|c: char| c.is_ascii_digit() || "#.".contains(c)).collect::<String>();
        text.lines()
            .filter(|line| !line.contains(" admitted"))
            .map(|line| words(line).split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let on_etcd = run(&program, &["--store", &store]).unwrap();
    assert_eq!(plain(&on_etcd.replace("on etcd", "in memory")), plain(&run(&program, &[]).unwrap()));
    let second = run(&program, &["--store", &store]).unwrap();
    assert!(second.contains("left by an earlier run (1 so far)"), "{second}");
    assert!(
        number_after(&second, "fencing token ") > number_after(&on_etcd, "fencing token "),
        "{on_etcd}\n{second}"
    );
}
