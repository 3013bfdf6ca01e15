//! The examples of `docs/protocol.md` are what a node says, over every transport and in both encodings.

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidegate_support::client::{Client, Codec, Event, Options};
use tidegate_support::node::Node;

use crate::harness::{TIDEGATE, WIRES, proven_over, wire};

/// One fenced block: a fresh connection.
struct Example {
    line: usize,
    steps: Vec<(usize, Step)>,
}

enum Step {
    Client(Value),
    Server(Value),
}

/// Takes the blocks fenced with ```` ```tidegate ```` out of a page. Lines are `> {…}` from the client and
/// `< {…}` from the server; others within a block are an error in the page.
fn examples(page: &str) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    let mut open: Option<Example> = None;
    for (number, line) in page.lines().enumerate().map(|(number, line)| (number + 1, line.trim())) {
        match (&mut open, line) {
            (None, "```tidegate") => open = Some(Example { line: number, steps: Vec::new() }),
            (None, _) | (Some(_), "") => {}
            (Some(_), "```") => examples.extend(open.take()),
            (Some(example), line) => {
                example.steps.push((number, step(line).with_context(|| format!("line {number}"))?))
            }
        }
    }
    ensure!(open.is_none(), "a block is not closed");
    Ok(examples)
}

fn step(line: &str) -> Result<Step> {
    let json = |text: &str| serde_json::from_str(text.trim()).context("not JSON");
    match line.split_at_checked(1) {
        Some((">", frame)) => Ok(Step::Client(json(frame)?)),
        Some(("<", frame)) => Ok(Step::Server(json(frame)?)),
        _ => bail!("neither `> {{…}}` nor `< {{…}}`: {line}"),
    }
}

/// Whether a frame is what the page shows. A string `<…>` there stands for any value; other values are
/// literal. The frame may have fields that the page does not show.
fn matches(shown: &Value, said: &Value) -> bool {
    match (shown, said) {
        (Value::String(text), _) if text.starts_with('<') && text.ends_with('>') => true,
        (Value::Object(shown), Value::Object(said)) => {
            shown.iter().all(|(name, value)| said.get(name).is_some_and(|other| matches(value, other)))
        }
        (Value::Array(shown), Value::Array(said)) => {
            shown.len() == said.len() && shown.iter().zip(said).all(|(shown, said)| matches(shown, said))
        }
        _ => shown == said,
    }
}

/// Plays one example. What the server says between two frames of the client may come in any order, and
/// frames that the page does not show are passed over.
async fn replay(node: &Node, example: &Example) -> Result<()> {
    let opened = Client::open(&node.ws("demo"), &Options::default().over(wire())).await?;
    let Ok(mut client) = opened else { bail!("the handshake was refused") };
    let mut seen = Seen::default();
    let mut steps = example.steps.iter().peekable();
    while let Some((line, step)) = steps.next() {
        match step {
            Step::Client(frame) => {
                let frame = seen.fill(frame).with_context(|| format!("line {line}"))?;
                let sent = client.send_frame(&frame).await;
                if *line == example.steps[0].0 && wire().is_http() && frame["type"] != "connect" {
                    // The request is refused instead of the connection that it would open.
                    let why = sent.err().map(|error| error.to_string()).unwrap_or_default();
                    ensure!(why == "refused with 400", "line {line}: {why}");
                    return Ok(());
                }
                sent?;
            }
            Step::Server(shown) => {
                let mut expected = vec![(*line, in_this_codec(shown)?)];
                while let Some((line, Step::Server(shown))) = steps.peek() {
                    expected.push((*line, in_this_codec(shown)?));
                    steps.next();
                }
                expect(&mut client, expected, &mut seen).await?;
            }
        }
    }
    Ok(())
}

/// What the page shows in JSON, as [`Client`] tells it in the encoding of this connection: payloads in CBOR are
/// bytes, and no header says of a bare number that it is JSON.
fn in_this_codec(shown: &Value) -> Result<Value> {
    let mut shown = shown.clone();
    if wire().codec == Codec::Json {
        return Ok(shown);
    }
    if let Some(data) = shown.get("data") {
        let bytes = match (data, shown["enc"].as_str()) {
            // The page may leave out how text is encoded.
            (Value::String(text), None | Some("text")) => text.clone().into_bytes(),
            (Value::String(text), Some("base64")) => STANDARD.decode(text)?,
            (json, None) => json.to_string().into_bytes(),
            (_, enc) => bail!("no data with {enc:?}: {shown}"),
        };
        (shown["data"], shown["enc"]) = (STANDARD.encode(bytes).into(), "base64".into());
        if shown["headers"] == json!({"content-type": "application/json"}) {
            shown.as_object_mut().context("a frame")?.remove("headers");
        }
    }
    for message in shown.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten() {
        *message = in_this_codec(message)?;
    }
    Ok(shown)
}

async fn expect(client: &mut Client, mut expected: Vec<(usize, Value)>, seen: &mut Seen) -> Result<()> {
    while let Some((line, shown)) = expected.first() {
        match client
            .next()
            .await
            .with_context(|| format!("line {line} shows {shown}, which does not come"))?
        {
            Event::Frame(said) => {
                if let Some(at) = expected.iter().position(|(_, shown)| matches(shown, &said.0)) {
                    let (_, shown) = expected.remove(at);
                    seen.note(&shown, &said.0);
                }
            }
            ended => bail!("line {line} shows\n  {shown}\nand the connection ended: {ended:?}"),
        }
    }
    Ok(())
}

/// What `<offset>` and `<epoch>` in a client's line stand for: the values last shown.
#[derive(Default)]
struct Seen {
    values: std::collections::BTreeMap<String, Value>,
}

impl Seen {
    fn note(&mut self, shown: &Value, said: &Value) {
        for name in ["offset", "epoch"] {
            if shown.get(name).is_some() {
                self.values.insert(format!("<{name}>"), said[name].clone());
            }
        }
    }

    fn fill(&self, frame: &Value) -> Result<Value> {
        Ok(match frame {
            Value::String(text) if text.starts_with('<') => {
                self.values.get(text).with_context(|| format!("nothing was shown yet for {text}"))?.clone()
            }
            Value::Object(fields) => {
                let filled = fields.iter().map(|(name, value)| Ok((name.clone(), self.fill(value)?)));
                Value::Object(filled.collect::<Result<_>>()?)
            }
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.fill(item)).collect::<Result<_>>()?)
            }
            literal => literal.clone(),
        })
    }
}

#[tokio::test]
async fn the_pages_examples_are_true() {
    proven_over(&WIRES, || async {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md");
        let page = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        let examples = examples(&page)?;
        ensure!(!examples.is_empty(), "{path} has no block fenced with ```tidegate");
        let flags = ["--demo"];
        let toml = "[node]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
                    [backbone.embedded]\nresp_listen = \"127.0.0.1:0\"\n";
        for example in &examples {
            // A node each: what one example published does not show in the next.
            let node = Node::start_with(TIDEGATE, toml, &flags).await?;
            replay(&node, example)
                .await
                .with_context(|| format!("the example in line {} of {path}", example.line))?;
        }
        Ok(())
    })
    .await;
}

#[test]
fn a_page_is_read_as_it_is_written() {
    let page = "text\n```tidegate\n> {\"type\":\"ping\"}\n< {\"type\":\"pong\"}\n```\n```json\n{}\n```\n";
    let found = examples(page).unwrap();
    assert_eq!((found.len(), found[0].line, found[0].steps.len()), (1, 2, 2));
    assert!(examples("```tidegate\nnonsense\n```").is_err());
    assert!(examples("```tidegate\n> {}\n").is_err());
}

#[test]
fn only_placeholders_match_anything() {
    let json = |text| serde_json::from_str::<Value>(text).unwrap();
    let shown = json(r#"{"type":"ok","id":1,"offset":"<offset>"}"#);
    assert!(matches(&shown, &json(r#"{"type":"ok","id":1,"offset":"5-0"}"#)));
    assert!(!matches(&shown, &json(r#"{"type":"ok","id":2,"offset":"5-0"}"#)));
    assert!(!matches(&shown, &json(r#"{"type":"ok","id":1}"#)));
    assert!(matches(&shown, &json(r#"{"type":"ok","id":1,"offset":"5-0","more":0}"#)));
}
