//! What breaks watches (R16 to R22, R39).

use super::Saboteur;

mod below;
mod stream;

pub(super) const SABOTEURS: [&[Saboteur]; 2] = [stream::SABOTEURS, below::SABOTEURS];
