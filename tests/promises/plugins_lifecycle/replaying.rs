//! What a replay takes, and from whom.

use anyhow::bail;
use futures_util::future::select;

use super::*;
use crate::harness::subscriber;

#[tokio::test]
async fn a_replay_comes_after_live_messages_and_ends_with_its_caller() {
    proven(async {
        let tenant = TenantConfig::default().plugins("deadline_ms = 1000").plugins("concurrency = 1");
        let (node, mut backend) = embedded(NodeConfig::demo().tenant("demo", tenant)).await?;
        let version = push(&node, "one").await?;
        activate(&node, &version).await?;
        let mut client = subscriber(&node, "ada", "room:2", false).await?;
        // Each of them takes all the time that it is given.
        for _ in 0..100 {
            backend.push("demo", "room:1", "spin").await?;
        }
        let body = json!({ "channel": "room:1", "count": 100 });
        let replay = || Box::pin(post(&node, "probe/replay", &body));
        let (refused, mut under_way) = select(replay(), replay()).await.factor_first();
        let refused = refused?;
        ensure!(refused.status == 429 && refused.head.contains("retry-after:"), "{}", refused.text());
        ensure!(refused.text().contains("this tenant has 1 replays under way"), "{}", refused.text());
        for n in 0..3 {
            backend.push("demo", "room:2", format!("m{n}")).await?;
            tokio::select! {
                message = client.message() => ensure!(message?.text() == format!("m{n}"), "the next one"),
                ended = &mut under_way => bail!("m{n} waits for the whole replay: {}", ended?.text()),
            }
        }
        drop(under_way);
        let body = json!({ "channel": "room:2" });
        eventually("a replay when nobody waits for the first any more", || async {
            post(&node, "probe/replay", &body).await.ok().filter(|answer| answer.status == 200)
        })
        .await?;
        Ok(())
    })
    .await;
}
