//! What the examples are made of. Not published; read it, and copy what you need.

pub mod ledger;
pub mod limiter;
pub mod load;
pub mod rules;
