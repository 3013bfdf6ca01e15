//! The examples of `docs/protocol.md` are what a node says.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tidegate_support::client::{Client, Event, Options};
use tidegate_support::node::Node;
use tidegate_support::proven;

use crate::harness::TIDEGATE;

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

/// Whether a frame is what the page shows. A string `<…>` there stands for any value; everything else,
/// names of fields included, is literal.
fn matches(shown: &Value, said: &Value) -> bool {
    match (shown, said) {
        (Value::String(text), _) if text.starts_with('<') && text.ends_with('>') => true,
        (Value::Object(shown), Value::Object(said)) => {
            shown.len() == said.len()
                && shown.iter().all(|(name, value)| said.get(name).is_some_and(|other| matches(value, other)))
        }
        (Value::Array(shown), Value::Array(said)) => {
            shown.len() == said.len() && shown.iter().zip(said).all(|(shown, said)| matches(shown, said))
        }
        _ => shown == said,
    }
}

async fn replay(node: &Node, example: &Example) -> Result<()> {
    let opened = Client::open(&node.ws("demo"), &Options::default()).await?;
    let Ok(mut client) = opened else { bail!("the handshake was refused") };
    for (line, step) in &example.steps {
        match step {
            Step::Client(frame) => client.send_frame(frame).await?,
            Step::Server(shown) => match client.next().await.with_context(|| format!("line {line}"))? {
                Event::Frame(said) => {
                    ensure!(
                        matches(shown, &said.0),
                        "line {line} shows\n  {shown}\nand the node says\n  {}",
                        said.0
                    );
                }
                ended => bail!("line {line} shows\n  {shown}\nand the connection ended: {ended:?}"),
            },
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_pages_examples_are_true() {
    proven(async {
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
    assert!(!matches(&shown, &json(r#"{"type":"ok","id":1,"offset":"5-0","more":0}"#)));
}
