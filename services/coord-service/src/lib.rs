#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod admin;
mod app;
mod boot;
mod causes;
pub mod clog;
mod component;
mod document;
pub mod health;
pub mod live;
pub mod metrics;
pub mod ratelimit;
mod setting;
pub mod shutdown;
pub mod trace;
pub mod uid;

pub use app::App;
pub use boot::{Boot, OnUnreachable};
pub use component::{Component, LiveComponent, Scope};
pub use setting::{Following, Setting};
