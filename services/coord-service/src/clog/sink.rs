//! A queue of lines and the thread that writes them, so that nobody who logs waits for an output.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::config::LogFormat;
use super::output::Output;
use super::record::{Form, notice};

/// How long the thread lets lines gather after it wrote, so that a busy program wakes it a few
/// hundred times a second and not at each line.
const GATHER: Duration = Duration::from_millis(5);

/// How soon an output that failed is tried again: at first, and at the latest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How large the memory of the queue may stay where it is not needed.
const KEPT: usize = 256 * 1024;

thread_local! {
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the present thread writes logs, and so must not wait for that to be done.
pub(super) fn is_writer() -> bool {
    IS_WRITER.get()
}

/// One output with its queue and thread. The thread ends once the sink is
/// [retired](Sink::retire) or [closed](Sink::close).
#[derive(Debug)]
pub(super) struct Sink {
    shared: Arc<Shared>,
    is_terminal: bool,
}

#[derive(Debug)]
struct Shared {
    /// How many bytes may wait. As many again may be with the thread.
    limit: usize,
    service: Arc<str>,
    state: Mutex<State>,
    /// The thread has something to do.
    work: Condvar,
    /// The thread did something.
    progress: Condvar,
}

struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Records that came in, and those of them that were written.
    accepted: u64,
    written: u64,
    /// Records that found the queue full, which was not told yet.
    lost: u64,
    format: LogFormat,
    /// The thread waits for the next line.
    idle: bool,
    /// The thread lets lines gather.
    gathering: bool,
    /// How many wait for what came in so far.
    flushing: usize,
    reopen: bool,
    failing: Option<String>,
    /// No more comes in; the thread ends when all is written.
    closed: bool,
    /// The thread ends as soon as it can.
    abandoned: bool,
    ended: bool,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Accepted,
    /// The queue is full. The sink counts the record, and will tell.
    Full,
    /// The sink takes no more.
    Closed,
}

/// What the thread is to write.
struct Taken {
    records: u64,
    lost: u64,
    format: LogFormat,
    reopen: bool,
}

impl Sink {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// No thread is to be had.
    pub(super) fn start(
        output: Output,
        format: LogFormat,
        limit: usize,
        service: Arc<str>,
    ) -> io::Result<Self> {
        let is_terminal = output.is_terminal();
        let state = State {
            waiting: Vec::new(),
            accepted: 0,
            written: 0,
            lost: 0,
            format,
            idle: false,
            gathering: false,
            flushing: 0,
            reopen: false,
            failing: None,
            closed: false,
            abandoned: false,
            ended: false,
        };
        let shared = Arc::new(Shared {
            limit,
            service,
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let writer = Writer { shared: Arc::clone(&shared), output };
        thread::Builder::new().name("clog".to_owned()).spawn(move || writer.run())?;
        Ok(Sink { shared, is_terminal })
    }

    /// Whether people look at the output.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Adds a line, which ends in a line feed. Never waits for the output.
    pub(super) fn push(&self, line: &[u8]) -> Pushed {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Pushed::Closed;
        }
        let len = state.waiting.len() + line.len();
        if len > self.shared.limit {
            state.lost += 1;
            return Pushed::Full;
        }
        state.waiting.extend_from_slice(line);
        state.accepted += 1;
        if state.idle || (state.gathering && len > self.shared.limit / 4) {
            state.idle = false;
            state.gathering = false;
            drop(state);
            self.shared.work.notify_one();
        }
        Pushed::Accepted
    }

    /// Sets the form of what the thread has to tell itself.
    pub(super) fn set_format(&self, format: LogFormat) {
        self.shared.state.lock().format = format;
    }

    /// Has a file be opened anew before the next line is written.
    pub(super) fn reopen(&self) {
        self.shared.state.lock().reopen = true;
        self.shared.work.notify_one();
    }

    /// Bytes that wait, and why the output fails, if it does.
    pub(super) fn status(&self) -> (usize, Option<String>) {
        let state = self.shared.state.lock();
        let failing = match state.ended && !state.abandoned && state.written < state.accepted {
            true => Some("the thread that writes ended by accident".to_owned()),
            false => state.failing.clone(),
        };
        (state.waiting.len(), failing)
    }

    /// Waits until all that came in so far is written, or the deadline. Returns how many records
    /// are left.
    pub(super) fn flush(&self, deadline: Instant) -> u64 {
        let mut state = self.shared.state.lock();
        let target = state.accepted;
        state.flushing += 1;
        self.shared.work.notify_one();
        while state.written < target && !state.ended {
            if self.shared.progress.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.flushing -= 1;
        target.saturating_sub(state.written)
    }

    /// Takes no more lines. The thread writes what it has, and ends.
    pub(super) fn retire(&self) {
        self.shared.state.lock().closed = true;
        self.shared.work.notify_one();
    }

    /// Whether the thread ended.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.state.lock().ended
    }

    /// Retires it, waits until all is written, or the deadline, and gives up what is left then.
    /// Returns how many records that were. A thread that is inside of a write ends after that.
    pub(super) fn close(&self, deadline: Instant) -> u64 {
        self.retire();
        let mut state = self.shared.state.lock();
        while !state.ended {
            if self.shared.progress.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.abandoned = true;
        state.waiting = Vec::new();
        let left = state.accepted.saturating_sub(state.written);
        state.written = state.accepted;
        drop(state);
        self.shared.work.notify_one();
        left
    }
}

/// The thread.
struct Writer {
    shared: Arc<Shared>,
    output: Output,
}

/// However the thread ends, those who wait learn of it.
impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.ended = true;
        self.shared.progress.notify_all();
    }
}

impl Writer {
    fn run(mut self) {
        IS_WRITER.set(true);
        let mut lines = Vec::new();
        while let Some(taken) = self.shared.take(&mut lines) {
            if taken.lost > 0 {
                let form = Form { format: taken.format, colours: false, service: &self.shared.service };
                let message = format_args!("records were lost: the output did not take them in time");
                notice(form, message, taken.lost, &mut lines);
            }
            let Some(failing) = self.write(&lines, taken.reopen) else {
                return;
            };
            self.shared.wrote(taken.records, failing);
            lines.clear();
            lines.shrink_to(KEPT);
            self.shared.gather();
        }
    }

    /// Writes all of it, however long that takes. Returns what is wrong nevertheless, or `None`
    /// where it was given up.
    fn write(&mut self, lines: &[u8], mut reopen: bool) -> Option<Option<String>> {
        let mut at = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let before = at;
            let (error, failing) = match self.output.follow(reopen) {
                Ok(was_opened) => {
                    reopen = false;
                    if was_opened {
                        // The beginning of a line is in the file before: here it is whole.
                        at = start_of_line(lines, at);
                    }
                    (self.write_from(lines, &mut at).err(), None)
                }
                Err(error) if self.output.can_write() => (
                    self.write_from(lines, &mut at).err(),
                    Some(format!("it cannot be opened anew: {error}")),
                ),
                Err(error) => (Some(error), None),
            };
            match error {
                None => return Some(failing),
                Some(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        crate::metrics::inc("coord_log_write_errors_total", &[]);
                    }
                    pause = match at > before {
                        true => FIRST_PAUSE,
                        false => (pause * 2).min(LAST_PAUSE),
                    };
                    if !self.shared.pause(pause, &error) {
                        return None;
                    }
                }
            }
        }
    }

    /// Writes from a place on, which moves.
    fn write_from(&mut self, lines: &[u8], at: &mut usize) -> io::Result<()> {
        while let Some(rest) = lines.get(*at..).filter(|rest| !rest.is_empty()) {
            match self.output.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => *at += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.flush()
    }
}

/// Where the line begins in which `at` is.
fn start_of_line(lines: &[u8], at: usize) -> usize {
    let before = lines.get(..at).unwrap_or_default();
    before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

impl Shared {
    /// Waits for lines, and takes all of them. `None` when there will be none.
    fn take(&self, lines: &mut Vec<u8>) -> Option<Taken> {
        let mut state = self.state.lock();
        loop {
            if state.abandoned {
                return None;
            }
            if !state.waiting.is_empty() || state.lost > 0 || state.reopen {
                break;
            }
            if state.closed {
                return None;
            }
            state.idle = true;
            self.work.wait(&mut state);
            state.idle = false;
        }
        std::mem::swap(&mut state.waiting, lines);
        Some(Taken {
            records: state.accepted - state.written,
            lost: std::mem::take(&mut state.lost),
            format: state.format,
            reopen: std::mem::take(&mut state.reopen),
        })
    }

    fn wrote(&self, records: u64, failing: Option<String>) {
        let mut state = self.state.lock();
        // Given up in the meantime, they were counted as lost.
        if !state.abandoned {
            state.written += records;
        }
        state.failing = failing;
        self.progress.notify_all();
    }

    /// Lets lines gather for a while, unless somebody waits for them.
    fn gather(&self) {
        let mut state = self.state.lock();
        let deadline = Instant::now() + GATHER;
        state.gathering = true;
        while state.gathering && state.flushing == 0 && !state.closed {
            if self.work.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.gathering = false;
    }

    /// Waits before the output is tried again. Returns whether it should be.
    fn pause(&self, pause: Duration, error: &io::Error) -> bool {
        let mut state = self.state.lock();
        state.failing = Some(error.to_string());
        let deadline = Instant::now() + pause;
        while !state.abandoned {
            if self.work.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        !state.abandoned
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.waiting.len())
            .field("accepted", &self.accepted)
            .field("written", &self.written)
            .field("failing", &self.failing)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}
