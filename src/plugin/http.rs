//! `wasi:http` for plugins: which hosts they may ask, how much at a time, and who asks.
//!
//! A plugin's own thread drives no socket. What it asks for is checked here and made by a task on the node's runtime
//! ([`exchange`]), which hands over the head and the body's pieces and ends with whoever waits for them. So a server
//! that hangs costs the call that asked it, and nobody else.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, header};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use self::exchange::{Exchange, Patience, Target};
use self::resolver::Resolver;
use self::tls::Tls;
use crate::config::{HttpHost, TenantPlugins};
use crate::telemetry::{PluginHttpOutcome, TenantMetrics};

mod exchange;
mod resolver;
mod tls;

/// Hosts of which a plugin is told once that they are not its tenant's; what comes after so many is only counted.
const TOLD: usize = 32;

/// What makes requests, for all tenants of a node.
#[derive(Clone)]
pub(super) struct HttpClient {
    /// Where sockets are driven.
    runtime: Handle,
    tls: Tls,
    resolver: Resolver,
}

impl HttpClient {
    /// Makes requests on the runtime it is called on.
    pub(super) fn here(runtime: Handle) -> Self {
        Self { runtime, tls: Tls::default(), resolver: Resolver::default() }
    }
}

/// A tenant's requests in flight on this node.
pub(super) type InFlight = Arc<Semaphore>;

/// One request's part of them, held by all that works for it.
type Permit = Arc<OwnedSemaphorePermit>;

/// What a tenant's plugin may ask for.
pub(super) struct HttpAccess {
    client: HttpClient,
    hosts: Vec<HttpHost>,
    allow_local: bool,
    in_flight: InFlight,
    response_bytes: u64,
    metrics: Arc<TenantMetrics>,
    told: Mutex<HashSet<Box<str>>>,
}

/// A host that is none of the tenant's, and was not asked.
pub(super) struct Denied {
    /// As `host:port`.
    pub(super) host: Box<str>,
    /// Whether it is the first time.
    pub(super) is_news: bool,
}

/// A request that is counted when this is dropped.
struct Flight {
    permit: Permit,
    outcome: PluginHttpOutcome,
    metrics: Arc<TenantMetrics>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.metrics.plugin_http_requests.of(self.outcome).inc();
    }
}

impl HttpAccess {
    pub(super) fn new(
        client: HttpClient,
        limits: &TenantPlugins,
        in_flight: InFlight,
        metrics: Arc<TenantMetrics>,
    ) -> Self {
        Self {
            client,
            hosts: limits.http_hosts.clone(),
            allow_local: limits.http_local_addresses,
            in_flight,
            response_bytes: limits.http_response_bytes,
            metrics,
            told: Mutex::default(),
        }
    }

    /// Makes a request for a call that has so much time. Dropping the future, and then the response's body, ends
    /// it. What is connected to is what was checked: the host in the URL; a `Host` header is made of the same.
    ///
    /// # Errors
    /// Where it is not made, with the host if that is none of the tenant's.
    pub(super) fn send(
        &self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        deadline: Duration,
    ) -> Result<
        impl Future<Output = Result<Response<WasiBody>, Error>> + Send + 'static,
        (Error, Option<Denied>),
    > {
        let target = Target::of(request.uri()).ok_or((Error::HttpRequestUriInvalid, None))?;
        if request.method() == Method::CONNECT {
            return Err((Error::HttpRequestMethodInvalid, None));
        }
        if !self.hosts.iter().any(|host| host.is(&target.host, target.port, target.https)) {
            return Err((Error::HttpRequestDenied, Some(self.denied(&target))));
        }
        let permit = Arc::clone(&self.in_flight).try_acquire_owned().map_err(|_| {
            self.metrics.plugin_http_requests.of(PluginHttpOutcome::Overloaded).inc();
            (Error::ConnectionLimitReached, None)
        })?;
        let request = addressed(request, &target).ok_or((Error::HttpRequestUriInvalid, None))?;
        let flight = Flight {
            permit: Arc::new(permit),
            outcome: PluginHttpOutcome::Abandoned,
            metrics: Arc::clone(&self.metrics),
        };
        let exchange = Exchange {
            request,
            target,
            tls: self.client.tls.clone(),
            resolver: self.client.resolver.clone(),
            allow_local: self.allow_local,
            patience: Patience::new(options.unwrap_or_default(), deadline),
            response_bytes: self.response_bytes,
            flight,
        };
        Ok(exchange.begin(&self.client.runtime))
    }

    fn denied(&self, target: &Target) -> Denied {
        self.metrics.plugin_http_requests.of(PluginHttpOutcome::Denied).inc();
        let host: Box<str> = format!("{}:{}", target.host, target.port).into();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = told.len() < TOLD && told.insert(host.clone());
        Denied { host, is_news }
    }
}

/// The request as it goes over the wire: to the target and nobody else, on a connection of its own.
fn addressed(mut request: Request<WasiBody>, target: &Target) -> Option<Request<WasiBody>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    *request.uri_mut() = Uri::builder().path_and_query(path).build().ok()?;
    let host = HeaderValue::from_str(&target.authority()).ok()?;
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Some(request)
}

impl Target {
    /// The one place that a URL names; none where that is not plain.
    fn of(uri: &Uri) -> Option<Self> {
        let authority: &Authority = uri.authority()?;
        let https = match uri.scheme()? {
            scheme if *scheme == Scheme::HTTPS => true,
            scheme if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let text = authority.as_str();
        // A user's name before the host has misled readers often enough.
        if text.contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = match text.strip_prefix(authority.host())? {
            "" => {
                if https {
                    443
                } else {
                    80
                }
            }
            port => port.strip_prefix(':')?.parse().ok().filter(|port| *port > 0)?,
        };
        Some(Self { host: authority.host().to_ascii_lowercase().into(), port, https })
    }

    /// The name or address alone, as it is looked up and as a certificate has it.
    fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// What stands in `Host`: without a port that the scheme has anyway.
    fn authority(&self) -> String {
        let default = if self.https { 443 } else { 80 };
        if self.port == default { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests;
