//! `docs/protocol.md` against the code.

use serde_json::Value;

use super::super::*;
use super::decode::client_frames;
use super::encode::server_frames;
use crate::domain::CloseReason;

const PAGE: &str = include_str!("../../../docs/protocol.md");

#[test]
fn the_page_shows_frames_that_are_understood() {
    let mut types = std::collections::BTreeSet::new();
    for line in PAGE.lines() {
        if let Some(frame) = line.strip_prefix("> ") {
            // The placeholders of the page stand where values of their kind go.
            let frame = frame.replace("<offset>", "5-7").replace("<epoch>", "00000000000000ab");
            let decoded = Codec::Json.decode(frame.as_bytes());
            let wrong_on_purpose = frame.contains("dance") || frame == r#"{"type":"subscribe","id":1}"#;
            assert_eq!(decoded.is_err(), wrong_on_purpose, "{frame}: {decoded:?}");
        } else if let Some(frame) = line.strip_prefix("< ") {
            let frame: Value = serde_json::from_str(frame).expect(line);
            types.insert(frame["type"].as_str().unwrap().to_owned());
        }
    }
    let shown: Vec<_> = types.iter().map(String::as_str).collect();
    assert_eq!(shown, ["connected", "disconnect", "error", "message", "ok", "pong", "subscribed"]);
}

#[test]
fn the_page_lists_every_word_of_the_protocol() {
    for reason in CloseReason::ALL {
        let row = format!("| {} | `{}` |", reason.code(), reason.label());
        assert!(PAGE.contains(&row), "{row}");
    }
    let errors = [
        ErrorCode::BadRequest,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::LimitExceeded,
        ErrorCode::TooLarge,
        ErrorCode::Unavailable,
        ErrorCode::Unsupported,
    ];
    let gaps = [GapReason::Trimmed, GapReason::Epoch, GapReason::Attempts, GapReason::Slow];
    let resumed = [Resumed::New, Resumed::Home, Resumed::Moved, Resumed::Lost];
    let labels = errors.map(ErrorCode::label).into_iter();
    let labels = labels.chain(gaps.map(GapReason::label)).chain(resumed.map(Resumed::label));
    for label in labels {
        assert!(PAGE.contains(&format!("\n| `{label}` |")), "{label}");
    }
    let server = server_frames().into_iter().map(|(_, json)| json);
    for frame in client_frames().into_iter().map(|(json, _)| json).chain(server) {
        let heading = format!("\n### `{}`\n", frame["type"].as_str().unwrap());
        assert!(PAGE.contains(&heading), "{heading}");
    }
}
