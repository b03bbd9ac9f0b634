//! What a key and a range's end mean together.

use bytes::Bytes;

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// One key.
    Key(Bytes),
    /// From the first on, up to the second, which is not in it. Empty where that is not larger.
    Range(Bytes, Bytes),
    /// This key and every larger one.
    From(Bytes),
}

impl Span {
    /// The keys that a request means: without an end one key, with the end `\0` all from the key
    /// on.
    pub(crate) fn new(key: &Bytes, range_end: &Bytes) -> Self {
        match range_end.as_ref() {
            [] => Span::Key(key.clone()),
            [0] => Span::From(key.clone()),
            _ => Span::Range(key.clone(), range_end.clone()),
        }
    }

    /// The first key that may be in it.
    pub(crate) fn start(&self) -> &Bytes {
        match self {
            Span::Key(start) | Span::Range(start, _) | Span::From(start) => start,
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Span::Key(only) => only == key,
            Span::Range(start, end) => start.as_ref() <= key && key < end.as_ref(),
            Span::From(start) => start.as_ref() <= key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(key: &'static str, end: &'static str) -> Span {
        Span::new(&Bytes::from_static(key.as_bytes()), &Bytes::from_static(end.as_bytes()))
    }

    #[test]
    fn an_end_is_not_in_its_range_and_zero_means_no_end() {
        for (span, inside, outside) in [
            (span("b", ""), vec!["b"], vec!["a", "bx", "c"]),
            (span("b", "d"), vec!["b", "bx", "c"], vec!["a", "d"]),
            (span("b", "\0"), vec!["b", "bx", "zz"], vec!["a", ""]),
            (span("d", "b"), vec![], vec!["a", "b", "c", "d", "e"]),
        ] {
            for key in inside {
                assert!(span.contains(key.as_bytes()), "{key:?} in {span:?}");
            }
            for key in outside {
                assert!(!span.contains(key.as_bytes()), "{key:?} not in {span:?}");
            }
        }
    }
}
