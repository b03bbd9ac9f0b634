//! As whom to sign in. The password may change while the program runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{ErrorKind, Result};
use coord_recipes::Home;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::error::{Fault, refuse};
use crate::tls::read;

/// How long a refusal is believed. etcd takes a tenth of a second of one of its processors to look
/// at a password.
const BELIEVED: Duration = Duration::from_secs(1);

/// How long a sign-in waits for the password's file, or for the program's function. Then the
/// password from before is used.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// A user of etcd, and the password.
///
/// A password that is in a file, or that a function returns, is read again for each sign-in: each
/// new connection has one, and so has each token that has expired. Where it cannot be read then,
/// the one from before is used, and a warning says why.
#[derive(Clone, Debug)]
pub struct Credentials {
    user: String,
    password: Password,
}

#[derive(Clone)]
enum Password {
    Given(SecretString),
    Renewed(Arc<dyn Fn() -> Result<SecretString> + Send + Sync>),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

impl Credentials {
    /// A user and the password.
    pub fn new(user: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Credentials { user: user.into(), password: Password::Given(password.into()) }
    }

    /// A user, and a file with the password. A newline at its end does not belong to it.
    pub fn from_file(user: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Credentials::from_fn(user, move || {
            let text = SecretString::from(read("the password", &path)?);
            let line = text.expose_secret().strip_suffix('\n');
            Ok(line.map(|line| line.strip_suffix('\r').unwrap_or(line).into()).unwrap_or(text))
        })
    }

    /// A user, and a function that returns the password: for those that the program gets by itself.
    /// It is called when the client is made, and then for each sign-in on a thread of its own.
    pub fn from_fn(
        user: impl Into<String>,
        password: impl Fn() -> Result<SecretString> + Send + Sync + 'static,
    ) -> Self {
        Credentials { user: user.into(), password: Password::Renewed(Arc::new(password)) }
    }

    /// The password. May block.
    fn read(&self) -> Result<SecretString> {
        let password = match &self.password {
            Password::Given(password) => password.clone(),
            Password::Renewed(renew) => renew()?,
        };
        if self.user.is_empty() || password.expose_secret().is_empty() {
            return refuse("credentials without a user or without a password");
        }
        Ok(password)
    }
}

/// Who signs in on all connections of one client.
#[derive(Debug)]
pub(crate) struct Account {
    credentials: Credentials,
    state: Mutex<AccountState>,
}

#[derive(Debug)]
struct AccountState {
    /// The password that was read last.
    password: SecretString,
    /// Why what was read last is not used.
    complaint: Option<String>,
    refusal: Option<RefusedPassword>,
}

/// That etcd does not take a password.
#[derive(Debug)]
struct RefusedPassword {
    password: SecretString,
    fault: Fault,
    at: Instant,
}

impl Account {
    /// Reads the password. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, or what the program's function says.
    pub(crate) fn new(credentials: Credentials) -> Result<Self> {
        let password = credentials.read()?;
        Ok(Account {
            credentials,
            state: Mutex::new(AccountState { password, complaint: None, refusal: None }),
        })
    }

    /// As etcd-client takes them, for one sign-in. Its own options are never shown: their `Debug`
    /// has the password in it.
    ///
    /// # Errors
    ///
    /// That the same password was refused a moment ago.
    pub(crate) async fn exposed(self: &Arc<Self>, home: &Home) -> Result<(String, String), Fault> {
        if matches!(self.credentials.password, Password::Renewed(_)) {
            let this = Arc::clone(self);
            if let Ok(renewed) = home.spawn_blocking(move || this.renew()) {
                drop(home.timeout(READ_WITHIN, renewed).await);
            }
        }
        let state = self.state.lock();
        let same =
            |refusal: &&RefusedPassword| refusal.password.expose_secret() == state.password.expose_secret();
        match state.refusal.as_ref().filter(same) {
            Some(refusal) if home.now() < refusal.at + BELIEVED => Err(refusal.fault.clone()),
            _ => Ok((self.credentials.user.clone(), state.password.expose_secret().to_owned())),
        }
    }

    fn renew(&self) {
        let renewed = self.credentials.read();
        let mut state = self.state.lock();
        match renewed {
            Ok(password) => {
                state.password = password;
                state.complaint = None;
            }
            Err(error) => {
                let why = error.to_string();
                if state.complaint.as_ref() != Some(&why) {
                    state.complaint = Some(why);
                    drop(state);
                    tracing::warn!(%error, "the password cannot be read; the one from before is used");
                }
            }
        }
    }

    /// What became of a sign-in with this password.
    pub(crate) fn learn(&self, password: &str, signed_in: &Result<(), Fault>, now: Instant) {
        let mut state = self.state.lock();
        match signed_in {
            Ok(()) => state.refusal = None,
            Err(fault) if fault.kind == ErrorKind::Unauthenticated => {
                if state.refusal.is_none() {
                    let (user, why) = (self.credentials.user.clone(), fault.message.clone());
                    coord_home::event!(WARN, user, %why, "etcd does not take the password");
                }
                state.refusal =
                    Some(RefusedPassword { password: password.into(), fault: fault.clone(), at: now });
            }
            Err(_) => {}
        }
    }

    /// Why nobody is signed in, if etcd said so and has not changed its mind.
    pub(crate) fn refusal(&self) -> Option<Fault> {
        self.state.lock().refusal.as_ref().map(|refusal| refusal.fault.clone())
    }
}
