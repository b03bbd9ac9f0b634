//! What comes at once is done together: from one thread or from several.

use tokio::task::yield_now;

/// How often a queue is looked at without that more has come, before what there is goes: some
/// microseconds in all.
const QUIET_LOOKS: u32 = 16;

/// Lets those who are about to join a queue do so, for as long as more of them come and it is not
/// `full`. Does nothing for an empty one.
///
/// They may come from another thread, so that one turn of this one's tasks is not enough.
pub async fn gather(full: usize, length: impl Fn() -> usize) {
    let (mut before, mut quiet) = (0, 0);
    while quiet < QUIET_LOOKS {
        let now = length();
        if now == 0 || now >= full {
            return;
        }
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_ends_when_no_more_come_when_it_is_full_and_when_there_is_nobody() {
        assert!(gather(9, || 0).now_or_never().is_some());
        assert!(gather(9, || 9).now_or_never().is_some());
        let looks = Cell::new(0);
        let slowly = || {
            looks.set(looks.get() + 1);
            // One more at every tenth look, up to five.
            (1 + looks.get() / 10).min(5)
        };
        gather(9, slowly).await;
        assert_eq!(looks.get(), 40 + QUIET_LOOKS as usize);
    }
}
