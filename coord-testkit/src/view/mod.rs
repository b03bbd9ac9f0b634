//! What a watcher may conclude from its events, and whether they add up.
//!
//! A view folds changes and resyncs into a state and checks on the way what holds for every watch:
//! order, no duplicates, whole revisions (R18). In the end it is compared with what was really
//! written: every change was told, or lies in the span of a `Resync` (R19). A `Resync` may come at
//! any time.

use coord_api::{Error, Watch};

mod config;
mod service;
mod store;

pub use config::{Change, ConfigView};
pub use service::{ServiceView, Told};
pub use store::StoreView;

/// Reads a watch to its end and returns the error that was its last item.
///
/// # Errors
///
/// When it ended without an error, or went on after it.
pub async fn end<E>(watch: &mut Watch<E>) -> Result<Error, String> {
    loop {
        match watch.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                return match watch.next().await {
                    None => Ok(error),
                    Some(_) => Err(format!("the watch went on after {error:?}")),
                };
            }
            None => return Err("the watch ended and did not say why".to_owned()),
        }
    }
}

/// The rule that an event broke, and how.
pub(crate) type Breach = (&'static str, String);

fn holds(rule: &'static str, holds: bool, what: impl FnOnce() -> String) -> Result<(), Breach> {
    if holds { Ok(()) } else { Err((rule, what())) }
}
