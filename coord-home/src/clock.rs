//! Whether somebody paused the clock.

use std::time::Instant as StdInstant;

use tokio::runtime::Handle;
use tokio::time::Instant;

/// Whether the clock of the present runtime stands still until it is moved (`tokio::time::pause`).
/// tokio does not say; but a clock that stands still while the system's moves on is paused.
pub(crate) fn is_paused() -> bool {
    if Handle::try_current().is_err() {
        return false;
    }
    let (before, real) = (Instant::now(), StdInstant::now());
    // Some nanoseconds: until the system's clock has moved.
    while StdInstant::now() <= real {
        std::hint::spin_loop();
    }
    Instant::now() == before
}

/// The system's monotonic clock, whatever was done to tokio's.
pub(crate) fn real_now() -> Instant {
    Instant::from_std(StdInstant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_paused_only_inside_of_a_runtime_that_paused_it() {
        assert!(!is_paused());
        let runtime = |paused| {
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(paused).build().unwrap()
        };
        for _ in 0..100 {
            assert!(!runtime(false).block_on(async { is_paused() }));
            assert!(runtime(true).block_on(async { is_paused() }));
        }
        runtime(false).block_on(async {
            tokio::time::pause();
            assert!(is_paused());
            tokio::time::resume();
            assert!(!is_paused());
        });
    }
}
