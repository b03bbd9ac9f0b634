#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod address;
pub mod allocator;
pub mod config;
pub mod error;
pub mod fence;
pub mod guide;
pub mod handle;
pub mod json;
pub mod key;
pub mod limitations;
pub mod lock;
pub mod provider;
pub mod registry;
pub mod rules;
pub mod store;
pub mod types;
pub mod watch;

pub use allocator::{IdOptions, InstanceId, InstanceIdAllocator, InstanceIdAllocatorExt};
pub use config::{ConfigCenter, ConfigCenterExt, ConfigEntry, ConfigEvent, Note, Versioned, WriteOptions};
pub use error::{Error, ErrorKind, Outcome, Result};
pub use fence::Fence;
pub use handle::{HandleState, Loss, Lost, run_while_held};
pub use lock::{DistributedLock, DistributedLockExt, LockGuard, LockHandle, LockMode, LockOptions, Wait};
pub use provider::Provider;
pub use registry::{
    RegisterOptions, Registration, ServiceChange, ServiceEvent, ServiceInstance, ServiceRegistry,
    ServiceRegistryExt, Takeover,
};
pub use types::{FencingToken, LeaseId, Revision, Value, Version};
pub use watch::{Invalid, Snapshot, Watch, WatchStart, WatchState, WatchStatus};

/// Everything that code using the contracts calls by name: `use coord_api::prelude::*`.
pub mod prelude {
    pub use crate::{
        ConfigCenter, ConfigCenterExt, DistributedLock, DistributedLockExt, InstanceIdAllocator,
        InstanceIdAllocatorExt, Provider, ServiceRegistry, ServiceRegistryExt,
    };
}
