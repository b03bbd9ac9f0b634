//! The parts of a store's URL. Its text is never repeated in an error: somebody may have written a password into it.

use coord_api::{Error, Result};
use percent_encoding::percent_decode_str;

pub(crate) const OPERATION: &str = "coord.open";

/// A URL in its parts, decoded but for the hosts.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: String,
    /// Whether `//` follows the scheme.
    pub(crate) has_authority: bool,
    pub(crate) user: Option<String>,
    /// All hosts, as they stand there.
    pub(crate) hosts: String,
    /// With its leading `/`, where it has one.
    pub(crate) path: String,
    pub(crate) parameters: Vec<(String, String)>,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once(':') else { return refuse("a store is named by a URL, such as `memory://`") };
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
        let (has_authority, authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (true, authority, path)
            }
            None => (false, "", rest),
        };
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => {
                return refuse("a password in the URL; it belongs into a file or into the environment");
            }
            Some((user, hosts)) => (Some(decode(user)?), hosts),
            None => (None, authority),
        };
        Ok(Url {
            scheme: scheme.to_ascii_lowercase(),
            has_authority,
            user,
            hosts: hosts.to_owned(),
            path: decode(path)?,
            parameters: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        })
    }

    /// Refuses what a store has no use for.
    pub(crate) fn allow(&self, user: bool, hosts: bool, parameters: &[&str]) -> Result<()> {
        if !user && self.user.is_some() {
            return Err(Error::invalid_argument(OPERATION, format!("`{}:` knows no user", self.scheme)));
        }
        if !hosts && !self.hosts.is_empty() {
            return Err(Error::invalid_argument(OPERATION, format!("`{}:` knows no host; a path begins with a third `/`", self.scheme)));
        }
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in &self.parameters {
            if !parameters.contains(&name.as_str()) || seen.contains(&name.as_str()) {
                let known = if parameters.is_empty() { "none".to_owned() } else { parameters.join(", ") };
                return Err(Error::invalid_argument(
                    OPERATION,
                    format!("`{}:` does not know a parameter, or it is named twice; it knows: {known}", self.scheme),
                ));
            }
            seen.push(name);
        }
        Ok(())
    }
}

fn decode(text: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => refuse("a URL that is not UTF-8"),
    }
}

pub(crate) fn refuse<T>(message: &'static str) -> Result<T> {
    Err(Error::invalid_argument(OPERATION, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_parts() {
        let url = Url::parse("ETCD://sh%40op@h1:2379,h2:2379/team/a?name=x%20y&ca=/etc/ca.pem").unwrap();
        assert_eq!((url.scheme.as_str(), url.user.as_deref()), ("etcd", Some("sh@op")));
        assert_eq!((url.hosts.as_str(), url.path.as_str()), ("h1:2379,h2:2379", "/team/a"));
        assert_eq!(url.parameters, [("name".into(), "x y".into()), ("ca".into(), "/etc/ca.pem".into())]);
        let url = Url::parse("sled:relative/dir").unwrap();
        assert_eq!((url.has_authority, url.path.as_str()), (false, "relative/dir"));
        assert!(Url::parse("memory").is_err());
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        let refused = Url::parse("etcd://shop:hunter2@h1:2379").err().unwrap();
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    }

    #[test]
    fn what_a_store_has_no_use_for_is_refused() {
        let url = |text| Url::parse(text).unwrap();
        assert!(url("memory://").allow(false, false, &[]).is_ok());
        assert!(url("memory://host").allow(false, false, &[]).is_err());
        assert!(url("memory://user@").allow(false, false, &[]).is_err());
        assert!(url("memory://?a=1").allow(false, false, &[]).is_err());
        assert!(url("x://?a=1").allow(false, false, &["a"]).is_ok());
        assert!(url("x://?a=1&a=2").allow(false, false, &["a"]).is_err());
    }
}
