//! Watches: resumed across faults, shared inside the process, bounded towards those who do not read (R16 to R22).

mod channel;
mod coalesce;
mod hub;
mod resume;

pub(crate) use channel::{Item, Subscription};
pub(crate) use hub::Hub;
pub(crate) use resume::{Feed, Resuming};
