#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod barrier;
mod config;
pub mod config_manager;
mod counter;
mod election;
mod gray;
mod handle;
mod history;
mod ids;
mod in_use;
pub mod inspect;
mod lock;
mod lock_set;
mod once;
mod periodic;
mod provider;
mod queue;
mod registry;
mod retained;
mod rewrite;
mod semaphore;
pub mod when_lost;
mod work_queue;

pub use barrier::{Barrier, BarrierOptions, MAX_PARTIES, Party};
pub use coord_core::{Home, layers};
pub use counter::Counter;
pub use election::{CampaignOptions, Election, Leader, LeaderEvent, Leadership};
pub use gray::{Gray, GrayConfig, GrayIdentity, GrayRelease, GrayTargets, MAX_TARGET_BYTES, MAX_TARGETS};
pub use history::{Difference, History, KeyHistory, Published};
pub use ids::{InstanceIdKeeper, KeptId};
pub use in_use::{InUse, MAX_IN_USE, VersionsInUse};
pub use lock_set::{LockSet, MAX_LOCKS, acquire_all};
pub use once::{
    Begun, Execution, MAX_FINGERPRINT_BYTES, MAX_RESULT_BYTES, Once, OnceError, OnceOptions, OnceState, Ran,
    WorkFailure,
};
pub use periodic::{Periodic, PeriodicRun};
pub use provider::{ProviderOptions, StoreProvider};
pub use semaphore::{MAX_PERMITS, Permit, PermitLimit, PermitOptions, Semaphore};
pub use work_queue::{Claim, ClaimOptions, DeadItem, ItemId, MAX_ITEM_BYTES, Queue, QueueState};
