//! Writing an entry that is held anew, in its place.

use coord_api::store::{Compare, Entry, Op, Txn};
use coord_api::{Result, Value};
use coord_core::Client;
use coord_core::session::{LeasedEntry, Placed, Token};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rewritten {
    /// The entry stands in its place and has the value.
    Done,
    /// The entry is gone, or another's: nothing was written.
    Gone,
}

/// Gives an entry that is held another value. It keeps its key, its place and its token.
///
/// Calls at the same time are applied one after the other: each of them writes over what it has
/// seen, and looks again where another one was faster.
///
/// # Errors
///
/// `LeaseLost` when its session is over, or whatever kept the store from answering.
///
/// # Cancel safety
///
/// Dropped, the entry may have either value; the next call finds out.
pub(crate) async fn rewrite(client: &Client, entry: &LeasedEntry, value: &Value) -> Result<Rewritten> {
    // What stands there: this entry, or nothing of it.
    let own = |found: Option<Entry>| found.filter(|found| Some(found.created) == entry.number());
    if entry.is_in_doubt() {
        match own(entry.look().await?) {
            Some(found) => entry.confirm(&found, Token::Kept),
            None => return Ok(Rewritten::Gone),
        }
    }
    loop {
        let Some(modified) = entry.modified() else { return Ok(Rewritten::Gone) };
        let write = || {
            let put = Op::put_leased(entry.key().clone(), value.clone(), entry.session().lease());
            Txn::new().when(Compare::Modified(entry.key().clone(), modified)).then(put)
        };
        let (found, sent) = match LeasedEntry::place_all(&[entry], Token::Kept, &write).await? {
            Placed::Written(_) => return Ok(Rewritten::Done),
            // Another call wrote it first, or it was removed.
            Placed::Refused(_) => (client.read(entry.key().clone()).await?, false),
            Placed::Found(mut found) => (found.pop().flatten(), true),
        };
        let Some(found) = own(found) else { return Ok(Rewritten::Gone) };
        entry.confirm(&found, Token::Kept);
        // Nobody else writes this key, so that a value that stands there after a lost answer was
        // written by this call, or by one like it.
        if sent && found.value == *value {
            return Ok(Rewritten::Done);
        }
    }
}
