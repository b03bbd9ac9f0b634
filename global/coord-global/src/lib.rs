#![doc = include_str!("../README.md")]

pub mod ledger;
pub mod metadata;
pub mod model;
pub mod regions;
pub mod replica;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod sync;
pub mod users;

#[doc = include_str!("../RULES.md")]
pub mod rules {}
