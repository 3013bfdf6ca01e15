//! Opens a plain connection to the configured server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Commands, Want};
use crate::backbone::BackboneError;

/// Whatever the bytes come from.
pub(super) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// Whatever they go to.
pub(super) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Where the server is and who the node is there: what the client library made of the URL.
#[derive(Clone)]
pub(in crate::backbone::redis) struct Address {
    place: Place,
    user: Option<String>,
    password: Option<String>,
    database: i64,
    connect_timeout: Duration,
}

#[derive(Clone)]
enum Place {
    Tcp(String, u16),
    Tls { host: String, port: u16, name: ServerName<'static>, connector: TlsConnector },
    Unix(PathBuf),
}

impl Address {
    /// Reads the machine's trusted certificates for `rediss://`.
    pub(in crate::backbone::redis) fn new(
        info: &ConnectionInfo,
        connect_timeout: Duration,
    ) -> Result<Self, BackboneError> {
        let place = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Place::Tcp(host.clone(), *port),
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                let name = ServerName::try_from(host.clone()).map_err(|_| {
                    BackboneError::Refused("the host of the Redis URL is no name for a certificate".into())
                })?;
                Place::Tls { host: host.clone(), port: *port, name, connector: connector()? }
            }
            ConnectionAddr::Unix(path) => Place::Unix(path.clone()),
            _ => return Err(BackboneError::Refused("this kind of Redis URL is not supported".into())),
        };
        let redis = info.redis_settings();
        Ok(Self {
            place,
            user: redis.username().map(str::to_owned),
            password: redis.password().map(str::to_owned),
            database: redis.db(),
            connect_timeout,
        })
    }

    /// Opens a connection, handshake of TLS included.
    pub(super) async fn connect(&self) -> Result<(ReadHalf, WriteHalf), BackboneError> {
        match timeout(self.connect_timeout, self.place.connect()).await {
            Ok(Ok(halves)) => Ok(halves),
            Ok(Err(error)) => Err(BackboneError::Away(error.to_string())),
            Err(_) => Err(BackboneError::Away("no connection for reads in time".into())),
        }
    }

    /// What to say first. The last command may be refused.
    pub(super) fn greeting(&self, name: &str) -> Commands {
        let mut commands = Commands::default();
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                commands.push(Want::Text, &[b"AUTH", user.as_bytes(), password.as_bytes()]);
            }
            (None, Some(password)) => commands.push(Want::Text, &[b"AUTH", password.as_bytes()]),
            (_, None) => {}
        }
        if self.database != 0 {
            commands.push(Want::Text, &[b"SELECT", self.database.to_string().as_bytes()]);
        }
        commands.push(Want::Text, &[b"CLIENT", b"SETNAME", name.as_bytes()]);
        commands
    }
}

impl Place {
    async fn connect(&self) -> std::io::Result<(ReadHalf, WriteHalf)> {
        Ok(match self {
            Self::Tcp(host, port) => {
                let (read, write) = tcp(host, *port).await?.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Tls { host, port, name, connector } => {
                let (read, write) = split(connector.connect(name.clone(), tcp(host, *port).await?).await?);
                (Box::new(read), Box::new(write))
            }
            Self::Unix(path) => {
                let (read, write) = UnixStream::connect(path).await?.into_split();
                (Box::new(read), Box::new(write))
            }
        })
    }
}

async fn tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Trusts what the machine trusts, as the client library does.
fn connector() -> Result<TlsConnector, BackboneError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.first() {
        return Err(BackboneError::Refused(format!("the trusted certificates cannot be read: {error}")));
    }
    for certificate in found.certs {
        roots.add(certificate).map_err(|error| {
            BackboneError::Refused(format!("a trusted certificate of this machine is not valid: {error}"))
        })?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
