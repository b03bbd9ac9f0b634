//! An etcd cluster by URL.

use std::fs;
use std::time::Duration;

use coord_api::{Error, Result};
use coord_etcd::{Credentials, EtcdOptions, Tls};

use crate::url::{OPERATION, Url, refuse};

/// The variable with the password.
const PASSWORD: &str = "COORD_ETCD_PASSWORD";
/// The variable that names a file with the password.
const PASSWORD_FILE: &str = "COORD_ETCD_PASSWORD_FILE";

const PARAMETERS: [&str; 15] = [
    "attempt_timeout",
    "attempts",
    "ca",
    "cert",
    "connect_timeout",
    "initial_delay",
    "keepalive_interval",
    "keepalive_timeout",
    "key",
    "max_delay",
    "multiplier",
    "name",
    "password_file",
    "server_name",
    "total_timeout",
];

/// The options that a URL names. Reads the files that it names, and variables through `environment`; no other I/O.
pub(crate) fn options(url: &Url, environment: impl Fn(&str) -> Option<String>) -> Result<EtcdOptions> {
    url.allow(true, true, &PARAMETERS)?;
    let encrypted = url.scheme == "etcds";
    let get = |name: &str| url.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());

    let mut options = EtcdOptions::default();
    if !url.hosts.is_empty() {
        let scheme = if encrypted { "https" } else { "http" };
        options.endpoints = url.hosts.split(',').map(|host| format!("{scheme}://{host}")).collect();
    } else if encrypted {
        options.endpoints = vec!["https://localhost:2379".to_owned()];
    }
    let namespace = url.path.strip_prefix('/').unwrap_or(&url.path);
    options.namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
    if let Some(name) = get("name") {
        options.name = name.to_owned();
    }
    for (name, time) in [
        ("connect_timeout", &mut options.connect_timeout),
        ("keepalive_interval", &mut options.keepalive_interval),
        ("keepalive_timeout", &mut options.keepalive_timeout),
        ("initial_delay", &mut options.retry.initial_delay),
        ("max_delay", &mut options.retry.max_delay),
    ] {
        if let Some(text) = get(name) {
            *time = duration(name, text)?;
        }
    }
    for (name, time) in [("attempt_timeout", &mut options.retry.attempt_timeout), ("total_timeout", &mut options.retry.total_timeout)] {
        if let Some(text) = get(name) {
            *time = Some(duration(name, text)?);
        }
    }
    if let Some(text) = get("attempts") {
        options.retry.max_attempts = text.parse().map_err(|_| wrong("attempts", "a number"))?;
    }
    if let Some(text) = get("multiplier") {
        options.retry.multiplier = text.parse().map_err(|_| wrong("multiplier", "a number"))?;
    }
    options.credentials = credentials(url.user.as_deref(), get("password_file"), environment)?;
    options.tls = tls(encrypted, get)?;
    Ok(options)
}

fn credentials(
    user: Option<&str>,
    password_file: Option<&str>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Credentials>> {
    let Some(user) = user else {
        return if password_file.is_some() { refuse("a file with a password, but no user") } else { Ok(None) };
    };
    let file = password_file.map(str::to_owned).or_else(|| environment(PASSWORD_FILE));
    let password = match file {
        Some(file) => {
            let text = read("the file with the password", &file)?;
            text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).unwrap_or(&text).to_owned()
        }
        None => match environment(PASSWORD) {
            Some(password) => password,
            None => {
                return refuse(
                    "a user, but no password: name a file in `password_file` or COORD_ETCD_PASSWORD_FILE, or set COORD_ETCD_PASSWORD",
                );
            }
        },
    };
    Ok(Some(Credentials::new(user, password)))
}

fn tls<'a>(encrypted: bool, get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Tls>> {
    if !encrypted {
        return match ["ca", "cert", "key", "server_name"].iter().any(|name| get(name).is_some()) {
            true => refuse("certificates for a connection that is not encrypted: use `etcds://`"),
            false => Ok(None),
        };
    }
    let mut tls = Tls::new();
    if let Some(file) = get("ca") {
        tls = tls.with_authorities(read("the file that `ca` names", file)?);
    }
    match (get("cert"), get("key")) {
        (Some(certificates), Some(key)) => {
            tls = tls.with_identity(read("the file that `cert` names", certificates)?, read("the file that `key` names", key)?);
        }
        (None, None) => {}
        _ => return refuse("`cert` and `key` belong together"),
    }
    if let Some(name) = get("server_name") {
        tls = tls.with_server_name(name);
    }
    Ok(Some(tls))
}

fn read(what: &'static str, file: &str) -> Result<String> {
    fs::read_to_string(file).map_err(|error| Error::invalid_argument(OPERATION, format!("{what} cannot be read: {error}")))
}

fn wrong(parameter: &'static str, what: &'static str) -> Error {
    Error::invalid_argument(OPERATION, format!("`{parameter}` is not {what}"))
}

/// `500ms`, `5s`, `2m`.
fn duration(parameter: &'static str, text: &str) -> Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(wrong(parameter, "a time such as `500ms`, `5s` or `2m`")),
    };
    let number: u64 = number.parse().map_err(|_| wrong(parameter, "a time such as `500ms`, `5s` or `2m`"))?;
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(|| wrong(parameter, "a time that can be waited for"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn parsed(text: &str, environment: &[(&str, &str)]) -> Result<EtcdOptions> {
        let get = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let options = options(&Url::parse(text)?, get)?;
        options.validate()?;
        Ok(options)
    }

    fn refused(text: &str, environment: &[(&str, &str)]) -> String {
        let error = parsed(text, environment).unwrap_err();
        assert_eq!(error.kind(), coord_api::ErrorKind::InvalidArgument, "{text}");
        format!("{error} {error:?}")
    }

    #[test]
    fn hosts_namespace_and_defaults() {
        let options = parsed("etcd://h1:2379,h2:2380/team/a", &[]).unwrap();
        assert_eq!(options.endpoints, ["http://h1:2379", "http://h2:2380"]);
        assert_eq!(options.namespace.as_deref(), Some("team/a"));
        assert_eq!(parsed("etcd://", &[]).unwrap().endpoints, ["localhost:2379"]);
        assert_eq!(parsed("etcd://h:1/", &[]).unwrap().namespace, None);
        assert_eq!(parsed("etcds://h:1", &[]).unwrap().endpoints, ["https://h:1"]);
    }

    #[test]
    fn every_parameter_is_wired() {
        let options = parsed(
            "etcd://h:1?connect_timeout=1s&attempt_timeout=500ms&total_timeout=2m&attempts=7&initial_delay=3ms&max_delay=4s&multiplier=1.5\
             &keepalive_interval=6s&keepalive_timeout=7s&name=shop",
            &[],
        )
        .unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((options.connect_timeout, options.keepalive_interval, options.keepalive_timeout), (seconds(1), seconds(6), seconds(7)));
        let retry = options.retry;
        assert_eq!((retry.attempt_timeout, retry.total_timeout), (Some(Duration::from_millis(500)), Some(seconds(120))));
        assert_eq!((retry.max_attempts, retry.multiplier), (7, 1.5));
        assert_eq!((retry.initial_delay, retry.max_delay), (Duration::from_millis(3), seconds(4)));
        assert_eq!(options.name, "shop");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            "etcd://h",
            "etcd://h:1,",
            "etcd://h:1//",
            "etcd://h:1?unknown=1",
            "etcd://h:1?connect_timeout=5",
            "etcd://h:1?connect_timeout=s",
            "etcd://h:1?connect_timeout=-1s",
            "etcd://h:1?connect_timeout=99999999999999999999s",
            "etcd://h:1?connect_timeout=0s",
            "etcd://h:1?attempts=many",
            "etcd://h:1?ca=/etc/ca.pem",
            "etcds://h:1?ca=/no/such/file",
            "etcds://h:1?cert=/no/such/file",
            "etcd://h:1?password_file=/no/such/file",
        ] {
            refused(bad, &[]);
        }
    }

    #[test]
    fn a_password_comes_from_a_file_or_the_environment_and_is_never_shown() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "hunter2").unwrap();
        let path = file.path().display().to_string();
        for (url, environment) in [
            (format!("etcd://shop@h:1?password_file={path}"), vec![]),
            ("etcd://shop@h:1".to_owned(), vec![(PASSWORD_FILE, path.as_str())]),
            ("etcd://shop@h:1".to_owned(), vec![(PASSWORD, "hunter2")]),
        ] {
            let options = parsed(&url, &environment).unwrap();
            let shown = format!("{options:?}");
            assert!(shown.contains("shop") && !shown.contains("hunter2"), "{shown}");
        }
        assert!(refused("etcd://shop@h:1", &[]).contains("COORD_ETCD_PASSWORD"));
        assert!(!refused("etcd://shop:hunter2@h:1", &[]).contains("hunter2"));
        assert!(!refused("etcd://shop@h:1?password=hunter2", &[(PASSWORD, "x")]).contains("hunter2"));
        assert!(!refused("etcd://shop@h:1?hunter2", &[(PASSWORD, "x")]).contains("hunter2"));
    }
}
