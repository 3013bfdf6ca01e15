//! A TCP proxy that misbehaves on request: between a client and a node, or a node and Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the proxy does to bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: bytes pass.
    None,
    /// Each chunk waits so long.
    Delay(Duration),
    /// Bytes are swallowed, connections stay open: nobody learns of it.
    Blackhole,
    /// Connections are closed in order (FIN), new ones at once.
    Cut,
    /// Connections are reset (RST), new ones at once.
    Reset,
}

/// A running proxy; it ends, and its connections with it, when dropped.
pub struct Proxy {
    address: SocketAddr,
    target: Arc<watch::Sender<SocketAddr>>,
    fault: Arc<watch::Sender<Fault>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let fault = Arc::new(watch::Sender::new(Fault::None));
        let target = Arc::new(watch::Sender::new(target));
        let (faults, targets) = (fault.clone(), target.clone());
        let accepting = tokio::spawn(async move {
            let mut pairs = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let target = *targets.borrow();
                pairs.spawn(forward(near, target, faults.subscribe()));
            }
        });
        Ok(Self { address, target, fault, accepting })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections lead to another server, as those to a failover's address do. Those that are open
    /// stay where they are.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// From now on misbehaves like this, on every connection there is and will be.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(mut near: TcpStream, target: SocketAddr, mut faults: watch::Receiver<Fault>) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    // Small messages must not wait for one another here: the proxy adds only the faults it is told to.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let settings = faults.clone();
    let pumps = async {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        tokio::join!(pump(near_read, far_write, &settings), pump(far_read, near_write, &settings))
    };
    let broken = tokio::select! {
        _ = pumps => return,
        fault = faults.wait_for(|fault| matches!(fault, Fault::Cut | Fault::Reset)) => fault.map(|fault| *fault),
    };
    // Dropping the sockets closes them in order; without linger the same becomes a reset.
    if let Ok(Fault::Reset) = broken {
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// Carries one direction to its end, and passes the end on.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, faults: &watch::Receiver<Fault>) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let fault = *faults.borrow();
        match fault {
            Fault::Blackhole => continue,
            Fault::Delay(pause) => tokio::time::sleep(pause).await,
            Fault::None | Fault::Cut | Fault::Reset => {}
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn faults_are_what_they_say() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
        let mut back = [0; 2];
        socket.write_all(b"hi").await.unwrap();
        socket.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hi");
        proxy.set(Fault::Cut);
        assert_eq!(socket.read(&mut back).await.unwrap(), 0, "a cut is an orderly end");
        proxy.set(Fault::None);
        let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
        socket.write_all(b"yo").await.unwrap();
        socket.read_exact(&mut back).await.unwrap();
        proxy.set(Fault::Reset);
        let error = socket.read(&mut back).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
