//! One process that ends with its owner, can be killed, and stood still.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Lines of the log that are kept to explain a failure.
const LOG_LINES: usize = 40;

/// Runs the server and ends it with its owner. A line on the pipe kills the server; a pipe that is
/// closed without one means that the owner is gone, so that its data, `$0`, goes as well.
const GUARDED: &str = r#""$@" </dev/null 1>&2 & server=$!; echo "$server"
exec 2>/dev/null
read -r line; gone=$?
kill -9 "$server"; wait "$server"
[ "$gone" -eq 0 ] || rm -rf "$0""#;

/// What can be done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// It dies at once.
    Kill,
    /// It is asked to end.
    Terminate,
    /// It is interrupted, as from a keyboard.
    Interrupt,
    /// It stands still, with all its connections open.
    Stop,
    /// It goes on.
    Continue,
}

impl Signal {
    /// As an option of the program `kill`.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Signal::Kill => "-KILL",
            Signal::Terminate => "-TERM",
            Signal::Interrupt => "-INT",
            Signal::Stop => "-STOP",
            Signal::Continue => "-CONT",
        }
    }
}

/// A running process. It dies when this is dropped, or when the program that owns this is gone.
#[derive(Debug)]
pub struct Process {
    /// The shell that guards the process, until it was killed.
    guard: Option<Guard>,
    pid: u32,
    log: Arc<Mutex<VecDeque<String>>>,
}

#[derive(Debug)]
struct Guard {
    shell: Child,
    /// A line on it ends the process, and so does its end.
    lifeline: ChildStdin,
}

impl Process {
    /// Starts `command`: a program and its arguments. `data` is the directory that is removed when
    /// the owner is gone without having ended the process. `on_line` is called with each line of
    /// the process's output, of both kinds, from a thread that ends with the process.
    ///
    /// # Errors
    ///
    /// When it cannot be run. A process that ends by itself is none: its output ends, and `on_line`
    /// is dropped.
    pub fn start(
        command: impl IntoIterator<Item = impl Into<OsString>>,
        data: &Path,
        mut on_line: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, String> {
        let command: Vec<OsString> = command.into_iter().map(Into::into).collect();
        let name = command.first().map_or_else(String::new, |program| program.to_string_lossy().into_owned());
        let mut shell = Command::new("sh")
            .args(["-c", GUARDED])
            .arg(data)
            .args(&command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name} cannot be run: {error}"))?;
        let (Some(lifeline), Some(stdout), Some(stderr)) =
            (shell.stdin.take(), shell.stdout.take(), shell.stderr.take())
        else {
            return Err(format!("the pipes to {name} are missing"));
        };
        let mut pid = String::new();
        BufReader::new(stdout)
            .read_line(&mut pid)
            .map_err(|error| format!("{name} cannot be run: {error}"))?;
        let pid =
            pid.trim().parse().map_err(|_| format!("the shell says `{pid}` instead of a process id"))?;

        let log = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                on_line(&line);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > LOG_LINES {
                    kept.pop_front();
                }
            }
        });
        Ok(Process { guard: Some(Guard { shell, lifeline }), pid, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The last lines of its output.
    pub fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        Vec::from_iter(log.iter().cloned()).join("\n")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When it does not run any more.
    pub fn signal(&self, signal: Signal) {
        let name = signal.option();
        let sent =
            Command::new("kill").args([name, &self.pid.to_string()]).status().expect("kill can be run");
        assert!(sent.success(), "process {} takes no signal {name}", self.pid);
    }

    /// Kills it, as `kill -9` does, and waits until it is gone. What it wrote stays.
    pub fn kill(&mut self) {
        // The guard kills and reaps the process, and ends after it. A guard that is gone already
        // takes no line. One that stands still dies all the same.
        if let Some(Guard { mut shell, mut lifeline }) = self.guard.take() {
            let _ = lifeline.write_all(b"kill\n");
            drop(lifeline);
            shell.wait().expect("the guard of a process can be waited for");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn is_there(pid: u32) -> bool {
        Path::new("/proc").join(pid.to_string()).exists()
    }

    #[test]
    fn a_process_is_heard_stands_still_goes_on_and_ends_with_its_owner() {
        let data = tempfile::tempdir().unwrap();
        let (tell, told) = channel();
        let script = "echo out; echo err >&2; while sleep 0.01; do echo again; done";
        let process = Process::start(["sh", "-c", script], data.path(), move |line| {
            let _ = tell.send(line.to_owned());
        })
        .unwrap();
        assert_eq!(told.recv_timeout(SOON).unwrap(), "out");
        assert_eq!(told.recv_timeout(SOON).unwrap(), "err");
        assert_eq!(told.recv_timeout(SOON).unwrap(), "again");
        process.signal(Signal::Stop);
        // What was on its way still comes, and then nothing does.
        while told.recv_timeout(Duration::from_millis(300)).is_ok() {}
        process.signal(Signal::Continue);
        assert_eq!(told.recv_timeout(SOON).unwrap(), "again");
        let pid = process.pid();
        assert!(is_there(pid) && process.log().ends_with("again"));
        drop(process);
        assert!(!is_there(pid), "it is gone");
        // The last lines, and then the end of the output.
        while told.recv_timeout(SOON).is_ok() {}
        assert!(data.path().exists(), "the owner removes what it wrote");
    }

    #[test]
    fn a_process_that_ends_by_itself_ends_its_output() {
        let data = tempfile::tempdir().unwrap();
        let (tell, told) = channel();
        let process = Process::start(["sh", "-c", "echo why; exit 3"], data.path(), move |line| {
            let _ = tell.send(line.to_owned());
        })
        .unwrap();
        assert_eq!(told.recv_timeout(SOON).unwrap(), "why");
        assert!(told.recv_timeout(SOON).is_err(), "nobody says anything any more");
        assert_eq!(process.log(), "why");
    }
}
