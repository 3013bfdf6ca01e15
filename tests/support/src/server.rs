//! An HTTP server on loopback that answers by path, well or badly, and remembers what it was asked.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http::dechunk;

/// A server; it ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// `host:port`.
    pub authority: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Request line and headers, as they were sent.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Server {
    /// A server at a free port of 127.0.0.1.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let authority = listener.local_addr()?.to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, own) = (Arc::clone(&seen), authority.clone());
        let task = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                clients.spawn(serve(socket, Arc::clone(&kept), own.clone()));
            }
        });
        Ok(Self { authority, seen, task })
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers one request. Whoever goes away before is no concern of the server's.
async fn serve<S>(mut socket: S, seen: Arc<Mutex<Vec<Seen>>>, own: String)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Ok(request) = read(&mut socket).await {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let _ = answer(&mut socket, &request, &own).await;
    }
}

/// Answers one request on a connection, as every server here does.
///
/// # Errors
/// Where the other side sends no request or goes away.
pub async fn serve_one<S>(socket: &mut S) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = read(socket).await?;
    answer(socket, &request, "localhost").await
}

async fn read<S: AsyncRead + Unpin>(socket: &mut S) -> Result<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        anyhow::ensure!(socket.read_buf(&mut bytes).await? > 0, "no request");
    };
    let head = String::from_utf8(bytes[..end].to_vec())?;
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.map_or(Ok(0), |length| length.trim().parse::<usize>())?;
    let is_chunked = lower.contains("\r\ntransfer-encoding: chunked");
    let mut body = bytes.split_off(end + 4);
    while if is_chunked { !body.ends_with(b"0\r\n\r\n") } else { body.len() < length } {
        anyhow::ensure!(socket.read_buf(&mut body).await? > 0, "half a body");
    }
    let body = if is_chunked { dechunk(&body)? } else { body };
    Ok(Seen { head, body })
}

async fn answer<S: AsyncWrite + Unpin>(socket: &mut S, request: &Seen, own: &str) -> Result<()> {
    let path = request.head.split(' ').nth(1).context("no path")?;
    let text = match path {
        "/who" => who(&request.body),
        "/redirect" => status("302 Found", &format!("Location: http://{own}/who\r\n"), ""),
        "/broken" => status("500 Internal Server Error", "", "not today"),
        "/nonsense" => "SMTP ready\r\n\r\n".to_owned(),
        "/half" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned(),
        "/hang" => return std::future::pending().await,
        "/stall" => {
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await?;
            return std::future::pending().await;
        }
        "/endless" => {
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                socket.write_all(&[b'x'; 16 << 10]).await?;
            }
        }
        _ => status("404 Not Found", "", ""),
    };
    socket.write_all(text.as_bytes()).await?;
    Ok(socket.shutdown().await?)
}

/// Knows `ada`, and nobody else.
fn who(body: &[u8]) -> String {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let identity = match asked["token"].as_str().unwrap_or_default() {
        "ada" => serde_json::json!({ "user": "ada", "class": "gold", "claims": { "team": 7 } }),
        _ => return status("403 Forbidden", "", ""),
    };
    status("200 OK", "Content-Type: application/json\r\n", &identity.to_string())
}

fn status(line: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}
