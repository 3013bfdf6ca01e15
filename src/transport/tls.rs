//! The certificate that a node shows, over TCP and over QUIC: read from files or made for development,
//! and changed while the node runs.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::QuicServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, pki_types};
use tokio_util::sync::CancellationToken;

use crate::telemetry::events;

mod development;
mod files;
#[cfg(test)]
mod tests;
mod validity;

use development::Development;
use files::Files;

/// How often files are looked at, and a certificate for development is checked for its age. A look
/// reads two small files.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The SHA-256 of a certificate in DER: what a page gives as `serverCertificateHashes`.
pub type CertificateHash = [u8; 32];

/// The certificate of a node and its private key, and the TLS settings that show it. A clone shares
/// them: a certificate that is exchanged is exchanged for all.
///
/// Connections that stand keep the certificate they began with. A TLS session is resumed by a ticket
/// that only this process can read: a client that reaches another node, or this one after a restart,
/// makes a full handshake.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Source,
    shown: Arc<Shown>,
    tcp: Arc<ServerConfig>,
    quic: Arc<ServerConfig>,
}

#[derive(Debug)]
enum Source {
    Files(Files),
    Development(Development),
}

/// What handshakes are answered with. Read once a handshake, written once a change.
#[derive(Debug)]
struct Shown(RwLock<Loaded>);

/// A certificate that is ready to be shown.
#[derive(Debug, Clone)]
struct Loaded {
    key: Arc<CertifiedKey>,
    expires: SystemTime,
    /// What it was made of, to tell whether the files have changed.
    digest: [u8; 32],
    /// Of this certificate and of the one after it; none for certificates from files.
    hashes: Vec<CertificateHash>,
}

impl Certificates {
    /// Reads a certificate with its chain, the node's own first, and its private key, both in PEM. Keys
    /// may be RSA, ECDSA or Ed25519, in PKCS#8, PKCS#1 or SEC1, not encrypted.
    ///
    /// A certificate that has expired is taken: [`Self::expires`] tells.
    ///
    /// # Errors
    /// [`TlsError`] names the file, what is wrong with it and what to do.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let loaded = files.read()?.load(&files)?;
        Self::new(Source::Files(files), loaded)
    }

    /// Makes a self-signed certificate that browsers take by its [hash](Self::hashes): ECDSA P-256, for
    /// 13 days of the 14 that they allow, for `localhost`, `127.0.0.1`, `::1` and `names`, which may be
    /// addresses too. After half of its life, while [`Self::keep_fresh`] runs, the next one takes over,
    /// whose hash was told from the start: a page may hold a hash for six days.
    ///
    /// # Errors
    /// [`TlsError::Generate`] for a name that cannot stand in a certificate.
    pub fn development(names: &[String]) -> Result<Self, TlsError> {
        let development = Development::new(names);
        let loaded = development.begin(SystemTime::now())?;
        Self::new(Source::Development(development), loaded)
    }

    fn new(source: Source, loaded: Loaded) -> Result<Self, TlsError> {
        let shown = Arc::new(Shown(RwLock::new(loaded)));
        let tcp = server_config(&shown, &[&rustls::version::TLS13, &rustls::version::TLS12], TCP_PROTOCOLS)?;
        let quic = server_config(&shown, &[&rustls::version::TLS13], QUIC_PROTOCOLS)?;
        Ok(Self(Arc::new(Shared { source, shown, tcp: Arc::new(tcp), quic: Arc::new(quic) })))
    }

    /// TLS 1.2 and 1.3 over TCP, for `h2` and `http/1.1`.
    pub fn tcp(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.tcp)
    }

    /// TLS 1.3 over QUIC, for `h3`, without 0-RTT: what a client sends before the handshake is done
    /// could be played back by others.
    pub fn quic(&self) -> Arc<dyn quinn::crypto::ServerConfig> {
        let config = QuicServerConfig::try_from(Arc::clone(&self.0.quic));
        Arc::new(config.expect("ring has the cipher suite of QUIC's initial packets"))
    }

    /// When the certificate that is shown now stops being valid. It may be in the past.
    pub fn expires(&self) -> SystemTime {
        self.0.shown.get().expires
    }

    /// The hashes of the certificate that is shown now and of the one that follows it, for pages that
    /// connect without a certificate authority. `None` where the certificate is from files.
    pub fn hashes(&self) -> Option<Vec<CertificateHash>> {
        let hashes = self.0.shown.get().hashes;
        (!hashes.is_empty()).then_some(hashes)
    }

    /// Keeps the certificate fresh until it is cancelled: looks every [`LOOK_EVERY`] whether the files
    /// hold another pair, or whether a certificate for development is past half of its life. New
    /// handshakes are answered with what it finds.
    ///
    /// A pair that cannot be used leaves the old one where it is and is told once, as soon as two looks
    /// have found the same: files are rarely exchanged both at once.
    pub async fn keep_fresh(&self, cancelled: CancellationToken) {
        let mut broken = Broken::default();
        while cancelled.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            self.look(&mut broken).await;
        }
    }

    async fn look(&self, broken: &mut Broken) {
        let shared = Arc::clone(&self.0);
        // It reads files or makes keys: neither belongs on a thread that serves others.
        let Ok(found) = tokio::task::spawn_blocking(move || shared.newer()).await else { return };
        match found {
            Ok(None) => *broken = Broken::default(),
            Ok(Some(loaded)) => {
                *broken = Broken::default();
                events::certificate_exchanged(loaded.expires);
                self.0.shown.set(loaded);
            }
            Err(error) => {
                if broken.is_to_be_told(&error) {
                    events::certificate_kept(&error);
                }
            }
        }
    }
}

impl Shared {
    /// What is to be shown instead of what is shown now.
    fn newer(&self) -> Result<Option<Loaded>, TlsError> {
        match &self.source {
            Source::Files(files) => {
                let pair = files.read()?;
                if pair.digest() == self.shown.get().digest {
                    return Ok(None);
                }
                pair.load(files).map(Some)
            }
            Source::Development(development) => development.renew(SystemTime::now()),
        }
    }
}

/// What the last looks could not use.
#[derive(Debug, Default)]
struct Broken {
    why: String,
    looks: u32,
}

impl Broken {
    /// Whether this is the second look in a row that failed in this way.
    fn is_to_be_told(&mut self, error: &TlsError) -> bool {
        let why = error.to_string();
        if why == self.why {
            self.looks = self.looks.saturating_add(1);
        } else {
            *self = Self { why, looks: 1 };
        }
        self.looks == 2
    }
}

impl Shown {
    fn get(&self) -> Loaded {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, loaded: Loaded) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = loaded;
    }
}

impl ResolvesServerCert for Shown {
    /// The one certificate, whatever name the client asks for: a client that expects another refuses it.
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&loaded.key))
    }
}

const TCP_PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];
const QUIC_PROTOCOLS: &[&[u8]] = &[b"h3"];

fn server_config(
    shown: &Arc<Shown>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    protocols: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(shown) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // Tickets keep the session with the client; a memory of sessions would be a second, smaller way.
    config.ticketer = ring::Ticketer::new().map_err(TlsError::Random)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = ::ring::digest::Context::new(&::ring::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Why there is no certificate to show. It is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file is larger than any chain of certificates.
    #[error("{} is larger than {limit} bytes: is it the right file?", file.display())]
    TooLarge {
        /// Which.
        file: PathBuf,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// A file is no PEM, or damaged PEM.
    #[error("{} is not valid PEM ({error:?}): write it again", file.display())]
    Pem {
        /// Which.
        file: PathBuf,
        /// Where it breaks.
        error: pki_types::pem::Error,
    },
    /// The certificate file holds none.
    #[error("{} holds no certificate: it must have a block BEGIN CERTIFICATE, the node's own first and then its chain", file.display())]
    NoCertificate {
        /// Which.
        file: PathBuf,
    },
    /// The key file holds none.
    #[error("{} holds no private key: it must have a block BEGIN PRIVATE KEY (or EC or RSA PRIVATE KEY)", file.display())]
    NoKey {
        /// Which.
        file: PathBuf,
    },
    /// The key is encrypted.
    #[error("the private key in {} is encrypted: decrypt it first (openssl pkey -in … -out …)", file.display())]
    EncryptedKey {
        /// Which.
        file: PathBuf,
    },
    /// A key of an algorithm, a curve or a length that TLS is not spoken with here.
    #[error("the private key in {} cannot be used ({error}): take RSA with 2048 to 8192 bits, ECDSA P-256 or P-384, or Ed25519", file.display())]
    Key {
        /// Which.
        file: PathBuf,
        /// What the library said.
        error: rustls::Error,
    },
    /// The certificate is damaged.
    #[error("the first certificate in {} cannot be read: {why}", file.display())]
    Certificate {
        /// Which.
        file: PathBuf,
        /// What does not stand where it should.
        why: String,
    },
    /// The key belongs to another certificate.
    #[error("the private key in {} does not belong to the first certificate in {}: give the pair that was issued together, the node's own certificate first", key.display(), certificate.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// A certificate for development cannot be made.
    #[error("no certificate can be made for the names {names:?}: {error}")]
    Generate {
        /// The names that it was to have.
        names: Vec<String>,
        /// What the library said.
        error: rcgen::Error,
    },
    /// The system gives no random numbers.
    #[error("no key for session tickets can be made: {0}")]
    Random(rustls::Error),
}

/// The names that every certificate for development has.
fn own_names() -> [String; 3] {
    ["localhost".into(), IpAddr::from([127, 0, 0, 1]).to_string(), "::1".into()]
}
