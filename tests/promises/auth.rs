//! Who gets in, as whom, and for how long.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tidegate_support::client::{Client, Options, Refusal};
use tidegate_support::config::{KID, NodeConfig, SECRET, TenantConfig, token, token_with};
use tidegate_support::node::Node;
use tidegate_support::proven;
use tidegate_support::token::{EdKey, claims, hs256, now_s};

use crate::harness::{WIRES, client, embedded, proven_over, silent, user, wire};

/// A tenant that lets nobody in without a token.
fn closed() -> NodeConfig {
    NodeConfig::default().tenant("demo", TenantConfig::default().closed())
}

/// Asserts that a connection is refused as unauthorised or for an expired token, by status or close code.
async fn refused(node: &Node, options: &Options, what: &str) -> Result<()> {
    match Client::try_connect(&node.ws("demo"), options).await? {
        Err(Refusal::Handshake(401 | 403) | Refusal::Closed(4002 | 4007, ..)) => Ok(()),
        other => bail!("{what}: {other:?}"),
    }
}

#[tokio::test]
async fn a_good_token_opens_a_session_as_its_user() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(closed()).await?;
        ensure!(client(&node, &user("alice")).await?.user() == "alice", "in the first frame");
        let header = Options { bearer: Some(token("bob")), ..Options::default().over(wire()) };
        ensure!(client(&node, &header).await?.user() == "bob", "in the header");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn bad_tokens_are_refused() {
    proven(async {
        let (node, _) = embedded(closed()).await?;
        let with = |change: fn(&mut Value)| {
            let mut claims = claims("alice");
            change(&mut claims);
            token_with(&claims)
        };
        let good = token("alice");
        let (head, signature) = good.rsplit_once('.').expect("a JWT has dots");
        let none = {
            use base64::Engine as _;
            let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
            let header = url.encode(r#"{"alg":"none"}"#);
            format!("{header}.{}.", url.encode(claims("alice").to_string()))
        };
        let tokens = [
            ("no token", String::new()),
            ("no JWT", "secret".into()),
            ("expired", with(|claims| claims["exp"] = (now_s() - 60).into())),
            ("not yet good", with(|claims| claims["nbf"] = (now_s() + 600).into())),
            ("without expiry", with(|claims| drop(claims.as_object_mut().map(|c| c.remove("exp"))))),
            ("without user", with(|claims| drop(claims.as_object_mut().map(|c| c.remove("sub"))))),
            ("a user that is no name", with(|claims| claims["sub"] = "a\u{1}b".into())),
            ("another secret", hs256(KID, b"another secret that is long enough too", &claims("alice"))),
            ("an unknown key", hs256("other", SECRET.as_bytes(), &claims("alice"))),
            ("a signature cut short", format!("{head}.{}", &signature[..20])),
            ("no signature", format!("{head}.")),
            ("alg none", none),
        ];
        for (what, token) in tokens {
            refused(&node, &Options::token(token), what).await?;
        }
        refused(&node, &Options::default(), "nothing at all").await
    })
    .await;
}

#[tokio::test]
async fn each_key_has_its_algorithm() {
    proven(async {
        let ed = EdKey::from_seed([7; 32]);
        let key = format!("kid = \"ed\"\nalgorithm = \"EdDSA\"\npublic_key = '''\n{}'''", ed.public_pem());
        let tenant = TenantConfig::default().closed().key(&key);
        let (node, _) = embedded(NodeConfig::default().tenant("demo", tenant)).await?;
        let signed = Options::token(ed.sign("ed", &claims("alice")));
        ensure!(client(&node, &signed).await?.user() == "alice", "EdDSA");
        ensure!(client(&node, &user("bob")).await?.user() == "bob", "HS256 beside it");
        // The classic confusion: the public key, known to all, as the secret of an HMAC.
        let confused = hs256("ed", ed.public_pem().as_bytes(), &claims("mallory"));
        refused(&node, &Options::token(confused), "HS256 with a public key").await?;
        refused(&node, &Options::token(ed.sign(KID, &claims("mallory"))), "EdDSA under an HS256 key").await
    })
    .await;
}

#[tokio::test]
async fn issuer_and_audience_are_checked_where_set() {
    proven(async {
        let tenant = TenantConfig::default()
            .closed()
            .jwt("issuer = \"https://issuer.example\"")
            .jwt("audience = \"tidegate\"");
        let (node, _) = embedded(NodeConfig::default().tenant("demo", tenant)).await?;
        let with = |iss: &str, aud: Value| {
            let mut claims = claims("alice");
            claims["iss"] = iss.into();
            claims["aud"] = aud;
            Options::token(token_with(&claims))
        };
        let right = "https://issuer.example";
        client(&node, &with(right, json!("tidegate"))).await?;
        client(&node, &with(right, json!(["other", "tidegate"]))).await?;
        refused(&node, &with("https://other.example", json!("tidegate")), "another issuer").await?;
        refused(&node, &with(right, json!(["other"])), "another audience").await?;
        refused(&node, &user("alice"), "neither").await
    })
    .await;
}

#[tokio::test]
async fn a_token_that_expires_ends_the_connection() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(closed()).await?;
        let short = json!({"sub": "alice", "exp": now_s() + 2});
        let mut client = client(&node, &Options::token(token_with(&short)).over(wire())).await?;
        let (code, reason) = client.closed().await?;
        ensure!((code, reason.as_str()) == (4007, "token_expired"), "{code} {reason}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn refreshing_keeps_the_connection() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(closed()).await?;
        let expires = now_s() + 3;
        let short = json!({"sub": "alice", "exp": expires});
        let mut client = client(&node, &Options::token(token_with(&short)).over(wire())).await?;
        let someone_else = client.refresh(&token("bob")).await?;
        ensure!(someone_else.kind() == "error", "a session has one user: {}", someone_else.0);
        let bad = client.refresh("no token").await?;
        ensure!(bad.kind() == "error", "{}", bad.0);
        let good = client.refresh(&token("alice")).await?;
        ensure!(good.kind() == "ok", "{}", good.0);
        // Beyond the first token's end the connection still answers.
        while now_s() < expires + 2 {
            client.settle().await?;
            tokio::time::sleep(tidegate_support::POLL).await;
        }
        silent(&mut client).await
    })
    .await;
}

#[tokio::test]
async fn anonymous_users_are_strangers_to_each_other() {
    proven_over(&WIRES, || async {
        let (node, mut backend) = embedded(NodeConfig::demo()).await?;
        let mut one = client(&node, &Options::default().over(wire())).await?;
        let mut two = client(&node, &Options::default().over(wire())).await?;
        ensure!(one.user().starts_with("anon-") && one.user() != two.user(), "{} {}", one.user(), two.user());
        let offset = backend.push("demo", &format!("user:{}", one.user()), "for one").await?;
        ensure!(one.message().await?.offset == offset, "its own channel");
        silent(&mut two).await
    })
    .await;
}

#[tokio::test]
async fn a_wrong_token_is_not_made_anonymous() {
    proven_over(&WIRES, || async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        refused(&node, &Options::token("nonsense").over(wire()), "a tenant with anonymous clients").await
    })
    .await;
}

#[tokio::test]
async fn tenants_are_apart() {
    proven_over(&WIRES, || async {
        let other = TenantConfig::default().closed().jwt("issuer = \"other\"");
        let config = NodeConfig::demo().tenant("other", other);
        let (node, mut backend) = embedded(config).await?;
        let mut here = client(&node, &user("alice").listen("room:1")).await?;
        here.subscribed("room:1").await?;
        backend.push("other", "room:1", "not for demo").await?;
        let mine = backend.push("demo", "room:1", "for demo").await?;
        ensure!(here.message().await?.offset == mine, "only one's own tenant");
        match Client::try_connect(&node.ws("nobody"), &user("alice")).await? {
            Err(Refusal::Handshake(404) | Refusal::Closed(4003, ..)) => Ok(()),
            other => bail!("an unknown tenant: {other:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    proven_over(&WIRES, || async {
        let tenant = TenantConfig::default().setting("origins = [\"https://app.example\"]");
        let (node, _) = embedded(NodeConfig::default().tenant("demo", tenant)).await?;
        let from = |origin: &str| Options { origin: Some(origin.into()), ..user("alice") };
        client(&node, &from("https://app.example")).await?;
        client(&node, &user("alice")).await?;
        for origin in ["https://evil.example", "http://app.example", "null"] {
            match Client::try_connect(&node.ws("demo"), &from(origin)).await? {
                Err(Refusal::Handshake(403) | Refusal::Closed(4002, ..)) => {}
                other => bail!("{origin}: {other:?}"),
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_token_that_names_channels_opens_only_those() {
    proven(async {
        let (node, _) = embedded(NodeConfig::demo()).await?;
        let mut claims = claims("alice");
        claims["channels"] = json!(["room:1", "room:7-*"]);
        let mut client = client(&node, &Options::token(token_with(&claims))).await?;
        for (channel, kind) in [("room:1", "subscribed"), ("room:7-a", "subscribed"), ("room:2", "error")] {
            let reply = client.request(json!({"type": "subscribe", "channel": channel})).await?;
            ensure!(reply.kind() == kind, "{channel}: {}", reply.0);
        }
        Ok(())
    })
    .await;
}
