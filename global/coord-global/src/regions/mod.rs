//! Which regions there are, how far each has come, and how they are.
//!
//! [`Regions`] is what stands in the store: who is registered, the last heartbeat of each, and how
//! far each has come in a space. Any instance writes it; each call is one transaction that
//! compares all that it was made of, so that what arrives late, or twice, changes nothing.
//!
//! What follows from that is computed, and pure: no I/O and no clock.
//!
//! - [`Health`]: who is active, degraded, offline (G16). The leader's, by its monotonic clock.
//! - [`floor`]: up to where the log may be trimmed (G17).
//! - [`locations`]: where a file is the newest.
//! - [`median_offset`]: whether the leader's wall clock is so wrong that nothing may be deleted by
//!   its age.
//!
//! | key | what |
//! |---|---|
//! | `/global/region/<region>` | JSON: what the region says of itself, its owner, whether it is drained; of one that was deregistered, that it was: it stays, so that nothing late registers it again |
//! | `/global/status/<region>` | JSON: its last heartbeat, with a counter that rises |
//! | `/global/s/<space>/ack/<region>` | JSON: [`Ack`] |

mod ack;
mod clocks;
mod error;
mod floor;
mod health;
mod heartbeat;
mod keys;
mod location;
mod registry;

pub use self::ack::Ack;
pub use self::clocks::{CLOCK_OFF_MS, Reading, clock_is_off, median_offset};
pub use self::error::{RegionsError, Result};
pub use self::floor::{Retention, floor, held_by};
pub use self::health::{
    Changed, DEGRADED_AFTER_MS, Health, OFFLINE_AFTER_MS, PRESERVE_MS, RegionState, SILENCE_WITHIN_MS,
    WATCH_GAP_MS,
};
pub use self::heartbeat::{Heard, Heartbeat, Status};
pub use self::location::{Location, locations};
pub use self::registry::{Asker, INFO_MAX, PAGE_MAX, Region, RegionInfo, Regions};
