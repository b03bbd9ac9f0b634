//! TLS with rustls.

use std::fmt;
use std::io;
use std::sync::Arc;

use coord_api::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ConfigBuilder, RootCertStore, client::WantsClientCert};

pub use tokio_rustls::rustls;

const OPERATION: &str = "grpc.tls";

/// How a channel proves who its servers are, and who it is itself.
///
/// tonic's own `ClientTlsConfig` cannot be read from outside of tonic; this takes the same PEM
/// files, or any [`rustls`] configuration.
///
/// Its `Debug` shows no key.
#[derive(Clone)]
pub struct ChannelTls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl ChannelTls {
    /// Trusts the certificates that one of these, in PEM, has signed.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when there is no good certificate among them.
    pub fn from_ca(ca_pem: &[u8]) -> Result<Self> {
        Ok(ChannelTls::from_config(trusting(ca_pem)?.with_no_client_auth()))
    }

    /// As [`from_ca`](Self::from_ca), and shows the server a certificate of its own (mutual TLS).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for certificates or a key that cannot be read or do not belong together.
    pub fn from_ca_and_identity(ca_pem: &[u8], certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self> {
        let chain = certificates(certificate_pem)?;
        // The parser's error may quote what it read, and that is a key.
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|_| Error::invalid_argument(OPERATION, "no private key in PEM"))?;
        let config = trusting(ca_pem)?.with_client_auth_cert(chain, key).map_err(|error| {
            Error::invalid_argument(OPERATION, "the certificate and its key are not usable")
                .with_source(error)
        })?;
        Ok(ChannelTls::from_config(config))
    }

    /// Whatever rustls can be told: the system's roots, another provider of cryptography, a
    /// verifier of one's own. HTTP/2 is asked for in any case.
    pub fn from_config(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![b"h2".to_vec()];
        ChannelTls { config: Arc::new(config), name: None }
    }

    /// Expects the servers to be certified under this name instead of the host that each is reached
    /// at.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is no name of a host.
    pub fn with_server_name(mut self, name: &str) -> Result<Self> {
        self.name = Some(server_name(name)?);
        Ok(self)
    }

    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(io::Error::other)?,
        };
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer did not agree to HTTP/2"));
        }
        Ok(stream)
    }
}

impl fmt::Debug for ChannelTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelTls").field("server_name", &self.name).finish_non_exhaustive()
    }
}

fn trusting(ca_pem: &[u8]) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(ca_pem)?);
    if roots.is_empty() {
        return Err(Error::invalid_argument(OPERATION, "no usable certificate of an authority"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid_argument(OPERATION, "no protocol version").with_source(error))?;
    Ok(config.with_root_certificates(roots))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let read: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::invalid_argument(OPERATION, "no certificate in PEM")),
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| Error::invalid_argument(OPERATION, "a server name that is none"))
}
