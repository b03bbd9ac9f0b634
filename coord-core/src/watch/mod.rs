//! Watches: resumed across faults, shared inside the process, bounded towards those who do not read
//! (R16 to R22).
//!
//! [`Client::follow`](crate::Client::follow) gives a [`ResumingWatch`] of one's own,
//! [`Client::subscribe`](crate::Client::subscribe) a reader of a shared one.

mod coalesce;
mod heads;
mod hub;
mod resume;
mod shared;
mod subscription;
mod window;

pub(crate) use hub::Hub;
pub use resume::{Delivery, ResumingWatch};
pub use subscription::Subscription;
pub use window::SharedDelivery;
