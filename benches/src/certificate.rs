//! A certificate for the nodes of a run, which its herds trust.

use std::path::PathBuf;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::args::RunArgs;

/// Its files.
pub struct Certificate {
    /// The certificate in PEM.
    pub pem: PathBuf,
    /// Its key in PEM.
    pub key: PathBuf,
    /// The certificate in DER.
    pub der: PathBuf,
}

impl Certificate {
    /// The files of the run, which may not be there yet.
    pub fn of(args: &RunArgs) -> Self {
        let file = |name: &str| args.pids.with_file_name(name);
        Self { pem: file("certificate.pem"), key: file("key.pem"), der: file("certificate.der") }
    }

    /// Makes one for ECDSA P-256 where there is none.
    pub fn ensure(self) -> Result<Self> {
        if !self.der.exists() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let certificate = CertificateParams::new(["localhost".to_owned()])?.self_signed(&key)?;
            std::fs::write(&self.pem, pem("CERTIFICATE", certificate.der()))?;
            std::fs::write(&self.key, pem("PRIVATE KEY", &key.serialize_der()))?;
            std::fs::write(&self.der, certificate.der())?;
        }
        Ok(self)
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    const LINE: usize = 64;
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(LINE).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
