//! What breaks the store itself (S1 to S6).

use super::Saboteur;

mod bytes;
mod closing;
mod lease;
mod log;
mod range;
mod time;
mod txn;
mod watch;

pub(super) const SABOTEURS: [&[Saboteur]; 8] = [
    range::SABOTEURS,
    txn::SABOTEURS,
    watch::SABOTEURS,
    lease::SABOTEURS,
    bytes::SABOTEURS,
    log::SABOTEURS,
    time::SABOTEURS,
    closing::SABOTEURS,
];
