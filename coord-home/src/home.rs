//! A place for tasks and timers that does not depend on who calls.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock;
use crate::fork::Process;
use crate::thread::{self, HomeThread};

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// No thread was to be had, or no file for its timers. Trying again may help.
    #[error("no thread for the background work could be started")]
    NoThread(#[source] io::Error),
    /// The home is the runtime of whoever calls, and there is none.
    #[error("called outside of a tokio runtime")]
    NoRuntime,
    /// The runtime that was given as home has ended.
    #[error("the runtime that was given for the background work has ended")]
    Ended,
    /// This process is a child of the one that the home lives in.
    #[error("the process was forked; what the parent had opened is the parent's alone")]
    Forked,
}

/// A future was not done within its time. See [`Home::timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was not done within its time")]
pub struct Elapsed;

/// Where background work lives. Cloning it gives the same home; a thread of its own ends with the
/// last clone.
///
/// It is chosen when it is first needed, by a task, a timer or a deadline, and then stays. See the
/// [crate's documentation](crate) for what it is for.
#[derive(Clone)]
pub struct Home(Arc<HomeInner>);

struct HomeInner {
    kind: HomeKind,
    process: Process,
    place: OnceLock<HomeRuntime>,
    /// Held while the place is chosen.
    choosing: Mutex<()>,
}

#[derive(Clone, Debug)]
enum HomeKind {
    /// A thread of its own, with this name, unless the clock is paused.
    Own(String),
    /// The thread that all such homes of the process share, unless the clock is paused.
    Shared,
    /// The thread for the user's code that all such homes of the process share, unless the clock is
    /// paused.
    Callbacks,
    /// A thread of its own, with this name, whatever the clock does.
    Thread(String),
    Runtime(GivenRuntime),
    Callers,
}

/// A given runtime, and whether it has ended.
#[derive(Clone, Debug)]
struct GivenRuntime {
    handle: Handle,
    ended: Arc<AtomicBool>,
}

/// Lives in a given runtime for as long as that lives.
struct Sentinel(Arc<AtomicBool>);

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl GivenRuntime {
    fn new(handle: Handle) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let sentinel = Sentinel(Arc::clone(&ended));
        // Costs nothing while it waits, and is dropped with the runtime.
        drop(handle.spawn(async move {
            let _sentinel = sentinel;
            std::future::pending::<()>().await;
        }));
        GivenRuntime { handle, ended }
    }
}

#[derive(Debug)]
enum HomeRuntime {
    Thread(Arc<HomeThread>),
    Runtime(GivenRuntime),
    Callers,
}

impl Home {
    fn of(kind: HomeKind) -> Self {
        Home(Arc::new(HomeInner {
            kind,
            process: Process::current(),
            place: OnceLock::new(),
            choosing: Mutex::new(()),
        }))
    }

    /// A thread of its own, with this name; or, where the clock of the runtime that first needs it
    /// is paused, the runtime of whoever calls. The thread is started when it is first needed.
    pub fn new(name: impl Into<String>) -> Self {
        Home::of(HomeKind::Own(name.into()))
    }

    /// As [`new`](Home::new), but the thread is one that all such homes of the process share: for
    /// what does no I/O, such as stores in memory, of which a program may have thousands.
    pub fn shared() -> Self {
        Home::of(HomeKind::Shared)
    }

    /// As [`shared`](Home::shared), but a thread apart, where the user's code may run, and block
    /// for a while: nothing is renewed there. What is recorded on it is not put
    /// [aside](fn@crate::aside).
    pub fn for_callbacks() -> Self {
        Home::of(HomeKind::Callbacks)
    }

    /// A thread of its own, also where the clock is paused: for what talks to the world outside,
    /// where time passes by itself.
    pub fn thread(name: impl Into<String>) -> Self {
        Home::of(HomeKind::Thread(name.into()))
    }

    /// A given runtime, with its timers enabled. Whoever gives it keeps it running: what lives
    /// there dies and starves with it.
    pub fn runtime(runtime: Handle) -> Self {
        Home::of(HomeKind::Runtime(GivenRuntime::new(runtime)))
    }

    /// The runtime of whoever calls, always, with its timers enabled: for tests that pause the
    /// clock after they began.
    pub fn callers() -> Self {
        Home::of(HomeKind::Callers)
    }

    /// Makes sure that tasks can be spawned and timers started here.
    ///
    /// # Errors
    ///
    /// See [`HomeError`].
    pub fn ready(&self) -> Result<(), HomeError> {
        match self.place()? {
            HomeRuntime::Callers if Handle::try_current().is_err() => Err(HomeError::NoRuntime),
            HomeRuntime::Runtime(given) if given.ended.load(Ordering::Acquire) => Err(HomeError::Ended),
            _ => Ok(()),
        }
    }

    /// Whether this process is a child of the one that made this home. Costs a load from memory and
    /// takes no lock.
    pub fn is_left_behind(&self) -> bool {
        !self.0.process.is_current()
    }

    fn place(&self) -> Result<&HomeRuntime, HomeError> {
        if self.is_left_behind() {
            return Err(HomeError::Forked);
        }
        if let Some(place) = self.0.place.get() {
            return Ok(place);
        }
        let _one_at_a_time = self.0.choosing.lock();
        if let Some(place) = self.0.place.get() {
            return Ok(place);
        }
        let place = match &self.0.kind {
            HomeKind::Own(_) | HomeKind::Shared | HomeKind::Callbacks if clock::is_paused() => {
                HomeRuntime::Callers
            }
            HomeKind::Own(name) | HomeKind::Thread(name) => {
                HomeRuntime::Thread(Arc::new(HomeThread::start(name).map_err(HomeError::NoThread)?))
            }
            HomeKind::Shared => HomeRuntime::Thread(
                shared_thread(&SHARED, || HomeThread::start("coord")).map_err(HomeError::NoThread)?,
            ),
            HomeKind::Callbacks => {
                let start = || HomeThread::start_for_callbacks("coord-callbacks");
                HomeRuntime::Thread(shared_thread(&CALLBACKS, start).map_err(HomeError::NoThread)?)
            }
            HomeKind::Runtime(runtime) => HomeRuntime::Runtime(runtime.clone()),
            HomeKind::Callers => HomeRuntime::Callers,
        };
        Ok(self.0.place.get_or_init(|| place))
    }

    /// The runtime, where it is not that of whoever calls.
    fn handle(&self) -> Result<Option<&Handle>, HomeError> {
        Ok(match self.place()? {
            HomeRuntime::Thread(thread) => Some(thread.handle()),
            HomeRuntime::Runtime(given) if given.ended.load(Ordering::Acquire) => {
                return Err(HomeError::Ended);
            }
            HomeRuntime::Runtime(given) => Some(&given.handle),
            HomeRuntime::Callers => None,
        })
    }

    /// Spawns a task. The handle that is returned does not end it.
    ///
    /// # Errors
    ///
    /// See [`HomeError`].
    pub fn spawn<F>(&self, task: F) -> Result<JoinHandle<F::Output>, HomeError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.handle()? {
            Some(handle) => Ok(handle.spawn(task)),
            None => Ok(Handle::try_current().map_err(|_| HomeError::NoRuntime)?.spawn(task)),
        }
    }

    /// Runs what blocks on a thread of the home's runtime for such work.
    ///
    /// # Errors
    ///
    /// See [`HomeError`].
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, HomeError> {
        match self.handle()? {
            Some(handle) => Ok(handle.spawn_blocking(run)),
            None => Ok(Handle::try_current().map_err(|_| HomeError::NoRuntime)?.spawn_blocking(run)),
        }
    }

    /// Runs `make` as if in the home's runtime: what it makes, such as a timer, a socket or a
    /// channel, is then driven there.
    ///
    /// # Errors
    ///
    /// See [`HomeError`].
    pub fn enter<T>(&self, make: impl FnOnce() -> T) -> Result<T, HomeError> {
        match self.handle()? {
            Some(handle) => {
                let _entered = handle.enter();
                Ok(make())
            }
            None => Ok(make()),
        }
    }

    /// What time it is here. Deadlines of what lives here are compared with this, whoever asks, and
    /// wherever.
    ///
    /// A home that was not needed yet tells the time of whoever asks, which is the same but under a
    /// paused clock.
    pub fn now(&self) -> Instant {
        match self.0.place.get() {
            Some(HomeRuntime::Thread(_)) => clock::real_now(),
            Some(HomeRuntime::Runtime(given)) => {
                let _entered = given.handle.enter();
                Instant::now()
            }
            None if matches!(self.0.kind, HomeKind::Thread(_)) => clock::real_now(),
            Some(HomeRuntime::Callers) | None => Instant::now(),
        }
    }

    /// Waits until `deadline`. Cancel safe.
    ///
    /// Where a given runtime has ended it does not wait at all; where the home is lost otherwise,
    /// by a fork or because no thread is to be had, it waits for ever. [`ready`](Home::ready) tells
    /// both before.
    pub async fn sleep_until(&self, deadline: Instant) {
        match self.place() {
            // A timer must not be polled after its runtime has ended, which may be at any moment:
            // so it is a task of that runtime, and ends with it.
            Ok(HomeRuntime::Runtime(given)) => {
                let mut timer =
                    Timer(given.handle.spawn(async move { tokio::time::sleep_until(deadline).await }));
                let _ = (&mut timer.0).await;
            }
            Ok(_) => match self.enter(|| tokio::time::sleep_until(deadline)) {
                Ok(sleep) => sleep.await,
                Err(_) => std::future::pending().await,
            },
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for `duration`. Cancel safe. See [`sleep_until`](Home::sleep_until).
    pub async fn sleep(&self, duration: Duration) {
        match self.now().checked_add(duration) {
            Some(deadline) => self.sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }

    /// Bounds a future, which is dropped when its time is over. It is polled where this is polled.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] when it was not done within `limit`.
    ///
    /// # Cancel safety
    ///
    /// As the future.
    pub async fn timeout<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        tokio::select! {
            biased;
            done = future => Ok(done),
            () = self.sleep(limit) => Err(Elapsed),
        }
    }

    /// As [`timeout`](Home::timeout), until a point in time.
    ///
    /// # Errors
    ///
    /// As [`timeout`](Home::timeout).
    ///
    /// # Cancel safety
    ///
    /// As the future.
    pub async fn timeout_at<T>(
        &self,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        tokio::select! {
            biased;
            done = future => Ok(done),
            () = self.sleep_until(deadline) => Err(Elapsed),
        }
    }

    /// Whether the present thread is a home's, where nothing of the user's may run. See
    /// [`aside`](crate::aside).
    pub fn is_here() -> bool {
        thread::is_home()
    }
}

/// A task that sleeps, for as long as somebody waits for it.
struct Timer(JoinHandle<()>);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The thread of all homes that share it.
type SharedThread = Mutex<Weak<HomeThread>>;

static SHARED: SharedThread = Mutex::new(Weak::new());
static CALLBACKS: SharedThread = Mutex::new(Weak::new());

/// The thread that is shared, started where none of those who share it has it.
fn shared_thread(
    shared: &SharedThread,
    start: impl FnOnce() -> io::Result<HomeThread>,
) -> io::Result<Arc<HomeThread>> {
    let mut shared = shared.lock();
    if let Some(thread) = shared.upgrade().filter(|thread| !thread.is_left_behind()) {
        return Ok(thread);
    }
    let thread = Arc::new(start()?);
    *shared = Arc::downgrade(&thread);
    Ok(thread)
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home")
            .field("kind", &self.0.kind)
            .field("chosen", &self.0.place.get().is_some())
            .finish_non_exhaustive()
    }
}
