//! What the address of an instance may be (R34): a host name or an IP address under which others
//! can reach it. Checked before any I/O, the same on every backend.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Error, Result};

/// The longest host name, not counting a final dot (RFC 1035).
const LONGEST_NAME: usize = 253;

/// The longest part of a host name between two dots (RFC 1035).
const LONGEST_LABEL: usize = 63;

/// Checks the address of an instance and returns it.
///
/// - A **host name** is one of letters, digits, `-` and, because container networks use it, `_`;
///   with or without a final dot. A name that is not ASCII is written in its ASCII form (`xn--…`).
/// - An **IPv4 address** has four decimal numbers without leading zeros. Whatever else ends in a
///   number is neither a name nor an address: some programs would read `10.1` as 10.0.0.1, and
///   `010.0.0.1` as 8.0.0.1.
/// - An **IPv6 address** stands without brackets. One with a zone (`fe80::1%eth0`), or that needs
///   one, means something else on every host.
/// - Addresses of **nobody** are refused: unspecified ones such as `0.0.0.0` and `::`, which are
///   for listening and lead a client to itself, multicast and broadcast.
/// - Loopback addresses and `localhost` are good: programs on one host use them.
///
/// # Errors
///
/// `InvalidArgument`, which says what to write instead. The address is not repeated: it might hold
/// a password.
///
/// # Examples
///
/// ```
/// use coord_api::address;
///
/// assert!(address::check("example", "db-1.example.com").is_ok());
/// assert!(address::check("example", "10.0.0.1").is_ok());
/// assert!(address::check("example", "2001:db8::1").is_ok());
/// assert!(address::check("example", "0.0.0.0").is_err());
/// assert!(address::check("example", "db-1.example.com:80").is_err());
/// assert!(address::check("example", "http://db-1.example.com").is_err());
/// ```
pub fn check<'a>(operation: &'static str, address: &'a str) -> Result<&'a str> {
    match fault(address) {
        None => Ok(address),
        Some(fault) => Err(Error::invalid_argument(operation, fault)),
    }
}

/// Whether somebody can be reached at an IP address: it is not unspecified, multicast or broadcast,
/// nor one that means another host on every host.
#[must_use]
pub fn is_of_somebody(ip: IpAddr) -> bool {
    fault_of_ip(ip).is_none()
}

/// What is wrong with an address.
fn fault(address: &str) -> Option<&'static str> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return fault_of_ip(ip);
    }
    if address.is_empty() {
        return Some(
            "an empty address; register the host name or IP address under which clients reach the instance",
        );
    }
    if address.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Some(
            "an address with white space or a control character in it; write the host name or IP address alone",
        );
    }
    if address.contains("://") {
        return Some(
            "an address with a scheme; write the host name or IP address alone, and the port in its own field",
        );
    }
    if address.contains('@') {
        return Some("an address with a user in it; write the host name or IP address alone");
    }
    if address.contains(['/', '\\', '?', '#']) {
        return Some("an address with a path in it; write the host name or IP address alone");
    }
    if address.contains(['[', ']']) {
        return Some(
            "an address in brackets; write an IPv6 address without them, and the port in its own field",
        );
    }
    if let Some((ip, _zone)) = address.split_once('%') {
        return Some(match ip.parse::<Ipv6Addr>() {
            Ok(_) => {
                "an IPv6 address with a zone, which means something else on every host; register an address that others can reach"
            }
            Err(_) => "an address with a % in it; write the host name or IP address alone",
        });
    }
    if address.contains(':') {
        return Some(match address.matches(':').count() {
            1 => "an address with a port in it; write the port in its own field",
            _ => "an address with colons that is no IPv6 address",
        });
    }
    if !address.is_ascii() {
        return Some("a host name that is not ASCII; write its ASCII form (xn--…)");
    }
    let name = address.strip_suffix('.').unwrap_or(address);
    if name.len() > LONGEST_NAME {
        return Some("a host name of more than 253 characters");
    }
    fault_of_name(name)
}

fn fault_of_name(name: &str) -> Option<&'static str> {
    for label in name.split('.') {
        if label.is_empty() {
            return Some("a host name with nothing before, between or after its dots");
        }
        if label.len() > LONGEST_LABEL {
            return Some("a host name with more than 63 characters between two dots");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Some(
                "a host name with a character that none has; they have letters, digits, `-` and `_`",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("a host name with a `-` at the beginning or end of a part");
        }
    }
    if name.rsplit('.').next().is_some_and(is_number) {
        return Some(
            "a number, or several, that is no IPv4 address; write four decimal numbers up to 255 without leading zeros, as in 10.0.0.1",
        );
    }
    None
}

/// Whether a label is read as a number by programs that take short, octal and hexadecimal forms of
/// IPv4 addresses. No name of a host ends in one.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        || label.bytes().all(|byte| byte.is_ascii_digit())
}

fn fault_of_ip(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => fault_of_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => fault_of_v4(ip),
            None => fault_of_v6(ip),
        },
    }
}

const UNSPECIFIED: &str = "an address to listen on, under which nobody can be reached; register the host name or IP address that clients use";
const MANY: &str = "a multicast or broadcast address, under which no single instance can be reached";

fn fault_of_v4(ip: Ipv4Addr) -> Option<&'static str> {
    // All of 0.0.0.0/8 means "this network".
    if ip.octets().first() == Some(&0) {
        Some(UNSPECIFIED)
    } else if ip.is_multicast() || ip.is_broadcast() {
        Some(MANY)
    } else {
        None
    }
}

fn fault_of_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some(UNSPECIFIED)
    } else if ip.is_multicast() {
        Some(MANY)
    } else if ip.is_unicast_link_local() {
        Some(
            "a link-local IPv6 address, which means something else on every host; register an address that others can reach",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn every_kind_of_address_is_decided() {
        let (label, long) = ("a".repeat(63), "a.".repeat(126) + "a");
        let good = [
            "localhost",
            "a",
            "db-1",
            "Db-1.Example.COM",
            "db-1.example.com.",
            "my_service",
            "_http._tcp.example.com",
            "xn--bcher-kva.example",
            "3com.com",
            "1password",
            "0xg",
            "10.0.0.1.example.com",
            "a1.b2",
            "3f2a",
            &label,
            &long,
            "10.0.0.1",
            "127.0.0.1",
            "192.168.255.255",
            "169.254.0.1",
            "1.0.0.0",
            "223.255.255.254",
            "::1",
            "2001:db8::1",
            "2001:DB8:0:0:0:0:0:1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
        ];
        for address in good {
            assert_eq!(check("t", address).map_err(|error| error.to_string()), Ok(address), "{address:?}");
        }
        let (long_label, long_name) = ("a".repeat(64), "a.".repeat(127) + "a");
        let bad = [
            // What is wrong, in a word that the error has.
            (
                "listen",
                &[
                    "0.0.0.0",
                    "::",
                    "0:0:0:0:0:0:0:0",
                    "::0",
                    "::0.0.0.0",
                    "::ffff:0.0.0.0",
                    "0.0.0.1",
                    "0.1.2.3",
                ][..],
            ),
            (
                "multicast",
                &["224.0.0.1", "239.255.255.255", "255.255.255.255", "ff02::1", "::ffff:224.0.0.1"],
            ),
            ("link-local", &["fe80::1", "fe80:0:0:0::1", "febf::1"]),
            ("zone", &["fe80::1%eth0", "fe80::1%1", "::1%lo", "2001:db8::1%"]),
            ("empty", &[""]),
            (
                "white space",
                &[" ", "\t", "10.0.0.1 ", " localhost", "a b", "local\nhost", "a\0", "a\u{a0}b", "\u{3000}"],
            ),
            (
                "scheme",
                &["http://a", "https://10.0.0.1", "grpc://a:80", "dns:///a", "://a", "tcp://user:secret@a"],
            ),
            ("user", &["me@a", "me:secret@a", "me:secret@10.0.0.1:80", "@a"]),
            ("path", &["a/b", "/a", "a/", "a?b", "a#b", "10.0.0.1/8", "a\\b", "unix:/run/a"]),
            ("brackets", &["[::1]", "[::1]:80", "[::]", "[10.0.0.1]", "[a]", "[::1", "::1]"]),
            ("port", &["a:80", "10.0.0.1:80", "a:", ":80", "localhost:http", "0.0.0.0:80"]),
            (
                "colons",
                &["::1::2", ":::", "1:2:3:4:5:6:7:8:9", "a:b:c", "2001:db8::g", "::256.0.0.1", "::1.2.3"],
            ),
            ("%", &["a%20b", "%", "10.0.0.1%eth0", "%2e"]),
            ("ASCII", &["bücher.example", "ü", "１０.0.0.1", "a。b"]),
            ("253", &[&long_name]),
            ("63", &[&long_label]),
            ("dots", &[".", "..", "a..b", ".a", "a..", "10.0.0.1.."]),
            (
                "character",
                &[
                    "*",
                    "*.example.com",
                    "a,b",
                    "a;b",
                    "a!",
                    "~",
                    "a'b",
                    "10.0.0.1,10.0.0.2",
                    "${HOST}",
                    "<host>",
                    "a=b",
                    "a+b",
                ],
            ),
            ("beginning or end", &["-a", "a-", "a.-b", "a-.b", "-", "-1.0.0.1"]),
            (
                "no IPv4",
                &[
                    "256.1.1.1",
                    "1.2.3",
                    "1.2.3.4.5",
                    "010.0.0.1",
                    "10.0.0.08",
                    "127.1",
                    "2130706433",
                    "0x7f000001",
                    "0x7f.0.0.1",
                    "0x7f.1",
                    "0X7F.0.0.0X1",
                    "0",
                    "00.00.00.00",
                    "1.2.3.4.",
                    "a.1",
                    "example.123",
                    "999.999.999.999",
                    "0x",
                ],
            ),
        ];
        for (word, addresses) in bad {
            for address in addresses {
                let error = check("t", address).expect_err(address);
                assert_eq!(
                    (error.kind(), error.operation()),
                    (ErrorKind::InvalidArgument, "t"),
                    "{address:?}"
                );
                assert!(error.message().contains(word), "{address:?}: {error}");
                assert!(!error.to_string().contains("secret"), "{error}");
            }
        }
    }

    #[test]
    fn an_ip_address_is_of_somebody_where_it_could_be_registered() {
        for ip in [
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "fe80::1",
            "ff02::1",
            "::ffff:0.0.0.0",
        ] {
            assert_eq!(is_of_somebody(ip.parse().unwrap()), check("t", ip).is_ok(), "{ip}");
        }
    }
}
