//! The parts of a store's URL, read so strictly that none can be taken for something else than was
//! meant.
//!
//! `tests/url.rs` has the table of what is taken, and of what is said about everything else. No
//! error repeats the URL: somebody may have written a password into it.

use std::fmt::{self, Write};

use coord_api::{Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

pub(crate) const OPERATION: &str = "coord.open";

const PASSWORD: &str =
    "a password in the URL; it belongs into the file that `password_file` names, or into COORD_ETCD_PASSWORD";

const ANY_AT: &str = "an `@` that does not end the name of a user right behind `//`; where it is part of a password, that belongs into the file that \
                      `password_file` names, or into COORD_ETCD_PASSWORD, and anywhere else write `%40`";

/// What some people call the parameter that they put a password into.
const SECRETS: [&str; 7] = ["pass", "passwd", "password", "pwd", "secret", "token", "key_password"];

/// What is displayed as it is. Everything else has a meaning somewhere, or is not of ASCII.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// The store that a URL is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Memory,
    Sled,
    Etcd,
    Etcds,
}

impl Scheme {
    const ALL: [Scheme; 4] = [Scheme::Memory, Scheme::Sled, Scheme::Etcd, Scheme::Etcds];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Memory => "memory",
            Scheme::Sled => "sled",
            Scheme::Etcd => "etcd",
            Scheme::Etcds => "etcds",
        }
    }

    fn is_cluster(self) -> bool {
        matches!(self, Scheme::Etcd | Scheme::Etcds)
    }

    /// The scheme at the beginning of a URL, and what follows its colon.
    fn split(text: &str) -> Result<(Scheme, &str)> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return match text.starts_with(['/', '.', '~']) {
                true => refuse("a path and no URL; a directory is written `sled:///var/lib/shop`"),
                false => refuse("no scheme; write `memory://`, `sled:///var/lib/shop` or `etcd://host:2379`"),
            };
        };
        if let Some(known) = Scheme::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(scheme))
        {
            return Ok((known, rest));
        }
        match scheme.to_ascii_lowercase().as_str() {
            "http" => refuse("the scheme `http`; a cluster of etcd is written `etcd://host:2379`"),
            "https" => {
                refuse("the scheme `https`; an encrypted cluster of etcd is written `etcds://host:2379`")
            }
            "file" => refuse("the scheme `file`; a directory is written `sled:///var/lib/shop`"),
            _ if rest.starts_with(|c: char| c.is_ascii_digit()) => {
                refuse("a host without a scheme; write `etcd://host:2379`")
            }
            _ => refuse(
                "an unknown scheme; known are `memory:`, `sled:` (feature `sled`), `etcd:` and `etcds:` (feature `etcd`), \
                 so write for example `etcd://host:2379`",
            ),
        }
    }
}

/// A URL in its parts, without percent-escapes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    pub(crate) user: Option<String>,
    /// Each `host:port`.
    pub(crate) hosts: Vec<String>,
    /// The directory of a store on disk, the namespace of a cluster; empty where there is none.
    pub(crate) path: String,
    /// The parameters, with their values where they have one.
    parameters: Vec<(String, Option<String>)>,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        check_at(text)?;
        check_characters(text)?;
        let (scheme, rest) = Scheme::split(text)?;
        if rest.contains('#') {
            return refuse("a `#`, which would cut the URL off; write `%23`");
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (Some(authority), path)
            }
            None => (None, rest),
        };
        let (user, hosts) = match authority.and_then(|authority| authority.split_once('@')) {
            Some(_) if !scheme.is_cluster() => {
                return refuse(
                    "a user, where nobody signs in; leave out what stands before the `@`, and the `@`",
                );
            }
            Some((user, hosts)) => (Some(self::user(user)?), Some(hosts)),
            None => (None, authority),
        };
        let (hosts, path) = match scheme {
            Scheme::Memory => (Vec::new(), nothing(hosts.unwrap_or_default(), path)?),
            Scheme::Sled => (Vec::new(), directory(hosts, path)?),
            Scheme::Etcd | Scheme::Etcds => (self::hosts(scheme, hosts)?, namespace(path)?),
        };
        Ok(Url {
            scheme,
            user,
            hosts,
            path,
            parameters: query.map(parameters).transpose()?.unwrap_or_default(),
        })
    }

    /// Refuses parameters that the store does not know.
    pub(crate) fn allow(&self, known: &[&'static str]) -> Result<()> {
        for (index, (name, _)) in self.parameters.iter().enumerate() {
            // The name as we know it: the one of the URL is never repeated.
            let Some(known) = known.iter().find(|known| *known == name) else {
                if SECRETS.contains(&name.to_ascii_lowercase().as_str()) {
                    return refuse(PASSWORD);
                }
                return refuse(format!(
                    "an unknown parameter; `{}:` knows {}",
                    self.scheme.as_str(),
                    known.join(", ")
                ));
            };
            if self.parameters.iter().take(index).any(|(earlier, _)| earlier == name) {
                return refuse(format!("`{known}` stands there twice; write it once"));
            }
        }
        Ok(())
    }

    /// The value of a parameter that needs one.
    pub(crate) fn get(&self, name: &'static str) -> Result<Option<&str>> {
        match self.parameters.iter().find(|(known, _)| known == name) {
            Some((_, Some(value))) if !value.is_empty() => Ok(Some(value)),
            Some(_) => refuse(format!("`{name}` without a value; write `{name}=…`, or leave it out")),
            None => Ok(None),
        }
    }

    /// Whether a parameter is there that is named alone, or with `true` or `false`.
    #[cfg(feature = "etcd")]
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool> {
        match self.parameters.iter().find(|(known, _)| known == name) {
            Some((_, None)) => Ok(true),
            Some((_, Some(value))) if value == "true" => Ok(true),
            Some((_, Some(value))) if value == "false" => Ok(false),
            Some(_) => {
                refuse(format!("`{name}` is neither `true` nor `false`; write `{name}`, or leave it out"))
            }
            None => Ok(false),
        }
    }

    /// The directory inside the store that everything is kept in: the path of a cluster, or the
    /// parameter of its name.
    pub(crate) fn namespace(&self) -> Result<Option<&str>> {
        let named = self.get("namespace")?;
        if named.is_some_and(|named| named.starts_with('/') || named.ends_with('/')) {
            return refuse("a `/` at an end of the namespace; take it away");
        }
        if !self.scheme.is_cluster() || self.path.is_empty() {
            return Ok(named);
        }
        match named {
            Some(_) => refuse("two namespaces; write the one in the path, or the one in `namespace`"),
            None => Ok(Some(&self.path)),
        }
    }
}

impl fmt::Display for Url {
    /// In one spelling, without the parameters but for the namespace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme.as_str())?;
        if self.scheme != Scheme::Sled {
            f.write_str("//")?;
        }
        if let Some(user) = &self.user {
            write!(f, "{}@", utf8_percent_encode(user, PLAIN))?;
        }
        f.write_str(&self.hosts.join(","))?;
        if self.scheme.is_cluster() {
            if let Ok(Some(namespace)) = self.namespace() {
                f.write_char('/')?;
                write_path(f, namespace)?;
            }
            return Ok(());
        }
        write_path(f, &self.path)?;
        if let Ok(Some(namespace)) = self.namespace() {
            f.write_str("?namespace=")?;
            write_path(f, namespace)?;
        }
        Ok(())
    }
}

fn write_path(f: &mut fmt::Formatter<'_>, path: &str) -> fmt::Result {
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            f.write_char('/')?;
        }
        write!(f, "{}", utf8_percent_encode(segment, PLAIN))?;
    }
    Ok(())
}

/// A URL is of printable ASCII, without what shells, quotes and templates leave behind.
fn check_characters(text: &str) -> Result<()> {
    if text.is_empty() {
        return refuse("an empty URL; write for example `memory://`");
    }
    if text.trim() != text {
        return refuse("white space around the URL; take it away");
    }
    for c in text.chars() {
        match c {
            '$' | '{' | '}' => {
                return refuse(
                    "a variable that nothing was put in for; write its value, and a `$` that is meant as `%24`",
                );
            }
            '"' | '\'' | '`' => {
                return refuse("a quotation mark; take it away, or write `%22` or `%27` where it is meant");
            }
            '\\' => return refuse("a `\\`; write `/`, or `%5C` where it is meant"),
            '<' | '>' | '^' | '|' => {
                return refuse("a character that no URL has; write its percent-escape, such as `%7C`");
            }
            c if c.is_ascii_graphic() => {}
            c if c.is_ascii() => return refuse("white space or a control character; write a space as `%20`"),
            _ => {
                return refuse(
                    "a character that is not of ASCII; write its UTF-8 in percent-escapes, an `é` as `%C3%A9`",
                );
            }
        }
    }
    Ok(())
}

/// The only `@` ends the name of a user, right behind `//`.
///
/// A password may have any character in it, `/`, `?`, `#` and `@` too, and then splits the URL
/// elsewhere than its author believes. So this is looked at first, before anything else is made of
/// the text.
fn check_at(text: &str) -> Result<()> {
    let Some((before, _)) = text.rsplit_once('@') else { return Ok(()) };
    let rest = before.split_once(':').map_or(before, |(_, rest)| rest);
    match rest.strip_prefix("//") {
        Some(user) if user.contains(['/', '?', '#', '@']) => refuse(ANY_AT),
        Some(user) if user.contains(':') => refuse(PASSWORD),
        Some(_) => Ok(()),
        None => refuse(ANY_AT),
    }
}

/// Who signs in.
fn user(text: &str) -> Result<String> {
    if text.is_empty() {
        return refuse("an `@` without a user; write `etcd://user@host:2379`, or leave it out");
    }
    let user = decode(text, "")?;
    match user.contains(':') {
        true => refuse(PASSWORD),
        false => Ok(user),
    }
}

/// A store in memory is nowhere.
fn nothing(hosts: &str, path: &str) -> Result<String> {
    match (hosts, path) {
        ("", "" | "/") => Ok(String::new()),
        _ => refuse("a host or a path, which a store in memory has not; write `memory://`"),
    }
}

/// `/dir` from the root, `./dir` or `../dir` from the working directory.
fn directory(hosts: Option<&str>, path: &str) -> Result<String> {
    const WHICH: &str =
        "from the root write `sled:///var/lib/shop`, from the working directory `sled:./shop`";
    const NONE: &str = "no directory; write `sled:///var/lib/shop`";
    let absolute = path.starts_with('/');
    match hosts {
        Some("~") => return refuse("a `~`, which only a shell knows; write the home directory itself"),
        Some("") | None => {}
        Some(_) => return refuse(format!("a host, which a directory has not; {WHICH}")),
    }
    if path.is_empty() {
        return refuse(NONE);
    }
    let (mut rising, mut named) = (!absolute, false);
    let mut decoded = String::new();
    let segments = path.strip_prefix('/').unwrap_or(path);
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    for (index, segment) in segments.split('/').enumerate() {
        if absolute || index > 0 {
            decoded.push('/');
        }
        if segment.starts_with('~') {
            return refuse("a `~`, which only a shell knows; write the home directory itself, or `%7E`");
        }
        let name = decode(segment, "")?;
        match name.as_str() {
            "." | ".." if rising => {}
            "." | ".." => return refuse("a `.` or `..` on the way; write where the directory really is"),
            "" if segments.is_empty() => return refuse(NONE),
            "" => return refuse("a doubled `/`; write one"),
            _ if !absolute && index == 0 => {
                return refuse(format!(
                    "a directory that may be meant from the root or from the working directory; {WHICH}"
                ));
            }
            _ => (rising, named) = (false, true),
        }
        decoded.push_str(&name);
    }
    match named {
        true => Ok(decoded),
        false => {
            refuse("a directory that is not the store's alone; write one of its own, such as `sled:./shop`")
        }
    }
}

/// The directory of a cluster that everything is kept in.
fn namespace(path: &str) -> Result<String> {
    let Some(segments) = path.strip_prefix('/').filter(|segments| !segments.is_empty()) else {
        return Ok(String::new());
    };
    let mut decoded = Vec::new();
    for segment in segments.split('/') {
        if segment.contains([':', ',']) {
            return refuse(
                "a `:` or a `,` in the namespace; all hosts stand before the first `/`, and in a name write `%3A` or `%2C`",
            );
        }
        let name = decode(segment, "")?;
        match name.as_str() {
            "" if segments.ends_with('/') => {
                return refuse("a `/` at the end of the namespace; take it away");
            }
            "" => return refuse("a doubled `/`; write one"),
            "." | ".." => return refuse("a `.` or `..` in the namespace; write its whole name"),
            _ => decoded.push(name),
        }
    }
    Ok(decoded.join("/"))
}

/// The members of a cluster.
fn hosts(scheme: Scheme, hosts: Option<&str>) -> Result<Vec<String>> {
    let scheme = scheme.as_str();
    let Some(hosts) = hosts else {
        return refuse(format!("no `//` before the hosts; write `{scheme}://host:2379`"));
    };
    if hosts.is_empty() {
        return refuse(format!("no host; write `{scheme}://localhost:2379`"));
    }
    let mut found: Vec<String> = Vec::new();
    for host in hosts.split(',') {
        let host = self::host(host)?;
        if found.iter().any(|known| known.eq_ignore_ascii_case(&host)) {
            return refuse("a host that stands there twice; write each member once");
        }
        found.push(host);
    }
    Ok(found)
}

fn host(text: &str) -> Result<String> {
    if text.is_empty() {
        return refuse("an empty host; write `host:2379`, and one `,` between two");
    }
    if text.ends_with(':') {
        return refuse(
            "a scheme before a host, or a `:` without a port; write `host:2379`, and `etcds://` where it is encrypted",
        );
    }
    let (name, port) = match text.strip_prefix('[').map(|inner| inner.split_once(']')) {
        Some(Some((address, port))) => {
            match address.parse::<std::net::Ipv6Addr>() {
                Ok(address) if address.is_unspecified() => return refuse(UNSPECIFIED),
                Ok(_) => {}
                Err(_) => {
                    return refuse(
                        "no IPv6 address between `[` and `]`; write `[2001:db8::1]:2379`, without a zone",
                    );
                }
            }
            (address, port.strip_prefix(':'))
        }
        Some(None) => return refuse("a `[` without a `]`; write an IPv6 address as `[2001:db8::1]:2379`"),
        None if text.matches(':').count() > 1 => {
            return refuse(
                "more than one `:` in a host; write `host:2379`, one `,` between two, and IPv6 as `[2001:db8::1]:2379`",
            );
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            check_name(name)?;
            (name, port)
        }
    };
    let Some(port) = port else { return refuse("a host without a port; write `host:2379`") };
    let number = port.bytes().all(|digit| digit.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten();
    match number {
        Some(1..) if !port.starts_with('0') && !name.is_empty() => Ok(text.to_owned()),
        _ => refuse("a port that is no number from 1 to 65535; write `host:2379`, and one `,` between two"),
    }
}

const UNSPECIFIED: &str =
    "the address that a server listens on; write the one that it is reached at, such as `127.0.0.1:2379`";

/// A host's name, or its IPv4 address.
fn check_name(name: &str) -> Result<()> {
    let named = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > 253 || !name.split('.').all(named) {
        return refuse(
            "no name of a host; it has letters, digits, `-` and `.` alone: write `host:2379`, and one `,` between two",
        );
    }
    let numeric = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_digit()) || label.starts_with("0x") || label.starts_with("0X")
    };
    if !name.rsplit('.').next().is_some_and(numeric) {
        return Ok(());
    }
    // What ends in a number is an address (RFC 3986, WHATWG): `10.1` would be one to some, and a
    // name to others.
    match name.parse::<std::net::Ipv4Addr>() {
        Ok(address) if address.is_unspecified() => refuse(UNSPECIFIED),
        Ok(_) => Ok(()),
        Err(_) => refuse("a number that is no IPv4 address; write all four parts, such as `10.0.0.1:2379`"),
    }
}

fn parameters(query: &str) -> Result<Vec<(String, Option<String>)>> {
    let mut parameters = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return refuse("an empty parameter; write `?name=value&name=value`");
        }
        if pair.contains('+') {
            return refuse(
                "a `+` in a parameter, which is a space to some; write `%2B`, or `%20` for a space",
            );
        }
        parameters.push((decode_value(name)?, value.map(decode_value).transpose()?));
    }
    Ok(parameters)
}

fn decode_value(text: &str) -> Result<String> {
    // A value may be a path, where the separators are its own.
    text.split('/').map(|part| decode(part, ":,")).collect::<Result<Vec<_>>>().map(|parts| parts.join("/"))
}

/// Takes the percent-escapes out of what has no `/` in it.
fn decode(text: &str, also_plain: &str) -> Result<String> {
    let bytes = text.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'%' => {
                let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
                if !(hex(index + 1) && hex(index + 2)) {
                    return refuse("a `%` without two hexadecimal digits behind it; write `%25`");
                }
            }
            b'-' | b'.' | b'_' | b'~' => {}
            byte if byte.is_ascii_alphanumeric() || also_plain.as_bytes().contains(byte) => {}
            byte => {
                let character = char::from(*byte);
                return refuse(format!(
                    "a `{character}` where it has a meaning of its own; as a part of a name write `%{byte:02X}`"
                ));
            }
        }
    }
    let Ok(decoded) = percent_decode_str(text).decode_utf8() else {
        return refuse("percent-escapes that are not UTF-8; write `é` as `%C3%A9`");
    };
    if decoded.contains('/') {
        return refuse(
            "a `/` as the percent-escape `%2F`; write `/` where it parts two names, another character where it does not",
        );
    }
    if decoded.chars().any(char::is_control) {
        return refuse("a control character as a percent-escape; take it away");
    }
    Ok(decoded.into_owned())
}

pub(crate) fn refuse<T>(message: impl Into<std::borrow::Cow<'static, str>>) -> Result<T> {
    Err(Error::invalid_argument(OPERATION, message))
}
