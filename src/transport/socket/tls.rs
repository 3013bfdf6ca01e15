//! TLS over a socket, by a connection whose handshake is done.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::sync::Arc;

use rustls::ServerConnection;
use tokio::net::TcpStream;

use crate::transport::outbox::{Flush, Outbox};

/// A TLS connection that is read and written without waiting.
pub struct TlsSocket {
    tcp: Arc<TcpStream>,
    /// Borrowed within one call only, never across an await.
    tls: RefCell<ServerConnection>,
}

impl TlsSocket {
    /// Goes on with a connection whose handshake is done.
    pub fn new(tcp: Arc<TcpStream>, tls: ServerConnection) -> Self {
        Self { tcp, tls: RefCell::new(tls) }
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Waits until there may be something to read. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        // What came with a record that was read already is there whatever the socket says.
        let is_there =
            self.tls.borrow_mut().process_new_packets().map_err(broken)?.plaintext_bytes_to_read() > 0;
        if is_there { Ok(()) } else { self.tcp.readable().await }
    }

    /// Reads what there is, decrypted. 0: the client sends no more.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let tls = &mut *self.tls.borrow_mut();
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A client that hangs up without saying so in TLS first has hung up.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            // The end of the socket shows at the next turn, as the end of what can be read.
            tls.read_tls(&mut Io(&self.tcp))?;
            if let Err(error) = tls.process_new_packets() {
                // The client is told why, if it still listens.
                let _ = tls.write_tls(&mut Io(&self.tcp));
                return Err(broken(error));
            }
            // Answers that TLS itself gives, to a change of keys say.
            self.write_some(tls)?;
        }
    }

    /// Writes what waits, encrypted, as far as the socket takes it.
    pub fn flush(&self, outbox: &mut Outbox) -> Flush {
        let tls = &mut *self.tls.borrow_mut();
        loop {
            match self.write_some(tls) {
                Ok(true) if outbox.is_empty() => return Flush::Empty,
                Ok(true) => {}
                Ok(false) => return Flush::Blocked,
                Err(error) => return Flush::Broken(error),
            }
            // It takes as much as its buffer has room for; the rest waits for the next turn.
            let taken = outbox.flush_with(|slices| match tls.writer().write_vectored(slices) {
                Ok(0) => Err(ErrorKind::WouldBlock.into()),
                taken => taken,
            });
            if let Flush::Broken(error) = taken {
                return Flush::Broken(error);
            }
        }
    }

    /// Says in TLS that no more comes (RFC 8446 section 6.1).
    pub fn say_goodbye(&self) {
        let tls = &mut *self.tls.borrow_mut();
        tls.send_close_notify();
        // A client that does not take it sees the socket's end.
        let _ = self.write_some(tls);
    }

    /// Writes encrypted bytes; whether all of them went.
    fn write_some(&self, tls: &mut ServerConnection) -> io::Result<bool> {
        while tls.wants_write() {
            match tls.write_tls(&mut Io(&self.tcp)) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

/// The socket, as rustls reads and writes it.
struct Io<'a>(&'a TcpStream);

impl io::Read for Io<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl io::Write for Io<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.try_write(from)
    }

    fn write_vectored(&mut self, from: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsAcceptor, TlsConnector, client};

    use super::*;
    use crate::transport::outbox::Frame;

    /// Both ends of a connection whose handshake is done.
    async fn pair() -> (TlsSocket, client::TlsStream<TcpStream>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let server =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let server =
            server.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(Arc::new(server.unwrap())).accept(tcp).await.unwrap()
        };
        let connect = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = "localhost".try_into().unwrap();
            TlsConnector::from(Arc::new(client)).connect(name, tcp).await.unwrap()
        };
        let (server, client) = tokio::join!(accept, connect);
        let (tcp, tls) = server.into_inner();
        (TlsSocket::new(Arc::new(tcp), tls), client)
    }

    /// Sizes around what TLS buffers at a time (64 KiB), and around a record (16 KiB).
    #[tokio::test]
    async fn frames_of_every_size_arrive_whole() {
        let (socket, mut client) = pair().await;
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for size in [1, 16_384, 65_535, 1, 65_536, 1, 65_537, 32_768, 32_768, 300_000, 0, 7] {
            let frame = vec![size as u8; size];
            expected.extend_from_slice(&frame);
            outbox.push(Frame::new(&frame));
        }
        let write = async {
            loop {
                match socket.flush(&mut outbox) {
                    Flush::Empty => return socket.say_goodbye(),
                    Flush::Blocked => socket.tcp().writable().await.unwrap(),
                    Flush::Broken(error) => panic!("{error}"),
                }
            }
        };
        let mut got = vec![0; expected.len()];
        let (read, ()) = tokio::join!(client.read_exact(&mut got), write);
        read.unwrap();
        assert!(got == expected);
        assert_eq!(client.read(&mut got).await.unwrap(), 0, "TLS itself says that no more comes");
    }

    #[tokio::test]
    async fn what_came_in_one_record_is_read_in_parts() {
        let (socket, mut client) = pair().await;
        assert_eq!(socket.try_read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
        client.write_all(b"one and two").await.unwrap();
        let mut got = Vec::new();
        while got.len() < 11 {
            // Also where the socket below has nothing more to read.
            socket.readable().await.unwrap();
            let mut part = [0; 4];
            match socket.try_read(&mut part) {
                Ok(count) => got.extend_from_slice(&part[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert_eq!(got, b"one and two");
        client.shutdown().await.unwrap();
        socket.readable().await.unwrap();
        assert_eq!(socket.try_read(&mut [0; 4]).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_no_tls_is_an_error() {
        let (socket, client) = pair().await;
        let (mut tcp, _) = client.into_inner();
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let error = loop {
            socket.readable().await.unwrap();
            match socket.try_read(&mut [0; 99]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => break other.unwrap_err(),
            }
        };
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
