//! Certificates for development: made here, short-lived, known to pages by their hash.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::{CertificateHash, Loaded, TlsError, own_names, provider, sha256};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a certificate is valid. Browsers take at most 14 days by hash (W3C WebTransport, "custom
/// certificate requirements"); a day less leaves room for clocks that differ.
const LIFE: Duration = Duration::from_secs(13 * DAY.as_secs());

/// How long one is shown.
const SHOWN: Duration = Duration::from_secs(LIFE.as_secs() / 2);

/// By how much a client's clock may be behind.
const SKEW: Duration = Duration::from_secs(60 * 60);

/// Makes certificates, one ahead of the one that is shown.
#[derive(Debug)]
pub(super) struct Development {
    names: Vec<String>,
    next: Mutex<Option<Made>>,
}

/// A certificate that was made.
#[derive(Debug, Clone)]
struct Made {
    key: Arc<CertifiedKey>,
    hash: CertificateHash,
    /// When it is first shown.
    from: SystemTime,
}

impl Development {
    pub(super) fn new(names: &[String]) -> Self {
        let mut all: Vec<String> = own_names().into();
        all.extend(names.iter().filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>());
        Self { names: all, next: Mutex::new(None) }
    }

    /// The first certificate, with one made ahead.
    pub(super) fn begin(&self, now: SystemTime) -> Result<Loaded, TlsError> {
        self.show(self.make(now)?)
    }

    /// The next certificate, if it is due.
    pub(super) fn renew(&self, now: SystemTime) -> Result<Option<Loaded>, TlsError> {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match next {
            Some(next) if now < next.from => Ok(None),
            // A machine that slept past the turn of the next one, too, begins anew.
            Some(next) if now < next.from + SHOWN => self.show(next).map(Some),
            _ => self.begin(now).map(Some),
        }
    }

    fn show(&self, made: Made) -> Result<Loaded, TlsError> {
        let next = self.make(made.from + SHOWN)?;
        let hashes = vec![made.hash, next.hash];
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
        Ok(Loaded { key: made.key, expires: made.from - SKEW + LIFE, digest: made.hash, hashes })
    }

    fn make(&self, from: SystemTime) -> Result<Made, TlsError> {
        let failed = |error| TlsError::Generate { names: self.names.clone(), error };
        let mut params = CertificateParams::new(self.names.clone()).map_err(failed)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "Tidegate development");
        params.distinguished_name = name;
        params.not_before = (from - SKEW).into();
        params.not_after = (from - SKEW + LIFE).into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
        let hash = sha256(&[&certificate]);
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = CertifiedKey::from_der(vec![certificate], key, &provider())
            .expect("a pair that was just made belongs together");
        Ok(Made { key: Arc::new(key), hash, from })
    }
}
