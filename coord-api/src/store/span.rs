//! Spans of keys.

use bytes::Bytes;

use crate::error::{Error, Result};

/// The keys that a range, a watch or a compare is about. Keys are bytes, compared as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// One key.
    Key(Bytes),
    /// Every key that starts with these bytes; all keys when empty. A directory's prefix ends in
    /// `/`.
    Prefix(Bytes),
    /// From the first key, inclusive, to the second, exclusive.
    Interval(Bytes, Bytes),
}

impl Span {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Span::Key(key.into())
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Span::Prefix(prefix.into())
    }

    /// Checks what every store refuses: an empty key, and an interval in which no key can lie.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`.
    pub fn validate(&self, operation: &'static str) -> Result<()> {
        match self {
            Span::Key(key) if key.is_empty() => Err(Error::invalid_argument(operation, "an empty key")),
            // The smallest key is one zero byte, so that none lies before it.
            Span::Interval(from, to) if from >= to || to.as_ref() == [0] => {
                Err(Error::invalid_argument(operation, "an interval that ends where it begins, or before"))
            }
            _ => Ok(()),
        }
    }

    /// The bytes of the keys that it is said by.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Span::Key(key) | Span::Prefix(key) => key.len(),
            Span::Interval(from, to) => from.len().saturating_add(to.len()),
        }
    }

    /// Whether `key` lies in the span.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Span::Key(own) => own.as_ref() == key,
            Span::Prefix(prefix) => key.starts_with(prefix),
            Span::Interval(from, to) => key >= from.as_ref() && key < to.as_ref(),
        }
    }

    /// The smallest key that may lie in the span.
    pub fn start(&self) -> &[u8] {
        match self {
            Span::Key(key) | Span::Prefix(key) | Span::Interval(key, _) => key,
        }
    }

    /// The smallest key after the span, or `None` when nothing lies after it: the half-open
    /// interval that ordered stores ask for.
    pub fn end(&self) -> Option<Bytes> {
        match self {
            Span::Key(key) => Some([key.as_ref(), &[0]].concat().into()),
            Span::Prefix(prefix) => prefix_end(prefix),
            Span::Interval(_, to) => Some(to.clone()),
        }
    }
}

/// The smallest byte string greater than all that start with `prefix`; `None` when there is no such
/// string.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let (head, _) = prefix.split_at_checked(kept + 1)?;
    let mut end = head.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_in_which_no_key_can_lie_is_refused() {
        let refused = |span: Span| span.validate("t").is_err();
        for (from, to) in [("b", "b"), ("b", "a"), ("", ""), ("", "\0")] {
            assert!(refused(Span::Interval(from.into(), to.into())), "{from:?} to {to:?}");
        }
        assert!(refused(Span::key("")));
        for (from, to) in [("", "\0\0"), ("", "a"), ("\0", "a"), ("a", "a\0")] {
            assert!(!refused(Span::Interval(from.into(), to.into())), "{from:?} to {to:?}");
        }
        assert!(!refused(Span::prefix("")));
    }

    #[test]
    fn a_span_ends_where_its_last_key_ends() {
        assert_eq!(Span::prefix("a/").end().as_deref(), Some(b"a0".as_slice()));
        assert_eq!(Span::prefix(vec![b'a', 0xff]).end().as_deref(), Some(b"b".as_slice()));
        assert_eq!(Span::prefix(vec![0xff, 0xff]).end(), None);
        assert_eq!(Span::prefix("").end(), None);
        assert_eq!(Span::key("a").end().as_deref(), Some(b"a\0".as_slice()));
    }
}
