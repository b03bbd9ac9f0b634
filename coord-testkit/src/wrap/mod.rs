//! Wrappers around a store: one that counts, one that takes its time, one that fails on demand, and
//! one whose store can be replaced.

mod counting;
mod delayed;
mod faulty;
mod replaceable;
mod signal;

pub use counting::{Counter, Counting, Counts};
pub use delayed::Delayed;
pub use faulty::{Fault, Faults, Faulty, HeldRequest, Link, Request};
pub use replaceable::Replaceable;
pub(crate) use signal::Signal;
