//! A certificate and its key from two files.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::{Loaded, TlsError, provider, sha256, validity};

/// Where they are.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What they hold.
pub(super) struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// More than any chain needs.
const MAX_BYTES: u64 = 1 << 20;

impl Files {
    pub(super) fn read(&self) -> Result<Pair, TlsError> {
        Ok(Pair { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }
}

impl Pair {
    pub(super) fn digest(&self) -> [u8; 32] {
        // The length keeps the end of one from passing for the beginning of the other.
        sha256(&[&self.certificate.len().to_le_bytes(), &self.certificate, &self.key])
    }

    pub(super) fn load(&self, files: &Files) -> Result<Loaded, TlsError> {
        let broken = |why: String| TlsError::Certificate { file: files.certificate.clone(), why };
        let chain = chain(&self.certificate, &files.certificate)?;
        let expires = validity::not_after(&chain[0]).map_err(|why| broken(why.into()))?;
        let key = key(&self.key, &files.key)?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| TlsError::Key { file: files.key.clone(), error })?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            // Not known: the key does not tell which public key it has.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let (certificate, key) = (files.certificate.clone(), files.key.clone());
                return Err(TlsError::Mismatch { certificate, key });
            }
            Err(error) => return Err(broken(error.to_string())),
        }
        Ok(Loaded { key: Arc::new(key), expires, digest: self.digest(), hashes: Vec::new() })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error| TlsError::Read { file: file.to_owned(), error };
    let mut bytes = Vec::new();
    File::open(file).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(TlsError::TooLarge { file: file.to_owned(), limit: MAX_BYTES });
    }
    Ok(bytes)
}

/// At least one certificate.
fn chain(pem: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsError::NoCertificate { file: file.to_owned() }),
        Ok(chain) => Ok(chain),
        Err(error) => Err(TlsError::Pem { file: file.to_owned(), error }),
    }
}

fn key(pem: &[u8], file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    let file = file.to_owned();
    if ENCRYPTED.iter().any(|mark| pem.windows(mark.len()).any(|part| part == *mark)) {
        return Err(TlsError::EncryptedKey { file });
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { file },
        error => TlsError::Pem { file, error },
    })
}
