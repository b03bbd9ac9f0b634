//! Where a member is reached: a host and a port, as an endpoint says it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use coord_api::Result;
use http::Uri;

use crate::error::refuse;

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Without the brackets of an address of version 6.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The one address of the name that this is about. Without it, any of them.
    pub(crate) address: Option<IpAddr>,
    pub(crate) encrypted: bool,
}

impl Target {
    /// Reads an endpoint. `encrypts` where one without a scheme is encrypted, and none may say that
    /// it is not.
    pub(crate) fn parse(text: &str, encrypts: bool) -> Result<Target> {
        // Not repeated in the error: somebody may have written a password into it.
        const FAULT: &str = "an endpoint that is no `host:port`, `http://host:port` or `https://host:port`";
        let (encrypted, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return refuse(FAULT),
            None => (encrypts, text),
        };
        if encrypts && !encrypted {
            return refuse("an `http://` endpoint although TLS is asked for");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let Ok(uri) = format!("http://{authority}").parse::<Uri>() else { return refuse(FAULT) };
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return refuse(FAULT) };
        if host.is_empty() || port == 0 || authority.contains(['@', '/', '?', '#']) {
            return refuse(FAULT);
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_some_and(|host| host.parse::<Ipv6Addr>().is_err()) {
            return refuse(FAULT);
        }
        Ok(Target { host: bare.unwrap_or(host).to_owned(), port, address: None, encrypted })
    }

    /// `host:port`, as in a URL.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The address, where it is known without asking.
    pub(crate) fn known_address(&self) -> Option<IpAddr> {
        self.address.or_else(|| self.host.parse().ok())
    }

    /// Whether both lead to the same place, as far as can be told without asking anyone.
    pub(crate) fn is_same_place(&self, other: &Target) -> bool {
        let same_address = self.known_address().is_some() && self.known_address() == other.known_address();
        self.port == other.port && (self.host == other.host || same_address)
    }

    /// The URL of the member.
    ///
    /// # Errors
    ///
    /// The host is no name that a URL can have.
    pub(crate) fn uri(&self) -> std::result::Result<Uri, http::Error> {
        let scheme = if self.encrypted { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(self.authority()).path_and_query("/").build()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())?;
        match self.address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}
