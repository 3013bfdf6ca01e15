//! Server-sent events and NDJSON: what a URL alone can ask for, where a stream goes on after a break, what its
//! client says beside it; and what all clients use around their connections: tickets, `route`, CORS.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tidegate_support::client::{Client, Options};
use tidegate_support::config::{NodeConfig, TenantConfig, token};
use tidegate_support::http::{self, Answer};
use tidegate_support::node::Node;
use tidegate_support::{DEADLINE, proven};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{embedded, user};

/// A streamed answer to a `GET`, as a program reads it that knows nothing of frames.
struct Reader {
    socket: TcpStream,
    text: String,
}

impl Reader {
    /// HTTP/1.0, so that the body comes without chunks.
    async fn get(node: &Node, path: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let mut socket = TcpStream::connect(&node.http).await?;
        let mut head = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n", &node.http);
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        socket.write_all(format!("{head}\r\n").as_bytes()).await?;
        Ok(Self { socket, text: String::new() })
    }

    /// All that came up to and with this text, which is taken away; errors at the end of the stream.
    async fn up_to(&mut self, wanted: &str) -> Result<String> {
        let read = async {
            loop {
                if let Some(at) = self.text.find(wanted) {
                    let rest = self.text.split_off(at + wanted.len());
                    return Ok(std::mem::replace(&mut self.text, rest));
                }
                let mut buffer = [0; 4096];
                let got = self.socket.read(&mut buffer).await?;
                ensure!(got > 0, "it ended before {wanted:?}: {}", self.text);
                self.text += std::str::from_utf8(&buffer[..got])?;
            }
        };
        tokio::time::timeout(DEADLINE, read).await.with_context(|| format!("{wanted:?} never came"))?
    }

    /// The next event of this kind and channel, where one is named: its id, and its frame. What comes before it is
    /// dropped.
    async fn event(&mut self, kind: &str, channel: &str) -> Result<(Option<String>, Value)> {
        let wanted = async {
            loop {
                let (id, frame) = self.any_event().await?;
                if frame["type"] == kind && (channel.is_empty() || frame["channel"] == channel) {
                    return Ok((id, frame));
                }
            }
        };
        let late = || format!("no `{kind}` of {channel:?} came");
        tokio::time::timeout(DEADLINE, wanted).await.with_context(late)?
    }

    /// The next event, heartbeats aside.
    async fn any_event(&mut self) -> Result<(Option<String>, Value)> {
        loop {
            let block = self.up_to("\n\n").await?;
            let field =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if let Some(kind) = field("event") {
                let frame: Value = serde_json::from_str(field("data").context("an event without data")?)?;
                ensure!(frame["type"] == kind, "{kind} is not {frame}");
                return Ok((field("id").map(str::to_owned), frame));
            }
        }
    }

    /// What still comes until the node ends the stream.
    async fn rest(mut self) -> Result<String> {
        let end = tokio::time::timeout(DEADLINE, self.socket.read_to_string(&mut self.text));
        end.await.context("the stream did not end")??;
        Ok(self.text)
    }
}

async fn post(node: &Node, path: &str, bearer: &str, body: &str) -> Result<Answer> {
    http::request(&node.http, "POST", path, Some(bearer), Some(body.into())).await
}

#[tokio::test]
async fn a_stream_goes_on_where_the_last_events_id_says() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let path = "/v1/demo/sse?channel=room:1&channel=room%3A2";
        let mut first = Reader::get(&node, path, &[("Accept", "text/event-stream")]).await?;
        let head = first.up_to("\r\n\r\n").await?.to_ascii_lowercase();
        for line in
            ["200 ok", "content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"]
        {
            ensure!(head.contains(line), "{line} is missing: {head}");
        }
        let mut open = 0;
        while open < 2 {
            let (_, frame) = first.any_event().await?;
            let is_room = frame["channel"].as_str().is_some_and(|name| name.starts_with("room:"));
            open += usize::from(frame["type"] == "subscribed" && is_room);
        }
        backend.push("demo", "room:1", "one").await?;
        first.event("message", "room:1").await?;
        let seen = backend.push("demo", "room:2", "two").await?;
        let (id, _) = first.event("message", "room:2").await?;
        let id = id.context("the message has no id")?;
        ensure!(id.contains(&seen.to_string()), "{id} does not say {seen}");
        drop(first);
        let missed = [("room:1", "three"), ("room:2", "four")];
        for (channel, text) in missed {
            backend.push("demo", channel, text).await?;
        }
        let mut back = Reader::get(&node, path, &[("Last-Event-ID", &id)]).await?;
        // The two channels come in any order.
        let (mut recovered, mut got) = (Vec::new(), Vec::new());
        while got.len() < missed.len() {
            let (_, frame) = back.any_event().await?;
            match frame["type"].as_str() {
                Some("subscribed") if frame["recovered"] == true => recovered.push(frame["channel"].clone()),
                Some("message") => {
                    ensure!(recovered.contains(&frame["channel"]), "before it was recovered: {frame}");
                    got.push((frame["channel"].clone(), frame["data"].clone()));
                }
                _ => {}
            }
        }
        for (channel, text) in missed {
            ensure!(got.contains(&(channel.into(), text.into())), "{text} is missing: {got:?}");
        }
        // The same in the URL, for what cannot set a header; an id of other channels is refused.
        let wrong =
            http::get(&node.http, &format!("/v1/demo/sse?channel=room:1&last_event_id={id}"), None).await?;
        ensure!(wrong.status == 400 && wrong.text().contains("last event"), "{}", wrong.text());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_was_acknowledged_beside_a_stream_does_not_come_again() {
    proven(async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let path = "/v1/demo/sse?channel=room:1&ack=1&device=tv";
        let bearer = format!("Bearer {}", token("alice"));
        let headers: &[(&str, &str)] = &[("Authorization", &bearer)];
        let mut first = Reader::get(&node, path, headers).await?;
        let (_, connected) = first.event("connected", "").await?;
        first.event("subscribed", "room:1").await?;
        let resume = connected["resume"].as_str().context("no resume")?.to_owned();
        let done = backend.push("demo", "room:1", "done").await?;
        backend.push("demo", "room:1", "open").await?;
        let (id, _) = first.event("message", "room:1").await?;
        ensure!(id.is_none(), "who acknowledges goes on by the device, not by {id:?}");
        let ack = json!([{"type": "ack", "channel": "room:1", "offset": done.to_string()}, {"type": "ping"}]);
        let said = post(&node, "/v1/demo/frames", &resume, &ack.to_string()).await?;
        ensure!(said.status == 202, "{} {}", said.status, said.text());
        first.event("pong", "").await?;
        drop(first);
        let mut back = Reader::get(&node, path, headers).await?;
        let (_, message) = back.event("message", "room:1").await?;
        ensure!(message["data"] == "open", "{message}");
        // The first connection's token is outdated now, and the session is another.
        let late = post(&node, "/v1/demo/frames", &resume, &ack.to_string()).await?;
        ensure!([401, 404].contains(&late.status), "{} {}", late.status, late.text());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_frames_is_said() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let mut stream = Reader::get(&node, "/v1/demo/stream?channel=room:1", &[]).await?;
        let line = stream.up_to("}\n").await?;
        let connected: Value = serde_json::from_str(line.rsplit("\r\n\r\n").next().context("no body")?)?;
        let resume = connected["resume"].as_str().context("no resume")?.to_owned();
        let ping = r#"{"type":"ping"}"#;
        for (bearer, body, status, why) in [
            ("forged", ping, 401, "resume"),
            (&*resume, "", 400, "JSON"),
            (&*resume, r#"[{"type":"dance","id":7},{"type":"ping"}]"#, 202, ""),
        ] {
            let answer = post(&node, "/v1/demo/frames", bearer, body).await?;
            ensure!(answer.status == status && answer.text().contains(why), "{body}: {}", answer.text());
        }
        // What is wrong with a frame is said as over any transport, and the frames beside it are taken.
        let error = stream.up_to(r#"{"type":"pong"}"#).await?;
        ensure!(error.contains(r#""type":"error","id":7,"code":"bad_request""#), "{error}");
        drop(stream);
        // Once the node has noticed that the client is gone.
        loop {
            let answer = post(&node, "/v1/demo/frames", &resume, ping).await?;
            match answer.status {
                409 => break,
                202 => tokio::task::yield_now().await,
                _ => anyhow::bail!("{} {}", answer.status, answer.text()),
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_ticket_opens_one_connection() {
    proven(async {
        let closed = NodeConfig::default()
            .tenant("demo", TenantConfig::default().closed())
            .tenant("other", TenantConfig::default().closed());
        let (node, _) = embedded(closed).await?;
        let ask = async || -> Result<String> {
            let answer = post(&node, "/v1/demo/ticket", &token("alice"), "").await?;
            ensure!(answer.status == 200, "{}", answer.text());
            let ticket = answer.json()?;
            ensure!(ticket["expires_in_ms"] == 30_000, "{ticket}");
            Ok(ticket["ticket"].as_str().context("no ticket")?.to_owned())
        };
        let ticket = ask().await?;
        let with = |ticket: &str| Options { query: Some(format!("ticket={ticket}")), ..Options::default() };
        let client = Client::connect(&node.ws("demo"), &with(&ticket)).await?;
        ensure!(client.user() == "alice", "{:?}", client.connected);
        let again = Client::try_connect(&node.ws("demo"), &with(&ticket)).await?;
        ensure!(format!("{again:?}").contains("used already"), "{again:?}");
        let elsewhere = Client::try_connect(&node.ws("other"), &with(&ask().await?)).await?;
        ensure!(format!("{elsewhere:?}").contains("cannot be read"), "{elsewhere:?}");
        let mut stream = Reader::get(&node, &format!("/v1/demo/sse?ticket={}", ask().await?), &[]).await?;
        ensure!(stream.event("connected", "").await?.1["user"] == "alice");
        // A stream whose client is not let in says why, and ends.
        let refused = Reader::get(&node, "/v1/demo/sse?ticket=made-up", &[]).await?.rest().await?;
        ensure!(refused.contains("event: disconnect") && refused.contains("4002"), "{refused}");
        let none = http::request(&node.http, "POST", "/v1/demo/ticket", None, None).await?;
        ensure!(none.status == 401 && none.head.contains("www-authenticate: bearer"), "{}", none.head);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_says_where_its_transports_are() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo().tls("")).await?;
        let route = http::get(&node.http, "/v1/demo/route", None).await?.json()?;
        let transports = &route["nodes"][0]["transports"];
        ensure!(transports["websocket"]["url"] == node.ws("demo"), "{route}");
        ensure!(transports["sse"]["url"] == format!("http://{}/v1/demo/sse", &node.http), "{route}");
        ensure!(transports.get("webtransport").is_none(), "it has no certificate: {route}");
        let public = NodeConfig::demo().node("public_url", "\"https://push.example.com/\"");
        let (node, _) = embedded(public).await?;
        let route = http::get(&node.http, "/v1/demo/route", None).await?.json()?;
        let url = &route["nodes"][0]["transports"]["websocket"]["url"];
        ensure!(url == "wss://push.example.com/v1/demo/ws", "{route}");
        Ok(())
    })
    .await;
}

/// Pages of an origin that the tenant lists may use what is for clients, and nothing that takes a tenant's key.
#[tokio::test]
async fn pages_of_allowed_origins_may_use_streams() {
    proven(async {
        let tenant = TenantConfig::default().setting("origins = [\"https://app.example.com\"]");
        let (node, _) = embedded(NodeConfig::default().tenant("demo", tenant)).await?;
        let asks = |origin: &'static str| [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        let ask = async |path: &str, origin| {
            http::send(&node.http, "OPTIONS", path, None, &asks(origin), b"").await
        };
        let (ours, theirs) = ("https://app.example.com", "https://evil.example");
        for path in ["/v1/demo/sse", "/v1/demo/frames", "/v1/demo/ticket", "/v1/demo/route"] {
            let answer = ask(path, ours).await?;
            ensure!(answer.status == 204, "{path}: {}", answer.status);
            ensure!(answer.head.contains(&format!("access-control-allow-origin: {ours}")), "{}", answer.head);
            let answer = ask(path, theirs).await?;
            ensure!(!answer.head.contains("access-control-allow-origin"), "{path}: {}", answer.head);
        }
        ensure!(!ask("/v1/demo/publish", ours).await?.head.contains("access-control"));
        let refused = http::send(&node.http, "GET", "/v1/demo/sse", None, &[("Origin", theirs)], b"").await?;
        ensure!(refused.status == 403 && refused.text().contains("origins"), "{}", refused.text());
        let bearer = format!("Bearer {}", token("alice"));
        let mut taken =
            Reader::get(&node, "/v1/demo/sse", &[("Origin", ours), ("Authorization", &bearer)]).await?;
        let head = taken.up_to("\r\n\r\n").await?;
        ensure!(head.contains(&format!("access-control-allow-origin: {ours}")), "{head}");
        taken.event("connected", "").await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_goes_away_ends_its_streams() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let mut stream = Reader::get(&node, "/v1/demo/sse?channel=room:1", &[]).await?;
        stream.event("subscribed", "room:1").await?;
        node.signal(libc::SIGTERM)?;
        let rest = stream.rest().await?;
        ensure!(rest.contains("event: drain\n") && rest.contains("\"code\":4200"), "{rest}");
        Ok(())
    })
    .await;
}

/// A proof of its own of the user that all the others come as.
#[tokio::test]
async fn two_streams_of_one_device_take_turns() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let bearer = format!("Bearer {}", token("alice"));
        let headers: &[(&str, &str)] = &[("Authorization", &bearer)];
        let mut first = Reader::get(&node, "/v1/demo/sse?device=tv", headers).await?;
        first.event("connected", "").await?;
        let _second = Client::connect(&node.ws("demo"), &user("alice").device("tv")).await?;
        let rest = first.rest().await?;
        ensure!(rest.contains("\"code\":4005"), "it is replaced, whatever carries the other: {rest}");
        Ok(())
    })
    .await;
}
