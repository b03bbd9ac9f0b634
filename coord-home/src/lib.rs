//! Where the background work of coord lives.
//!
//! A process has several tokio runtimes: one for each worker of actix-web, one for each
//! `#[tokio::test]`, one for each `block_on` of synchronous code. Whatever is spawned on one of
//! them dies or starves with it. What keeps a lock renewed, a watch fed or a connection alive must
//! not: so it is spawned on a [`Home`], which is a thread with a small runtime of its own.
//!
//! - **Tasks** ([`Home::spawn`]) and **timers** ([`Home::sleep`], [`Home::timeout`]) are the
//!   home's. The runtime of the caller needs no timers, and there need not be one at all.
//! - **Deadlines have one clock** ([`Home::now`]), whoever asks.
//! - **Under a paused clock** (`tokio::time::pause`, `#[tokio::test(start_paused = true)]`) a home
//!   of the kind [`Home::new`] or [`Home::shared`] is the runtime that calls, so that virtual time
//!   is exact and passes at once.
//! - **Nothing of the user's runs there.** A log or metrics sink may block, for example on a full
//!   pipe; [`aside`] has such calls made on a thread of their own, and [`meter`] sums up what is to
//!   be counted until the recorder takes it.
//! - **Back-off** ([`Backoff`]) is the same for everyone who tries again.
//! - **After a fork** the child has no home ([`HomeError::Forked`]): it holds nothing, and sends
//!   nothing on its parent's connections.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod aside;
mod backoff;
mod clock;
mod flight;
mod fork;
mod home;
pub mod meter;
mod thread;

pub use aside::aside;
pub use backoff::{Backoff, BackoffPolicy};
pub use flight::{Answer, Landed, SingleFlight};
pub use fork::Process;
pub use home::{Elapsed, Home, HomeError};

#[doc(hidden)]
pub use tracing as __tracing;

/// Records an event as `tracing::event!` does, [aside](fn@aside). What it mentions is moved, and
/// must be owned.
#[macro_export]
macro_rules! event {
    ($level:ident, $($fields:tt)+) => {
        if $crate::__tracing::Level::$level <= $crate::__tracing::level_filters::LevelFilter::current() {
            $crate::aside(move || $crate::__tracing::event!($crate::__tracing::Level::$level, $($fields)+));
        }
    };
}
