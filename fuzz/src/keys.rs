//! What a key, a prefix, a name and an address may be (R4, R34).

use std::net::IpAddr;

use coord_api::{Error, ErrorKind, Outcome, address, key};

const OPERATION: &str = "fuzz";

/// What is taken is what R4 and R34 say, whichever way it is asked for, and what is refused is
/// `InvalidArgument`.
///
/// # Panics
///
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let relative = text.strip_prefix('/').unwrap_or(text);

    let taken = accepted(key::check(OPERATION, text));
    assert_eq!(taken, is_key(relative).then_some(relative), "a key: {text:?}");

    // A directory is what a key may be, with or without a `/` at its end; and all of it.
    let directory = relative.strip_suffix('/').unwrap_or(relative);
    let prefix = accepted(key::check_prefix(OPERATION, text));
    assert_eq!(prefix, (relative.is_empty() || is_key(directory)).then_some(directory), "a prefix: {text:?}");

    let segment = accepted(key::check_segment(OPERATION, text));
    assert_eq!(segment, (is_key(text) && !text.contains('/')).then_some(text), "a name: {text:?}");

    if let Some(taken) = taken {
        assert_eq!(key::check(OPERATION, taken).ok(), Some(taken), "taken once, taken again: {text:?}");
    }
    if let Some(host) = accepted(address::check(OPERATION, text)) {
        check_address(host);
    }
}

/// R4 in other words than the code's.
fn is_key(relative: &str) -> bool {
    (1..=512).contains(&relative.len())
        && !relative.chars().any(char::is_control)
        && relative.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

/// An address goes into the authority of a URL without any escape, and there means the same.
fn check_address(host: &str) {
    assert!(host.is_ascii() && host.len() <= 254, "{host:?}");
    if let Ok(ip) = host.parse::<IpAddr>() {
        assert!(address::is_of_somebody(ip), "{host:?}");
        assert!(!ip.is_unspecified() && !ip.is_multicast(), "{host:?}");
    } else {
        assert!(!host.contains(['/', ':', '@', '?', '#', '%', '[', ']', '\\']), "{host:?}");
        assert!(!host.chars().any(|c| c.is_control() || c.is_whitespace()), "{host:?}");
        let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
        assert!(
            last.chars().any(|c| !c.is_ascii_digit()),
            "some programs read a number as an address: {host:?}"
        );
    }
}

/// What was taken; what was refused was so in the way that is promised.
fn accepted<T>(checked: Result<T, Error>) -> Option<T> {
    checked
        .inspect_err(|error| {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied));
            assert!(error.to_string().contains(OPERATION), "{error}");
        })
        .ok()
}
