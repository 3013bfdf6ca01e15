//! A bare connection to a RESP listener: words go out, and the client library's parser reads what comes.

use std::io::{self, Read};
use std::net::SocketAddr;

pub use redis::Value;
use redis::{Cmd, Parser};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A connection that says nothing of its own accord.
pub struct Client {
    /// To write what is no command, and to read what is no reply.
    pub socket: TcpStream,
    /// All bytes that came since the last command. They tell `*-1` from `$-1`, which a [`Value`] does not.
    pub heard: Vec<u8>,
    parser: Parser,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("somebody listens");
        Self { socket, heard: Vec::new(), parser: Parser::new() }
    }

    /// Sends the words of a command, which single spaces part.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn send(&mut self, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        self.heard.clear();
        let request = Cmd::new().arg(words).get_packed_command();
        self.socket.write_all(&request).await.expect("the connection takes a command");
    }

    /// The next reply; `None` at the end. Cancelling loses nothing.
    ///
    /// # Panics
    /// If what comes is no RESP.
    pub async fn receive(&mut self) -> Option<Value> {
        loop {
            let arrived = Arrived { socket: &self.socket, heard: &mut self.heard };
            match self.parser.parse_value(arrived) {
                Ok(reply) => return Some(reply),
                Err(error) if error.is_timeout() => self.socket.readable().await.ok()?,
                Err(error) if error.is_io_error() => return None,
                Err(error) => panic!("{error}: {}", self.heard.escape_ascii()),
            }
        }
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Panics
    /// If the connection is closed, or what comes is no RESP.
    pub async fn ask(&mut self, command: &str) -> Value {
        self.send(command).await;
        self.receive().await.unwrap_or_else(|| panic!("closed after {command}"))
    }
}

/// What has arrived already: the parser keeps its place where there is no more yet.
struct Arrived<'a> {
    socket: &'a TcpStream,
    heard: &'a mut Vec<u8>,
}

impl Read for Arrived<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.try_read(buffer)?;
        self.heard.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}
