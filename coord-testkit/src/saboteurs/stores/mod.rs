//! What breaks the store itself (S1 to S6).

use super::Saboteur;

mod lease;
mod range;
mod txn;
mod watch;

pub(super) const SABOTEURS: [&[Saboteur]; 4] =
    [range::SABOTEURS, txn::SABOTEURS, watch::SABOTEURS, lease::SABOTEURS];
