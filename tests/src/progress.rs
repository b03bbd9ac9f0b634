//! How the programs show how far they are.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for so many steps, on the standard error, with the time that is left. Where that is no
/// terminal the bar is hidden.
pub fn bar(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {per_sec} eta {eta} {msg}");
    ProgressBar::new(count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
