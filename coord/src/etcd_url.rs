//! An etcd cluster by URL.

use std::fs::File;
use std::time::Duration;

use coord_api::{Error, Result};
use coord_etcd::{Credentials, EtcdOptions, EtcdTls};

use crate::url::{OPERATION, Scheme, Url, refuse};

/// The variable with the password.
const PASSWORD: &str = "COORD_ETCD_PASSWORD";
/// The variable that names a file with the password.
const PASSWORD_FILE: &str = "COORD_ETCD_PASSWORD_FILE";

const PARAMETERS: [&str; 19] = [
    "attempt_timeout",
    "attempts",
    "batch",
    "ca",
    "cert",
    "connect_timeout",
    "initial_delay",
    "keepalive_interval",
    "keepalive_timeout",
    "key",
    "lazy",
    "max_delay",
    "multiplier",
    "name",
    "namespace",
    "near",
    "password_file",
    "server_name",
    "total_timeout",
];

/// What a URL says about a cluster.
pub(crate) struct EtcdUrl {
    pub(crate) options: EtcdOptions,
    /// Whether to connect when it is first used.
    pub(crate) lazy: bool,
}

/// What a URL says. Reads the files that it names, and variables through `environment`; no other
/// I/O.
pub(crate) fn read(
    url: &Url,
    name: String,
    environment: impl Fn(&'static str) -> Result<Option<String>>,
) -> Result<EtcdUrl> {
    url.allow(&PARAMETERS)?;
    let mut options = EtcdOptions::new(url.hosts.iter().map(|host| match url.scheme {
        Scheme::Etcds => format!("https://{host}"),
        _ => format!("http://{host}"),
    }));
    options.namespace = url.namespace()?.map(str::to_owned);
    options.name = name;
    for (name, time) in [
        ("connect_timeout", &mut options.connect_timeout),
        ("keepalive_interval", &mut options.keepalive_interval),
        ("keepalive_timeout", &mut options.keepalive_timeout),
        ("initial_delay", &mut options.retry.initial_delay),
        ("max_delay", &mut options.retry.max_delay),
    ] {
        if let Some(text) = url.get(name)? {
            *time = duration(name, text)?;
        }
    }
    for (name, time) in [
        ("attempt_timeout", &mut options.retry.attempt_timeout),
        ("total_timeout", &mut options.retry.total_timeout),
    ] {
        if let Some(text) = url.get(name)? {
            *time = Some(duration(name, text)?);
        }
    }
    if let Some(text) = url.get("attempts")? {
        options.retry.max_attempts = text.parse().map_err(|_| wrong("attempts", "a number such as `3`"))?;
    }
    if let Some(text) = url.get("multiplier")? {
        options.retry.multiplier =
            text.parse().map_err(|_| wrong("multiplier", "a number such as `2` or `1.5`"))?;
    }
    if let Some(text) = url.get("batch")? {
        options.batching = Some(text.parse().map_err(|_| wrong("batch", "a number such as `1`"))?);
    }
    options.near = url.flag("near")?;
    options.credentials = credentials(url, environment)?;
    options.tls = tls(url)?;
    options.validate()?;
    Ok(EtcdUrl { options, lazy: url.flag("lazy")? })
}

fn credentials(
    url: &Url,
    environment: impl Fn(&'static str) -> Result<Option<String>>,
) -> Result<Option<Credentials>> {
    let password_file = url.get("password_file")?;
    let Some(user) = &url.user else {
        return match password_file {
            Some(_) => refuse("a file with a password, but no user; write `etcd://user@host:2379`"),
            None => Ok(None),
        };
    };
    let file = match password_file {
        Some(file) => Some(file.to_owned()),
        None => environment(PASSWORD_FILE)?,
    };
    // Files are handed on as files, so that what is renewed there is read again.
    if let Some(file) = file {
        return Ok(Some(Credentials::from_file(user, path("the file with the password", &file)?)));
    }
    let Some(password) = environment(PASSWORD)? else {
        return refuse(
            "a user, but no password: name a file in `password_file` or COORD_ETCD_PASSWORD_FILE, or set COORD_ETCD_PASSWORD",
        );
    };
    Ok(Some(Credentials::new(user, password)))
}

fn tls(url: &Url) -> Result<Option<EtcdTls>> {
    let (authorities, certificates, key, server_name) =
        (url.get("ca")?, url.get("cert")?, url.get("key")?, url.get("server_name")?);
    if url.scheme != Scheme::Etcds {
        return match authorities.or(certificates).or(key).or(server_name) {
            Some(_) => refuse("certificates for a connection that is not encrypted; write `etcds://`"),
            None => Ok(None),
        };
    }
    let mut tls = EtcdTls::new();
    if let Some(file) = authorities {
        tls = tls.with_authorities_file(path("the file that `ca` names", file)?);
    }
    match (certificates, key) {
        (Some(certificates), Some(key)) => {
            tls = tls.with_identity_files(
                path("the file that `cert` names", certificates)?,
                path("the file that `key` names", key)?,
            );
        }
        (None, None) => {}
        _ => return refuse("one of `cert` and `key`; write both"),
    }
    if let Some(name) = server_name {
        tls = tls.with_server_name(name);
    }
    Ok(Some(tls))
}

/// The path of a file that can be read. An error does not repeat it: it may be a password that went
/// to the wrong place.
fn path<'a>(what: &'static str, file: &'a str) -> Result<&'a str> {
    if file.starts_with('~') {
        return refuse(format!(
            "{what} begins with `~`, which only a shell knows; write the home directory itself"
        ));
    }
    match File::open(file) {
        Ok(_) => Ok(file),
        Err(error) => Err(Error::invalid_argument(OPERATION, format!("{what} cannot be read: {error}"))),
    }
}

fn wrong(parameter: &'static str, what: &'static str) -> Error {
    Error::invalid_argument(OPERATION, format!("`{parameter}` is not what it can be; write {what}"))
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
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(|| wrong(parameter, "a time that can be waited for, such as `5s`"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn parsed(text: &str, environment: &[(&str, &str)]) -> Result<EtcdOptions> {
        let get = |name: &str| {
            Ok(environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        Ok(read(&Url::parse(text)?, "a name".to_owned(), get)?.options)
    }

    fn refused(text: &str, environment: &[(&str, &str)]) -> String {
        let error = parsed(text, environment).unwrap_err();
        assert_eq!(error.kind(), coord_api::ErrorKind::InvalidArgument, "{text}");
        format!("{error} {error:?}")
    }

    #[test]
    fn hosts_namespace_and_name() {
        let options = parsed("etcd://h1:2379,h2:2380/team/a", &[]).unwrap();
        assert_eq!(options.endpoints, ["http://h1:2379", "http://h2:2380"]);
        assert_eq!((options.namespace.as_deref(), options.name.as_str()), (Some("team/a"), "a name"));
        assert_eq!(parsed("etcd://h:1/", &[]).unwrap().namespace, None);
        assert_eq!(parsed("etcds://h:1", &[]).unwrap().endpoints, ["https://h:1"]);
    }

    #[test]
    fn it_connects_later_where_it_is_told_to() {
        let lazy = |text| read(&Url::parse(text).unwrap(), String::new(), |_| Ok(None)).map(|url| url.lazy);
        for (text, expected) in [
            ("etcd://h:1", false),
            ("etcd://h:1?lazy", true),
            ("etcd://h:1?lazy=true", true),
            ("etcd://h:1?lazy=false", false),
        ] {
            assert_eq!(lazy(text).unwrap(), expected, "{text}");
        }
        assert!(lazy("etcd://h:1?lazy=1").is_err());
    }

    #[test]
    fn requests_are_near_where_they_are_told_to_be() {
        assert!(!parsed("etcd://h:1", &[]).unwrap().near);
        assert!(parsed("etcd://h:1?near", &[]).unwrap().near);
    }

    #[test]
    fn requests_are_shared_where_they_are_told_to_be() {
        assert_eq!(parsed("etcd://h:1", &[]).unwrap().batching, None);
        assert_eq!(parsed("etcd://h:1?batch=2", &[]).unwrap().batching.map(std::num::NonZero::get), Some(2));
    }

    #[test]
    fn every_parameter_is_wired() {
        let options = parsed(
            "etcd://h:1?connect_timeout=1s&attempt_timeout=500ms&total_timeout=2m&attempts=7&initial_delay=3ms&max_delay=4s&multiplier=1.5\
             &keepalive_interval=6s&keepalive_timeout=7s",
            &[],
        )
        .unwrap();
        let seconds = Duration::from_secs;
        assert_eq!(
            (options.connect_timeout, options.keepalive_interval, options.keepalive_timeout),
            (seconds(1), seconds(6), seconds(7))
        );
        let retry = options.retry;
        assert_eq!(
            (retry.attempt_timeout, retry.total_timeout),
            (Some(Duration::from_millis(500)), Some(seconds(120)))
        );
        assert_eq!((retry.max_attempts, retry.multiplier), (7, 1.5));
        assert_eq!((retry.initial_delay, retry.max_delay), (Duration::from_millis(3), seconds(4)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            "etcd://h:1?unknown=1",
            "etcd://h:1?connect_timeout",
            "etcd://h:1?connect_timeout=5",
            "etcd://h:1?connect_timeout=s",
            "etcd://h:1?connect_timeout=-1s",
            "etcd://h:1?connect_timeout=99999999999999999999s",
            "etcd://h:1?connect_timeout=0s",
            "etcd://h:1?attempts=many",
            "etcd://h:1?batch",
            "etcd://h:1?batch=0",
            "etcd://h:1?ca=/etc/ca.pem",
            "etcds://h:1?ca=/no/such/file",
            "etcds://h:1?cert=/no/such/file",
            "etcds://h:1?ca=~/ca.pem",
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
