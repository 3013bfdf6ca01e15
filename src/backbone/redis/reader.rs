//! The feed's reads: lean connections of their own, beside the client library's.
//!
//! They speak RESP2 and know the few answers that reads have, keep an entry's bytes and nothing around
//! them, and drop what is too large to be an entry of ours as it streams by. *Invariants*: answers come
//! in the order of the questions, so a connection that lost count of them is closed; what nobody waits
//! for any more is still read to its end.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::backbone::BackboneError;
use crate::backbone::resp::{Scanner, encode_command};
use replies::Gathering;

mod replies;
mod socket;

pub(super) use replies::{Answer, Entries, Reply, Want};
pub(super) use socket::Address;
use socket::{ReadHalf, WriteHalf};

/// Pipelines that wait for the connection's task.
const QUEUE: usize = 256;
/// Bytes of questions beyond which no more are taken before some are sent.
const MOST_UNSENT: usize = 256 << 10;
/// Room for one read from the socket.
const CHUNK: usize = 64 << 10;

/// The connections of one life.
#[derive(Clone)]
pub(super) struct Reader {
    /// Reads of what is new.
    live: Lane,
    /// All others. A page for somebody far behind may be long, and live reads must not stand behind it.
    pages: Lane,
}

/// Which connection to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Live,
    Pages,
}

impl Reader {
    /// Opens the connections. Their tasks end, each with a signal to `dropped`, when a connection breaks
    /// or nobody can ask any more.
    pub(super) async fn open(
        address: &Address,
        response_timeout: Duration,
        tasks: &TaskTracker,
        dropped: &Arc<Notify>,
    ) -> Result<Self, BackboneError> {
        let open = |name| Lane::open(address, name, response_timeout, tasks, dropped);
        let (live, pages) = tokio::try_join!(open("tidegate:live"), open("tidegate:pages"))?;
        Ok(Self { live, pages })
    }

    /// Sends a pipeline and returns one answer a command. An error means that the connection is dead or
    /// has to be treated so. Cancelling leaves the answers to nobody.
    pub(super) async fn ask(&self, way: Way, commands: Commands) -> Result<Vec<Answer>, BackboneError> {
        match way {
            Way::Live => self.live.ask(commands).await,
            Way::Pages => self.pages.ask(commands).await,
        }
    }

    /// What each server says about its part in replication; `None` where the user may not ask.
    pub(super) async fn replication(&self) -> Result<[Option<String>; 2], BackboneError> {
        let ask = async |lane: &Lane| {
            let mut commands = Commands::default();
            commands.push(Want::Text, &[b"INFO", b"replication"]);
            match lane.ask(commands).await?.pop() {
                Some(Ok(Reply::Text(text))) => Ok(Some(text)),
                _ => Ok(None),
            }
        };
        let (live, pages) = tokio::try_join!(ask(&self.live), ask(&self.pages))?;
        Ok([live, pages])
    }
}

/// Commands of one pipeline, and what is wanted of each.
#[derive(Debug, Default)]
pub(super) struct Commands {
    bytes: BytesMut,
    wants: Vec<Want>,
}

impl Commands {
    /// For so many reads.
    pub(super) fn with_capacity(count: usize) -> Self {
        Self { bytes: BytesMut::with_capacity(count * 128), wants: Vec::with_capacity(count) }
    }

    /// Adds a command.
    pub(super) fn push(&mut self, want: Want, words: &[&[u8]]) {
        encode_command(words, &mut self.bytes);
        self.wants.push(want);
    }
}

/// A pipeline on its way.
struct Question {
    commands: Commands,
    answer: oneshot::Sender<Result<Vec<Answer>, BackboneError>>,
}

/// One connection, which a task of its own owns.
#[derive(Clone)]
struct Lane {
    questions: mpsc::Sender<Question>,
}

impl Lane {
    async fn open(
        address: &Address,
        name: &str,
        response_timeout: Duration,
        tasks: &TaskTracker,
        dropped: &Arc<Notify>,
    ) -> Result<Self, BackboneError> {
        let (read, write) = address.connect().await?;
        let lane = Self::start(read, write, response_timeout, tasks, dropped);
        let mut answers = lane.ask(address.greeting(name)).await?;
        answers.pop();
        answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(lane)
    }

    fn start(
        read: ReadHalf,
        write: WriteHalf,
        response_timeout: Duration,
        tasks: &TaskTracker,
        dropped: &Arc<Notify>,
    ) -> Self {
        let (questions, taken) = mpsc::channel(QUEUE);
        let driver = Driver::new(read, write, taken, response_timeout);
        let dropped = Arc::clone(dropped);
        tasks.spawn(async move {
            driver.run().await;
            dropped.notify_one();
        });
        Self { questions }
    }

    async fn ask(&self, commands: Commands) -> Result<Vec<Answer>, BackboneError> {
        let lost = || BackboneError::Away("the connection for reads was lost".into());
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question { commands, answer }).await.map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }
}

/// Owns a connection: sends what is asked, gathers what is answered.
struct Driver {
    read: ReadHalf,
    write: WriteHalf,
    questions: mpsc::Receiver<Question>,
    /// Questions asked, the oldest first.
    asked: VecDeque<Asked>,
    output: BytesMut,
    input: BytesMut,
    scanner: Scanner,
    response_timeout: Duration,
    /// The last sign of life while something was awaited.
    heard: Instant,
}

struct Asked {
    gathering: Gathering,
    answer: oneshot::Sender<Result<Vec<Answer>, BackboneError>>,
}

impl Driver {
    fn new(
        read: ReadHalf,
        write: WriteHalf,
        questions: mpsc::Receiver<Question>,
        response_timeout: Duration,
    ) -> Self {
        Self {
            read,
            write,
            questions,
            asked: VecDeque::new(),
            output: BytesMut::new(),
            input: BytesMut::new(),
            scanner: Scanner::default(),
            response_timeout,
            heard: Instant::now(),
        }
    }

    /// Runs until the connection breaks, and tells everybody who waits; or until nobody can ask.
    async fn run(mut self) {
        if let Err(error) = self.drive().await {
            self.questions.close();
            while let Ok(Question { answer, .. }) = self.questions.try_recv() {
                // Whoever gave up waiting needs no answer, here and below.
                let _ = answer.send(Err(error.clone()));
            }
            for Asked { answer, .. } in self.asked {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }

    async fn drive(&mut self) -> Result<(), BackboneError> {
        let mut watch = pin!(sleep(self.response_timeout));
        let (mut unsent, mut open) = (false, true);
        while open || !self.asked.is_empty() {
            let takes = open && self.output.len() < MOST_UNSENT;
            tokio::select! {
                biased;
                question = self.questions.recv(), if takes => match question {
                    Some(question) => {
                        self.take(question);
                        unsent = true;
                    }
                    None => open = false,
                },
                sent = send(&mut self.write, &mut self.output), if unsent => {
                    sent.map_err(broken)?;
                    unsent = false;
                }
                received = receive(&mut self.read, &mut self.input) => {
                    if received.map_err(broken)? == 0 {
                        return Err(BackboneError::Away("the server closed the connection for reads".into()));
                    }
                    self.heard = Instant::now();
                    self.answer()?;
                }
                () = &mut watch => {
                    let silent = self.heard.elapsed();
                    if self.asked.is_empty() {
                        watch.as_mut().reset(Instant::now() + self.response_timeout);
                    } else if silent < self.response_timeout {
                        watch.as_mut().reset(self.heard + self.response_timeout);
                    } else {
                        return Err(BackboneError::Away("the server does not answer reads in time".into()));
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, Question { commands, answer }: Question) {
        if self.asked.is_empty() {
            self.heard = Instant::now();
        }
        if self.output.is_empty() {
            self.output = commands.bytes;
        } else {
            self.output.extend_from_slice(&commands.bytes);
        }
        self.asked.push_back(Asked { gathering: Gathering::new(commands.wants), answer });
    }

    /// Hands out the answers that are whole by now.
    fn answer(&mut self) -> Result<(), BackboneError> {
        let mut rest: &[u8] = &self.input;
        while let Some(asked) = self.asked.front_mut() {
            let gathered = asked.gathering.take(&mut self.scanner, &mut rest);
            let Some(answers) = gathered.map_err(|error| BackboneError::Away(error.to_string()))? else {
                break;
            };
            if let Some(Asked { answer, .. }) = self.asked.pop_front() {
                let _ = answer.send(Ok(answers));
            }
        }
        // The last string of the last answer may have been passed over and still be coming.
        self.scanner.drop_passed(&mut rest);
        if self.asked.is_empty() && !rest.is_empty() {
            return Err(BackboneError::Away("the server answers what was not asked".into()));
        }
        let used = self.input.len() - rest.len();
        self.input.advance(used);
        if self.input.is_empty() && self.input.capacity() > 4 * CHUNK {
            self.input = BytesMut::new();
        }
        Ok(())
    }
}

fn broken(error: io::Error) -> BackboneError {
    BackboneError::Away(format!("the connection for reads broke: {error}"))
}

/// Cancel-safe: what was not sent stays.
async fn send(write: &mut WriteHalf, output: &mut BytesMut) -> io::Result<()> {
    while !output.is_empty() {
        if write.write_buf(output).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    write.flush().await
}

/// Cancel-safe. 0 is the connection's end.
async fn receive(read: &mut ReadHalf, input: &mut BytesMut) -> io::Result<usize> {
    input.reserve(CHUNK);
    read.read_buf(input).await
}

#[cfg(test)]
mod tests;
