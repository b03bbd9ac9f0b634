//! `tracestate`: what the vendors of tracing systems send along with a trace.

use std::fmt;
use std::sync::Arc;

use super::error::TraceStateError;

/// How many members a list may have.
const MAX_MEMBERS: usize = 32;
/// How much of a list is passed on. W3C asks for at least as much.
const MAX_LEN: usize = 512;
/// Members that are longer than this are the first to go where a list is too long.
const LONG_MEMBER: usize = 128;

/// The `tracestate` of a trace: members `key=value`, the newest first, none of them ours. It is
/// passed on as it came. Cloning it is cheap.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TraceState(Option<Arc<str>>);

impl TraceState {
    /// Reads a list. Several headers are one list, joined by commas in their order.
    ///
    /// Empty members are left out. A list longer than 512 bytes is cut: first goes what is longer
    /// than 128 bytes, then the oldest members, which stand last.
    ///
    /// # Errors
    ///
    /// [`TraceStateError`]. W3C has the whole list dropped then, and the trace go on without it.
    pub fn parse(list: &str) -> Result<Self, TraceStateError> {
        let mut members: Vec<(&str, &str)> = Vec::new();
        for member in list.split(',') {
            let member = member.trim_matches([' ', '\t']);
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=').ok_or(TraceStateError::Member)?;
            if !is_key(key) || !is_value(value) {
                return Err(TraceStateError::Member);
            }
            if members.iter().any(|(other, _)| *other == key) {
                return Err(TraceStateError::Duplicate);
            }
            if members.len() == MAX_MEMBERS {
                return Err(TraceStateError::TooMany);
            }
            members.push((key, value));
        }
        let len = |(key, value): &(&str, &str)| key.len() + 1 + value.len();
        let total = |members: &[(&str, &str)]| {
            members.iter().map(len).sum::<usize>() + members.len().saturating_sub(1)
        };
        if total(&members) > MAX_LEN {
            members.retain(|member| len(member) <= LONG_MEMBER);
        }
        while total(&members) > MAX_LEN {
            members.pop();
        }
        if members.is_empty() {
            return Ok(TraceState(None));
        }
        let mut text = String::with_capacity(total(&members));
        for (key, value) in members {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(key);
            text.push('=');
            text.push_str(value);
        }
        Ok(TraceState(Some(text.into())))
    }

    /// The list as it is sent; empty where there are no members.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value of one vendor.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.as_str().split(',').find_map(|member| member.strip_prefix(key)?.strip_prefix('='))
    }
}

impl fmt::Debug for TraceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceState({:?})", self.as_str())
    }
}

/// `simple-key`, or `tenant-id@system-id`.
fn is_key(key: &str) -> bool {
    let rest = |text: &str, max: usize| {
        text.len() <= max
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    match key.split_once('@') {
        None => key.starts_with(|first: char| first.is_ascii_lowercase()) && rest(key, 256),
        Some((tenant, system)) => {
            tenant.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
                && rest(tenant, 241)
                && system.starts_with(|first: char| first.is_ascii_lowercase())
                && rest(system, 14)
        }
    }
}

/// Up to 256 printable characters of ASCII but `,` and `=`, of which the last is no space.
fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && !value.ends_with(' ')
        && value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b',' && b != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> String {
        TraceState::parse(list).unwrap().as_str().to_owned()
    }

    #[test]
    fn members_keep_their_order_and_lose_the_blanks_around_them() {
        assert_eq!(
            parsed("rojo=00f067aa0cc902b7,congo=t61rcWkgMzE"),
            "rojo=00f067aa0cc902b7,congo=t61rcWkgMzE"
        );
        assert_eq!(parsed(" foo=1 ,\tbar=2\t,,  ,baz=a b"), "foo=1,bar=2,baz=a b");
        assert_eq!(parsed(""), "");
        assert_eq!(parsed(" , ,"), "");
        let state = TraceState::parse("fw529a3039@dt=FfffAAAA,a=b").unwrap();
        assert_eq!(state.get("fw529a3039@dt"), Some("FfffAAAA"));
        assert_eq!(state.get("a"), Some("b"));
        assert_eq!(state.get("fw529a3039"), None);
        assert_eq!(TraceState::default().get(""), None);
    }

    #[test]
    fn what_is_no_member_drops_the_list() {
        for bad in [
            "foo",
            "foo=",
            "=1",
            "foo =1",
            "FOO=1",
            "foo=1=2",
            "foo=\u{e9}",
            "foo=1,bar",
            "1foo=1",
            "foo@=1",
            "@bar=1",
            "foo@@bar=1",
            "foo@bar@baz=1",
            "foo.bar=1",
            "foo@1bar=1",
            "foo=\u{7f}",
        ] {
            assert_eq!(TraceState::parse(bad), Err(TraceStateError::Member), "{bad}");
        }
        assert_eq!(TraceState::parse("foo=1,bar=2,foo=3"), Err(TraceStateError::Duplicate));
        assert!(TraceState::parse("0foo@bar=1").is_ok());
        let key = |len: usize| format!("{}=1", "z".repeat(len));
        assert!(TraceState::parse(&key(256)).is_ok());
        assert!(TraceState::parse(&key(257)).is_err());
        let tenant =
            |tenant: usize, system: usize| format!("{}@{}=1", "t".repeat(tenant), "v".repeat(system));
        assert!(TraceState::parse(&tenant(241, 14)).is_ok());
        assert!(TraceState::parse(&tenant(242, 1)).is_err());
        assert!(TraceState::parse(&tenant(1, 15)).is_err());
        let value = |len: usize| format!("a={}", "v".repeat(len));
        assert!(TraceState::parse(&value(256)).is_ok());
        assert!(TraceState::parse(&value(257)).is_err());
    }

    #[test]
    fn no_more_than_32_members_and_512_bytes_are_kept() {
        let list = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(parsed(&list(32)).split(',').count(), 32);
        assert_eq!(TraceState::parse(&list(33)), Err(TraceStateError::TooMany));
        // A long member goes first, wherever it stands.
        let long = format!("long={},{}", "x".repeat(200), list(32).replace("=v", "=vvvvvvvvvv"));
        let long = long.rsplit_once(',').unwrap().0.to_owned();
        let kept = parsed(&long);
        assert!(kept.len() <= 512 && kept.starts_with("k0=") && kept.contains("k30="), "{kept}");
        // Then the last.
        let many = (0..10).map(|i| format!("k{i}={}", "x".repeat(100))).collect::<Vec<_>>().join(",");
        let kept = parsed(&many);
        assert!(kept.len() <= 512 && kept.starts_with("k0=") && kept.split(',').count() == 4, "{kept}");
    }
}
