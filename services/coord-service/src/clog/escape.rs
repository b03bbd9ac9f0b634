//! Text in lines: no character of a value ends a line, a string, or speaks to a terminal.

use std::fmt;

/// How much of one value is written, in bytes. What is longer is cut, and ends in `…`.
pub(super) const MAX_VALUE: usize = 16 * 1024;

const CUT: &str = "…";

/// What else is escaped but the characters that control something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// Nothing.
    Controls,
    /// `"` and `\`, as inside of a string.
    Quotes,
}

/// The bytes that may have to be escaped, or begin a character that has to.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler, which refuses a wrong index")]
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special[0x7f] = true;
    special[0xc2] = true;
    special[0xe2] = true;
    special
};

/// Writes text, escaped as JSON does, so that it holds neither the controls of terminals (C0, C1,
/// DEL) nor anything that some reader takes for the end of a line (U+2028, U+2029).
pub(super) fn escape(text: &str, what: Escape, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut from = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if !SPECIAL.get(usize::from(byte)).copied().unwrap_or(true) {
            at += 1;
            continue;
        }
        let escaped = match byte {
            b'"' | b'\\' if what == Escape::Quotes => Some((u32::from(byte), 1)),
            0..0x20 | 0x7f => Some((u32::from(byte), 1)),
            // C1 controls are C2 80 to C2 9F.
            0xc2 => match bytes.get(at + 1) {
                Some(&next @ 0x80..=0x9f) => Some((u32::from(next), 2)),
                _ => None,
            },
            0xe2 => match (bytes.get(at + 1), bytes.get(at + 2)) {
                (Some(0x80), Some(0xa8)) => Some((0x2028, 3)),
                (Some(0x80), Some(0xa9)) => Some((0x2029, 3)),
                _ => None,
            },
            _ => None,
        };
        match escaped {
            None => at += 1,
            Some((character, len)) => {
                out.extend_from_slice(bytes.get(from..at).unwrap_or_default());
                put(character, out);
                at += len;
                from = at;
            }
        }
    }
    out.extend_from_slice(bytes.get(from..).unwrap_or_default());
}

fn put(character: u32, out: &mut Vec<u8>) {
    let short = match character {
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        0x22 => b'"',
        0x5c => b'\\',
        _ => {
            out.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                let digit = char::from_digit((character >> shift) & 0xf, 16).unwrap_or('0');
                out.push(u8::try_from(digit).unwrap_or(b'0'));
            }
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// The beginning of a text that is no longer than `max` bytes, and whether that is all of it.
fn head(text: &str, max: usize) -> (&str, bool) {
    if text.len() <= max {
        return (text, true);
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (text.get(..end).unwrap_or_default(), false)
}

/// Writes text, at most [`MAX_VALUE`] of it.
pub(super) fn escape_bounded(text: &str, what: Escape, out: &mut Vec<u8>) {
    let (head, whole) = head(text, MAX_VALUE);
    escape(head, what, out);
    if !whole {
        out.extend_from_slice(CUT.as_bytes());
    }
}

/// Takes what somebody formats, escapes it, and stops them at [`MAX_VALUE`].
pub(super) struct Escaping<'a> {
    out: &'a mut Vec<u8>,
    what: Escape,
    left: usize,
    cut: bool,
}

impl<'a> Escaping<'a> {
    pub(super) fn new(what: Escape, out: &'a mut Vec<u8>) -> Self {
        Escaping { out, what, left: MAX_VALUE, cut: false }
    }

    /// Formats a value. One whose `Debug` or `Display` fails is written as far as it came.
    pub(super) fn write(what: Escape, out: &mut Vec<u8>, value: fmt::Arguments<'_>) {
        let _ = fmt::Write::write_fmt(&mut Escaping::new(what, out), value);
    }
}

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.cut {
            return Err(fmt::Error);
        }
        let (head, whole) = head(text, self.left);
        escape(head, self.what, self.out);
        self.left -= head.len();
        if whole {
            return Ok(());
        }
        self.cut = true;
        self.out.extend_from_slice(CUT.as_bytes());
        Err(fmt::Error)
    }
}

/// Takes what somebody formats, and stops them at [`MAX_VALUE`].
#[derive(Default)]
pub(super) struct Bounded(String);

impl Bounded {
    pub(super) fn format(value: fmt::Arguments<'_>) -> Box<str> {
        let mut bounded = Bounded::default();
        let _ = fmt::Write::write_fmt(&mut bounded, value);
        bounded.0.into_boxed_str()
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(room) = MAX_VALUE.checked_sub(self.0.len()) else {
            return Err(fmt::Error);
        };
        let (head, whole) = head(text, room);
        self.0.push_str(head);
        if whole {
            return Ok(());
        }
        // Longer than the bound now, so that nothing follows. `…` is longer than what may be left.
        self.0.push_str(CUT);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str, what: Escape) -> String {
        let mut out = Vec::new();
        escape(text, what, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn controls_are_escaped_and_letters_are_not() {
        assert_eq!(escaped("a\"b\\c\n", Escape::Quotes), r#"a\"b\\c\n"#);
        assert_eq!(escaped("a\"b\\c\n", Escape::Controls), r#"a"b\c\n"#);
        assert_eq!(escaped("\u{1b}[31m\u{7f}\0", Escape::Controls), r"\u001b[31m\u007f\u0000");
        assert_eq!(escaped("\u{9b}31m\u{85}", Escape::Controls), r"\u009b31m\u0085");
        assert_eq!(escaped("\u{2028}\u{2029}", Escape::Controls), r"\u2028\u2029");
        assert_eq!(escaped("né…\u{a0}“日本”🎈", Escape::Quotes), "né…\u{a0}“日本”🎈");
    }

    #[test]
    fn what_is_too_long_is_cut_between_two_characters() {
        let long = "é".repeat(MAX_VALUE);
        let mut out = Vec::new();
        escape_bounded(&long, Escape::Quotes, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "é".repeat(MAX_VALUE / 2) + "…");
        let mut out = Vec::new();
        Escaping::write(Escape::Quotes, &mut out, format_args!("x{long}"));
        assert_eq!(String::from_utf8(out).unwrap(), format!("x{}…", "é".repeat(MAX_VALUE / 2 - 1)));
        assert_eq!(
            &*Bounded::format(format_args!("x{long}")),
            format!("x{}…", "é".repeat(MAX_VALUE / 2 - 1))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn json_reads_what_was_escaped(text: String) {
            let quoted = format!("\"{}\"", escaped(&text, Escape::Quotes));
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }

        #[test]
        fn no_control_is_left(text: String) {
            for what in [Escape::Quotes, Escape::Controls] {
                let escaped = escaped(&text, what);
                let breaks = |c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}';
                prop_assert!(!escaped.contains(breaks), "{}", escaped);
            }
        }
    }
}
