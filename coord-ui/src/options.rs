//! What of a store is shown, and to whom.

use coord_api::{Error, Result};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

/// Names of fields whose values are not shown, unless others are given.
pub const SECRET_FIELDS: &[&str] =
    &["password", "passwd", "secret", "token", "apikey", "privatekey", "credential", "authorization"];

/// Viewers at once, unless it is said otherwise.
const VIEWERS: usize = 64;

/// The shortest token with which things can be changed, in bytes: what is shorter can be guessed.
pub const MIN_TOKEN: usize = 16;

/// How the page is shown: read-only, unless [`with_edit`](Self::with_edit) says otherwise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UiOptions {
    /// Names of fields whose values are not shown: [`SECRET_FIELDS`] by default. A field is one of
    /// them if its name contains one, whatever the case, and `-` and `_` aside: `token` is
    /// `ACCESS_TOKEN` as well as `tokens`.
    pub secret_fields: Vec<String>,
    /// How many may look at once; 64 by default. Who comes then is told to try again later.
    pub viewers: usize,
    /// The names under which the page may be asked for; `None`, the default, takes any. With some,
    /// it also takes `localhost` and addresses, and nothing else: a page of somebody else's in the
    /// same browser cannot read this one by having its name point here ("DNS rebinding"). Where no
    /// proxy in front of the page looks at names, give them.
    pub hosts: Option<Vec<String>>,
    edit: Option<EditToken>,
}

impl Default for UiOptions {
    fn default() -> Self {
        UiOptions {
            secret_fields: SECRET_FIELDS.iter().map(|&name| name.to_owned()).collect(),
            viewers: VIEWERS,
            hosts: None,
            edit: None,
        }
    }
}

impl UiOptions {
    /// Whoever has this token may set and roll back configuration, and end who holds or waits. The
    /// page asks for it, and keeps it for as long as it is open.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for one of less than [`MIN_TOKEN`] bytes.
    pub fn with_edit(mut self, token: impl Into<SecretString>) -> Result<Self> {
        let token: SecretString = token.into();
        if token.expose_secret().len() < MIN_TOKEN {
            let message = format!("a token of less than {MIN_TOKEN} bytes can be guessed; take a longer one");
            return Err(Error::invalid_argument("ui.with_edit", message));
        }
        self.edit = Some(EditToken(token));
        Ok(self)
    }

    /// Sets the [names of secret fields](Self::secret_fields).
    #[must_use]
    pub fn with_secret_fields(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.secret_fields = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the [names](Self::hosts) under which the page may be asked for.
    #[must_use]
    pub fn with_hosts(mut self, hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// Sets how many may look at once.
    #[must_use]
    pub fn with_viewers(mut self, viewers: usize) -> Self {
        self.viewers = viewers;
        self
    }

    pub(crate) fn edit(&self) -> Option<&EditToken> {
        self.edit.as_ref()
    }
}

/// Who has it may change things.
#[derive(Clone, Debug)]
pub(crate) struct EditToken(SecretString);

impl EditToken {
    /// Whether it is this one. How long that takes tells nothing of it but its length.
    pub(crate) fn is(&self, given: &str) -> bool {
        self.0.expose_secret().as_bytes().ct_eq(given.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;

    use super::*;

    #[test]
    fn a_token_is_long_and_shown_to_nobody() {
        let error = UiOptions::default().with_edit("short").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let options = UiOptions::default().with_edit("0123456789abcdef-xyz").unwrap();
        assert!(!format!("{options:?}").contains("xyz"));
        let token = options.edit().unwrap();
        assert!(token.is("0123456789abcdef-xyz"));
        assert!(!token.is("0123456789abcdef-xyy") && !token.is("") && !token.is("0123456789abcdef"));
    }
}
