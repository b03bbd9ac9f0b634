#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[macro_use]
mod expect;

mod case;
mod cases;
mod failure;
mod fixture;
mod guard;
mod harness;
mod model;
mod progress;
mod record;
mod run;
mod store_harness;
mod words;

pub mod bad;
pub mod cancel;
pub mod contract;
pub mod handle;
pub mod histories;
pub mod layout;
pub mod linearizability;
pub mod report;
#[cfg(feature = "saboteurs")]
pub mod saboteurs;
pub mod view;
pub mod wait;
pub mod wrap;

pub use case::{Case, Need};
pub use cases::{cases, fenced as fence_cases, handle as handle_cases};
pub use failure::note_panics;
pub use fixture::Fixture;
pub use harness::{Client, Harness, Hook, Network, Reopened, Time};
pub use run::{Verdict, run, run_with_seed, seed};
pub use store_harness::StoreHarness;

#[doc(hidden)]
pub use harness::repeatable;
#[doc(hidden)]
pub use run::test;
