//! `tidegate drain`: asks a node to end, and waits until it has.

use std::time::Duration;

use anyhow::{Result, bail};
use http::Method;
use serde_json::Value;

use super::args::{AdminArgs, DrainArgs};
use super::call::{admin_answer, call};

/// How often the node is asked how far it is.
const EVERY: Duration = Duration::from_millis(250);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How much later than its deadline a node may be gone.
const LATE: Duration = Duration::from_secs(10);

/// Drains. Dropping the future leaves the node draining.
pub async fn run(args: DrainArgs) -> Result<()> {
    let begun = ask(Method::POST, &args.node).await?;
    if args.node.json {
        println!("{begun}");
    }
    let mut told = None;
    tell(&mut told, &begun);
    if args.no_wait {
        return Ok(());
    }
    let gone = async {
        loop {
            tokio::time::sleep(EVERY).await;
            // Whatever fails once the node has agreed fails because it is gone.
            let asked = tokio::time::timeout(ANSWER, ask(Method::GET, &args.node)).await;
            let Ok(Ok(progress)) = asked else { return };
            tell(&mut told, &progress);
        }
    };
    let patience = Duration::from_millis(begun["deadline_ms"].as_u64().unwrap_or_default()) + LATE;
    if tokio::time::timeout(patience, gone).await.is_err() {
        bail!("the node is still there {} s past its deadline", LATE.as_secs());
    }
    eprintln!("the node is gone");
    Ok(())
}

async fn ask(method: Method, node: &AdminArgs) -> Result<Value> {
    let (status, answer) = call(method, &node.url, "/admin/drain", &node.key, None).await?;
    admin_answer(status, answer)
}

/// Says how many sessions are left, where that has changed.
fn tell(told: &mut Option<u64>, progress: &Value) {
    let left = progress["sessions"].as_u64();
    if *told != left {
        *told = left;
        eprintln!("sessions left: {}", left.unwrap_or_default());
    }
}
