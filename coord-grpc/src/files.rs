//! Open files, of which a process may have only so many: counting those of a channel, and giving
//! some back when there are no more.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use coord_api::Error;
use parking_lot::Mutex;
use tokio::net::TcpSocket;

use crate::error::root;

/// The codes for "too many open files", in this process and in the system. They are the same on
/// every Unix; std has no name for them.
const OUT_OF_FILES: &[i32] = if cfg!(windows) { &[10_024] } else { &[24, 23] };

/// How many connections a channel may have even if the process is short of files.
pub(crate) const LEAST: usize = 4;

/// Channels give back connections at most once in this time, so that what they gave back takes
/// effect before they give back more.
const ONCE_IN: Duration = Duration::from_secs(1);

/// A channel that can give back a part of its connections.
pub(crate) trait Holder: Send + Sync {
    /// Whether it belongs to the process that this one was forked from.
    fn is_left_behind(&self) -> bool;

    /// Gives back a part of the connections, and tries no others for a while. How many it gave
    /// back.
    fn give_back(self: Arc<Self>) -> usize;
}

/// The channels of this process.
static CHANNELS: Mutex<Channels> = Mutex::new(Channels { known: Vec::new(), gave_back: None });

struct Channels {
    known: Vec<Weak<dyn Holder>>,
    /// When they gave back connections the last time.
    gave_back: Option<Instant>,
}

/// Whether something failed because the process, or the system, may open no more files.
pub(crate) fn is_out_of_files(error: &Error) -> bool {
    root(error).downcast_ref().is_some_and(is_shortage)
}

pub(crate) fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OUT_OF_FILES.contains(&code))
}

/// How many files a channel has open, or is about to.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenFiles(Arc<AtomicUsize>);

impl OpenFiles {
    /// Counts one more file, until the guard that is returned is dropped.
    pub(crate) fn take(&self) -> FileGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        FileGuard(self.clone())
    }

    /// Makes sure that a socket that was just made leaves room for others in this process: beyond a
    /// few, channels take no file of the last eighth.
    ///
    /// # Errors
    ///
    /// What the system says when there is no file at all.
    pub(crate) fn leave_room(&self, socket: &TcpSocket) -> io::Result<()> {
        if self.count() > LEAST && is_of_the_last(socket) {
            return Err(OUT_OF_FILES
                .first()
                .map_or_else(|| io::ErrorKind::Other.into(), |code| io::Error::from_raw_os_error(*code)));
        }
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether a file that was just opened is among the last eighth that the process may open. The
/// system gives it the lowest number that is free: so many others are open at least.
#[cfg(unix)]
fn is_of_the_last(socket: &TcpSocket) -> bool {
    use std::os::fd::AsRawFd as _;

    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let number = u64::try_from(socket.as_raw_fd()).unwrap_or(0);
    limit.is_some_and(|limit| number >= limit - limit / 8)
}

#[cfg(not(unix))]
fn is_of_the_last(_: &TcpSocket) -> bool {
    false
}

/// A file of a channel.
#[derive(Debug)]
pub(crate) struct FileGuard(OpenFiles);

impl Drop for FileGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Remembers a channel, so that it gives back connections when others have none.
pub(crate) fn enrol(channel: Weak<dyn Holder>) {
    let mut channels = CHANNELS.lock();
    channels.known.retain(|known| known.strong_count() > 0);
    channels.known.push(channel);
}

/// Has all channels of the process give back a part of their connections, because one of them could
/// open no file.
pub(crate) fn give_back() {
    let channels: Vec<_> = {
        let mut channels = CHANNELS.lock();
        let now = Instant::now();
        if channels.gave_back.is_some_and(|last| now.duration_since(last) < ONCE_IN) {
            return;
        }
        channels.gave_back = Some(now);
        channels.known.iter().filter_map(Weak::upgrade).filter(|channel| !channel.is_left_behind()).collect()
    };
    let given: usize = channels.into_iter().map(|channel| channel.give_back()).sum();
    coord_home::event!(WARN, given, "the process may open no more files; channels gave back connections");
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;

    use super::*;

    #[test]
    fn the_cause_is_found_below_other_errors() {
        let caused = |cause: io::Error| Error::new(ErrorKind::Unavailable, "t", "x").with_source(cause);
        let full = io::Error::from_raw_os_error(OUT_OF_FILES[0]);
        assert!(is_out_of_files(&caused(full)));
        assert!(is_out_of_files(
            &Error::new(ErrorKind::Unavailable, "t", "y")
                .with_source(caused(io::Error::from_raw_os_error(OUT_OF_FILES[0])))
        ));
        assert!(!is_out_of_files(&caused(io::ErrorKind::ConnectionRefused.into())));
        assert!(!is_out_of_files(&Error::new(ErrorKind::Unavailable, "t", "x")));
    }
}
