//! Answers that a healthy server never gives, one pitfall a test, against an etcd in this process
//! that follows a script.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod answers;
mod clusters;
mod homes;
mod leases;
mod log;
mod members;
mod names;
mod server;
mod strangers;
mod watches;

use std::time::Duration;

use coord_etcd::{EtcdOptions, EtcdStore};
use server::{ATTEMPT, Fake};

/// By when anything that needs no waiting is done, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn options<'a>(fakes: impl IntoIterator<Item = &'a Fake>) -> EtcdOptions {
    let mut options = EtcdOptions::new(fakes.into_iter().map(Fake::endpoint));
    options.retry.attempt_timeout = Some(ATTEMPT);
    options
}

fn store(fake: &Fake) -> EtcdStore {
    EtcdStore::connect_lazy(&options([fake])).unwrap()
}
