//! One HTTP call to a node, as every command makes it that asks a node for something.

use anyhow::{Context as _, Result, bail};
use http::{Method, StatusCode, header};
use serde_json::Value;

use crate::config::Secret;

/// Calls `path` of the node at `url` with a bearer key, and a JSON body where there is one. The answer's
/// status, and its body as JSON, or as text where it is none.
///
/// # Errors
/// When nothing answers there. Dropping the future may leave done what was asked for.
pub async fn call(
    method: Method,
    url: &str,
    path: &str,
    key: &Secret,
    body: Option<&Value>,
) -> Result<(StatusCode, Value)> {
    let body = body.map(|body| ("application/json", body.to_string().into_bytes()));
    call_with(method, url, path, key, body).await
}

/// The same with a body of any content type.
///
/// # Errors
/// When nothing answers there. Dropping the future may leave done what was asked for.
pub async fn call_with(
    method: Method,
    url: &str,
    path: &str,
    key: &Secret,
    body: Option<(&'static str, Vec<u8>)>,
) -> Result<(StatusCode, Value)> {
    let base = url.trim_end_matches('/');
    let client = reqwest::Client::builder().no_proxy().build().context("no HTTP client")?;
    let mut request = client.request(method, format!("{base}{path}")).bearer_auth(key.expose());
    if let Some((kind, body)) = body {
        request = request.header(header::CONTENT_TYPE, kind).body(body);
    }
    let answer =
        request.send().await.with_context(|| format!("cannot reach {base}: is the node running there?"))?;
    let status = answer.status();
    let bytes = answer.bytes().await?;
    let answer = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).trim().to_owned()));
    Ok((status, answer))
}

/// The answer of an admin route, or in words why there is none.
///
/// # Errors
/// When the node did not do what was asked.
pub fn admin_answer(status: StatusCode, answer: Value) -> Result<Value> {
    let why = answer["error"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
    match status {
        StatusCode::OK | StatusCode::ACCEPTED => Ok(answer),
        StatusCode::UNAUTHORIZED => bail!("the node refused the admin token: check --key or TIDEGATE_KEY"),
        // The port of clients knows no such path.
        StatusCode::NOT_FOUND if why.starts_with("not found") => {
            bail!("there is no admin listener at --url (or TIDEGATE_URL): name the node's admin address")
        }
        _ => bail!("the node answered {status}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        assert_eq!(admin_answer(StatusCode::OK, json!({"kicked": 1})).unwrap(), json!({"kicked": 1}));
        for (status, answer, says) in [
            (401, json!({"error": "send a token"}), "TIDEGATE_KEY"),
            (403, json!({"error": "this node has no admin token configured"}), "no admin token configured"),
            (404, json!({"error": "there is no such tenant"}), "no such tenant"),
            (404, json!({"error": "not found; clients connect to /v1/<tenant>/ws"}), "admin address"),
            (400, json!("odd"), "odd"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let said = admin_answer(status, answer).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }
}
