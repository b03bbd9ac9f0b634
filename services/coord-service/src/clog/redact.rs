//! Fields whose values are never written.

/// What is written in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// Names whose values are never written, whatever their case, alone or after a dot, as in
/// `db.password`.
///
/// It is a net under those who log by mistake, and no more: a secret in a message or under another
/// name is written. Keep secrets in types whose `Debug` hides them, as those of `secrecy` do.
pub const SECRET_FIELDS: [&str; 22] = [
    "access_key",
    "access_token",
    "api_key",
    "apikey",
    "authorization",
    "bearer",
    "client_secret",
    "cookie",
    "credential",
    "credentials",
    "id_token",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "proxy_authorization",
    "refresh_token",
    "secret",
    "secret_key",
    "session_token",
    "set_cookie",
    "token",
];

/// Whether the value of a field is a secret. `-` counts as `_`.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.rsplit_once('.').map_or(name, |(_, last)| last);
    // Most names are told apart by their length and first letter alone.
    let Some(first) = name.bytes().next().map(|first| first.to_ascii_lowercase()) else {
        return false;
    };
    SECRET_FIELDS.iter().any(|secret| {
        secret.len() == name.len()
            && secret.as_bytes().first() == Some(&first)
            && secret.bytes().zip(name.bytes()).all(|(one, other)| match other {
                b'-' => one == b'_',
                other => one == other.to_ascii_lowercase(),
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_name() {
        for name in
            ["password", "Password", "TOKEN", "db.password", "http.request.header.set-cookie", "api-key"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["fencing_token", "tokens", "user", "", ".", "password.hash_rounds", "secrets"] {
            assert!(!is_secret(name), "{name}");
        }
        assert!(SECRET_FIELDS.iter().all(|name| is_secret(name)));
        assert!(SECRET_FIELDS.is_sorted());
    }
}
