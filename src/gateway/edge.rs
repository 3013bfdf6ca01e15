//! Where clients arrive: the public port, QUIC beside it, and the certificate that both show.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{StartError, channels};
use crate::api::route::Route;
use crate::config::{Config, TlsConfig};
use crate::delivery::Delivery;
use crate::directory::Order;
use crate::session::Session;
use crate::shard::Inlets;
use crate::telemetry::events;
use crate::transport::listener::bind_shards;
use crate::transport::quic::{Endpoint, Incoming};
use crate::transport::tls::Certificates;

/// Incoming connections over QUIC that wait for one shard.
const INCOMING: usize = 256;

/// What is bound and not yet opened.
pub(super) struct Edge {
    pub(super) http: SocketAddr,
    listeners: Vec<TcpListener>,
    certificates: Option<Certificates>,
    /// Whether the public port speaks TLS.
    is_tls: bool,
    quic: Option<(SocketAddr, UdpSocket)>,
}

impl Edge {
    /// Binds all addresses and reads the certificate.
    pub(super) fn bind(config: &Config) -> Result<Self, StartError> {
        let (http, listeners) = bind_shards(config.node.listen, config.node.shards.get())
            .map_err(|error| StartError::Listen { error, flag: "--listen" })?;
        let (certificates, is_tls, is_quic) = match &config.tls {
            TlsConfig::Off => (None, false, false),
            TlsConfig::Files { certificate, key, tcp, quic } => {
                (Some(Certificates::from_files(certificate, key)?), *tcp, *quic)
            }
            TlsConfig::Development => (Some(Certificates::development(&[])?), false, true),
        };
        if let Some(certificates) = &certificates {
            events::certificate_shown(certificates.expires());
        }
        let quic = is_quic.then(|| bind_quic(config, http)).transpose()?;
        Ok(Self { http, listeners, certificates, is_tls, quic })
    }

    /// Where clients connect over QUIC.
    pub(super) fn quic_address(&self) -> Option<SocketAddr> {
        self.quic.as_ref().map(|(address, _)| *address)
    }

    /// TLS of the public port.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.certificates.as_ref().filter(|_| self.is_tls).map(Certificates::tcp)
    }

    /// What clients are told of this node.
    pub(super) fn route(&self, config: &Config) -> Route {
        Route {
            node: config.node.id.clone(),
            public_url: config.node.public_url.as_ref().map(ToString::to_string),
            http: self.http,
            is_tls: self.is_tls,
            quic: self.quic_address().zip(self.certificates.clone()),
        }
    }

    /// Begins to take connections over QUIC, and to look after the certificate. What each shard takes connections
    /// from goes with what else comes to it.
    pub(super) fn open(
        self,
        deliveries: Vec<mpsc::Receiver<Delivery>>,
        orders: Vec<mpsc::Receiver<Order<Session>>>,
        stop: CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Vec<Inlets>, Option<Endpoint>), StartError> {
        if let Some(certificates) = self.certificates.clone() {
            tasks.spawn(async move { certificates.keep_fresh(stop).await });
        }
        let (to, from) = channels::<Incoming>(self.listeners.len(), INCOMING);
        let quic = match (self.quic, &self.certificates) {
            (Some((_, socket)), Some(certificates)) => Some(Endpoint::spawn(socket, certificates, to)?),
            _ => None,
        };
        let inlets = self.listeners.into_iter().zip(from).zip(deliveries.into_iter().zip(orders));
        let inlets = inlets.map(|((listener, incoming), (deliveries, orders))| Inlets {
            listener,
            incoming,
            deliveries,
            orders,
        });
        Ok((inlets.collect(), quic))
    }
}

/// Binds UDP, at the address of the public port where no other is wished.
fn bind_quic(config: &Config, http: SocketAddr) -> Result<(SocketAddr, UdpSocket), StartError> {
    let wished = config.node.quic_listen.unwrap_or(http);
    let is_free_to_choose = config.node.quic_listen.is_none() && config.node.listen.port() == 0;
    let bound = match UdpSocket::bind(wished) {
        // A port that the system chose for TCP may be taken for UDP.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_free_to_choose => {
            UdpSocket::bind(SocketAddr::new(wished.ip(), 0))
        }
        bound => bound,
    };
    let named = |error: io::Error| {
        let error = io::Error::new(error.kind(), format!("cannot listen on {wished} over UDP: {error}"));
        StartError::Listen { error, flag: "--quic-listen" }
    };
    let socket = bound.map_err(named)?;
    Ok((socket.local_addr().map_err(named)?, socket))
}
