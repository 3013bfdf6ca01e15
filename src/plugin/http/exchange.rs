//! One request and its response, on the node's runtime.
//!
//! The task that owns the connection sends the head once and then the body, a piece at a time, into a queue of one:
//! what a plugin does not read stays with the server. It ends when the body does, at its deadline, or when nobody
//! holds the other end any more.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::Flight;
use super::resolver::Resolver;
use super::tls::Tls;
use crate::telemetry::PluginHttpOutcome;

/// Bytes that are read ahead of the plugin, the head included.
const READ_BYTES: usize = 64 << 10;

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// A name or an address, version 6 in brackets; in lower case.
    pub(super) host: Box<str>,
    pub(super) port: u16,
    pub(super) https: bool,
}

/// How long each step may take: what the plugin says, where that is less than it has. A call that waits ends at its own
/// deadline and takes its requests along; twice that is for those that a plugin leaves behind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
    /// From the beginning to the end of the body.
    whole: Duration,
}

impl Patience {
    pub(super) fn new(options: RequestOptions, deadline: Duration) -> Self {
        let whole = deadline.saturating_mul(2);
        let most = |asked: Option<Duration>| asked.map_or(whole, |asked| asked.min(whole));
        Self {
            connect: most(options.connect_timeout),
            first_byte: most(options.first_byte_timeout),
            between_bytes: most(options.between_bytes_timeout),
            whole,
        }
    }
}

/// A request that is about to be made.
pub(super) struct Exchange {
    pub(super) request: Request<WasiBody>,
    pub(super) target: Target,
    pub(super) tls: Tls,
    pub(super) resolver: Resolver,
    /// Whether a name may lead to the node's own machine or link.
    pub(super) allow_local: bool,
    pub(super) patience: Patience,
    pub(super) response_bytes: u64,
    pub(super) flight: Flight,
}

type Head = oneshot::Sender<Result<Parts, Error>>;
type Pieces = mpsc::Sender<Result<Frame<Bytes>, Error>>;

impl Exchange {
    /// Makes it on a runtime. Dropping the future, or the body that comes of it, ends it.
    pub(super) fn begin(
        self,
        runtime: &Handle,
    ) -> impl Future<Output = Result<Response<WasiBody>, Error>> + Send + 'static {
        let (head, answered) = oneshot::channel();
        let (pieces, body) = mpsc::channel(1);
        let task = AbortOnDropHandle::new(runtime.spawn(self.run(head, pieces)));
        async move {
            // The task sends something before it ends, unless the runtime does.
            let parts = answered.await.unwrap_or(Err(Error::ConnectionTerminated))?;
            Ok(Response::from_parts(parts, ResponseBody { pieces: body, _task: task }.boxed_unsync()))
        }
    }

    async fn run(self, head: Head, pieces: Pieces) {
        let Self { request, target, tls, resolver, allow_local, patience, response_bytes, mut flight } = self;
        let mut head = Some(head);
        let permit = Arc::clone(&flight.permit);
        let talk = async {
            let connected = async {
                let addresses = resolver.addresses(&target, allow_local, permit).await?;
                connect(&target, &addresses, &tls).await
            };
            let stream =
                timeout(patience.connect, connected).await.map_err(|_| Error::ConnectionTimeout)??;
            let (mut sender, connection) = http1::Builder::new()
                .max_buf_size(READ_BYTES)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(of_hyper)?;
            let answer = async {
                let response = timeout(patience.first_byte, sender.send_request(request)).await;
                let response = response.map_err(|_| Error::ConnectionReadTimeout)?.map_err(of_hyper)?;
                let (parts, body) = response.into_parts();
                flight.outcome = PluginHttpOutcome::Answered;
                // Whoever waited is gone, and takes this task along.
                head.take().map(|head| head.send(Ok(parts)));
                hand_over(body, &pieces, patience.between_bytes, response_bytes).await
            };
            tokio::pin!(answer);
            tokio::select! {
                done = &mut answer => done,
                // What came before its end is still to be handed over.
                _ = connection => answer.await,
            }
        };
        let ended = timeout(patience.whole, talk).await.unwrap_or(Err(Error::HttpResponseTimeout));
        let Err(error) = ended else { return };
        flight.outcome = outcome(&error);
        drop(flight);
        match head {
            Some(head) => drop(head.send(Err(error))),
            None => drop(pieces.send(Err(error)).await),
        }
    }
}

async fn hand_over(mut body: Incoming, to: &Pieces, between: Duration, most: u64) -> Result<(), Error> {
    let mut bytes = 0;
    loop {
        let frame = timeout(between, body.frame()).await.map_err(|_| Error::ConnectionReadTimeout)?;
        let Some(frame) = frame.transpose().map_err(of_hyper)? else { return Ok(()) };
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if bytes > most {
            return Err(Error::HttpResponseBodySize(Some(most)));
        }
        if to.send(Ok(frame)).await.is_err() {
            // Enough for the plugin.
            return Ok(());
        }
    }
}

/// What a connection is read from and written to.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to the first of the addresses, at least one, that takes it.
async fn connect(target: &Target, addresses: &[SocketAddr], tls: &Tls) -> Result<Box<dyn Stream>, Error> {
    let mut last = Error::DestinationUnavailable;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A request is small and waits for its answer; without this it waits longer, and works all the same.
                let _ = stream.set_nodelay(true);
                return Ok(if target.https {
                    Box::new(tls.connect(target.name(), stream).await?)
                } else {
                    Box::new(stream)
                });
            }
            Err(error) => last = of_connect(&error),
        }
    }
    Err(last)
}

/// The body of a response, and the task that has it.
struct ResponseBody {
    pieces: mpsc::Receiver<Result<Frame<Bytes>, Error>>,
    _task: AbortOnDropHandle<()>,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(ready!(self.pieces.poll_recv(cx)))
    }
}

fn of_connect(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        _ => Error::DestinationUnavailable,
    }
}

fn of_hyper(error: hyper::Error) -> Error {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    let is_cut = cause.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof);
    if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_incomplete_message() || is_cut {
        Error::HttpResponseIncomplete
    } else if error.is_parse() {
        Error::HttpProtocolError
    } else {
        Error::ConnectionTerminated
    }
}

fn outcome(error: &Error) -> PluginHttpOutcome {
    match error {
        Error::ConnectionTimeout | Error::ConnectionReadTimeout | Error::HttpResponseTimeout => {
            PluginHttpOutcome::Timeout
        }
        Error::HttpResponseBodySize(_) => PluginHttpOutcome::TooLarge,
        Error::DestinationIpProhibited => PluginHttpOutcome::Denied,
        _ => PluginHttpOutcome::Failed,
    }
}
