//! One client over WebTransport.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::Mutex;

use super::super::counts::{Seen, is_sampled};
use super::super::talk::Talk;
use super::super::{Kind, http3};
use super::Shared;

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// What a client says, and what it knows.
pub struct Client {
    connection: Connection,
    frames: Mutex<SendStream>,
    talk: RefCell<Talk>,
    /// Streams that have to stay open.
    _kept: (SendStream, SendStream),
}

/// What a client hears.
pub struct Reader {
    client: Rc<Client>,
    connection: Connection,
    frames: RecvStream,
    /// The beginning of a frame whose end is to come.
    rest: Vec<u8>,
    number: usize,
    _kept: RecvStream,
}

impl Client {
    /// Opens a session and waits until it is subscribed.
    pub async fn open(
        endpoint: &Endpoint,
        config: ClientConfig,
        address: SocketAddr,
        kind: Kind,
        number: usize,
        shared: &Shared,
    ) -> Result<(Rc<Self>, Reader)> {
        let connection = endpoint.connect_with(config, address, "localhost")?.await?;
        let mut control = connection.open_uni().await?;
        control.write_all(&http3::control_stream()).await?;
        let (mut connect, mut answers) = connection.open_bi().await?;
        ensure!(connect.id().index() == 0, "the request is not the first");
        connect.write_all(&http3::request(&address.to_string())).await?;
        let mut answer = Vec::new();
        while !http3::is_granted(&answer)? {
            let chunk = answers.read_chunk(CHUNK, true).await?.context("no answer to the request")?;
            answer.extend_from_slice(&chunk.bytes);
        }
        let (mut frames, heard) = connection.open_bi().await?;
        let talk = Talk::new(kind, number, None);
        let hello = talk.hello();
        let mut first = http3::SESSION_STREAM.to_vec();
        http3::put_varint(&mut first, hello.len() as u64);
        first.extend_from_slice(hello.as_bytes());
        frames.write_all(&first).await?;
        let client = Rc::new(Self {
            connection: connection.clone(),
            frames: Mutex::new(frames),
            talk: RefCell::new(talk),
            _kept: (control, connect),
        });
        let mut reader = Reader {
            client: client.clone(),
            connection,
            frames: heard,
            rest: Vec::new(),
            number,
            _kept: answers,
        };
        while !client.talk.borrow().begun {
            reader.step(shared).await?;
        }
        Ok((client, reader))
    }

    /// UDP packets that were sent on this connection.
    pub fn packets(&self) -> u64 {
        self.connection.stats().udp_tx.datagrams
    }

    /// Sends an acknowledgement that moves nothing.
    pub async fn acknowledge_again(&self) -> Result<()> {
        let frame = self.talk.borrow().acknowledge_again().map(str::to_owned);
        self.say(&frame.context("a client has nothing to acknowledge")?).await
    }

    async fn say(&self, frame: &str) -> Result<()> {
        let mut bytes = Vec::with_capacity(frame.len() + 2);
        http3::put_varint(&mut bytes, frame.len() as u64);
        bytes.extend_from_slice(frame.as_bytes());
        Ok(self.frames.lock().await.write_all(&bytes).await?)
    }
}

impl Reader {
    /// Reads until the connection ends.
    pub async fn run(mut self, shared: &Shared) -> Result<()> {
        loop {
            self.step(shared).await.with_context(|| format!("client {}", self.number))?;
        }
    }

    async fn step(&mut self, shared: &Shared) -> Result<()> {
        let mut seen = Seen::default();
        tokio::select! {
            chunk = self.frames.read_chunk(CHUNK, true) => {
                let chunk = chunk?.context("the node ended the stream")?;
                self.hear_stream(&chunk.bytes, &mut seen).await?;
            }
            datagram = self.connection.read_datagram() => {
                let datagram = datagram?;
                let (prefix, frame) = datagram.split_first().context("a datagram of no session")?;
                ensure!(*prefix == http3::SESSION_DATAGRAM, "a datagram of another session");
                // An empty one is a heartbeat.
                if !frame.is_empty() {
                    self.hear(frame, datagram.len(), &mut seen).await?;
                }
            }
        }
        shared.counts.borrow_mut().add(&seen);
        shared.seen();
        Ok(())
    }

    async fn hear_stream(&mut self, bytes: &[u8], seen: &mut Seen) -> Result<()> {
        let mut whole = std::mem::take(&mut self.rest);
        let mut unread = bytes;
        if !whole.is_empty() {
            whole.extend_from_slice(bytes);
            unread = &whole;
        }
        loop {
            let mut rest = unread;
            let Some(length) = http3::take_varint(&mut rest) else { break };
            let Some((frame, after)) = rest.split_at_checked(length as usize) else { break };
            self.hear(frame, unread.len() - after.len(), seen).await?;
            unread = after;
        }
        self.rest = unread.to_vec();
        Ok(())
    }

    async fn hear(&mut self, frame: &[u8], bytes: usize, seen: &mut Seen) -> Result<()> {
        let answer = self.client.talk.borrow_mut().hear(frame, bytes, is_sampled(self.number), seen)?;
        match answer {
            None => Ok(()),
            Some(answer) => self.client.say(&answer).await,
        }
    }
}
