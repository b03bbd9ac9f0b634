//! Whether this is still the process that it was.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counted up in each child of a fork.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// A process, to be recognised later: a fork makes another one.
///
/// Costs a load from memory to look at. Where there is no fork, all processes are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u64);

impl Process {
    /// This process.
    pub fn current() -> Self {
        static NOTED: Once = Once::new();
        NOTED.call_once(note_forks);
        Process(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether this is the process that it was, and no child of it. Takes no lock: another thread
    /// of the parent may have held it when it forked.
    pub fn is_current(self) -> bool {
        self.0 == GENERATION.load(Ordering::Relaxed)
    }
}

#[cfg(unix)]
#[allow(
    unsafe_code,
    reason = "neither std nor a kept crate tells of a fork; asking for the process id costs a system call each time"
)]
fn note_forks() {
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only touches an atomic, which is allowed in the child of a process with
    // several threads. It is never unregistered, and it is code of this library, which is not
    // unloaded while it is used. That no memory was left to register it leaves forks unnoticed,
    // which is no worse than without it.
    unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    }
}

#[cfg(not(unix))]
fn note_forks() {}
