//! A one-shot HTTP/1.1 client, enough for publish, health and metrics.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::DEADLINE;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, lower-cased, for looking for headers.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// `GET path` from `host:port`.
pub async fn get(authority: &str, path: &str, bearer: Option<&str>) -> Result<Answer> {
    request(authority, "GET", path, bearer, None).await
}

/// `POST path` with a JSON body.
pub async fn post(authority: &str, path: &str, bearer: Option<&str>, body: &Value) -> Result<Answer> {
    request(authority, "POST", path, bearer, Some(body.to_string().into_bytes())).await
}

/// One request on a connection of its own; a body is said to be JSON.
pub async fn request(
    authority: &str,
    method: &str,
    path: &str,
    bearer: Option<&str>,
    body: Option<Vec<u8>>,
) -> Result<Answer> {
    let headers: &[(&str, &str)] = if body.is_some() { &[("Content-Type", "application/json")] } else { &[] };
    send(authority, method, path, bearer, headers, &body.unwrap_or_default()).await
}

/// One request on a connection of its own, with these headers.
pub async fn send(
    authority: &str,
    method: &str,
    path: &str,
    bearer: Option<&str>,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
    if let Some(token) = bearer {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let exchange = async {
        let mut socket =
            TcpStream::connect(authority).await.with_context(|| format!("connecting to {authority}"))?;
        socket.write_all(head.as_bytes()).await?;
        // A server may refuse a body before it has read all of it: its answer counts, not our write.
        let _ = socket.write_all(body).await;
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer).await;
        anyhow::ensure!(read.is_ok() || !answer.is_empty(), "no answer: {read:?}");
        Ok(answer)
    };
    let raw = tokio::time::timeout(DEADLINE, exchange).await.context("the server did not answer")??;
    parse(&raw)
}

fn parse(raw: &[u8]) -> Result<Answer> {
    let split = raw.windows(4).position(|w| w == b"\r\n\r\n").context("the answer has no head")?;
    let head = String::from_utf8_lossy(&raw[..split]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let mut body = raw[split + 4..].to_vec();
    if head.contains("transfer-encoding: chunked") {
        body = dechunk(&body)?;
    }
    Ok(Answer { status, head, body })
}

pub(crate) fn dechunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n").context("a chunk without length")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line])?.trim(), 16)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + size).context("a chunk was cut short")?);
        rest = rest.get(line + 4 + size..).context("a chunk was cut short")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let plain = parse(b"HTTP/1.1 404 Not Found\r\nX: y\r\n\r\nbody").unwrap();
        assert_eq!((plain.status, plain.text().as_str()), (404, "body"));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().text(), "abcde");
    }
}
