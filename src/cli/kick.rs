//! `tidegate kick`: ends sessions on a node.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::args::KickArgs;
use super::call::{admin_answer, call, json_content};

/// Ends the sessions that the arguments name, and prints how many there were.
pub async fn run(args: KickArgs) -> Result<()> {
    let path = format!("/admin/tenants/{}/kick", args.tenant);
    let (status, answer) =
        call(Method::POST, &args.node.url, &path, &args.node.key, Some(json_content(&body(&args)))).await?;
    let answer = admin_answer(status, answer)?;
    if args.node.json {
        println!("{answer}");
    } else {
        println!("{} kicked", answer["kicked"]);
    }
    Ok(())
}

fn body(args: &KickArgs) -> Value {
    let mut body = json!({});
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            body[name] = value.into();
        }
    };
    set("session", args.session.as_ref().map(ToString::to_string));
    set("user", args.user.as_ref().map(ToString::to_string));
    set("device", args.device.as_ref().map(ToString::to_string));
    set("reason", args.reason.clone());
    body
}
