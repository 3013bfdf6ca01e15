//! Dead letters over HTTP, with the tenant's key: list, send again, remove. Apart from any HTTP server.
//!
//! `GET /v1/<tenant>/dead-letters`, `POST …/retry`, `POST …/purge`. Each call does a bounded piece of
//! work and says where to go on.
//!
//! *Invariant*: a letter is removed after its message is in a log again, and the message goes there
//! under an idempotency key made of the letter's offset. A crash in between leaves the letter, and
//! sending it again soon finds the message.

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::admin::bearer;
use crate::backbone::{Addition, Backbone, BackboneError, Once, Range};
use crate::delivery::dead_letters::Letter;
use crate::domain::{ChannelName, Kind, Offset, StreamKey};
use crate::tenants::Tenant;

mod ask;
mod show;

use ask::{Filter, Listing, Selection};

/// Bytes of a request's body.
pub const BODY_BYTES: usize = 64 * 1024;
/// Letters that one call looks at when it has to find the right ones.
const LOOKED_AT: usize = 5_000;
/// Letters that one call with `all` sends again or removes.
const WORKED_OFF: usize = 500;
/// Letters read at a time. Each may hold half a megabyte.
const PAGE: usize = 100;
/// Bytes of letters in an answer, about.
const ANSWER_BYTES: usize = 4 << 20;
/// Seconds after which a client tries again when the backbone is away.
const RETRY_AFTER_S: u16 = 2;

/// What a request is carried out by.
pub struct DeadLetters<'a> {
    /// Where the letters are.
    pub backbone: &'a dyn Backbone,
    /// Whose they are.
    pub tenant: &'a Tenant,
}

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Backbone(#[from] BackboneError),
}

impl DeadLetters<'_> {
    /// The endpoint below `/v1/<tenant>/dead-letters`; `action` is what follows. The body may be cut off
    /// one byte above [`BODY_BYTES`]. Dropping the future leaves the work half done; doing it again does
    /// the rest.
    pub async fn handle(
        &self,
        method: &Method,
        action: Option<&str>,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Response<Bytes> {
        let key = headers.get(AUTHORIZATION).and_then(bearer);
        if !key.is_some_and(|key| self.tenant.verifies_api_key(key)) {
            return unauthorized();
        }
        let answer = match (action, method) {
            (None, &Method::GET) => self.list(query.unwrap_or_default()).await,
            (Some("retry"), &Method::POST) => self.retry(body).await,
            (Some("purge"), &Method::POST) => self.purge(body).await,
            (None, _) => return not_allowed("GET"),
            (Some("retry" | "purge"), _) => return not_allowed("POST"),
            _ => return answer(StatusCode::NOT_FOUND, &json!({"error": "there is retry and purge"})),
        };
        match answer {
            Ok(body) => self::answer(StatusCode::OK, &body),
            Err(failure) => failure.answer(),
        }
    }

    async fn list(&self, query: &str) -> Result<Value, Failure> {
        let Listing { limit, before, after, filter } = Listing::parse(query).map_err(Failure::Invalid)?;
        let (mut found, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
        let mut range = Range { before, after, limit: PAGE };
        let more = loop {
            let mut page = self.page(range).await?;
            let is_last = page.len() < PAGE;
            // From the newest on, unless what comes after something is asked for.
            if after.is_none() {
                page.reverse();
            }
            let mut left = page.into_iter();
            for letter in left.by_ref() {
                looked_at += 1;
                match after {
                    Some(_) => range.after = Some(letter.offset()),
                    None => range.before = Some(letter.offset()),
                }
                if filter.fits(&letter) {
                    bytes += letter.bytes();
                    found.push(letter);
                }
                if found.len() == limit || looked_at == LOOKED_AT || bytes >= ANSWER_BYTES {
                    break;
                }
            }
            if found.len() == limit || looked_at == LOOKED_AT || bytes >= ANSWER_BYTES {
                break !is_last || left.next().is_some();
            }
            if is_last {
                break false;
            }
        };
        if after.is_none() {
            found.reverse();
        }
        let letters: Vec<_> = found.iter().map(show::letter).collect();
        let mut body = json!({"letters": letters, "more": more});
        if more {
            body["next"] = match after {
                Some(_) => json!({"after": range.after}),
                None => json!({"before": range.before}),
            };
        }
        Ok(body)
    }

    async fn retry(&self, body: &[u8]) -> Result<Value, Failure> {
        let selection = Selection::parse(body).map_err(Failure::Invalid)?;
        let (chosen, more, next) = self.select(&selection).await?;
        let mut results: Vec<_> = chosen.iter().map(|chosen| json!({"offset": chosen.offset()})).collect();
        let (mut additions, mut places) = (Vec::new(), Vec::new());
        for (place, chosen) in chosen.iter().enumerate() {
            match chosen {
                Chosen::Found(letter) => match self.addition(letter) {
                    Ok(addition) => {
                        results[place]["channel"] = letter.text("channel").map_or("in", |name| name).into();
                        additions.push(addition);
                        places.push(place);
                    }
                    Err(why) => results[place]["error"] = why.into(),
                },
                Chosen::Gone(_) => results[place]["error"] = "there is no such letter".into(),
            }
        }
        let answers = self.backbone.append_all(&additions).await;
        let mut sent = Vec::with_capacity(places.len());
        for (place, added) in places.into_iter().zip(answers) {
            match added {
                Ok(offset) => {
                    results[place]["added"] = offset.to_string().into();
                    sent.push(chosen[place].offset());
                }
                Err(error) => results[place]["error"] = error.to_string().into(),
            }
        }
        self.remove(&sent).await?;
        let failed = results.len() - sent.len();
        let mut body = json!({"retried": sent.len(), "failed": failed, "results": results, "more": more});
        if let Some(next) = next.filter(|_| more) {
            body["next"] = next.to_string().into();
        }
        Ok(body)
    }

    async fn purge(&self, body: &[u8]) -> Result<Value, Failure> {
        let selection = Selection::parse(body).map_err(Failure::Invalid)?;
        let (offsets, more, next) = match selection {
            Selection::These(offsets) => (offsets, false, None),
            Selection::All { .. } => {
                let (chosen, more, next) = self.select(&selection).await?;
                (chosen.iter().map(Chosen::offset).collect(), more, next)
            }
        };
        let purged = self.remove(&offsets).await?;
        let mut body = json!({"purged": purged, "more": more});
        if let Some(next) = next.filter(|_| more) {
            body["next"] = next.to_string().into();
        }
        Ok(body)
    }

    /// The letters that are meant, whether there are more, and after which one to go on.
    async fn select(&self, selection: &Selection) -> Result<(Vec<Chosen>, bool, Option<Offset>), Failure> {
        match selection {
            Selection::These(offsets) => {
                let mut chosen = Vec::with_capacity(offsets.len());
                for offset in offsets {
                    let range = Range { before: None, after: Some(offset.prev()), limit: 1 };
                    let found = self.page(range).await?.pop().filter(|letter| letter.offset() == *offset);
                    chosen.push(found.map_or(Chosen::Gone(*offset), |found| Chosen::Found(Box::new(found))));
                }
                Ok((chosen, false, None))
            }
            Selection::All { filter, after, before } => self.select_all(filter, *after, *before).await,
        }
    }

    async fn select_all(
        &self,
        filter: &Filter,
        mut after: Offset,
        before: Option<Offset>,
    ) -> Result<(Vec<Chosen>, bool, Option<Offset>), Failure> {
        let (mut chosen, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
        loop {
            let page = self.page(Range { before: None, after: Some(after), limit: PAGE }).await?;
            let is_last = page.len() < PAGE;
            for letter in page {
                if before.is_some_and(|before| letter.offset() >= before) {
                    return Ok((chosen, false, None));
                }
                after = letter.offset();
                looked_at += 1;
                if filter.fits(&letter) {
                    bytes += letter.bytes();
                    chosen.push(Chosen::Found(Box::new(letter)));
                }
                if chosen.len() == WORKED_OFF || looked_at == LOOKED_AT || bytes >= ANSWER_BYTES {
                    // Perhaps that was the last one: the next call finds none, which is cheap.
                    return Ok((chosen, true, Some(after)));
                }
            }
            if is_last {
                return Ok((chosen, false, None));
            }
        }
    }

    /// The entry that brings a letter's message back, or why there is none.
    fn addition(&self, letter: &Letter) -> Result<Addition, String> {
        if let Some(fields) = letter.left_out() {
            return Err(format!("not all of it was kept: {fields} were too large; send it anew"));
        }
        let (stream, refuse_at) = match letter.text("channel") {
            Some(name) => {
                let channel = ChannelName::parse(name).map_err(|error| error.to_string())?;
                let namespace = channel.namespace();
                let rules = self
                    .tenant
                    .rules(namespace)
                    .ok_or_else(|| format!("the tenant has no namespace {namespace:?}"))?;
                let refuse_at = (rules.kind == Kind::Queue).then_some(rules.retention.max_len);
                (StreamKey::channel(&self.tenant.id, &channel), refuse_at)
            }
            None if letter.get("in").is_some() => (StreamKey::ingress(&self.tenant.id), None),
            None => return Err("the letter does not say where it belongs".to_owned()),
        };
        let once = Some(Once::Id(letter.retry_id().into()));
        Ok(Addition { stream, fields: letter.fields(), once, refuse_at })
    }

    async fn page(&self, range: Range) -> Result<Vec<Letter>, BackboneError> {
        let stream = StreamKey::dead_letters(&self.tenant.id);
        let entries = self.backbone.history(&stream, range).await?;
        Ok(entries.into_iter().map(Letter::new).collect())
    }

    async fn remove(&self, offsets: &[Offset]) -> Result<u64, BackboneError> {
        if offsets.is_empty() {
            return Ok(0);
        }
        self.backbone.remove(&StreamKey::dead_letters(&self.tenant.id), offsets).await
    }
}

/// A letter that is meant.
enum Chosen {
    Found(Box<Letter>),
    Gone(Offset),
}

impl Chosen {
    fn offset(&self) -> Offset {
        match self {
            Self::Found(letter) => letter.offset(),
            Self::Gone(offset) => *offset,
        }
    }
}

impl Failure {
    fn answer(&self) -> Response<Bytes> {
        let status = match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Backbone(error) if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Backbone(_) => StatusCode::BAD_GATEWAY,
        };
        let mut answer = answer(status, &json!({"error": self.to_string()}));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        answer
    }
}

fn unauthorized() -> Response<Bytes> {
    let why = "send `Authorization: Bearer <key>` with an API key of this tenant";
    let mut answer = answer(StatusCode::UNAUTHORIZED, &json!({"error": why}));
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

fn not_allowed(allow: &'static str) -> Response<Bytes> {
    let why = format!("this takes {allow}");
    let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": why}));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

fn answer(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
