//! Other runtimes than that of the case, in real time: a process has several, and what one of them
//! holds is not another's.

use std::thread;

use tokio::runtime::{Builder, Runtime};

/// Runs `work` on a thread that belongs to no runtime, and lets the case wait for it. Where the
/// case's time is virtual, it stands still meanwhile.
pub(crate) async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(move || thread::spawn(work).join()).await;
    done.expect("the thread for blocking work lives").unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A runtime that runs while somebody blocks on it.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}
