//! What a key may be (R4). Checked before any I/O, the same on every backend.

use crate::error::{Error, Result};

/// The longest key, in bytes, not counting one leading `/` (R4).
pub const MAX_KEY_BYTES: usize = 512;

/// The largest value, in bytes: 1 MiB (R6).
pub const MAX_VALUE_BYTES: usize = 1_048_576;

/// Checks a key and returns it without its leading `/` (R4).
///
/// # Errors
///
/// `InvalidArgument` for an empty or over-long key, an empty segment, `.`, `..` and control
/// characters.
///
/// # Examples
///
/// ```
/// use coord_api::key;
///
/// assert_eq!(key::check("example", "/app/settings").unwrap(), "app/settings");
/// assert!(key::check("example", "app//settings").is_err());
/// assert!(key::check("example", "app/../other").is_err());
/// ```
pub fn check<'a>(operation: &'static str, key: &'a str) -> Result<&'a str> {
    let relative = key.strip_prefix('/').unwrap_or(key);
    check_path(operation, relative)?;
    Ok(relative)
}

/// Checks a prefix, which is a directory, and returns it with neither leading nor trailing `/`; the
/// empty one is everything (R5, R14).
///
/// # Errors
///
/// `InvalidArgument`, as [`check`], but for the empty prefix.
pub fn check_prefix<'a>(operation: &'static str, prefix: &'a str) -> Result<&'a str> {
    let relative = prefix.strip_prefix('/').unwrap_or(prefix);
    if relative.is_empty() {
        return Ok(relative);
    }
    let directory = relative.strip_suffix('/').unwrap_or(relative);
    check_path(operation, directory)?;
    Ok(directory)
}

/// Checks a name that is one segment of a key: a service's name, an instance's id, a lock's owner
/// (R4).
///
/// # Errors
///
/// `InvalidArgument`, as [`check`], and for a `/` anywhere.
pub fn check_segment<'a>(operation: &'static str, segment: &'a str) -> Result<&'a str> {
    if segment.contains('/') {
        return Err(Error::invalid_argument(operation, "a name holds a `/`"));
    }
    check_path(operation, segment)?;
    Ok(segment)
}

/// Checks a value's size (R6).
///
/// # Errors
///
/// `InvalidArgument` for more than 1 MiB.
pub fn check_value(operation: &'static str, value: &[u8]) -> Result<()> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::invalid_argument(operation, "a value over 1 MiB"));
    }
    Ok(())
}

/// Looks at every byte without a branch, which the compiler turns into a few wide instructions:
/// this runs on every call.
fn has_ascii_control(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |found, byte| found | byte.is_ascii_control())
}

/// Whether a segment is empty or begins with a dot, again without a branch. Nearly no key has one;
/// those that do are looked at closely.
fn may_hold_bad_segment(bytes: &[u8]) -> bool {
    let (Some((first, rest)), Some((last, _))) = (bytes.split_first(), bytes.split_last()) else {
        return true;
    };
    let ends = matches!(first, b'/' | b'.') || *last == b'/';
    let inside = bytes
        .iter()
        .zip(rest)
        .fold(false, |found, (byte, next)| found | ((*byte == b'/') & ((*next == b'/') | (*next == b'.'))));
    ends | inside
}

fn check_path(operation: &'static str, path: &str) -> Result<()> {
    let fault = if path.is_empty() {
        Err("an empty key")
    } else if path.len() > MAX_KEY_BYTES {
        Err("a key of more than 512 bytes")
    } else if has_ascii_control(path.as_bytes()) || (!path.is_ascii() && path.chars().any(char::is_control)) {
        Err("a control character in a key")
    } else if may_hold_bad_segment(path.as_bytes()) {
        check_segments(path)
    } else {
        Ok(())
    };
    fault.map_err(|message| Error::invalid_argument(operation, message))
}

fn check_segments(path: &str) -> Result<(), &'static str> {
    for segment in path.split('/') {
        match segment {
            "" => return Err("an empty segment in a key"),
            "." | ".." => return Err("a segment `.` or `..` in a key"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn good_keys_come_back_without_their_leading_slash() {
        for (given, kept) in [
            ("a", "a"),
            ("/a", "a"),
            ("a/b", "a/b"),
            ("...", "..."),
            (".a/b.", ".a/b."),
            ("ключ/键", "ключ/键"),
            ("a b", "a b"),
        ] {
            assert_eq!(check("t", given).unwrap(), kept);
        }
        assert_eq!(check("t", &"k".repeat(512)).unwrap().len(), 512);
        assert_eq!(check("t", &format!("/{}", "k".repeat(512))).unwrap().len(), 512);
    }

    #[test]
    fn bad_keys_are_invalid_arguments() {
        for bad in [
            "", "/", "//a", "a//b", "a/", ".", "..", "a/..", "../a", "a/./b", "a\nb", "a\0", "\u{7f}",
            "a\u{85}b",
        ] {
            assert_eq!(check("t", bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
        assert!(check("t", &"k".repeat(513)).is_err());
        assert!(check("t", &"é".repeat(257)).is_err(), "512 are bytes, not characters");
    }

    #[test]
    fn a_prefix_may_be_empty_and_may_end_in_a_slash() {
        for (given, kept) in [("", ""), ("/", ""), ("a", "a"), ("a/", "a"), ("/a/b/", "a/b")] {
            assert_eq!(check_prefix("t", given).unwrap(), kept);
        }
        for bad in ["//", "a//", "a//b", "..", "a/../"] {
            assert!(check_prefix("t", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_segment_holds_no_slash() {
        assert!(check_segment("t", "user-service").is_ok());
        for bad in ["", "/a", "a/b", "a/", "..", "."] {
            assert!(check_segment("t", bad).is_err(), "{bad:?}");
        }
    }
}
