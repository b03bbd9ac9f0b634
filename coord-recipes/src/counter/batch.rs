//! Additions that share a write. Pure: who sends them is elsewhere.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use coord_api::{Error, ErrorKind, Result, Revision, Value};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::ADD;

/// Additions that one write carries at most.
pub(super) const ADDITIONS: usize = 1_000;

/// Those of them that have a token, each of which is one more key of the write.
const TOKENS: usize = 100;

/// A counter, as it stands in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) value: i64,
    /// When it was written; `None` where it is absent.
    pub(super) modified: Option<Revision>,
}

/// What tells a repeated addition from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenKey {
    pub(super) key: Bytes,
    pub(super) retention: Duration,
}

/// An addition that waits.
#[derive(Debug)]
pub(super) struct Addition {
    number: u64,
    pub(super) delta: i64,
    pub(super) token: Option<TokenKey>,
    pub(super) answer: oneshot::Sender<Result<i64>>,
}

/// The additions that wait while others are on their way. Bounded by the calls under way.
#[derive(Debug, Default)]
pub(super) struct Additions {
    waiting: Mutex<(VecDeque<Addition>, u64)>,
}

impl Additions {
    /// Queues an addition. Its number takes it back.
    pub(super) fn add(&self, delta: i64, token: Option<TokenKey>) -> (u64, oneshot::Receiver<Result<i64>>) {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let (queue, last) = &mut *waiting;
        *last += 1;
        queue.push_back(Addition { number: *last, delta, token, answer });
        (*last, answered)
    }

    /// Takes back what was not sent.
    pub(super) fn take_back(&self, number: u64) {
        self.waiting.lock().0.retain(|waiting| waiting.number != number);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().0.len()
    }

    /// What goes with the next write: from the front on, as much as fits, and no token twice.
    pub(super) fn take(&self) -> Vec<Addition> {
        let mut waiting = self.waiting.lock();
        let (mut batch, mut tokens) = (Vec::new(), HashSet::new());
        while let Some(next) = waiting.0.front() {
            let fits = match &next.token {
                Some(token) => tokens.len() < TOKENS && tokens.insert(token.key.clone()),
                None => true,
            };
            if !fits || batch.len() == ADDITIONS {
                break;
            }
            batch.extend(waiting.0.pop_front());
        }
        batch
    }
}

/// The value that each addition makes, one after the other, of what was there; an error for one
/// that does not fit, which is left out.
pub(super) fn sums(value: i64, deltas: impl Iterator<Item = i64>) -> Vec<Result<i64>> {
    let mut value = value;
    let mut add = |delta| match value.checked_add(delta) {
        Some(sum) => {
            value = sum;
            Ok(sum)
        }
        None => Err(Error::new(ErrorKind::Exhausted, ADD, "the counter does not reach that far")),
    };
    deltas.map(&mut add).collect()
}

/// A counter's value, as it is written.
pub(super) fn parse(value: &Value) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The record of an addition: how much was added, and what it made.
pub(super) fn record(delta: i64, value: i64) -> Value {
    format!("{delta} {value}").into()
}

/// What was recorded, to someone who adds `delta`.
pub(super) fn recorded(record: &Value, delta: i64) -> Result<i64> {
    let parsed = std::str::from_utf8(record).ok().and_then(|text| {
        let (delta, value) = text.split_once(' ')?;
        Some((delta.parse::<i64>().ok()?, value.parse::<i64>().ok()?))
    });
    match parsed {
        Some((recorded, value)) if recorded == delta => Ok(value),
        Some(_) => {
            Err(Error::invalid_argument(ADD, "another amount was added under this token; take another token"))
        }
        None => Err(Error::new(ErrorKind::Codec, ADD, "what stands under the token is no addition")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str) -> Option<TokenKey> {
        Some(TokenKey { key: name.to_owned().into(), retention: Duration::from_secs(1) })
    }

    fn deltas(batch: &[Addition]) -> Vec<i64> {
        batch.iter().map(|addition| addition.delta).collect()
    }

    #[test]
    fn a_batch_has_no_token_twice_and_keeps_the_order() {
        let all = Additions::default();
        let kept: Vec<_> = [(1, token("a")), (2, None), (3, token("b")), (4, token("a")), (5, None)]
            .map(|(delta, token)| all.add(delta, token))
            .into();
        assert_eq!(deltas(&all.take()), [1, 2, 3]);
        assert_eq!(deltas(&all.take()), [4, 5]);
        assert!(all.take().is_empty());
        drop(kept);
    }

    #[test]
    fn a_batch_is_bounded() {
        let all = Additions::default();
        let _kept: Vec<_> = (0..ADDITIONS + 5).map(|_| all.add(1, None)).collect();
        assert_eq!((all.take().len(), all.take().len()), (ADDITIONS, 5));
        let _kept: Vec<_> = (0..TOKENS + 5).map(|n| all.add(1, token(&n.to_string()))).collect();
        assert_eq!((all.take().len(), all.take().len()), (TOKENS, 5));
    }

    #[test]
    fn what_was_taken_back_is_never_sent() {
        let all = Additions::default();
        let ((first, _one), (_, _two)) = (all.add(1, None), all.add(2, None));
        all.take_back(first);
        assert_eq!(deltas(&all.take()), [2]);
    }

    #[test]
    fn each_has_the_value_that_it_makes_and_what_does_not_fit_is_left_out() {
        let made = |value, deltas: &[i64]| -> Vec<Option<i64>> {
            sums(value, deltas.iter().copied()).into_iter().map(Result::ok).collect()
        };
        assert_eq!(made(1, &[1, -5, 0]), [Some(2), Some(-3), Some(-3)]);
        let max = i64::MAX;
        assert_eq!(made(max - 1, &[2, 1, 1, -1]), [None, Some(max), None, Some(max - 1)]);
        assert_eq!(made(i64::MIN, &[-1, max]), [None, Some(-1)]);
    }

    #[test]
    fn a_record_is_read_by_whoever_adds_the_same() {
        assert_eq!(recorded(&record(-3, 4), -3).unwrap(), 4);
        assert_eq!(recorded(&record(-3, 4), 3).unwrap_err().kind(), ErrorKind::InvalidArgument);
        for garbage in ["", "3", "3 x", "3 4 5"] {
            assert_eq!(recorded(&garbage.into(), 3).unwrap_err().kind(), ErrorKind::Codec, "{garbage:?}");
        }
        assert_eq!(
            [parse(&"-9223372036854775808".into()), parse(&"9223372036854775808".into())],
            [Some(i64::MIN), None]
        );
    }
}
