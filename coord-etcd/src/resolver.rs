//! How a host's name becomes addresses.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

/// Finds the addresses of a host name. By default it asks the system's resolver.
#[derive(Clone)]
pub struct EtcdResolver(Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>);

impl EtcdResolver {
    /// The system's resolver.
    pub fn system() -> Self {
        EtcdResolver::from_fn(|host| async move {
            // `lookup_host` wants a port; it is not used.
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    /// Asks a function. It is called within a tokio runtime, and the future that it returns is
    /// dropped after the connect timeout.
    pub fn from_fn<F>(resolve: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        EtcdResolver(Arc::new(move |host| resolve(host).boxed()))
    }

    /// The addresses of a name, each once.
    pub(crate) async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in (self.0)(host.to_owned()).await? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

impl Default for EtcdResolver {
    fn default() -> Self {
        EtcdResolver::system()
    }
}

impl fmt::Debug for EtcdResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EtcdResolver")
    }
}
