//! `tidegate publish`: publishes a message over HTTP and prints its offsets.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::args::PublishArgs;
use super::call::{call, content, json_content};
use crate::domain::ChannelName;

/// How often a send is asked how far it is.
const POLL: Duration = Duration::from_millis(500);

/// Publishes, and waits for a wide send to end. Dropping the future may leave the message published.
pub async fn run(args: PublishArgs) -> Result<()> {
    let channels = channels(&args)?;
    let payload = payload(&args)?;
    let (status, answer) = post(&args, &channels, &payload).await?;
    match status {
        StatusCode::OK => results(&answer, args.json),
        StatusCode::ACCEPTED => follow(&args, answer).await,
        _ => bail!("{}", refusal(status, &answer)),
    }
}

fn channels(args: &PublishArgs) -> Result<Vec<ChannelName>> {
    let mut channels = args.channel.clone();
    if let Some(file) = &args.channels {
        let lines = read(file)?;
        for (number, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let parsed = ChannelName::parse(line.trim());
            channels.push(parsed.with_context(|| format!("{}, line {}", file.display(), number + 1))?);
        }
    }
    ensure!(!channels.is_empty() || args.cloudevent, "--channels names no channel");
    Ok(channels)
}

fn payload(args: &PublishArgs) -> Result<String> {
    match (&args.data, &args.file) {
        (Some(data), _) => Ok(data.clone()),
        (None, Some(file)) => read(file),
        (None, None) => read(Path::new("-")),
    }
}

/// A file, or standard input as `-`.
fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    }
    // The line's end belongs to `echo` or the editor, not to the message.
    Ok(text.strip_suffix('\n').map_or_else(|| text.clone(), str::to_owned))
}

fn body(args: &PublishArgs, channels: &[ChannelName], payload: &str) -> Value {
    // An object or array is JSON; anything else is text, also `42` and `null`.
    let data = match serde_json::from_str::<Value>(payload) {
        Ok(json) if json.is_object() || json.is_array() => json,
        _ => payload.into(),
    };
    let names: Vec<&str> = channels.iter().map(ChannelName::as_str).collect();
    let mut body = json!({"channels": names, "data": data});
    let options = [
        ("id", args.id.as_deref().map(Value::from)),
        ("key", args.message_key.as_deref().map(Value::from)),
        ("ttl_ms", args.ttl_ms.map(Value::from)),
        ("spread_ms", args.spread_ms.map(Value::from)),
        ("pace_per_s", args.pace.map(Value::from)),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    body
}

/// Prints one offset a line, with its channel where there are several.
fn results(answer: &Value, as_json: bool) -> Result<()> {
    let results =
        answer["results"].as_array().with_context(|| format!("no results in the answer: {answer}"))?;
    if as_json {
        println!("{answer}");
    }
    let mut failed = 0;
    for result in results {
        let channel = result["channel"].as_str().unwrap_or_default();
        match (result["offset"].as_str(), result["error"].as_str()) {
            (Some(_), _) if as_json => {}
            (Some(offset), _) if results.len() == 1 => println!("{offset}"),
            (Some(offset), _) => println!("{channel} {offset}"),
            (None, error) => {
                failed += 1;
                eprintln!("{channel}: the node refused: {}", error.unwrap_or("it does not say why"));
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} channels did not take the message", results.len());
    Ok(())
}

fn refusal(status: StatusCode, answer: &Value) -> String {
    let why = answer["error"].as_str().or_else(|| answer["results"][0]["error"].as_str());
    match (status, why) {
        (StatusCode::UNAUTHORIZED, _) => {
            format!("the node refused the key ({status}): check --key or TIDEGATE_KEY, and --tenant")
        }
        (_, Some(why)) => format!("the node refused ({status}): {why}"),
        (_, None) => format!("the node answered {status}: {answer}"),
    }
}

async fn post(args: &PublishArgs, channels: &[ChannelName], payload: &str) -> Result<(StatusCode, Value)> {
    let path = format!("/v1/{}/publish", args.tenant);
    if !args.cloudevent {
        let content = json_content(&body(args, channels, payload));
        return call(Method::POST, &args.url, &path, &args.key, Some(content)).await;
    }
    let named = |channel: &ChannelName| {
        format!("channel={}", utf8_percent_encode(channel.as_str(), NON_ALPHANUMERIC))
    };
    let query: Vec<String> = channels.iter().map(named).collect();
    let path = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
    let content = content("application/cloudevents+json", payload.as_bytes().to_vec());
    call(Method::POST, &args.url, &path, &args.key, Some(content)).await
}

/// Asks a send how far it is until it has ended.
async fn follow(args: &PublishArgs, accepted: Value) -> Result<()> {
    let url = accepted["url"].as_str().context("the node does not say where the send is")?.to_owned();
    eprintln!("send {} to {} channels", accepted["send"].as_str().unwrap_or_default(), accepted["targets"]);
    loop {
        tokio::time::sleep(POLL).await;
        let (status, answer) = call(Method::GET, &args.url, &url, &args.key, None).await?;
        if status != StatusCode::OK {
            bail!("{}", refusal(status, &answer));
        }
        let (state, targets) = (answer["state"].as_str().unwrap_or_default(), &answer["targets"]);
        eprintln!("{state}: {} added, {} failed, of {targets}", answer["added"], answer["failed"]);
        if state == "running" {
            continue;
        }
        if args.json {
            println!("{answer}");
        }
        for error in answer["errors"].as_array().into_iter().flatten() {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            eprintln!("{}: {}", text("channel"), text("error"));
        }
        ensure!(answer["added"] == *targets, "not every channel has the message: the send is {state}");
        return Ok(());
    }
}
