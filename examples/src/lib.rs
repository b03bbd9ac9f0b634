//! What the examples are made of. Not published; read it, and copy what you need.

pub mod ledger;
pub mod limiter;
pub mod load;
pub mod rules;

/// The code on the first page of the repository, compiled and run: by `coordkit` alone, as its
/// readers have it.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
