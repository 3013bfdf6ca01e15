//! The transports SSE and NDJSON: a streamed answer, and a request for each frame that the client sends.

use std::collections::VecDeque;
use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Codec, Event, Frame, Options, Transport};
use crate::http;

/// One session; the first frame opens it.
pub(super) struct EventStream {
    options: Options,
    authority: String,
    tenant: String,
    body: Option<Body>,
    /// The lines of an event that is not whole yet.
    lines: Vec<String>,
    /// What `POST frames` is authorised with.
    resume: String,
    /// What a `disconnect` said, until the body ends.
    closing: Option<(u16, String)>,
    /// Refusals of frames.
    refused: VecDeque<Frame>,
}

/// A request was refused with this status.
#[derive(Debug)]
pub(super) struct Refused(pub(super) u16);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with {}", self.0)
    }
}

impl std::error::Error for Refused {}

impl EventStream {
    /// Nothing is sent yet.
    pub(super) fn new(url: &str, options: &Options) -> Result<Self> {
        ensure!(options.wire.codec == Codec::Json, "only JSON goes over {:?}", options.wire.transport);
        let (authority, tenant) = super::place(url)?;
        Ok(Self {
            options: options.clone(),
            authority,
            tenant,
            body: None,
            lines: Vec::new(),
            resume: String::new(),
            closing: None,
            refused: VecDeque::new(),
        })
    }

    /// Sends a frame: the first opens the stream, others are requests of their own. One that is answered with 400
    /// comes back as `error`, as it does over other transports.
    pub(super) async fn send(&mut self, frame: &[u8]) -> Result<()> {
        if self.body.is_none() {
            return self.open(frame).await;
        }
        let path = format!("/v1/{}/frames", self.tenant);
        let answer =
            http::request(&self.authority, "POST", &path, Some(&self.resume), Some(frame.to_vec())).await?;
        match answer.status {
            202 => {}
            // What `error` says elsewhere.
            400 => {
                let sent: Value = serde_json::from_slice(frame).unwrap_or_default();
                let why = answer.json()?["error"].clone();
                let mut error = json!({"type": "error", "code": "bad_request", "message": why});
                if sent["id"].is_u64() {
                    error["id"] = sent["id"].clone();
                }
                self.refused.push_back(Frame(error));
            }
            status => return Err(anyhow::Error::new(Refused(status)).context(answer.text())),
        }
        Ok(())
    }

    async fn open(&mut self, frame: &[u8]) -> Result<()> {
        let name = if self.is_sse() { "sse" } else { "stream" };
        let path = self.options.with_query(&format!("/v1/{}/{name}", self.tenant));
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            self.authority,
            frame.len()
        );
        for (name, value) in [
            ("Authorization", self.options.bearer.as_ref().map(|token| format!("Bearer {token}"))),
            ("Origin", self.options.origin.clone()),
        ] {
            if let Some(value) = value {
                head += &format!("{name}: {value}\r\n");
            }
        }
        let mut socket = TcpStream::connect(&self.authority).await?;
        socket.set_nodelay(true)?;
        socket.write_all(format!("{head}\r\n").as_bytes()).await?;
        socket.write_all(frame).await?;
        let mut raw = Vec::new();
        let end = loop {
            if let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            ensure!(socket.read_buf(&mut raw).await? > 0, "no answer");
        };
        let head = String::from_utf8(raw[..end].to_vec())?.to_ascii_lowercase();
        let status: u16 = head.split(' ').nth(1).context("no status")?.parse()?;
        if status != 200 {
            return Err(Refused(status).into());
        }
        let kind = if self.is_sse() { "text/event-stream" } else { "application/x-ndjson" };
        ensure!(head.contains(&format!("content-type: {kind}")), "not {kind}: {head}");
        ensure!(head.contains("transfer-encoding: chunked"), "a body with an end known: {head}");
        raw.drain(..end + 4);
        self.body = Some(Body { socket, raw, text: Vec::new(), has_ended: false });
        Ok(())
    }

    fn is_sse(&self) -> bool {
        self.options.wire.transport == Transport::Sse
    }

    /// What happens next. Cancel-safe.
    pub(super) async fn read(&mut self) -> Result<Event> {
        if let Some(error) = self.refused.pop_front() {
            return Ok(Event::Frame(error));
        }
        loop {
            let body = self.body.as_mut().context("nothing was opened")?;
            match body.line().await {
                Ok(Some(line)) => {
                    if let Some(frame) = self.take_line(line)? {
                        return Ok(Event::Frame(frame));
                    }
                }
                Ok(None) => {
                    return Ok(match self.closing.clone() {
                        Some((code, reason)) => Event::Closed { code, reason },
                        None => Event::Lost("the body ended without a `disconnect`".into()),
                    });
                }
                Err(error) => return Ok(Event::Lost(error.to_string())),
            }
        }
    }

    /// A frame, where this line completes one. An empty line and a comment are heartbeats.
    fn take_line(&mut self, line: String) -> Result<Option<Frame>> {
        let text = if !self.is_sse() {
            line
        } else if !line.is_empty() {
            self.lines.push(line);
            return Ok(None);
        } else {
            event(&std::mem::take(&mut self.lines))?
        };
        if text.is_empty() {
            return Ok(None);
        }
        let frame = Frame::decode(Codec::Json, text.as_bytes())?;
        match frame.kind() {
            "connected" => self.resume = frame.text("resume").to_owned(),
            "disconnect" => {
                let code = frame.number("code").context("a `disconnect` without a code")?;
                self.closing = Some((code.try_into()?, frame.text("reason").to_owned()));
            }
            _ => {}
        }
        Ok(Some(frame))
    }

    /// The bare socket of the stream.
    pub(super) fn into_socket(self) -> Result<TcpStream> {
        Ok(self.body.context("nothing was opened")?.socket)
    }
}

/// The data of an event in the one shape that nodes write: `event: <type>` and one line `data: <frame>`, maybe
/// with an `id:`. Comments have none.
fn event(lines: &[String]) -> Result<String> {
    let (mut kind, mut data) = (None, None);
    for line in lines.iter().filter(|line| !line.starts_with(':')) {
        match line.split_once(": ") {
            Some(("event", value)) => ensure!(kind.replace(value).is_none(), "two kinds: {lines:?}"),
            Some(("data", value)) => ensure!(data.replace(value).is_none(), "two frames: {lines:?}"),
            Some(("id", _)) => {}
            _ => bail!("a line that nodes do not write: {line:?}"),
        }
    }
    let Some(data) = data else {
        ensure!(kind.is_none(), "an event without data: {lines:?}");
        return Ok(String::new());
    };
    let frame: Value = serde_json::from_str(data).with_context(|| format!("not JSON: {data}"))?;
    ensure!(frame["type"].as_str() == kind, "the event {kind:?} carries another frame: {data}");
    Ok(data.to_owned())
}

/// A chunked body (RFC 9112 section 7.1) that comes line by line.
struct Body {
    socket: TcpStream,
    /// Chunks as they came.
    raw: Vec<u8>,
    /// What was in them.
    text: Vec<u8>,
    has_ended: bool,
}

impl Body {
    /// The next line without its end; `None` at the end of the body. Cancel-safe.
    async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8(self.text.drain(..=end).take(end).collect())?;
                return Ok(Some(line.trim_end_matches('\r').to_owned()));
            }
            if self.has_ended {
                ensure!(self.text.is_empty(), "the body ended within a line");
                return Ok(None);
            }
            if !self.take_chunk()? {
                ensure!(
                    self.socket.read_buf(&mut self.raw).await? > 0,
                    "the connection ended within the body"
                );
            }
        }
    }

    /// Takes a chunk, where one is whole.
    fn take_chunk(&mut self) -> Result<bool> {
        let Some(end) = self.raw.windows(2).position(|two| two == b"\r\n") else { return Ok(false) };
        let size = usize::from_str_radix(std::str::from_utf8(&self.raw[..end])?.trim(), 16)?;
        let Some(chunk) = self.raw.get(end + 2..end + 4 + size) else { return Ok(false) };
        self.text.extend_from_slice(&chunk[..size]);
        self.has_ended = size == 0;
        self.raw.drain(..end + 4 + size);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_nodes_write_them() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let pong = r#"{"type":"pong"}"#;
        assert_eq!(event(&lines(&format!("event: pong\nid: x\ndata: {pong}"))).unwrap(), pong);
        assert_eq!(event(&lines(":")).unwrap(), "");
        assert!(event(&lines(&format!("event: ok\ndata: {pong}"))).is_err());
        assert!(event(&lines("event: pong")).is_err());
        assert!(event(&lines(&format!("data: {pong}\ndata: {pong}"))).is_err());
    }
}
