//! Whom a client trusts: what the system trusts and one file of authorities, or certificates by their hash.

use std::path::Path;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::{CertificateHash, ClientError};

/// Whom to trust.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    roots: Arc<RootCertStore>,
    hashes: Vec<CertificateHash>,
}

impl Trust {
    /// Reads the system's authorities and those of `ca`. Where certificates are known by hash, nobody's word is
    /// asked for. Blocks while it reads files.
    pub(super) fn read(ca: Option<&Path>, hashes: &[CertificateHash]) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        if hashes.is_empty() {
            // A machine without any, or with some that cannot be read, trusts fewer.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if let Some(file) = ca {
            let wrong = |why: &dyn std::fmt::Display| {
                let file = file.display();
                ClientError::Address(format!(
                    "{file}: {why}: name a file with certificates of authorities in PEM"
                ))
            };
            let found = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
            let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
            if found.is_empty() {
                return Err(wrong(&"there is no certificate in it"));
            }
            for certificate in found {
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
        }
        Ok(Self { roots: Arc::new(roots), hashes: hashes.to_vec() })
    }

    /// A configuration for a handshake in which `told` are hashes that the node's route names; what the user named
    /// comes before them.
    pub(super) fn config(&self, told: &[CertificateHash]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has TLS 1.2 and 1.3");
        let hashes = if self.hashes.is_empty() { told } else { &self.hashes };
        if hashes.is_empty() {
            return builder.with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        }
        let pinned = Arc::new(Pinned { hashes: hashes.to_vec(), provider });
        builder.dangerous().with_custom_certificate_verifier(pinned).with_no_client_auth()
    }
}

/// Takes certificates with these hashes and no other.
#[derive(Debug)]
struct Pinned {
    hashes: Vec<CertificateHash>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let hash = digest(&SHA256, certificate);
        let is_known = self.hashes.iter().any(|known| known.0 == hash.as_ref());
        let unknown = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        is_known.then(ServerCertVerified::assertion).ok_or(unknown)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let wrong = |file: &Path| Trust::read(Some(file), &[]).unwrap_err().to_string();
        assert!(wrong(&file).contains("ca.pem"), "{}", wrong(&file));
        std::fs::write(&file, "no certificate").unwrap();
        assert!(wrong(&file).contains("there is no certificate in it"), "{}", wrong(&file));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(wrong(&file).contains("ca.pem"), "{}", wrong(&file));
    }
}
