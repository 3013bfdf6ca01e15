//! What is not taken, and by whom.

use std::time::Duration;

use super::*;
use tidegate_support::plugins::upload_once;

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A component that exports this interface, with nothing in it.
fn exporting(interface: &str) -> Vec<u8> {
    binary(&format!("(component (instance $empty) (export {interface:?} (instance $empty)))"))
}

/// A component with these imports beside a hook.
fn importing(import: &str) -> Vec<u8> {
    binary(&format!(
        "(component (import {import:?} (instance)) (instance $empty) \
         (export \"tidegate:plugin/on-session@0.1.0\" (instance $empty)))"
    ))
}

/// A component whose core module has this start function, and the hook `on-session` as it has to be.
fn starting(items: &str) -> Vec<u8> {
    binary(&format!(
        r#"(component
            (core module $m
                {items}
                (memory (export "memory") 1)
                (func (export "f") (param i32 i32 i32 i32 i32))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
            (core instance $i (instantiate $m))
            (type $change (enum "connected" "disconnected"))
            (type $event (record (field "change" $change) (field "user" string) (field "session" string)))
            (func $f (param "event" $event) (canon lift (core func $i "f")
                (memory $i "memory") (realloc (func $i "realloc"))))
            (component $hook
                (type $change (enum "connected" "disconnected"))
                (import "t-change" (type $change-in (eq $change)))
                (type $event (record (field "change" $change-in) (field "user" string) (field "session" string)))
                (import "t-event" (type $event-in (eq $event)))
                (import "f" (func $f (param "event" $event-in)))
                (type $change-again (enum "connected" "disconnected"))
                (export $change-out "change" (type $change-again))
                (type $event-again
                    (record (field "change" $change-out) (field "user" string) (field "session" string)))
                (export $event-out "event" (type $event-again))
                (export "on-session" (func $f) (func (param "event" $event-out))))
            (instance $hooked (instantiate $hook
                (with "t-change" (type $change)) (with "t-event" (type $event)) (with "f" (func $f))))
            (export "tidegate:plugin/on-session@0.1.0" (instance $hooked)))"#
    ))
}

/// The status of an upload that is not taken, and why that is; a node that is long about it says 202 first.
async fn refused(node: &Node, name: &str, bytes: &[u8]) -> Result<(u16, String)> {
    let answer = upload(node, name, bytes).await?;
    let said = answer.json()?;
    let why = match answer.status {
        202 => plugins::compiled(node, name, &said).await?["why"].clone(),
        _ => said["error"].clone(),
    };
    Ok((answer.status, why.as_str().unwrap_or_default().to_owned()))
}

#[tokio::test]
async fn what_is_wrong_with_an_upload_is_said_in_plain_words() {
    proven(async {
        let (node, _backend) = embedded(config()).await?;
        let nested = binary(&format!("{}{}", "(component ".repeat(50), ")".repeat(50)));
        let wrong_types = binary(
            r#"(component
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f")))
                (instance $hook (export "on-session" (func $f)))
                (export "tidegate:plugin/on-session@0.1.0" (instance $hook)))"#,
        );
        for (bytes, says) in [
            (Vec::new(), "no WebAssembly"),
            (b"#!/bin/sh".to_vec(), "no WebAssembly"),
            (b"(component)".to_vec(), "WebAssembly text"),
            (binary("(module)"), "core module"),
            (PROBE[..PROBE.len() / 2].to_vec(), "no valid component"),
            (binary("(component)"), "none of the hooks"),
            (exporting("tidegate:plugin/on-session@0.2.0"), "takes 0.1.x"),
            (exporting("tidegate:plugin/on-shutdown@0.1.0"), "no hook of tidegate:plugin"),
            (exporting("tidegate:plugin/on-session@0.1.0"), "other types"),
            (importing("wasi:nn/graph@0.2.0"), "wasi:nn/graph"),
            (importing("acme:own/thing"), "acme:own/thing"),
            (nested, "components within each other"),
            (wrong_types, "other types"),
            (starting("(func $s unreachable) (start $s)"), "cannot be started"),
            (starting("(func $s (loop $l (br $l))) (start $s)"), "took too long"),
            (starting("(memory 2000)"), "memor"),
        ] {
            let (status, why) = refused(&node, "probe", &bytes).await?;
            ensure!([202, 422].contains(&status) && why.contains(says), "{says}: {status} {why}");
        }
        ensure!(get(&node, "").await?["plugins"] == json!([]), "nothing of it is kept");
        for (path, says) in
            [("Probe", "1 to 32"), ("logs", ""), ("probe?set.greeting=hello", "tidegate-setting")]
        {
            let answer = upload(&node, path, PROBE).await?;
            ensure!([400, 405].contains(&answer.status) && answer.text().contains(says), "{}", answer.text());
        }
        // And what starts is taken.
        let taken = upload(&node, "small", &starting("")).await?;
        ensure!([201, 202].contains(&taken.status), "{}", taken.text());
        ensure!(taken.head.contains("location: /v1/demo/plugins/small/"), "{}", taken.head);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn sizes_are_bounded_one_by_one_and_all_together() {
    proven(async {
        let most = PROBE.len() + 100;
        let tenant = TenantConfig::default()
            .plugins(&format!("code_bytes = {most}"))
            .plugins(&format!("stored_bytes = {most}"));
        let (node, _backend) = embedded(NodeConfig::demo().tenant("demo", tenant)).await?;
        let large = vec![0; 10 * most];
        for bytes in [&large[..most + 1], &large[..]] {
            let answer = upload(&node, "probe", bytes).await?;
            let says = [format!("has {} bytes", bytes.len()), format!("the limit is {most}")];
            ensure!(answer.status == 413, "{} {}", answer.status, answer.text());
            ensure!(says.iter().all(|says| answer.text().contains(says)), "{}", answer.text());
        }
        push(&node, "one").await?;
        // The same bytes with other settings take no room.
        let version = push(&node, "two").await?;
        let (status, why) = refused(&node, "small", &starting("")).await?;
        ensure!([202, 413].contains(&status) && why.contains("stored_bytes"), "{status} {why}");
        let list = get(&node, "").await?;
        ensure!(list["stored_bytes"] == PROBE.len() && list["stored_bytes_limit"] == most, "{list}");
        ensure!(list["plugins"].as_array().is_some_and(|plugins| plugins.len() == 1), "{list}");
        // What is removed makes room.
        until_state(&node, &version, "ready").await?;
        for version in list["plugins"][0]["versions"].as_array().into_iter().flatten() {
            let path = format!("/v1/demo/plugins/probe/{}", version["version"].as_str().unwrap_or_default());
            let removed = http::request(&node.admin, "DELETE", &path, Some(API_KEY), None).await?;
            ensure!(removed.status == 200, "{}", removed.text());
        }
        let taken = upload(&node, "small", &starting("")).await?;
        ensure!([201, 202].contains(&taken.status), "{}", taken.text());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn values_of_settings_are_not_shown() {
    proven(async {
        let (node, _backend) = embedded(config()).await?;
        let version = push(&node, "a secret").await?;
        let shown = until_state(&node, &version, "ready").await?;
        let hash = "984ca5162200734c592148f1820b71057f098573d138666b48663e4e30cd8d3a";
        ensure!(shown["settings_sha256"] == json!({ "greeting": hash }), "{shown}");
        for text in [shown.to_string(), get(&node, "").await?.to_string()] {
            ensure!(!text.contains("a secret") && text.contains(hash), "{text}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn only_the_tenants_keys_and_the_operators_open_its_plugins() {
    proven(async {
        // The other tenant has a key that nobody knows.
        let own = format!("api_key_hashes = [\"{}\"]", "0".repeat(64));
        let config = config().tenant("other", TenantConfig::default().replacing_keys(&own));
        let (node, _backend) = embedded(config).await?;
        let admin = tidegate_support::config::ADMIN_TOKEN;
        for (path, key, status) in [
            ("/v1/demo/plugins", None, 401),
            ("/v1/demo/plugins", Some("wrong"), 401),
            ("/v1/demo/plugins", Some(API_KEY), 200),
            ("/v1/demo/plugins", Some(admin), 200),
            ("/v1/other/plugins", Some(API_KEY), 401),
            ("/v1/other/plugins", Some(admin), 200),
            ("/v1/other/plugins/logs", Some(API_KEY), 401),
            ("/v1/nobody/plugins", Some(API_KEY), 401),
            ("/v1/nobody/plugins", Some(admin), 404),
            ("/admin", Some(API_KEY), 401),
        ] {
            let answer = http::get(&node.admin, path, key).await?;
            ensure!(answer.status == status, "{path} {key:?}: {} {}", answer.status, answer.text());
        }
        let path = "/v1/other/plugins/probe";
        for what in ["", "/activate", "/replay"] {
            let answer = http::post(&node.admin, &format!("{path}{what}"), Some(API_KEY), &json!({})).await?;
            ensure!(answer.status == 401, "{what}: {}", answer.text());
        }
        // The port of clients knows nothing of them.
        let answer = http::get(&node.http, "/v1/demo/plugins", Some(API_KEY)).await?;
        ensure!(answer.status == 404, "{}", answer.text());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn one_upload_of_a_tenant_is_under_way_at_a_time() {
    proven(async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (node, _backend) = embedded(config()).await?;
        // One that never ends. The node asks for its body, so that it has been let in.
        let mut slow = tokio::net::TcpStream::connect(&node.admin).await?;
        let head = format!(
            "POST /v1/demo/plugins/probe HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {API_KEY}\r\n\
             Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n",
            node.admin
        );
        slow.write_all(head.as_bytes()).await?;
        let mut asked = [0; 12];
        slow.read_exact(&mut asked).await?;
        ensure!(asked == *b"HTTP/1.1 100", "{asked:?}");
        let turned_away = upload_once(&node, "probe", PROBE).await?;
        ensure!(
            turned_away.status == 429 && turned_away.head.contains("retry-after:"),
            "{}",
            turned_away.text()
        );
        drop(slow);
        eventually("and taken when the first is over", || async {
            let answer = upload_once(&node, "probe", PROBE).await.ok()?;
            [201, 202].contains(&answer.status).then_some(())
        })
        .await?;
        Ok(())
    })
    .await;
}

/// A component that starts, and has much to compile beside: some 24 MB of arithmetic, more than a second of any
/// processor's time.
fn dear() -> Vec<u8> {
    let leb = |mut number: usize| {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    let sized = |bytes: &[u8]| [&leb(bytes.len())[..], bytes].concat();
    let section = |id: u8, bytes: &[u8]| [&[id][..], &sized(bytes)].concat();
    // local 0 = local 0 + local 0 * 7
    let sum = [0x20, 0, 0x20, 0, 0x41, 7, 0x6c, 0x6a, 0x21, 0];
    let function = sized(&[&[0][..], &sum.repeat(2_000), &[0x0b]].concat());
    let count = leb(1_200);
    let module = [
        &b"\0asm\x01\0\0\0"[..],
        &section(1, &[1, 0x60, 1, 0x7f, 0]),
        &section(3, &[&count[..], &[0; 1_200]].concat()),
        &section(10, &[&count[..], &function.repeat(1_200)].concat()),
    ];
    [starting(""), section(1, &module.concat())].concat()
}

#[tokio::test]
async fn a_hostile_upload_is_refused_and_holds_up_neither_the_node_nor_its_tenants() {
    proven(async {
        let (node, mut backend) = embedded(config().plugins("compile_timeout_ms", 1_000)).await?;
        let dear = dear();
        let (uploaded, delivered) = tokio::join!(upload(&node, "dear", &dear), async {
            let mut client = crate::harness::subscriber(&node, "ada", "room:1", false).await?;
            for n in 0..20 {
                backend.push("demo", "room:1", format!("m{n}")).await?;
                ensure!(client.message().await?.text() == format!("m{n}"), "messages flow");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            get(&node, "").await
        });
        delivered?;
        let (uploaded, mut why) = (uploaded?, String::new());
        let said = uploaded.json()?;
        match uploaded.status {
            422 => why += said["error"].as_str().unwrap_or_default(),
            // It was not over when the answer was due.
            202 => {
                let about = plugins::compiled(&node, "dear", &said).await?;
                ensure!(about["state"] == "failed" && about["stored"] == false, "{about}");
                why += about["why"].as_str().unwrap_or_default();
            }
            status => anyhow::bail!("{status} {said}"),
        }
        ensure!(why.contains("does not compile within 1 s"), "{why}");
        Ok(())
    })
    .await;
}
