//! What a provider is called, for people who look into the store.

use coord_api::Result;

use crate::url::{Url, refuse};

/// The variable with the name.
const NAME: &str = "COORD_NAME";

/// Long enough for anybody, and short enough to stand in every lock.
const MAX_BYTES: usize = 256;

/// The name that the URL gives, else the one of the variable `COORD_NAME`, else host and pid.
pub(crate) fn of(url: &Url, environment: impl Fn(&'static str) -> Result<Option<String>>) -> Result<String> {
    let name = match url.get("name")? {
        Some(name) => name.to_owned(),
        None => match environment(NAME)? {
            Some(name) => name,
            None => return Ok(host_and_pid()),
        },
    };
    if name.len() > MAX_BYTES || name.chars().any(char::is_control) {
        return refuse(
            "a name of more than 256 bytes, or with a control character; shorten `name` or COORD_NAME",
        );
    }
    Ok(name)
}

fn host_and_pid() -> String {
    let host = gethostname::gethostname();
    format!("{}:{}", host.to_string_lossy(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(url: &str, variable: Option<&str>) -> Result<String> {
        of(&Url::parse(url)?, |_| Ok(variable.map(str::to_owned)))
    }

    #[test]
    fn the_url_goes_before_the_environment_and_that_before_host_and_pid() {
        for scheme in ["memory://", "sled:///dir", "etcd://h:1", "etcds://h:1"] {
            assert_eq!(named(&format!("{scheme}?name=shop%20a"), Some("other")).unwrap(), "shop a");
            assert_eq!(named(scheme, Some("other")).unwrap(), "other");
            let (host, pid) = named(scheme, None)
                .unwrap()
                .rsplit_once(':')
                .map(|(host, pid)| (host.to_owned(), pid.to_owned()))
                .unwrap();
            assert!(!host.is_empty() && pid == std::process::id().to_string(), "{host} {pid}");
        }
    }

    #[test]
    fn a_name_that_nobody_could_read_is_refused() {
        for bad in ["a\nb", &"x".repeat(257)] {
            assert!(named("memory://", Some(bad)).is_err(), "{bad:?}");
        }
        assert!(named("memory://?name=", None).is_err());
    }
}
