//! Runs what belongs to the user: decoding, callbacks, the `Drop` of a value, a log sink. A panic
//! there must not end the manager.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The application's code panicked. What it said is not kept: it may quote the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panicked;

/// Runs the user's code; a panic in it is an error like any other.
///
/// Asserting unwind safety is sound: the code gets shared references alone, and nothing of ours
/// changes while it runs. What its own state is worth after its panic is its own affair, as with
/// any callback that is called again.
pub(super) fn guarded<R>(code: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        // One panic is reported, whatever dropping its payload does.
        let _ = discard(payload);
        Panicked
    })
}

/// Drops what is the user's, and says whether that panicked.
#[allow(clippy::mem_forget, reason = "what panics whenever it is dropped must not be dropped")]
pub(super) fn discard<T>(value: T) -> Result<(), Panicked> {
    catch_unwind(AssertUnwindSafe(move || drop(value))).map_err(|payload| {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            std::mem::forget(payload);
        }
        Panicked
    })
}
