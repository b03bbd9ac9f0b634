//! What a watcher may conclude from its events, and whether they add up.
//!
//! A view folds changes and resyncs into a state and checks on the way what holds for every watch: order, no duplicates, whole revisions (R18). In the end
//! it is compared with what was really written: every change was told, or lies in the span of a `Resync` (R19). A `Resync` may come at any time.

mod config;
mod service;
mod store;

pub use config::{Change, ConfigView};
pub use service::{ServiceView, Told};
pub use store::StoreView;
