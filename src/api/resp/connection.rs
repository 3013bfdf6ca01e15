//! One connection: bytes in, commands, bytes out.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::reading::ReadPlan;
use super::session::{Session, Step};
use crate::backbone::resp::{RequestDecoder, Value, encode_array_header};

/// Bytes read at a time.
const READ: usize = 16 << 10;
/// Replies gather up to this before they are written.
const FLUSH: usize = 64 << 10;
/// How long a client may take to bring its password, and any client to close after we did.
const GREETING: Duration = Duration::from_secs(10);
/// A client that takes none of its replies for so long is given up.
const STALLED: Duration = Duration::from_secs(60);

/// Serves a connection until its client leaves or breaks the rules. Dropping the future closes it; a
/// command is carried out whole or not at all.
pub(super) async fn run(socket: TcpStream, session: Session) -> io::Result<()> {
    let decoder = RequestDecoder::new(session.limits());
    let (input, output) = (BytesMut::new(), BytesMut::new());
    Connection { socket, session, decoder, input, output, greet_by: None }.serve().await
}

struct Connection {
    socket: TcpStream,
    session: Session,
    decoder: RequestDecoder,
    input: BytesMut,
    output: BytesMut,
    /// When a password must have come, while it has not.
    greet_by: Option<Instant>,
}

impl Connection {
    async fn serve(mut self) -> io::Result<()> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(args)) => match self.session.handle(args) {
                    Step::Reply(reply) => self.reply(&reply).await?,
                    Step::Wait(plan) => match self.wait(&plan).await? {
                        Some(reply) => self.reply(&reply).await?,
                        None => return Ok(()),
                    },
                    Step::Close(reply) => return self.close(reply).await,
                },
                Ok(None) => {
                    self.flush().await?;
                    if !self.read().await? {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let reply = Value::error(format!("ERR Protocol error: {error}"));
                    return self.close(Some(reply)).await;
                }
            }
            self.decoder.set_limits(self.session.limits());
        }
    }

    /// Reads some bytes; `false` at the end. Without a password there is little time.
    async fn read(&mut self) -> io::Result<bool> {
        self.input.reserve(READ);
        let read = self.socket.read_buf(&mut self.input);
        let count = if self.session.is_authenticated() {
            self.greet_by = None;
            read.await?
        } else {
            // One deadline for all attempts: bytes that trickle in do not move it.
            let deadline = *self.greet_by.get_or_insert_with(|| Instant::now() + GREETING);
            timeout_at(deadline, read).await??
        };
        Ok(count > 0)
    }

    /// Writes a reply. Long lists are written piece by piece: encoded, they may be far larger than
    /// what the entries, which the streams share, take in memory.
    async fn reply(&mut self, reply: &Value) -> io::Result<()> {
        match reply {
            Value::Array(items) => {
                encode_array_header(items.len(), &mut self.output);
                for item in items {
                    item.encode(self.session.protocol(), &mut self.output);
                    self.flush_beyond(FLUSH).await?;
                }
            }
            _ => reply.encode(self.session.protocol(), &mut self.output),
        }
        self.flush_beyond(FLUSH).await
    }

    /// Waits for what a read wants; `None` when the client left. Its further requests are read, so that
    /// leaving is noticed, and wait their turn.
    async fn wait(&mut self, plan: &ReadPlan) -> io::Result<Option<Value>> {
        self.flush().await?;
        let waiter = self.session.embedded().waiter(plan.keys());
        let block = plan.block().unwrap_or_default();
        let deadline = sleep(block);
        tokio::pin!(deadline);
        loop {
            if let Some(reply) = self.session.retry(plan) {
                return Ok(Some(reply));
            }
            self.input.reserve(READ);
            tokio::select! {
                () = waiter.changed() => {}
                () = &mut deadline, if !block.is_zero() => return Ok(Some(Value::NullArray)),
                count = self.socket.read_buf(&mut self.input), if self.input.len() < READ => {
                    if count? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn flush_beyond(&mut self, most: usize) -> io::Result<()> {
        if self.output.len() > most { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> io::Result<()> {
        timeout(STALLED, self.socket.write_all_buf(&mut self.output)).await??;
        if self.output.capacity() > 2 * FLUSH {
            // One long entry must not cost its size for as long as the connection lives.
            self.output = BytesMut::new();
        }
        Ok(())
    }

    /// Says a last word and closes. What the client still sends is read and dropped for a while: closing
    /// on unread bytes would reset the connection and take the last word with it.
    async fn close(mut self, reply: Option<Value>) -> io::Result<()> {
        let Some(reply) = reply else { return Ok(()) };
        self.reply(&reply).await?;
        self.flush().await?;
        self.socket.shutdown().await?;
        let drain = async {
            loop {
                self.input.clear();
                self.input.reserve(READ);
                if self.socket.read_buf(&mut self.input).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        timeout(GREETING, drain).await.unwrap_or(Ok(()))
    }
}
