#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod case;
mod cases;
mod fixture;
mod handle;
mod harness;
mod model;
mod run;
mod store_harness;

pub mod bad;
pub mod cancel;
pub mod contract;
pub mod histories;
pub mod layout;
pub mod linearizability;
pub mod report;
#[cfg(feature = "saboteurs")]
pub mod saboteurs;
pub mod view;
pub mod wait;
pub mod wrap;

pub use case::{Case, Need, cases};
pub use fixture::Fixture;
pub use harness::{Client, Harness, Hook, Network, Reopened, Time};
pub use run::{Verdict, note_panics, run, run_with_seed, seed};
pub use store_harness::StoreHarness;

#[doc(hidden)]
pub use run::test;
