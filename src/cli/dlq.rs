//! `tidegate dlq`: looks at dead letters, sends them again, removes them.

use anyhow::{Result, bail};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::CliError;
use super::args::{DlqArgs, DlqCommand, DlqListArgs, DlqNodeArgs, DlqSelectArgs};
use super::call::{call, json_content};

/// Whether the arguments are meant: to remove everything has to be said twice.
///
/// # Errors
/// A usage error says what to add.
pub fn check(args: &DlqArgs) -> Result<(), CliError> {
    match &args.command {
        DlqCommand::Purge(args) if args.select.all && !args.yes => {
            Err(CliError::Usage("purge --all removes letters for good: say --yes as well".into()))
        }
        _ => Ok(()),
    }
}

/// Runs the command. Dropping the future leaves some letters worked off and others not.
pub async fn run(args: DlqArgs) -> Result<()> {
    match args.command {
        DlqCommand::List(args) => list(args).await,
        DlqCommand::Retry(args) => retry(args).await,
        DlqCommand::Purge(args) => purge(args.select).await,
    }
}

async fn list(args: DlqListArgs) -> Result<()> {
    let path = path(&args.node);
    let mut query = vec![format!("limit={}", args.limit)];
    for (name, value) in [("channel", &args.channel), ("reason", &args.reason)] {
        query.extend(value.as_ref().map(|value| format!("{name}={}", encoded(value))));
    }
    for (name, offset) in [("before", args.before), ("after", args.after)] {
        query.extend(offset.map(|offset| format!("{name}={offset}")));
    }
    let answer = ask(&args.node, Method::GET, &format!("{path}?{}", query.join("&")), None).await?;
    if args.node.json {
        println!("{answer}");
        return Ok(());
    }
    for letter in answer["letters"].as_array().into_iter().flatten() {
        println!("{}", line(letter));
    }
    if answer["more"] == true {
        let (way, at) = match (&answer["next"]["after"], &answer["next"]["before"]) {
            (Value::String(at), _) => ("after", at),
            (_, Value::String(at)) => ("before", at),
            _ => return Ok(()),
        };
        eprintln!("there are more: go on with --{way} {at}");
    }
    Ok(())
}

/// A letter for people: one line, the payload cut short.
fn line(letter: &Value) -> String {
    let text = |name: &str| match &letter[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut line = text("offset");
    let place = letter["channel"].as_str().map_or_else(|| "(ingress)".to_owned(), str::to_owned);
    line += &format!("  {place}  {}", text("reason"));
    for name in ["user", "device", "error"] {
        if !letter[name].is_null() {
            line += &format!("  {name}={}", text(name));
        }
    }
    let data: String = text("data").chars().take(100).collect();
    line + &format!("  {}", data.escape_debug())
}

async fn retry(args: DlqSelectArgs) -> Result<()> {
    let (mut retried, mut failed) = (0, 0);
    each_part("retry", &args, |answer| {
        retried += answer["retried"].as_u64().unwrap_or_default();
        failed += answer["failed"].as_u64().unwrap_or_default();
        let errors = answer["results"].as_array().into_iter().flatten();
        for result in errors.filter(|result| result["error"].is_string()) {
            let text = |name: &str| result[name].as_str().unwrap_or_default();
            eprintln!("{}: {}", text("offset"), text("error"));
        }
    })
    .await?;
    if args.node.json {
        println!("{}", json!({"retried": retried, "failed": failed}));
    } else {
        println!("{retried} sent again, {failed} failed and kept");
    }
    anyhow::ensure!(failed == 0, "{failed} of {} letters were not sent again", retried + failed);
    Ok(())
}

async fn purge(args: DlqSelectArgs) -> Result<()> {
    let mut purged = 0;
    each_part("purge", &args, |answer| {
        purged += answer["purged"].as_u64().unwrap_or_default();
    })
    .await?;
    if args.node.json {
        println!("{}", json!({"purged": purged}));
    } else {
        println!("{purged} removed");
    }
    Ok(())
}

/// A call does a bounded piece of work: calls until all of it is done.
async fn each_part(action: &str, args: &DlqSelectArgs, mut take: impl FnMut(&Value)) -> Result<()> {
    let path = format!("{}/{action}", path(&args.node));
    if !args.offsets.is_empty() {
        for offsets in args.offsets.chunks(100) {
            take(&ask(&args.node, Method::POST, &path, Some(&json!({"offsets": offsets}))).await?);
        }
        return Ok(());
    }
    let mut body = json!({"all": true});
    for (name, value) in [("channel", &args.channel), ("reason", &args.reason)] {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    if let Some(before) = args.before {
        body["before"] = before.to_string().into();
    }
    loop {
        let answer = ask(&args.node, Method::POST, &path, Some(&body)).await?;
        take(&answer);
        if answer["more"] != true || !answer["next"].is_string() {
            return Ok(());
        }
        body["after"] = answer["next"].clone();
    }
}

fn path(node: &DlqNodeArgs) -> String {
    format!("/v1/{}/dead-letters", node.tenant)
}

/// The answer, or in words why there is none.
async fn ask(node: &DlqNodeArgs, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    let (status, answer) = call(method, &node.url, path, &node.key, body.map(json_content)).await?;
    let why = answer["error"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
    match status {
        StatusCode::OK => Ok(answer),
        StatusCode::UNAUTHORIZED => {
            bail!("the node refused the key: check --key or TIDEGATE_KEY, and --tenant")
        }
        _ => bail!("the node answered {status}: {why}"),
    }
}

fn encoded(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_one_line() {
        let letter = json!({
            "offset": "9-0", "channel": "user:alice", "reason": "attempts", "user": "alice",
            "device": "phone", "data": {"n": "a\nb"},
        });
        let wanted = r#"9-0  user:alice  attempts  user=alice  device=phone  {\"n\":\"a\\nb\"}"#;
        assert_eq!(line(&letter), wanted);
        let poison = json!({"offset": "9-0", "reason": "bad_entry", "error": "no `to`"});
        assert_eq!(line(&poison), "9-0  (ingress)  bad_entry  error=no `to`  ");
    }
}
