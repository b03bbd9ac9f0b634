//! Calls that may block, made on a thread of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use parking_lot::Mutex;
use tracing::Dispatch;

use crate::fork::Process;
use crate::thread;

/// Calls that wait at most; what comes while so many wait is left out, and counted.
const ROOM: usize = 1_024;

/// How many calls were left out and not yet reported.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

static SENDER: Mutex<Option<(Process, SyncSender<Call>)>> = Mutex::new(None);

struct Call {
    subscriber: Option<Dispatch>,
    run: Box<dyn FnOnce() + Send>,
}

/// Runs what belongs to the user and may block: a log or metrics sink, whose pipe may be full.
///
/// On any thread but a [`Home`](crate::Home)'s it is run at once, where it is called. On a home it
/// is handed to a thread that all homes of the process share, which runs such calls one after the
/// other, with the subscriber of whoever started the home. Up to 1,024 calls wait; beyond that they
/// are left out, and the next one that is not is preceded by a warning with their number. That
/// thread lives as long as the process; a call that panics ends by itself alone.
pub fn aside(run: impl FnOnce() + Send + 'static) {
    if !thread::is_home() {
        return run();
    }
    let call = Call { subscriber: thread::subscriber(), run: Box::new(run) };
    let sent = match sender() {
        Some(sender) => match sender.try_send(call) {
            Ok(()) => true,
            Err(TrySendError::Full(call) | TrySendError::Disconnected(call)) => {
                discard(call);
                false
            }
        },
        None => {
            discard(call);
            false
        }
    };
    if !sent {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
    }
}

/// Drops what a call carries, which is the user's only in name: fields of events. Should it panic
/// all the same, this thread goes on.
fn discard(call: Call) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(call)));
}

fn sender() -> Option<SyncSender<Call>> {
    let mut current = SENDER.lock();
    if let Some((process, sender)) = &*current {
        if process.is_current() {
            return Some(sender.clone());
        }
    }
    let (sender, receiver) = sync_channel(ROOM);
    std::thread::Builder::new().name("coord-aside".to_owned()).spawn(move || serve(&receiver)).ok()?;
    *current = Some((Process::current(), sender.clone()));
    Some(sender)
}

fn serve(calls: &Receiver<Call>) {
    while let Ok(Call { subscriber, run }) = calls.recv() {
        let run = move || {
            let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
            if left_out > 0 {
                tracing::warn!(
                    left_out,
                    "a log or metrics sink was too slow: some of what coord had to record was left out"
                );
            }
            run();
        };
        let _ = catch_unwind(AssertUnwindSafe(|| match subscriber {
            Some(subscriber) => tracing::dispatcher::with_default(&subscriber, run),
            None => run(),
        }));
    }
}
