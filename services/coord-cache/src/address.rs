//! Where a Redis is, and who we are there.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

const WRONG_URL: &str = "redis.url: it must be redis://[user[:password]@]host[:port][/db], or unix://path";

/// What the client connects by: the URL, with user and password of their own before those in it.
///
/// The fault of one that is wrong says so, and shows none of it.
pub(crate) fn connection_info(
    url: &SecretString,
    username: Option<&str>,
    password: Option<&SecretString>,
) -> Result<ConnectionInfo, String> {
    // The parser's message may quote the URL.
    let info = url.expose_secret().into_connection_info().map_err(|_| WRONG_URL.to_owned())?;
    match info.addr() {
        ConnectionAddr::Tcp(..) => {}
        #[cfg(unix)]
        ConnectionAddr::Unix(_) => {}
        _ => return Err(format!("{WRONG_URL}; TLS is not supported")),
    }
    let mut redis = info.redis_settings().clone();
    if let Some(username) = username {
        redis = redis.set_username(username);
    }
    if let Some(password) = password {
        redis = redis.set_password(password.expose_secret());
    }
    Ok(info.set_redis_settings(redis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_come_before_the_url() {
        let url = SecretString::from("redis://u:hunter1@127.0.0.1:7/3");
        let own = SecretString::from("hunter2");
        let info = connection_info(&url, Some("ann"), Some(&own)).unwrap();
        let redis = info.redis_settings();
        assert_eq!((redis.username(), redis.password(), redis.db()), (Some("ann"), Some("hunter2"), 3));
        let info = connection_info(&url, None, None).unwrap();
        assert_eq!(
            (info.redis_settings().username(), info.redis_settings().password()),
            (Some("u"), Some("hunter1"))
        );
        assert_eq!(info.addr().to_string(), "127.0.0.1:7");
    }
}
