//! Changes while the program runs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use coord_service::clog::{Clog, ClogError};
use serde_json::Value;
use tracing::{debug, error, field, info, info_span, warn};
use tracing_subscriber::layer::SubscriberExt;

use crate::{LONG, Line, json, lines, plain_text, written};

#[test]
fn level_and_format_are_switched_while_spans_are_open() {
    let text = written(plain_text().with_level("warn"), |logs| {
        // Opened while nothing of INFO is logged, in a text log.
        let span = info_span!("request", user = 7, late = field::Empty);
        let _entered = span.enter();
        info!("not logged");
        warn!("as text");
        logs.apply(&json().with_level("debug")).unwrap();
        span.record("late", true);
        debug!("as json");
        logs.apply(&plain_text().with_level("error")).unwrap();
        warn!("not logged");
        error!("as text again");
        logs.apply(&plain_text().with_level("off")).unwrap();
        error!("not logged");
    });
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains("WARN im-logic clog::switching: as text user=7 span=request"), "{text}");
    let json = Line::read(lines[1]);
    assert_eq!((&json["message"], &json["level"]), (&"as json".into(), &"DEBUG".into()));
    assert_eq!((&json["user"], &json["late"], &json["span"]), (&7.into(), &true.into(), &"request".into()));
    assert!(lines[2].contains("ERROR im-logic clog::switching: as text again user=7 late=true"), "{text}");
}

#[test]
fn targets_have_levels_of_their_own() {
    let config = json()
        .with_target("noisy", "off")
        .with_target("clog::switching", "warn")
        .with_target("clog::switching::sub", "trace");
    let lines = lines(config, |_| {
        error!(target: "noisy::inner", "no");
        let span = info_span!(target: "noisy", "hidden", hidden = true);
        let _entered = span.enter();
        info!("no");
        warn!("yes");
        tracing::trace!(target: "clog::switching::sub::x", "yes");
        debug!(target: "other", "no");
        info!(target: "other", "yes");
    });
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["message"] == "yes" && line["hidden"] == Value::Null));
}

#[test]
fn a_wrong_document_names_its_field_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("missing/app.log").display().to_string();
    let text = written(plain_text().with_level("warn"), |logs| {
        let before = logs.config();
        for (wrong, field) in [
            (plain_text().with_level("lout"), "level: "),
            (plain_text().with_target("sqlx", "loud"), "targets.sqlx: "),
            (plain_text().with_format("xml"), "format: "),
            (plain_text().with_output(""), "output: "),
            (plain_text().with_output(&nowhere).with_level("trace"), "output: "),
            (plain_text().with_output(directory.path().display().to_string()), "output: "),
        ] {
            let error = logs.apply(&wrong).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
            assert_eq!(logs.config(), before);
            info!("not logged");
            warn!("logged");
        }
    });
    assert_eq!(text.matches("logged").count(), 6, "{text}");
}

#[test]
fn a_hundred_switches_of_format_and_file_lose_nothing() {
    const WRITERS: usize = 8;
    let directory = tempfile::tempdir().unwrap();
    let path = |n: usize| directory.path().join(format!("{}.log", n % 5)).display().to_string();
    let logs = Clog::new("im-logic", &plain_text().with_output(path(0))).unwrap();
    let dispatch = tracing::Dispatch::new(tracing_subscriber::registry().with(logs.layer()));
    let (stop, recorded) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (dispatch, stop, recorded) = (&dispatch, &stop, &recorded);
            scope.spawn(move || {
                tracing::dispatcher::with_default(dispatch, || {
                    let span = info_span!("writer", writer);
                    let _entered = span.enter();
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        info!(n, "line");
                        n += 1;
                        // No faster than a slow disk takes it.
                        if n % 16 == 0 {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                    recorded.fetch_add(n, Ordering::Relaxed);
                });
            });
        }
        // On a thread that has no subscriber, as those that hear of a change may have none.
        for n in 1..=100 {
            let format = if n % 2 == 0 { "text" } else { "json" };
            logs.apply(&plain_text().with_output(path(n / 2)).with_format(format)).unwrap();
            // Some of each.
            logs.flush(LONG).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    logs.close(LONG).unwrap();
    assert_eq!(logs.status().lost, 0);
    let (mut json, mut text, mut seen) = (0, 0, std::collections::HashSet::new());
    for n in 0..5 {
        for line in std::fs::read_to_string(path(n)).unwrap().lines() {
            let record = if line.starts_with('{') {
                json += 1;
                let line = Line::read(line);
                (line["writer"].as_u64().unwrap(), line["n"].as_u64().unwrap())
            } else {
                text += 1;
                assert!(line.contains(" INFO im-logic clog::switching: line n="), "{line}");
                let number = |name: &str| {
                    let (_, rest) = line.split_once(name).unwrap();
                    rest.split(' ').next().unwrap().parse::<u64>().unwrap()
                };
                (number(" writer="), number(" n="))
            };
            assert!(seen.insert(record), "{record:?} is there twice");
        }
    }
    assert!(json > 0 && text > 0);
    assert_eq!(seen.len(), recorded.load(Ordering::Relaxed));
}

/// The whole of a process: installed, with records of `log`, until it panics.
#[test]
fn a_process_that_panics_has_all_of_its_records_written() {
    const CHILD: &str = "COORD_SERVICE_TEST_CLOG_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let logs = Clog::new("child", &json()).unwrap();
        logs.install().unwrap();
        assert!(matches!(logs.install(), Err(ClogError::AlreadyInstalled)));
        info!("of tracing");
        tracing_log::log::warn!(target: "elsewhere", "of log");
        tracing_log::log::debug!("not logged");
        // By a thread that has no subscriber, as those of the store have none.
        let silent = tracing::subscriber::NoSubscriber::new();
        tracing::subscriber::with_default(silent, || logs.apply(&json().with_level("debug"))).unwrap();
        debug!("logged");
        tracing_log::log::debug!("logged");
        (0..1_000).for_each(|n| info!(n, "line"));
        let _ = std::thread::spawn(|| panic!("for {}", "once")).join();
        std::process::exit(3);
    }
    let name = "switching::a_process_that_panics_has_all_of_its_records_written";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert_eq!(child.status.code(), Some(3), "{child:?}");
    let text = String::from_utf8(child.stdout).unwrap();
    // The harness may have begun the first line.
    let lines = text.lines().filter_map(|line| line.find("{\"time\"").map(|at| Line::read(&line[at..])));
    let lines: Vec<_> = lines.collect();
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    assert_eq!((of("of tracing").len(), of("line").len(), of("not logged").len()), (1, 1_000, 0));
    let bridged = of("of log")[0];
    assert_eq!((&bridged["target"], &bridged["level"]), (&"elsewhere".into(), &"WARN".into()));
    assert!(bridged["caller"].as_str().unwrap().contains("tests/clog/switching.rs:"), "{bridged:?}");
    assert!(!bridged.0.keys().any(|key| key.starts_with("log.")));
    assert_eq!(of("logged").len(), 2);
    let panicked = of("panicked: for once")[0];
    assert_eq!((&panicked["level"], &panicked["service"]), (&"ERROR".into(), &"child".into()));
    assert!(panicked["location"].as_str().unwrap().contains("tests/clog/switching.rs:"));
}
