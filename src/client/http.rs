//! The transports SSE and NDJSON: a streamed answer, and a request for each frame that the client sends.

use std::collections::VecDeque;
use std::time::Duration;

use http::{StatusCode, header};
use reqwest::Response;
use serde_json::Value;

use super::codec;
use super::connection::Heard;
use super::error::Failure;
use super::lines::{EventLines, Lines, Told};
use super::route::{Candidate, Route};
use super::{ClientError, Transport};
use crate::protocol::Codec;

/// How long the answer to a request may take that is not a stream.
const ANSWER: Duration = Duration::from_secs(10);
/// How much of an answer that is not a stream is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// One session.
pub(super) struct Stream {
    http: reqwest::Client,
    /// Where the client's frames go.
    frames: String,
    response: Response,
    is_sse: bool,
    lines: Lines,
    event: EventLines,
    waiting: VecDeque<Heard>,
    /// What requests are authorised with.
    resume: Option<String>,
}

impl Stream {
    /// Opens a stream with a `connect` frame. Cancel-safe: what nobody reads ends.
    pub(super) async fn open(
        way: &Candidate,
        connect: &Value,
        http: &reqwest::Client,
    ) -> Result<Self, Failure> {
        let url = way.url.as_str();
        let is_sse = way.transport == Transport::Sse;
        let request =
            http.post(url).header(header::CONTENT_TYPE, "application/json").body(connect.to_string());
        let response =
            request.send().await.map_err(|error| Failure::from_error(url, &error.without_url()))?;
        if response.status() != StatusCode::OK {
            return Err(refused(url, response).await);
        }
        let expected = if is_sse { "text/event-stream" } else { "application/x-ndjson" };
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with(expected)) {
            let why = format!(
                "the answer is {} and not {expected}: is that a node?",
                kind.unwrap_or("nothing known")
            );
            return Err(Failure::lasting(url, why));
        }
        let (base, _) = url.rsplit_once('/').unwrap_or((url, ""));
        Ok(Self {
            http: http.clone(),
            frames: format!("{base}/frames"),
            response,
            is_sse,
            lines: Lines::default(),
            event: EventLines::default(),
            waiting: VecDeque::new(),
            resume: None,
        })
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Heard, ClientError> {
        loop {
            if let Some(heard) = self.waiting.pop_front() {
                return Ok(heard);
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.take(&bytes)?,
                Ok(None) => return Ok(Heard::broken(&"the stream ended")),
                Err(error) => return Ok(Heard::broken(&error.without_url())),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let Self { lines, event, waiting, resume, is_sse, .. } = self;
        lines.feed(bytes, |line| {
            let told = match line.as_str() {
                _ if *is_sse => event.take(&line)?,
                "" => Told::Comment,
                _ => Told::Data(line),
            };
            match told {
                Told::Nothing => {}
                Told::Comment => waiting.push_back(Heard::Heartbeat),
                Told::Data(data) => {
                    let frame = codec::decode(Codec::Json, data.as_bytes())?;
                    if frame["type"] == "connected" {
                        *resume = frame["resume"].as_str().map(str::to_owned);
                    }
                    waiting.push_back(Heard::Frame(frame));
                }
            }
            Ok(())
        })
    }

    /// Sends a frame and waits until the node has it. Dropping the future may leave it sent or not.
    pub(super) async fn send(&mut self, frame: &Value) -> Result<(), ClientError> {
        let resume = self.resume.as_ref().ok_or(ClientError::NotConnected)?;
        let request = self.http.post(&self.frames).bearer_auth(resume).timeout(ANSWER);
        let request = request.header(header::CONTENT_TYPE, "application/json").body(frame.to_string());
        let Ok(answer) = request.send().await else { return Err(ClientError::NotConnected) };
        match answer.status() {
            StatusCode::ACCEPTED => Ok(()),
            // The stream has ended, and says so when it is read.
            StatusCode::CONFLICT => Err(ClientError::NotConnected),
            _ => Err(ClientError::NotTaken(refused(&self.frames, answer).await.why)),
        }
    }
}

/// What a node says of where it can be reached; `None` where it does not know the question.
pub(super) async fn route(url: &str, http: &reqwest::Client) -> Result<Option<Route>, Failure> {
    let answer = http.get(url).timeout(ANSWER).send().await;
    let answer = answer.map_err(|error| Failure::from_error(url, &error.without_url()))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        _ => return Err(refused(url, answer).await),
    }
    // Something else may answer there; what is no route is no answer to the question.
    Ok(body(answer).await.and_then(|body| serde_json::from_slice(&body).ok()))
}

async fn refused(url: &str, answer: Response) -> Failure {
    let (status, headers) = (answer.status(), answer.headers().clone());
    let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let body = tokio::time::timeout(ANSWER, body(answer)).await.ok().flatten().unwrap_or_default();
    Failure::from_status(url, status, &body, after)
}

/// A body that is not too long; `None` for others and for those that break.
async fn body(mut answer: Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return None;
        }
    }
    Some(body)
}
