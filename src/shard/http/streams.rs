//! Frames as server-sent events or as lines of JSON, for clients that have nothing better.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Either;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::handshake::bearer_of;
use super::{Answer, Served, api_error, whole};
use crate::api::answer;
use crate::domain::{ChannelName, DeviceId};
use crate::protocol::{ClientFrame, Codec, Connect, Subscribe};
use crate::shard::Shard;
use crate::shard::connect::{Arrival, Opening};
use crate::telemetry::Refusal;
use crate::tenants::Tenant;
use crate::transport::body;
use crate::transport::framing::Framing;
use crate::transport::socket::Socket;
use crate::transport::sse::{Ids, MOST_CHANNELS};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells proxies of nginx's kind to pass on at once what comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a request wants: its `connect` frame, and positions that its events are to say.
type Wish = (Connect, Option<Box<Ids>>);

impl Shard {
    /// Opens a stream of frames, which ends with its client or its session's connection.
    pub(super) async fn open_stream(
        self: Rc<Self>,
        request: Request<Incoming>,
        tenant: Arc<Tenant>,
        served: &Rc<Served>,
        what: &str,
    ) -> Answer {
        if let Some(refused) = self.refusal(&tenant, request.headers()) {
            return refused;
        }
        let framing = if what == "sse" { Framing::Sse } else { Framing::Lines };
        let (head, body) = request.into_parts();
        let wish = match head.method {
            Method::GET => from_query(&head, framing),
            Method::POST => match Self::body(body, tenant.limits.frame_bytes).await {
                Ok(body) => from_body(&body),
                Err(answer) => return answer,
            },
            _ => return whole(answer::method_not_allowed("GET, POST")),
        };
        let (connect, ids) = match wish {
            Ok(wish) => wish,
            Err(why) => {
                self.env.metrics.node().handshakes_refused.of(Refusal::BadRequest).inc();
                return api_error(StatusCode::BAD_REQUEST, &why);
            }
        };
        let (sender, stream) = body::body(served.tcp.clone());
        let arrival = Arrival {
            socket: Socket::Body(Rc::new(sender)),
            framing,
            opening: Opening::Request(connect, ids),
            bearer: bearer_of(&tenant, &head),
            asked: self.asked(&tenant, &head),
            tenant,
            permit: served.permit.clone(),
        };
        let (shard, busy) = (self.clone(), served.busy());
        self.spawn(async move {
            shard.serve(arrival).await;
            drop(busy);
        });
        let mut answer = Response::new(Either::Right(stream));
        let headers = answer.headers_mut();
        let kind = if framing == Framing::Sse { "text/event-stream" } else { "application/x-ndjson" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        answer
    }
}

/// The body of a request is a `connect` frame, whose `type` may be left out.
fn from_body(body: &Bytes) -> Result<Wish, String> {
    let bad =
        |why: &str| format!("the body has to be a `connect` frame in JSON, without `type` or with it: {why}");
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok((Connect::default(), None));
    }
    let fields: HashMap<&str, &RawValue> =
        serde_json::from_slice(body).map_err(|error| bad(&error.to_string()))?;
    let named = if fields.contains_key("type") {
        body.to_vec()
    } else {
        // The frame's own parser is to see the body as it came.
        let comma = if fields.is_empty() { "" } else { "," };
        let rest = body.trim_ascii_start().get(1..).unwrap_or_default();
        [b"{\"type\":\"connect\"", comma.as_bytes(), rest].concat()
    };
    match Codec::Json.decode(&named) {
        Ok(ClientFrame::Connect(connect)) => Ok((connect, None)),
        Ok(_) => Err(bad("it is another frame")),
        Err(error) => Err(bad(&error.message)),
    }
}

/// What a query says, as `EventSource` and curl send it.
fn from_query(head: &Parts, framing: Framing) -> Result<Wish, String> {
    let (mut connect, mut channels, mut ack, mut window) = (Connect::default(), Vec::new(), false, None);
    let mut last_id = head.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok().map(Into::into));
    for pair in head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("`{name}` is not UTF-8"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("`{name}` has to be a whole number"));
        match name {
            "channel" => channels
                .push(value.parse::<ChannelName>().map_err(|error| format!("`channel` is wrong: {error}"))?),
            "ack" => ack = is_on(name, &value)?,
            "window" => window = Some(usize::try_from(number()?).unwrap_or(usize::MAX)),
            "ping_ms" => connect.ping_ms = Some(number()?),
            "resume" => connect.resume = Some(value.into()),
            "device" => {
                let device =
                    DeviceId::parse(&value).map_err(|error| format!("`device` is wrong: {error}"))?;
                connect.device = Some(device);
            }
            // A client that has an id from elsewhere; the header, which `EventSource` sends, is the later one.
            "last_event_id" => last_id = last_id.or_else(|| Some(value.into_owned())),
            // Who it is, or a name of somebody else's, a cache-buster say.
            _ => {}
        }
    }
    if channels.len() > MOST_CHANNELS {
        return Err(format!(
            "{} channels are named, and {MOST_CHANNELS} may be: POST a `connect` frame instead",
            channels.len()
        ));
    }
    if ack && connect.device.is_none() {
        return Err("`ack` needs a `device`, by which what was acknowledged is remembered".into());
    }
    let mut ids =
        (!ack && framing == Framing::Sse && !channels.is_empty()).then(|| Ids::new(channels.clone()));
    // Where a client acknowledges, that is what counts.
    if let (Some(ids), Some(id)) = (&mut ids, last_id.filter(|id: &String| !id.is_empty())) {
        ids.restore(&id).map_err(|error| error.to_string())?;
    }
    let position = |channel: &ChannelName| ids.as_ref()?.positions().find(|(name, _)| *name == channel)?.1;
    let wish = |channel: ChannelName| {
        let position = position(&channel);
        let (offset, epoch) = (position.map(|it| it.offset), position.map(|it| it.epoch));
        Subscribe { channel, offset, epoch, ack, window }
    };
    connect.subs = channels.into_iter().map(wish).collect();
    Ok((connect, ids.map(Box::new)))
}

fn is_on(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" | "" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("`{name}` has to be 1 or 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(query: &str, last_id: Option<&str>) -> Result<Wish, String> {
        let mut request = Request::get(format!("/v1/demo/sse?{query}"));
        if let Some(id) = last_id {
            request = request.header(LAST_EVENT_ID, id);
        }
        from_query(&request.body(()).unwrap().into_parts().0, Framing::Sse)
    }

    #[test]
    fn a_query_says_channels_and_where_they_go_on() {
        let query = "channel=room:1&channel=room%3A2&ping_ms=20000&ticket=abc&x=1";
        let (connect, ids) = wish(query, Some("5-1@000000000000000a,-")).unwrap();
        assert_eq!(connect.ping_ms, Some(20_000));
        let named: Vec<_> =
            connect.subs.iter().map(|sub| (sub.channel.as_str(), sub.offset.map(|it| it.ms))).collect();
        assert_eq!(named, [("room:1", Some(5)), ("room:2", None)]);
        assert!(ids.is_some());
    }

    #[test]
    fn who_acknowledges_is_remembered_by_a_device_and_gets_no_ids() {
        let (connect, ids) =
            wish("channel=room:1&ack=1&device=tv", Some("what an older stream said")).unwrap();
        assert!(connect.subs[0].ack && ids.is_none());
        assert!(wish("channel=room:1&ack=1", None).unwrap_err().contains("`device`"));
    }

    #[test]
    fn what_is_wrong_in_a_query_is_named() {
        let many = "channel=room:1&".repeat(17);
        for (query, why) in [
            ("channel=nowhere", "`channel`"),
            ("ack=perhaps", "`ack`"),
            ("window=-1", "`window`"),
            ("ping_ms=soon", "`ping_ms`"),
            ("device=%00", "`device`"),
            ("channel=%ff", "UTF-8"),
            ("channel=room:1&last_event_id=7", "last event"),
            (&many, "17"),
        ] {
            let refused = wish(query, None).unwrap_err();
            assert!(refused.contains(why), "{query}: {refused}");
        }
    }

    #[test]
    fn a_body_is_a_connect_frame() {
        let body = |text: &str| from_body(&Bytes::copy_from_slice(text.as_bytes()));
        assert_eq!(body(r#"{"subs":[{"channel":"room:1"}]}"#).unwrap().0.subs.len(), 1);
        assert_eq!(body(r#" {"type":"connect","ping_ms":9}"#).unwrap().0.ping_ms, Some(9));
        for empty in [" ", "{}"] {
            assert!(body(empty).unwrap().0.subs.is_empty());
        }
        for (text, why) in [
            ("[]", "`connect`"),
            (r#"{"type":"ping"}"#, "another"),
            (r#"{"subs":7}"#, "subs"),
            ("{", "JSON"),
            (r#"{"ping_ms":1,"ping_ms":2}"#, "twice"),
        ] {
            let refused = body(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
