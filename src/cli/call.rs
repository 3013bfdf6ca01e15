//! One HTTP call to a node, as every command makes it that asks a node for something.

use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use crate::config::Secret;

/// What a request carries: headers, its content type among them, and a body.
pub type Content = (HeaderMap, Vec<u8>);

/// A body of some type.
pub fn content(kind: &'static str, body: Vec<u8>) -> Content {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))].into_iter().collect(), body)
}

/// A body in JSON.
pub fn json_content(value: &Value) -> Content {
    content("application/json", value.to_string().into_bytes())
}

/// Calls `path` of the node at `url` with a bearer key. The answer's status, and its body as JSON, or as text where
/// it is none.
///
/// # Errors
/// When nothing answers there; the path is not named, since there may be more in it than is for logs. Dropping the
/// future may leave done what was asked for.
pub async fn call(
    method: Method,
    url: &str,
    path: &str,
    key: &Secret,
    content: Option<Content>,
) -> Result<(StatusCode, Value)> {
    let base = url.trim_end_matches('/');
    let client = reqwest::Client::builder().no_proxy().build().context("no HTTP client")?;
    let mut request = client.request(method, format!("{base}{path}")).bearer_auth(key.expose());
    if let Some((headers, body)) = content {
        request = request.headers(headers).body(body);
    }
    let sent = request.send().await.map_err(reqwest::Error::without_url);
    let answer = sent.with_context(|| format!("cannot reach {base}: is the node running there?"))?;
    let status = answer.status();
    let bytes = answer.bytes().await.map_err(reqwest::Error::without_url)?;
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
        _ if status.is_success() => Ok(answer),
        StatusCode::UNAUTHORIZED => {
            bail!("the node refused the key: check --key or TIDEGATE_KEY, and --tenant where there is one")
        }
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

    #[tokio::test]
    async fn errors_do_not_name_the_path() {
        // `main` sets one; another test may have.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Nobody listens at port 1.
        let key = Secret::new("key".to_owned());
        let error = call(Method::GET, "http://127.0.0.1:1/", "/v1/private?x=private", &key, None).await;
        let said = format!("{:#}", error.unwrap_err());
        assert!(said.contains("cannot reach http://127.0.0.1:1:") && !said.contains("private"), "{said}");
    }
}
