#![doc = include_str!("../README.md")]

pub mod ledger;
pub mod model;
pub mod sync;
