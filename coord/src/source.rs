//! Opening a store by its URL.

use std::fmt;
use std::sync::Arc;

use coord_api::{Error, Provider, Result};
#[cfg(feature = "etcd")]
use coord_etcd::{EtcdOptions, EtcdProvider};
#[cfg(feature = "memory")]
use coord_memory::MemoryProvider;

use crate::url::{OPERATION, Url};

/// The variable with the URL.
const URL: &str = "COORD_URL";

/// The schemes there are, each with the feature that brings it.
const SCHEMES: [(&str, &str); 4] = [("memory", "memory"), ("sled", "sled"), ("etcd", "etcd"), ("etcds", "etcd")];

/// Opens the store that `url` names, and connects one client to it. The crate's page has the URLs.
///
/// # Errors
///
/// `InvalidArgument` for a URL that means nothing, with the feature to switch on where it would mean something; no error repeats it. Otherwise those of the store:
/// `Unavailable` for a cluster that does not answer or a directory in use, `Unauthenticated` for a wrong password.
///
/// # Cancel safety
///
/// Cancel safe.
pub async fn open(url: &str) -> Result<Arc<dyn Provider>> {
    Source::open(url).await?.client().await
}

/// As [`open`], with the URL in the variable `COORD_URL`.
///
/// # Errors
///
/// As [`open`]; `InvalidArgument` when the variable is not set.
///
/// # Cancel safety
///
/// Cancel safe.
pub async fn open_from_env() -> Result<Arc<dyn Provider>> {
    match environment(URL) {
        Some(url) => open(&url).await,
        None => Err(Error::invalid_argument(OPERATION, "COORD_URL does not name a store, for example `memory://`")),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A store, and clients of it: as many as processes are to be modelled. Most programs need one, which [`open`] gives.
pub struct Source {
    scheme: String,
    store: Store,
}

enum Store {
    #[cfg(feature = "memory")]
    Memory(Arc<MemoryProvider>),
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdOptions>),
}

impl Source {
    /// The store that `url` names. A directory is opened, a cluster is connected to by each client.
    ///
    /// # Errors
    ///
    /// As [`open`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    #[allow(clippy::unused_async, reason = "a directory is opened; what opens takes its time")]
    pub async fn open(url: &str) -> Result<Self> {
        let url = Url::parse(url)?;
        let store = match url.scheme.as_str() {
            #[cfg(feature = "memory")]
            "memory" => {
                url.allow(false, false, &[])?;
                if !matches!(url.path.as_str(), "" | "/") {
                    return Err(Error::invalid_argument(OPERATION, "`memory:` knows no path"));
                }
                Store::Memory(MemoryProvider::new())
            }
            #[cfg(feature = "sled")]
            "sled" => {
                url.allow(false, false, &[])?;
                if url.path.is_empty() || (url.has_authority && url.path == "/") {
                    return Err(Error::invalid_argument(OPERATION, "`sled:` needs a directory: `sled:///var/lib/shop`"));
                }
                Store::Memory(MemoryProvider::open_async(&url.path).await?)
            }
            #[cfg(feature = "etcd")]
            "etcd" | "etcds" => {
                let options = crate::etcd_url::options(&url, environment)?;
                options.validate()?;
                Store::Etcd(Box::new(options))
            }
            unknown => return Err(unknown_scheme(unknown)),
        };
        Ok(Source { scheme: url.scheme, store })
    }

    /// A further client, as independent of the others as another process would be.
    ///
    /// # Errors
    ///
    /// Those of connecting: `Unavailable`, `Unauthenticated`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    #[allow(clippy::unused_async, reason = "only clusters are connected to")]
    pub async fn client(&self) -> Result<Arc<dyn Provider>> {
        match self.store {
            #[cfg(feature = "memory")]
            Store::Memory(ref first) => Ok(first.client()),
            #[cfg(feature = "etcd")]
            Store::Etcd(ref options) => Ok(EtcdProvider::connect((**options).clone()).await?),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

fn unknown_scheme(scheme: &str) -> Error {
    let message = match SCHEMES.iter().find(|(known, _)| *known == scheme) {
        Some((scheme, feature)) => {
            format!("`{scheme}:` needs the feature `{feature}` of the package coordkit, which this program was built without")
        }
        None => "an unknown scheme; known are `memory:`, `sled:` (feature `sled`), `etcd:` and `etcds:` (feature `etcd`)".to_owned(),
    };
    Error::invalid_argument(OPERATION, message)
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;

    use super::*;

    #[test]
    fn a_scheme_that_is_not_built_in_names_its_feature() {
        let message = |scheme| {
            let error = unknown_scheme(scheme);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            error.to_string()
        };
        assert!(message("etcds").contains("feature `etcd`"));
        assert!(message("sled").contains("feature `sled`"));
        assert!(message("redis").contains("unknown scheme") && !message("redis").contains("redis"));
    }
}
