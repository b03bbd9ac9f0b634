//! Opening a store by its URL.

use std::env::{self, VarError};
use std::fmt;
use std::sync::Arc;

use coord_api::store::Store as DynStore;
use coord_api::{Error, Result};
#[cfg(feature = "etcd")]
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdStore};
#[cfg(feature = "memory")]
use coord_memory::MemoryStore;
#[cfg(feature = "memory")]
use coord_recipes::layers::{Namespace, Observe};
#[cfg(feature = "memory")]
use coord_recipes::{ProviderOptions, StoreProvider};

use crate::coord::Coord;
use crate::name;
use crate::url::{OPERATION, Scheme, Url};

/// The variable with the URL.
const URL: &str = "COORD_URL";

/// Opens the store that `url` names, and connects one client to it. The crate's page has the URLs.
///
/// # Errors
///
/// `InvalidArgument` for a URL that is wrong, or that could be taken for something else than was
/// meant: it says what to write instead, or which feature to switch on, and never repeats the URL.
/// Otherwise those of the store: `Unavailable` for a cluster that does not answer or a directory in
/// use, `Unauthenticated` for a wrong password.
///
/// # Cancel safety
///
/// Cancel safe.
pub async fn open(url: &str) -> Result<Coord> {
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
pub async fn open_from_env() -> Result<Coord> {
    match environment(URL)? {
        Some(url) => open(&url).await,
        None => Err(Error::invalid_argument(
            OPERATION,
            "COORD_URL does not name a store, for example `memory://`",
        )),
    }
}

fn environment(name: &'static str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(Error::invalid_argument(OPERATION, format!("{name} is not UTF-8; write it anew")))
        }
    }
}

/// A store, and clients of it: as many as processes are to be modelled. Most programs need one,
/// which [`open`] gives.
///
/// It is displayed as a URL in one spelling, which names the store and, where there is one, the
/// namespace and the user. That has no secret in it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord::Result<()> {
/// let source = coord::Source::open("MEMORY:?namespace=shop").await?;
/// assert_eq!(source.to_string(), "memory://?namespace=shop");
/// # Ok(())
/// # }
/// ```
pub struct Source {
    url: Url,
    #[cfg(feature = "memory")]
    name: String,
    store: Store,
}

enum Store {
    #[cfg(feature = "memory")]
    Memory(MemoryStore),
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdOptions>),
    #[cfg(feature = "etcd")]
    LazyEtcd(Box<EtcdOptions>),
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
        let name = name::of(&url, environment)?;
        let store = match url.scheme {
            #[cfg(feature = "memory")]
            Scheme::Memory => {
                let store = MemoryStore::new();
                check_local(&url, &store)?;
                Store::Memory(store)
            }
            #[cfg(feature = "sled")]
            Scheme::Sled => {
                // Before a directory is made.
                check_local(&url, &MemoryStore::new())?;
                Store::Memory(MemoryStore::open_async(&url.path).await?)
            }
            #[cfg(feature = "etcd")]
            Scheme::Etcd | Scheme::Etcds => {
                let crate::etcd_url::EtcdUrl { options, lazy } =
                    crate::etcd_url::read(&url, name.clone(), environment)?;
                if lazy { Store::LazyEtcd(Box::new(options)) } else { Store::Etcd(Box::new(options)) }
            }
            #[allow(unreachable_patterns, reason = "with all features there is none left")]
            scheme => return Err(not_built_in(scheme)),
        };
        Ok(Source {
            url,
            #[cfg(feature = "memory")]
            name,
            store,
        })
    }

    /// A further client, as independent of the others as another process would be.
    ///
    /// # Errors
    ///
    /// Those of connecting: `Unavailable`, `Unauthenticated`; `InvalidArgument` for a namespace
    /// with a directory of the recipes in it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    #[allow(clippy::unused_async, reason = "only clusters are connected to")]
    pub async fn client(&self) -> Result<Coord> {
        match &self.store {
            #[cfg(feature = "memory")]
            Store::Memory(store) => self.client_of(store.client()),
            #[cfg(feature = "etcd")]
            Store::Etcd(options) => Ok(Coord::of_etcd(EtcdProvider::connect((**options).clone()).await?)),
            #[cfg(feature = "etcd")]
            Store::LazyEtcd(_) => self.client_lazy(),
        }
    }

    /// As [`client`](Self::client), without waiting for the store: for a program that is to start
    /// while its cluster is away. Calls fail with `Unavailable` until the cluster answers, and only
    /// then it is known whether it takes the user and the password. A store of this process is
    /// there in any case.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, as [`client`](Self::client).
    pub fn client_lazy(&self) -> Result<Coord> {
        match &self.store {
            #[cfg(feature = "memory")]
            Store::Memory(store) => self.client_of(store.client()),
            #[cfg(feature = "etcd")]
            Store::Etcd(options) | Store::LazyEtcd(options) => {
                Ok(Coord::of_etcd(EtcdProvider::connect_lazy((**options).clone())?))
            }
        }
    }

    /// The store itself, by a further client, for what is made over a [`Store`](DynStore) and not
    /// over the contracts, such as transactions of one's own. It has the layers of a provider of
    /// this URL: its keys lie in the namespace, a cluster is asked again as often as the URL says,
    /// wherever that is safe (R2), and requests can be seen.
    ///
    /// The contracts over it are a [`StoreProvider`](crate::recipes::StoreProvider), or several.
    /// The name in the URL is not the store's: say it in their
    /// [options](crate::recipes::ProviderOptions::with_name). Closing one of them closes the store,
    /// as [`close`](DynStore::close) of the store does; to close what is closed is no error. What
    /// the others hold is then lost to them, and free when its TTL has run out. Other clients of
    /// this source go on.
    ///
    /// With `lazy` in the URL it waits for no cluster, as [`client_lazy`](Self::client_lazy).
    ///
    /// # Examples
    ///
    /// ```
    /// use coord::prelude::*;
    /// use coord::store::Range;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coord::Result<()> {
    /// let source = coord::Source::open("memory://?namespace=shop").await?;
    /// let store = source.store().await?;
    /// source.client().await?.config().set("greeting", "hello").await?;
    /// let found = store.range(Range::key("/config/greeting")).await?;
    /// assert_eq!(found.entries.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    #[allow(clippy::unused_async, reason = "only clusters are connected to")]
    pub async fn store(&self) -> Result<Arc<dyn DynStore>> {
        match &self.store {
            #[cfg(feature = "memory")]
            Store::Memory(store) => self.layered(store.client()),
            #[cfg(feature = "etcd")]
            Store::Etcd(options) => EtcdStore::connect_layered(options).await,
            #[cfg(feature = "etcd")]
            Store::LazyEtcd(options) => EtcdStore::connect_layered_lazy(options),
        }
    }

    #[cfg(feature = "memory")]
    fn client_of(&self, store: MemoryStore) -> Result<Coord> {
        let options = ProviderOptions::default().with_name(&self.name).with_home(store.home().clone());
        let provider = StoreProvider::new(self.layered(store)?, options);
        Ok(Coord::new(provider.core().clone(), provider))
    }

    #[cfg(feature = "memory")]
    fn layered(&self, store: MemoryStore) -> Result<Arc<dyn DynStore>> {
        let store = Observe::new(store, "memory");
        Ok(match self.url.namespace()? {
            Some(namespace) => {
                Arc::new(Namespace::new(store, namespace).map_err(|error| error.in_operation(OPERATION))?)
            }
            None => Arc::new(store),
        })
    }
}

/// What a store of this process knows.
#[cfg(feature = "memory")]
const PARAMETERS: [&str; 2] = ["name", "namespace"];

/// Refuses what a store of this process cannot have. `any` store tells what a namespace may be.
#[cfg(feature = "memory")]
fn check_local(url: &Url, any: &MemoryStore) -> Result<()> {
    url.allow(&PARAMETERS)?;
    match url.namespace()? {
        Some(namespace) => {
            Namespace::new(any.client(), namespace).map(drop).map_err(|error| error.in_operation(OPERATION))
        }
        None => Ok(()),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("url", &self.url.to_string()).finish_non_exhaustive()
    }
}

fn not_built_in(scheme: Scheme) -> Error {
    let (scheme, feature) = match scheme {
        Scheme::Memory => ("memory", "memory"),
        Scheme::Sled => ("sled", "sled"),
        Scheme::Etcd => ("etcd", "etcd"),
        Scheme::Etcds => ("etcds", "etcd"),
    };
    let message = format!(
        "`{scheme}:` needs the feature `{feature}` of the package coordkit, which this program was built without"
    );
    Error::invalid_argument(OPERATION, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use coord_api::ErrorKind;

    use super::*;

    #[test]
    fn a_scheme_that_is_not_built_in_names_its_feature() {
        for (scheme, feature) in [
            (Scheme::Memory, "memory"),
            (Scheme::Sled, "sled"),
            (Scheme::Etcd, "etcd"),
            (Scheme::Etcds, "etcd"),
        ] {
            let error = not_built_in(scheme);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("feature `{feature}`")), "{error}");
        }
    }

    /// What is made over the store lies where the contracts of the same URL have theirs, and
    /// nowhere else. A second source of a store in memory there is none, so that this looks below.
    #[cfg(feature = "memory")]
    #[tokio::test]
    async fn its_store_stays_in_its_namespace() {
        use coord_api::store::{Op, Range, Store as _, Txn};

        let source = Source::open("memory://?namespace=shop").await.unwrap();
        let store = source.store().await.unwrap();
        let write = Txn::new().then(Op::put("/global/s/main/head", "{}"));
        store.txn(write).await.unwrap();
        #[allow(irrefutable_let_patterns, reason = "with etcd there is another one")]
        let Store::Memory(below) = &source.store else { panic!("not in memory") };
        let found = below.range(Range::prefix("/")).await.unwrap().entries;
        assert_eq!(
            found.iter().map(|entry| &entry.key[..]).collect::<Vec<_>>(),
            [b"/shop/global/s/main/head"]
        );
    }

    #[cfg(feature = "memory")]
    #[tokio::test]
    async fn what_a_provider_writes_bears_its_name() {
        use std::time::Duration;

        use coord_api::prelude::*;
        use coord_api::store::{Range, Span, Store as _};

        let pid = std::process::id().to_string();
        for (url, directory, named) in [
            ("memory://?name=shop%20a", "/locks/", "shop a"),
            ("memory://?namespace=shop", "/shop/locks/", &format!(":{pid}")),
        ] {
            let source = Source::open(url).await.unwrap();
            let coord = source.client().await.unwrap();
            let _guard = coord.lock().acquire("job", Duration::from_secs(10)).await.unwrap();
            #[allow(irrefutable_let_patterns, reason = "with etcd there is another one")]
            let Store::Memory(store) = &source.store else { panic!("not in memory") };
            let found = store.range(Range::new(Span::Prefix(directory.into()))).await.unwrap().entries;
            let owner = |value: &[u8]| coord_core::Owner::of(value).map(|owner| owner.name);
            let names: Vec<_> = found.iter().filter_map(|entry| owner(&entry.value)).collect();
            assert!(names.len() == 1 && names.iter().all(|name| name.ends_with(named)), "{url}: {names:?}");
        }
    }
}
