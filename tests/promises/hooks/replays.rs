//! What a candidate would show, before anybody is shown it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tidegate_support::http::Answer;
use tidegate_support::node::Node;
use tidegate_support::plugins::{READY, act, push};
use tidegate_support::{proven, within};

use super::{PERSONAL, PRICES, config, patient};
use crate::harness::embedded;

/// The answer to a replay, once its version is ready.
async fn replay(node: &Node, version: &str, to: Option<(&str, &str)>) -> Result<Answer> {
    let mut ask = json!({"version": version, "channel": "room:1"});
    if let Some((scope, who)) = to {
        ask[scope] = who.into();
    }
    within(READY, "a version to replay", || async {
        let answer = act(node, "views", "replay", &ask).await.ok()?;
        (answer.status != 409).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_replay_is_for_a_class_or_for_a_user() {
    proven(async {
        let (node, mut backend) = embedded(config(patient())).await?;
        let prices = push(&node, "views", PRICES, &[]).await?;
        let whispers = push(&node, "views", PERSONAL, &[]).await?;
        let lamp = r#"{"item":"lamp","prices":{"gold":900,"standard":1000}}"#;
        let whisper = r#"{"text":"psst","to":"bob"}"#;
        for data in [lamp, whisper] {
            backend.push("demo", "room:1", data).await?;
        }
        for (version, to, of, verdict, data) in [
            (&prices, ("class", "gold"), lamp, "replace", json!(r#"{"item":"lamp","price":900}"#)),
            (&prices, ("class", "silver"), lamp, "replace", json!(r#"{"item":"lamp","price":1000}"#)),
            (&whispers, ("user", "carol"), whisper, "drop", Value::Null),
        ] {
            let found = replay(&node, version, Some(to)).await?.json()?;
            ensure!(found["entries"] == 2 && found["same"] == 1 && found["differ"] == 1, "{to:?}: {found}");
            let differs = &found["differences"][0];
            ensure!(differs["data"] == of && differs["now"]["verdict"] == "accept", "{to:?}: {found}");
            let then = &differs["then"];
            ensure!(then["verdict"] == verdict && then["data"] == data, "{to:?}: {found}");
        }
        let heard = replay(&node, &whispers, Some(("user", "bob"))).await?.json()?;
        ensure!(heard["same"] == 2, "whom it is for: {heard}");
        for (version, says) in [(&prices, "which `class`"), (&whispers, "which `user`")] {
            let refused = replay(&node, version, None).await?;
            ensure!(refused.status == 400 && refused.text().contains(says), "{}", refused.text());
        }
        Ok(())
    })
    .await;
}
