//! The horizon of a worker, as it stands in the store (R64).

use bytes::Bytes;
use coord::coord_core::{Client, keys};
use coord::recipes::KeptId;
use coord::store::{Compare, Entry, Op, Range, Span, Txn};
use coord::{Error, ErrorKind, Fence, FencingToken, Outcome, Result, Revision};

use super::generator::Stored;
use super::layout::{END_MS, EPOCH_UNIX_MS};

const STORE: &str = "uid.horizon";

/// The horizon of the worker whose number is held under `fence`. In the store it is a decimal
/// number, the milliseconds since 1970, for people to read; here they count from the epoch of the
/// ids.
///
/// Whoever holds the number is the only one to write it. So a compare-and-set settles each doubt: a
/// write that was not answered has either become what the next one finds, or fails for good once
/// the next one was applied. After the loss of the number the fence refuses all of them.
#[derive(Debug)]
pub(super) struct Horizon {
    client: Client,
    key: Bytes,
    fence: Fence,
    /// That of the number: whatever was written later is one's own.
    generation: FencingToken,
    /// What is known to stand there, and when it was written.
    seen: Option<(Stored, Revision)>,
}

impl Horizon {
    /// Nothing is known of it yet, nor asked for.
    pub(super) fn new(client: Client, service: &str, held: &KeptId) -> Self {
        let key = keys::uid_horizon(service, held.id());
        Horizon { client, key, fence: held.fence(), generation: held.generation(), seen: None }
    }

    /// Stores what `of` makes of what stands there, `None` where nothing does; and gives it. One
    /// request, or two where what stands there is not known, and one more where an answer is lost.
    ///
    /// # Errors
    ///
    /// `LeaseLost` where the number is not held any more; `Codec` where someone has left something
    /// there that is no horizon; `Exhausted` where `of` gives nothing; those of the store.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be stored; the next call finds out.
    pub(super) async fn store(&mut self, of: impl Fn(Option<Stored>) -> Option<u64> + Send) -> Result<u64> {
        let fences = self.client.fenced(STORE, std::slice::from_ref(&self.fence)).await?;
        let mut is_in_doubt = false;
        loop {
            let horizon = of(self.seen.map(|(stored, _)| stored)).ok_or_else(no_time_left)?;
            let reply = match self.client.store().txn(self.write(horizon, &fences)).await {
                // The next one settles it. Who does not answer twice is tried again later.
                Err(error) if !is_in_doubt && error.is_transient() && error.outcome() == Outcome::Unknown => {
                    is_in_doubt = true;
                    continue;
                }
                reply => reply?,
            };
            if reply.succeeded {
                self.seen = Some((Stored { horizon, is_own: true }, reply.revision));
                return Ok(horizon);
            }
            for (n, compare) in fences.iter().enumerate() {
                if !compare.holds(reply.try_range(n)?.entries.first()) {
                    return Err(Fence::lost(STORE));
                }
            }
            let found = reply.try_range(fences.len())?.entries.first();
            self.seen = found.map(|found| self.read(found)).transpose()?;
        }
    }

    /// The transaction that stores `horizon` under the fence, over what was seen.
    fn write(&self, horizon: u64, fences: &[Compare]) -> Txn {
        let as_seen = match self.seen {
            Some((_, modified)) => Compare::Modified(self.key.clone(), modified),
            None => Compare::Absent(self.key.clone()),
        };
        let fenced = |txn: Txn, compare: &Compare| {
            txn.when(compare.clone()).otherwise(Op::Range(Range::new(compare.span()).with_keys_only()))
        };
        fences
            .iter()
            .fold(Txn::new(), fenced)
            .when(as_seen)
            .then(Op::put(self.key.clone(), horizon.saturating_add(EPOCH_UNIX_MS).to_string()))
            .otherwise(Op::Range(Range::new(Span::Key(self.key.clone()))))
    }

    /// What stands there.
    fn read(&self, found: &Entry) -> Result<(Stored, Revision)> {
        let digits = std::str::from_utf8(&found.value).ok();
        let horizon = digits
            .and_then(|digits| digits.parse::<u64>().ok())
            .and_then(|unix_ms| unix_ms.checked_sub(EPOCH_UNIX_MS))
            .filter(|ms| *ms < END_MS)
            .ok_or_else(no_horizon)?;
        let is_own = FencingToken::from(found.modified) > self.generation;
        Ok((Stored { horizon, is_own }, found.modified))
    }
}

fn no_horizon() -> Error {
    Error::new(
        ErrorKind::Codec,
        STORE,
        "what stands under the worker's key is no horizon, a number of milliseconds since 1970 that ids \
         have room for; find out who has written it",
    )
}

fn no_time_left() -> Error {
    Error::new(
        ErrorKind::Exhausted,
        STORE,
        "the horizon is beyond the year 2080, where the time of ids ends; look at the machine's clock, \
         and at the horizon that is stored",
    )
}
