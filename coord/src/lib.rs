#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(any(feature = "memory", feature = "etcd")))]
compile_error!("coordkit needs a store: switch on one of its features `memory`, `sled` and `etcd`");

mod coord;
#[cfg(feature = "etcd")]
mod etcd_url;
mod name;
pub mod operations;
mod source;
mod url;
pub mod using;

pub use crate::coord::Coord;
pub use coord_api::*;
pub use coord_core;
pub use coord_core::{LossRecord, Owner, SessionOwner};
#[cfg(feature = "etcd")]
pub use coord_etcd as etcd;
/// An etcd within this process, for laptops and tests.
///
/// Needs the feature `fake-etcd`; what follows also `etcd`.
///
#[cfg_attr(feature = "etcd", doc = "```rust")]
#[cfg_attr(not(feature = "etcd"), doc = "```rust,ignore")]
/// use coord::fake_etcd::{FakeEtcd, FakeEtcdOptions};
/// use coord::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = FakeEtcd::start(FakeEtcdOptions::default())?;
/// let coord = coord::open(&server.url()).await?;
/// coord.config().set("app/greeting", "hello").await?;
/// let greeting: Option<String> = coord.config().get("app/greeting").await?;
/// assert_eq!(greeting.as_deref(), Some("hello"));
/// coord.close().await?;
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "fake-etcd")]
pub use coord_fake_etcd as fake_etcd;
#[cfg(feature = "grpc")]
pub use coord_grpc as grpc;
#[cfg(feature = "memory")]
pub use coord_memory as memory;
pub use coord_recipes as recipes;
pub use coord_recipes::config_manager::{self, ConfigDirectory, ConfigManager};
pub use coord_recipes::inspect::{self, Inspect};
pub use coord_recipes::{
    Barrier, BarrierOptions, Begun, CampaignOptions, Claim, ClaimOptions, Counter, DeadItem, Difference,
    Election, Execution, Gray, GrayConfig, GrayIdentity, GrayRelease, GrayTargets, History, InUse,
    InstanceIdKeeper, ItemId, KeyHistory, Leader, LeaderEvent, Leadership, LockSet, Once, OnceError,
    OnceOptions, OnceState, Party, Periodic, PeriodicRun, Permit, PermitLimit, PermitOptions, Published,
    Queue, QueueState, Ran, Semaphore, VersionsInUse, WorkFailure, acquire_all, when_lost,
};
/// The page for operators, to be mounted in a web server of one's own; `coordctl ui` is one.
///
/// Needs the feature `ui`.
#[cfg(feature = "ui")]
pub use coord_ui as ui;
pub use source::{Source, open, open_from_env};
