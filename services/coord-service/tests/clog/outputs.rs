//! Outputs that are slow, full, wrong, or moved.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use coord_service::clog::{Clog, ClogError};
use parking_lot::{Condvar, Mutex};
use tracing::subscriber::{set_default, with_default};
use tracing::{info, info_span};
use tracing_subscriber::layer::SubscriberExt;

use crate::{LONG, Line, Memory, json, lines, plain_text};

#[test]
fn many_threads_write_whole_lines_and_lose_none() {
    const THREADS: usize = 8;
    const EACH: usize = 3_000;
    let lines = lines(json(), |_| {
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let dispatch = dispatch.clone();
                scope.spawn(move || {
                    tracing::dispatcher::with_default(&dispatch, || {
                        let span = info_span!("thread", thread);
                        let _entered = span.enter();
                        for n in 0..EACH {
                            info!(n, padding = "x".repeat(n % 100), "line");
                        }
                    });
                });
            }
        });
    });
    assert_eq!(lines.len(), THREADS * EACH);
    let mut next = vec![0; THREADS];
    for line in &lines {
        let thread = usize::try_from(line["thread"].as_u64().unwrap()).unwrap();
        assert_eq!(line["n"], next[thread], "a thread's lines stay in order");
        next[thread] += 1;
    }
    assert_eq!(next, vec![EACH; THREADS]);
}

/// A pipe whose reader comes later.
#[derive(Clone, Default)]
struct Stuck(Arc<(Mutex<bool>, Condvar)>, Memory);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut open = self.0.0.lock();
        while !*open {
            self.0.1.wait(&mut open);
        }
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stuck {
    fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }
}

#[test]
fn a_full_output_stops_nobody_and_what_is_lost_is_counted_and_told() {
    use coord_service::metrics::{Metrics, MetricsOptions, facade};
    const RECORDS: u64 = 5_000;
    let metrics = Metrics::new(MetricsOptions::default()).unwrap();
    let stuck = Stuck::default();
    let logs = Clog::builder("im-logic")
        .config(json())
        .writer(stuck.clone())
        .queue_bytes(64 * 1024)
        .start()
        .unwrap();
    // Would not end if anybody waited for the output.
    facade::with_local_recorder(&metrics, || {
        with_default(tracing_subscriber::registry().with(logs.layer()), || {
            (0..RECORDS).for_each(|n| info!(n, "line"));
        });
    });
    let lost = logs.status().lost;
    assert!(lost > 0 && lost < RECORDS, "{lost}");
    assert!(metrics.render().contains(&format!("coord_log_records_lost_total{{reason=\"full\"}} {lost}")));
    assert!(logs.status().waiting > 0);
    let late = logs.flush(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(late, ClogError::NotWritten { records, .. } if records == RECORDS - lost), "{late}");

    stuck.open();
    logs.flush(LONG).unwrap();
    with_default(tracing_subscriber::registry().with(logs.layer()), || info!("after"));
    logs.close(LONG).unwrap();
    let text = stuck.1.text();
    let lines: Vec<_> = text.lines().map(Line::read).collect();
    let told: u64 = lines.iter().filter_map(|line| line["lost"].as_u64()).sum();
    assert_eq!(told, lost);
    let arrived = lines.iter().filter(|line| line["message"] == "line").count();
    assert_eq!(arrived as u64 + lost, RECORDS);
    let notice = lines.iter().find(|line| line["lost"].is_number()).unwrap();
    assert_eq!((&notice["level"], &notice["service"]), (&"WARN".into(), &"im-logic".into()));
    assert_eq!(lines.last().unwrap()["message"], "after");
}

#[cfg(unix)]
#[test]
fn a_pipe_that_nobody_reads_stops_nobody() {
    use std::io::Read;
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let logs = Clog::builder("im-logic").config(json()).writer(ours).queue_bytes(64 * 1024).start().unwrap();
    let _here = set_default(tracing_subscriber::registry().with(logs.layer()));
    let mut recorded = 0_u64;
    while logs.status().lost == 0 {
        info!(recorded, padding = "x".repeat(1_000), "line");
        recorded += 1;
    }
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        text
    });
    logs.close(LONG).unwrap();
    let lost = logs.status().lost;
    drop(logs);
    let text = reading.join().unwrap();
    let arrived = text.lines().map(Line::read).filter(|line| line["message"] == "line").count();
    assert_eq!(arrived as u64 + lost, recorded);
}

#[test]
fn an_output_that_never_takes_anything_ends_within_the_deadline() {
    let stuck = Stuck::default();
    let logs = Clog::builder("im-logic").writer(stuck.clone()).start().unwrap();
    let _here = set_default(tracing_subscriber::registry().with(logs.layer()));
    info!("one");
    info!("two");
    let error = logs.close(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, ClogError::NotWritten { records: 2, .. }), "{error}");
    info!("after the end");
    assert_eq!(logs.status().lost, 3);
    logs.close(LONG).unwrap();
    assert!(matches!(logs.apply(&json()), Err(ClogError::Closed)));
    stuck.open();
}

/// Takes a few bytes at a time, and fails every third time.
struct Flaky(Memory, usize);

impl Write for Flaky {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 += 1;
        match self.1 % 3 {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            1 => Err(io::ErrorKind::Interrupted.into()),
            _ => self.0.write(&bytes[..bytes.len().min(1_000)]),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_takes_parts_and_fails_gets_each_line_whole_and_once() {
    let memory = Memory::default();
    let logs = Clog::builder("im-logic").config(json()).writer(Flaky(memory.clone(), 0)).start().unwrap();
    let _here = set_default(tracing_subscriber::registry().with(logs.layer()));
    (0..100).for_each(|n| info!(n, "line"));
    logs.flush(LONG).unwrap();
    let text = memory.text();
    assert_eq!(
        text.lines().map(|line| Line::read(line)["n"].as_u64().unwrap()).collect::<Vec<_>>(),
        (0..100).collect::<Vec<_>>()
    );
    assert_eq!(logs.status().lost, 0);
}

/// Ends the thread that writes.
struct Panics;

impl Write for Panics {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        panic!("a writer of the user's")
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn who_waits_is_told_when_the_thread_ends_by_accident() {
    let logs = Clog::builder("im-logic").writer(Panics).start().unwrap();
    let _here = set_default(tracing_subscriber::registry().with(logs.layer()));
    info!("one");
    assert!(matches!(logs.flush(LONG), Err(ClogError::NotWritten { records: 1, .. })));
    assert!(logs.status().failing.unwrap().contains("by accident"));
    info!("two");
    assert_eq!(logs.status().lost, 1);
    // Another output helps, and then it is known that the first one is lost as well.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    logs.apply(&plain_text().with_output(path.display().to_string())).unwrap();
    info!("three");
    logs.flush(LONG).unwrap();
    assert_eq!(logs.status().lost, 2);
    assert!(std::fs::read_to_string(path).unwrap().contains("three"));
}

#[cfg(unix)]
#[test]
fn a_file_that_is_moved_or_deleted_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.log");
    let logs = Clog::new("im-logic", &plain_text().with_output(path.display().to_string())).unwrap();
    let _here = set_default(tracing_subscriber::registry().with(logs.layer()));
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    for n in 0..5 {
        info!(n, "before");
        logs.flush(LONG).unwrap();
        let moved = directory.path().join(format!("app.log.{n}"));
        std::fs::rename(&path, &moved).unwrap();
        info!(n, "after");
        logs.flush(LONG).unwrap();
        assert!(read(&moved).ends_with('\n') && read(&path).lines().count() == 1);
        std::fs::remove_file(&path).unwrap();
    }
    // Truncated in place, it goes on at its beginning.
    info!("one");
    logs.flush(LONG).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    info!("two");
    logs.reopen();
    info!("three");
    logs.flush(LONG).unwrap();
    let text = read(&path);
    assert!(!text.contains('\0') && text.lines().count() == 2, "{text}");
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_opened_anew_loses_nothing_while_it_is_somewhere() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("logs");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("app.log");
    let logs = Clog::new("im-logic", &plain_text().with_output(path.display().to_string())).unwrap();
    let _here = set_default(tracing_subscriber::registry().with(logs.layer()));
    info!("one");
    logs.flush(LONG).unwrap();
    // The whole folder was moved: lines still go to where the file is now.
    let moved = directory.path().join("moved");
    std::fs::rename(&folder, &moved).unwrap();
    info!("two");
    logs.flush(LONG).unwrap();
    assert!(logs.status().failing.unwrap().contains("anew"));
    assert_eq!(std::fs::read_to_string(moved.join("app.log")).unwrap().lines().count(), 2);
    // It was deleted, and there is no place: lines wait.
    std::fs::remove_dir_all(&moved).unwrap();
    info!("three");
    assert!(matches!(logs.flush(Duration::from_millis(100)), Err(ClogError::NotWritten { records: 1, .. })));
    assert!(logs.status().failing.is_some());
    std::fs::create_dir(&folder).unwrap();
    logs.flush(LONG).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("three"));
    assert_eq!(logs.status().failing, None);
    assert_eq!(logs.status().lost, 0);
}
