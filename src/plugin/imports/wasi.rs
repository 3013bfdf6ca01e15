//! WASI 0.2 as it is elsewhere, for components that import `wasi:http`: they wait for answers, and `wasi:io` that is
//! ready at once would not do. Nothing more than that is to be had by it: no environment, no folders, no sockets,
//! an empty input, and an output that is the tenant's log.
//!
//! All of it is made when an instance first calls it; one that does not import `wasi:http` never has it.

use std::future::ready;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use super::super::log::Level;
use super::clocks::RANDOM_BYTES;
use super::output::{Stream, Unsaid, WRITE_BYTES};
use super::{Environment, HostState};

/// Resources of the host's that an instance may hold.
const RESOURCES: usize = 256;
/// Bytes of one set of headers, as it is held here.
const FIELDS_BYTES: usize = 16 << 10;
/// Bytes of a request's body that are taken at once; as many wait to be sent.
const REQUEST_BYTES: usize = 64 << 10;

/// Whether a package is linked from here, for a component that imports `wasi:http`.
pub(super) fn has(package: &str) -> bool {
    matches!(
        package,
        "wasi:cli"
            | "wasi:clocks"
            | "wasi:filesystem"
            | "wasi:http"
            | "wasi:io"
            | "wasi:random"
            | "wasi:sockets"
    )
}

pub(super) fn define(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}

/// An instance's side of WASI.
pub(super) struct Wasi {
    context: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    requests: Requests,
}

impl Wasi {
    fn new(environment: &Arc<Environment>) -> Box<Self> {
        let output = |stream| Output(Arc::new(Written::new(environment, stream)));
        let context = WasiCtx::builder()
            .stdout(output(Stream::Stdout))
            .stderr(output(Stream::Stderr))
            .wall_clock(Clock(Arc::clone(environment)))
            .max_random_size(RANDOM_BYTES)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        let requests = Requests { environment: Arc::clone(environment), deadline: Duration::ZERO };
        Box::new(Self { context, http, table, requests })
    }
}

impl HostState {
    fn wasi(&mut self) -> &mut Wasi {
        self.wasi.get_or_insert_with(|| Wasi::new(&self.environment))
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Wasi { context, table, .. } = self.wasi();
        WasiCtxView { ctx: context, table }
    }
}

impl WasiHttpView for HostState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let deadline = self.deadline;
        let Wasi { http, table, requests, .. } = self.wasi();
        requests.deadline = deadline;
        WasiHttpCtxView { hooks: requests, table, ctx: http }
    }
}

/// What becomes of an instance's requests.
struct Requests {
    environment: Arc<Environment>,
    /// How long the call that is under way may take.
    deadline: Duration,
}

type Nothing = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(http::Response<WasiBody>, Nothing), Error>;

impl WasiHttpHooks for Requests {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _end: Nothing,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        match self.environment.http.send(request, options, self.deadline) {
            Ok(answer) => Box::new(async { Ok((answer.await?, Box::new(ready(Ok(()))) as Nothing)) }),
            Err((error, denied)) => {
                if let Some(denied) = denied.filter(|denied| denied.is_news) {
                    let what = format!(
                        "a request to {} was denied: the operator lists the hosts that plugins may ask in http_hosts",
                        denied.host
                    );
                    self.environment.log(Level::Warn, "http", &what);
                }
                Box::new(ready(Err(error)))
            }
        }
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        REQUEST_BYTES
    }
}

/// The backbone's clock, as everywhere in plugins.
struct Clock(Arc<Environment>);

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.0.backbone.clock().now_ms())
    }
}

/// Standard output or standard error, one for all handles that a guest has of it.
#[derive(Clone)]
struct Output(Arc<Written>);

struct Written {
    environment: Arc<Environment>,
    stream: Stream,
    unsaid: Mutex<Unsaid>,
}

impl Written {
    fn new(environment: &Arc<Environment>, stream: Stream) -> Self {
        Self { environment: Arc::clone(environment), stream, unsaid: Mutex::default() }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let unsaid = self.unsaid.get_mut().unwrap_or_else(PoisonError::into_inner);
        unsaid.end(&self.environment, self.stream);
    }
}

impl Output {
    fn say(&self, bytes: &[u8]) {
        let Written { environment, stream, unsaid } = &*self.0;
        unsaid.lock().unwrap_or_else(PoisonError::into_inner).say(environment, *stream, bytes);
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES {
            return Err(StreamError::trap("more was written than check-write allows"));
        }
        self.say(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.say(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
