#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod assets;
mod change;
mod document;
mod health;
mod looks;
mod options;
mod parts;
mod query;
mod secrets;
mod stream;
mod ui;
mod views;

pub use options::{MIN_TOKEN, SECRET_FIELDS, UiOptions};
pub use ui::Ui;
