//! Where a server is reached.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use coord_api::{Error, Result, address};

const OPERATION: &str = "grpc.endpoint";

/// The host and port of one server, checked.
///
/// Two endpoints are equal when they lead to the same place in the same way: host names are
/// compared without case, IPv6 addresses by value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Without brackets, in lower case.
    host: String,
    port: u16,
    scheme: Scheme,
}

/// What the address says about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// Nothing: the channel decides.
    Unsaid,
    Http,
    Https,
}

impl Endpoint {
    /// An endpoint from a host name or IP address, IPv6 with or without brackets, and a port.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a host that is neither a name nor an address, or under which nobody
    /// can be reached ([`address::check`](coord_api::address::check)), and for port zero.
    pub fn new(host: &str, port: u16) -> Result<Self> {
        if port == 0 {
            return Err(Error::invalid_argument(OPERATION, "port zero"));
        }
        Ok(Endpoint { host: normal_host(host)?, port, scheme: Scheme::Unsaid })
    }

    /// The host name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never zero.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, where it is an address and no name.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }
}

/// Reads `host:port`, with or without `http://` or `https://` before it. An IPv6 address stands in
/// brackets, as everywhere.
///
/// # Errors
///
/// `InvalidArgument` for anything else, a path included.
impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |what| Error::invalid_argument(OPERATION, what);
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(_) => return Err(invalid("a scheme other than http and https")),
            None => (Scheme::Unsaid, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| invalid("no port"))?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(invalid("an IPv6 address without brackets before its port"));
        }
        let port = port.parse().map_err(|_| invalid("a port that is no number up to 65535"))?;
        Ok(Endpoint { scheme, ..Endpoint::new(host, port)? })
    }
}

/// `host:port`, IPv6 in brackets: the authority of a request.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// A host in the form in which it is compared.
fn normal_host(host: &str) -> Result<String> {
    let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let host = bracketed.filter(|inner| inner.contains(':')).unwrap_or(host);
    address::check(OPERATION, host)?;
    Ok(match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;

    use super::*;

    #[test]
    fn hosts_are_names_and_addresses_with_and_without_brackets() {
        for (host, shown) in [
            ("localhost", "localhost:80"),
            ("Db-1.Example.COM.", "db-1.example.com.:80"),
            ("my_service", "my_service:80"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("::1", "[::1]:80"),
            ("[::1]", "[::1]:80"),
            ("2001:DB8:0:0::1", "[2001:db8::1]:80"),
        ] {
            let endpoint = Endpoint::new(host, 80).unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(shown.parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn what_is_no_address_is_an_invalid_argument() {
        let long = "a.".repeat(130);
        let hosts = [
            "",
            " ",
            "a b",
            "10.0.0.1:80",
            "http://a",
            "a/b",
            "[10.0.0.1]",
            "[::1",
            "::1]",
            "a..b",
            "-a",
            "a-",
            "ü",
            "fe80::1%eth0",
            "0.0.0.0",
            "::",
            "[::]",
            "256.1.1.1",
            "1.2.3",
            "010.0.0.1",
            &long,
        ];
        for host in hosts {
            assert_eq!(Endpoint::new(host, 80).unwrap_err().kind(), ErrorKind::InvalidArgument, "{host:?}");
        }
        assert_eq!(Endpoint::new("a", 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
        for text in
            ["", "a", "a:", "a:x", "a:0", "a:65536", "::1:80", "ftp://a:1", "http://a:1/b", "http://", ":80"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap_err().kind(), ErrorKind::InvalidArgument, "{text:?}");
        }
    }

    #[test]
    fn a_scheme_makes_a_difference() {
        let read = |text: &str| text.parse::<Endpoint>().unwrap();
        assert_eq!(read("http://a:1/").scheme(), Scheme::Http);
        assert_eq!(read("https://A:1").to_string(), "a:1");
        assert_ne!(read("https://a:1"), read("a:1"));
    }
}
