//! Wrappers around a store: one that counts, one that takes its time, and one that fails on demand.

mod counting;
mod delayed;
mod faulty;
mod signal;

pub use counting::{Counter, Counting, Counts};
pub use delayed::Delayed;
pub use faulty::{Fault, Faults, Faulty, Held, Link, Request};
