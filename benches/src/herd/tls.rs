//! What clients trust.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

/// Clients that trust one certificate, in DER, and make every handshake a whole one.
pub fn trusting(certificate: &Path) -> Result<ClientConfig> {
    let der = std::fs::read(certificate).with_context(|| format!("{}", certificate.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add(der.into())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}
