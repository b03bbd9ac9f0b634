//! A thread with a small runtime, which ends with its last owner.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::mpsc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

use crate::fork::Process;

thread_local! {
    /// Whether this thread is a home.
    static IS_HOME: Cell<bool> = const { Cell::new(false) };
    /// The subscriber of whoever started this home, where it had one of its own.
    static SUBSCRIBER: RefCell<Option<Dispatch>> = const { RefCell::new(None) };
}

/// Whether the present thread is a home.
pub(crate) fn is_home() -> bool {
    IS_HOME.get()
}

/// The subscriber to which the events of the present home belong, where it is not the one of the
/// process.
pub(crate) fn subscriber() -> Option<Dispatch> {
    SUBSCRIBER.with_borrow(Clone::clone)
}

/// The thread. Dropped, also by one of its own tasks, it lets the thread end; nobody waits for
/// that.
#[derive(Debug)]
pub(crate) struct HomeThread {
    handle: Handle,
    process: Process,
    /// Dropped to let it end.
    _stop: oneshot::Sender<()>,
}

impl HomeThread {
    /// Starts a thread. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// No thread or no file for its timers and connections is to be had.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        HomeThread::run(name, true)
    }

    /// As [`start`](Self::start), for the user's code: what that records goes to the user's
    /// subscriber as anywhere else, and so does what is recorded [aside](crate::aside).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub(crate) fn start_for_callbacks(name: &str) -> io::Result<Self> {
        HomeThread::run(name, false)
    }

    fn run(name: &str, is_home: bool) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, starting) = mpsc::sync_channel(1);
        let subscriber = tracing::dispatcher::get_default(|current| {
            (!current.is::<NoSubscriber>()).then(|| current.clone())
        });
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            IS_HOME.set(is_home);
            SUBSCRIBER.set(subscriber);
            // What libraries below record would be written by the user's subscriber, here, which
            // may block.
            let _silent = is_home.then(|| tracing::subscriber::set_default(NoSubscriber::new()));
            let _ = started.send(Ok(runtime.handle().clone()));
            // Whatever still runs then ends with the runtime, which is dropped here, outside of any
            // other.
            let _ = runtime.block_on(stopped);
        })?;
        let handle = starting.recv().map_err(|_| io::Error::other("the thread ended as it began"))??;
        Ok(HomeThread { handle, process: Process::current(), _stop: stop })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether it was left behind by a fork: the child has no such thread.
    pub(crate) fn is_left_behind(&self) -> bool {
        !self.process.is_current()
    }
}
