//! TLS towards the servers that plugins ask: what this machine trusts, and a name or address that must fit.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error;

use crate::telemetry::events;

/// Read once it is needed: a node whose plugins ask nobody reads no certificates.
#[derive(Clone, Default)]
pub(super) struct Tls(Arc<OnceCell<TlsConnector>>);

impl Tls {
    /// Trusts these and nobody else.
    #[cfg(test)]
    pub(super) fn trusting(roots: RootCertStore) -> Self {
        Self(Arc::new(OnceCell::new_with(connector(roots).ok())))
    }

    /// Shakes hands with a server. One whose certificate does not prove that it is this name is refused.
    pub(super) async fn connect(&self, name: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
        let connector = self.0.get_or_try_init(|| async {
            let made = tokio::task::spawn_blocking(|| connector(roots())).await;
            made.ok().and_then(Result::ok).ok_or(Error::ConfigurationError)
        });
        connector.await?.connect(name, stream).await.map_err(|error| refused(&error))
    }
}

/// What this machine trusts.
fn roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.first() {
        events::plugin_tls_roots(error);
    }
    let mut roots = RootCertStore::empty();
    // One that cannot be read vouches for nobody.
    roots.add_parsable_certificates(found.certs);
    roots
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, rustls::Error> {
    // By name and not by default, which only `main` has set.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn refused(error: &std::io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: alert.as_str().map(Into::into),
        },
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}
