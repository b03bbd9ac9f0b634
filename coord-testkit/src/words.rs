//! Requests and answers in words: keys and values as text where they are text, long ones cut short.

use std::fmt::{self, Debug, Display, Formatter};

use bytes::Bytes;
use coord_api::Value;
use coord_api::store::{
    Batch, Change, Compare, Entry, Op, OpReply, Order, Range, RangeReply, Span, Txn, TxnReply,
};

/// The longest value that is shown as it is.
const LONGEST_VALUE: usize = 48;

/// So many items of a list are shown.
const SHOWN: usize = 8;

/// A key, or other bytes: as text where they are text.
pub(crate) struct Bytewise<'a>(pub(crate) &'a [u8]);

impl Display for Bytewise<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => write!(f, "b\"{}\"", self.0.escape_ascii()),
        }
    }
}

impl Debug for Bytewise<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// Something in words.
pub(crate) struct Words<'a, T: ?Sized>(pub(crate) &'a T);

/// Items in words, at most a few of them.
struct List<'a, T>(&'a [T]);

impl<T> Display for List<'_, T>
where
    for<'a> Words<'a, T>: Display,
{
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, item) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, Words(item))?;
        }
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => f.write_str("]"),
            Some(more) => write!(f, ", and {more} more]"),
        }
    }
}

impl Display for Words<'_, Bytes> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&Bytewise(self.0), f)
    }
}

impl Display for Words<'_, Value> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0..=LONGEST_VALUE => Display::fmt(&Bytewise(self.0), f),
            long => write!(f, "{long} bytes"),
        }
    }
}

impl Display for Words<'_, Span> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Span::Key(key) => write!(f, "the key {}", Words(key)),
            Span::Prefix(prefix) => write!(f, "what begins with {}", Words(prefix)),
            Span::Interval(from, to) => write!(f, "from {} to before {}", Words(from), Words(to)),
        }
    }
}

impl Display for Words<'_, Range> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let range = self.0;
        write!(f, "range: {}", Words(&range.span))?;
        if let Some(key) = &range.after_key {
            write!(f, ", after {}", Words(key))?;
        }
        if let Some(at) = range.at {
            write!(f, ", at revision {at}")?;
        }
        if let Some(created) = range.max_created {
            write!(f, ", created by {created}")?;
        }
        match range.order {
            Order::Key => {}
            Order::OldestFirst => f.write_str(", oldest first")?,
            Order::NewestFirst => f.write_str(", newest first")?,
        }
        if let Some(limit) = range.limit {
            write!(f, ", at most {limit}")?;
        }
        f.write_str(if range.keys_only { ", keys only" } else { "" })
    }
}

impl Display for Words<'_, Entry> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        write!(
            f,
            "{} = {} (created {}, modified {}",
            Words(&entry.key),
            Words(&entry.value),
            entry.created,
            entry.modified
        )?;
        match entry.lease {
            Some(lease) => write!(f, ", lease {lease})"),
            None => f.write_str(")"),
        }
    }
}

impl Display for Words<'_, RangeReply> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let more = if self.0.more { ", and there is more" } else { "" };
        write!(f, "{} at revision {}{more}", List(&self.0.entries), self.0.revision)
    }
}

impl Display for Words<'_, Compare> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Compare::Absent(key) => write!(f, "{} is absent", Words(key)),
            Compare::Present(key) => write!(f, "{} is present", Words(key)),
            Compare::Modified(key, revision) => write!(f, "{} was modified at {revision}", Words(key)),
            Compare::Created(key, revision) => write!(f, "{} was created at {revision}", Words(key)),
            Compare::Lease(key, lease) => write!(f, "{} is on lease {lease}", Words(key)),
            Compare::RangeAbsent(span) => write!(f, "nothing is in {}", Words(span)),
        }
    }
}

impl Display for Words<'_, Op> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Op::Put { key, value, lease: None } => write!(f, "put {} = {}", Words(key), Words(value)),
            Op::Put { key, value, lease: Some(lease) } => {
                write!(f, "put {} = {} on lease {lease}", Words(key), Words(value))
            }
            Op::Delete { key } => write!(f, "delete {}", Words(key)),
            Op::Range(range) => Words(range).fmt(f),
        }
    }
}

impl Display for Words<'_, Txn> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let txn = self.0;
        f.write_str("txn: ")?;
        if !txn.compares.is_empty() {
            write!(f, "if {} ", List(&txn.compares))?;
        }
        write!(f, "then {}", List(&txn.then))?;
        if !txn.otherwise.is_empty() {
            write!(f, " else {}", List(&txn.otherwise))?;
        }
        Ok(())
    }
}

impl Display for Words<'_, OpReply> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            OpReply::Put => f.write_str("put"),
            OpReply::Delete { existed: true } => f.write_str("deleted"),
            OpReply::Delete { existed: false } => f.write_str("nothing to delete"),
            OpReply::Range(found) => Words(found).fmt(f),
        }
    }
}

impl Display for Words<'_, TxnReply> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ran = if self.0.succeeded { "then" } else { "else" };
        write!(f, "{ran} ran: {} at revision {}", List(&self.0.replies), self.0.revision)
    }
}

impl Display for Words<'_, Change> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Change::Put(entry) => Words(entry).fmt(f),
            Change::Delete { key } => write!(f, "{} deleted", Words(key)),
        }
    }
}

impl Display for Words<'_, Batch> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}: {}", self.0.revision, List(&self.0.changes))
    }
}

/// A text that ends after so many bytes.
pub(crate) struct Short {
    text: String,
    longest: usize,
}

impl Short {
    /// At most `longest` bytes of what is written.
    pub(crate) fn of(longest: usize, written: impl Display) -> String {
        use fmt::Write;

        let mut short = Short { text: String::new(), longest };
        match write!(short, "{written}") {
            Ok(()) => short.text,
            Err(fmt::Error) => short.text + "…",
        }
    }
}

impl fmt::Write for Short {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.longest.saturating_sub(self.text.len());
        if part.len() <= room {
            self.text.push_str(part);
            return Ok(());
        }
        let cut = (0..=room).rev().find(|at| part.is_char_boundary(*at)).unwrap_or(0);
        self.text.push_str(part.get(..cut).unwrap_or_default());
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use coord_api::{LeaseId, Revision};

    use super::*;

    #[test]
    fn keys_and_values_are_text_where_they_are_text() {
        let txn = Txn::new()
            .when(Compare::Absent("a/b".into()))
            .then(Op::put("a/b", "1"))
            .then(Op::put_leased(&b"a\xff"[..], vec![7; 100], LeaseId::new(3)))
            .otherwise(Op::Range(Range::prefix("a/").with_limit(2)));
        assert_eq!(
            Words(&txn).to_string(),
            r#"txn: if ["a/b" is absent] then [put "a/b" = "1", put b"a\xff" = 100 bytes on lease 3] else [range: what begins with "a/", at most 2]"#
        );
    }

    #[test]
    fn a_long_list_and_a_long_text_are_cut() {
        let entry = Entry {
            key: "k".into(),
            value: "v".into(),
            created: Revision::new(1),
            modified: Revision::new(2),
            lease: None,
        };
        let found = RangeReply { revision: Revision::new(3), entries: vec![entry; 10], more: false };
        let told = Words(&found).to_string();
        assert!(told.starts_with(r#"["k" = "v" (created 1, modified 2), "#), "{told}");
        assert!(told.ends_with(", and 2 more] at revision 3"), "{told}");
        assert_eq!(Short::of(5, "äöü"), "äö…");
        assert_eq!(Short::of(6, "äöü"), "äöü");
    }
}
