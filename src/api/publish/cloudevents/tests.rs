use http::HeaderValue;

use super::*;
use crate::domain::Limits;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn limits() -> PublishLimits {
    PublishLimits::of(&Limits::default())
}

/// An event with the attributes that each has, and these members.
fn event(members: &str) -> String {
    format!(r#"{{"specversion": "1.0", "id": "17", "source": "/orders", "type": "shipped", {members}}}"#)
}

fn read(json: &str) -> Result<Message, PublishError> {
    structured(json.as_bytes(), &[], &limits())
}

fn read_binary(
    headers: &[(&'static str, &'static str)],
    body: &'static str,
) -> Result<Message, PublishError> {
    let mut map = HeaderMap::new();
    let own = [("ce-specversion", "1.0"), ("ce-id", "17"), ("ce-source", "/orders"), ("ce-type", "shipped")];
    for (name, value) in own.iter().chain(headers) {
        map.append(*name, HeaderValue::from_static(value));
    }
    let content_type = map.get("content-type").map(|value| value.to_str().unwrap().to_owned());
    binary(&map, content_type.as_deref(), Bytes::from(body), &["room:1".to_owned()], &limits())
}

#[test]
fn attributes_are_headers_and_data_is_the_payload() {
    let extras = r#""channel": "room:1, room:2", "subject": "é", "level": 3, "urgent": true, "nothing": null,
        "partitionkey": "p", "data": {"a": [1, 2.50]}"#;
    let with_trace = event(&format!(r#"{extras}, "traceparent": "{TRACEPARENT}""#));
    let Message { channels, publication } = read(&with_trace).unwrap();
    assert_eq!(channels, ["room:1", "room:2"]);
    assert_eq!(publication.data, r#"{"a":[1,2.50]}"#);
    assert_eq!(publication.id.as_deref(), Some("/orders 17"));
    assert_eq!(publication.key.as_deref(), Some("p"));
    assert_eq!(publication.traceparent.as_deref(), Some(TRACEPARENT));
    let headers: Vec<_> =
        publication.headers.iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
    let wanted = "ce-id=17 ce-level=3 ce-partitionkey=p ce-source=/orders ce-specversion=1.0 ce-subject=é \
        ce-type=shipped ce-urgent=true content-type=application/json";
    assert_eq!(headers.join(" "), wanted);
}

#[test]
fn data_is_read_by_its_content_type() {
    for (members, data, content_type) in [
        (r#""data": "text""#, r#""text""#, Some("application/json")),
        (r#""data": "text", "datacontenttype": "text/plain""#, "text", Some("text/plain")),
        (
            r#""data": "7", "datacontenttype": "application/vnd.x+json""#,
            r#""7""#,
            Some("application/vnd.x+json"),
        ),
        (r#""data": {"a": 1}, "datacontenttype": "text/plain""#, r#"{"a":1}"#, Some("text/plain")),
        (r#""data_base64": "aGk=", "datacontenttype": "image/png""#, "hi", Some("image/png")),
        (r#""data_base64": "aGk=""#, "hi", None),
        (r#""subject": "no data""#, "", None),
        (r#""data": null"#, "", None),
    ] {
        let json = event(&format!(r#""channel": "room:1", {members}"#));
        let publication = read(&json).unwrap().publication;
        assert_eq!(publication.data, data, "{members}");
        assert_eq!(publication.header("content-type"), content_type, "{members}");
    }
}

#[test]
fn in_binary_mode_attributes_are_headers_of_the_request() {
    let Message { channels, publication } = read_binary(
        &[
            ("ce-subject", "%C3%A9 100%25"),
            ("ce-old", r#""a \"quote\"""#),
            ("content-type", "application/json"),
        ],
        r#" {"a": 1} "#,
    )
    .unwrap();
    assert_eq!(channels, ["room:1"]);
    assert_eq!(publication.data, r#"{"a":1}"#);
    assert_eq!(publication.header("ce-subject"), Some("é 100%"));
    assert_eq!(publication.header("ce-old"), Some(r#"a "quote""#));
    assert_eq!(publication.header("content-type"), Some("application/json"));
    let own = read_binary(&[("ce-channel", "room:2")], "").unwrap();
    assert_eq!(own.channels, ["room:2"], "an event's own channel goes before the query's");
    assert_eq!(own.publication.header("ce-channel"), None);
    for (headers, body, words) in [
        (&[("ce-subject", "a"), ("ce-subject", "b")][..], "", "twice"),
        (&[("ce-subject", "%FF")], "", "not UTF-8"),
        (&[("ce-my-name", "x")], "", "no name of an attribute"),
        (&[("ce-datacontenttype", "x/y")], "", "`Content-Type`"),
        (&[("content-type", "application/json")], "{", "not the JSON"),
    ] {
        let error = read_binary(headers, body).unwrap_err();
        assert!(error.status() == 400 && error.to_string().contains(words), "{headers:?}: {error}");
    }
}

#[test]
fn what_is_wrong_is_said_in_plain_words() {
    let old = r#"{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}"#;
    let unnamed = r#"{"specversion": "1.0", "id": "", "source": "s", "type": "t"}"#;
    for (json, words) in [
        ("[]".to_owned(), "must be a JSON object"),
        ("{}".to_owned(), "`specversion` is missing"),
        (old.to_owned(), "takes CloudEvents 1.0"),
        (unnamed.to_owned(), "`id` is missing"),
        (event(r#""data": 1"#), "?channel=<channel>"),
        (event(r#""data": 1, "data_base64": "aGk=""#), "not both"),
        (event(r#""data_base64": "%""#), "not base64"),
        (event(r#""data_base64": 1"#), "must be a text"),
        (event(r#""Subject": "x""#), "\"Subject\" is no name"),
        (event(r#""x": {}"#), "must be a text, a number"),
        (event(r#""channel": "room:1", "partitionkey": """#), "has 0 bytes"),
        (event(&format!(r#""data": {}1{}"#, "[".repeat(65), "]".repeat(65))), "deeper than 64"),
    ] {
        let error = read(&json).unwrap_err();
        assert!(error.status() == 400 && error.to_string().contains(words), "{json}: {error}");
    }
    let large = event(&format!(r#""channel": "room:1", "data": "{}""#, "x".repeat(64 * 1024)));
    assert_eq!(read(&large).unwrap_err().status(), 413);
    let wide = event(&format!(r#""channel": "room:1", "x": "{}""#, "x".repeat(8 * 1024)));
    assert_eq!(read(&wide).unwrap_err().status(), 413);
}

#[test]
fn a_batch_names_the_event_that_is_wrong() {
    let good = event(r#""data": 1"#);
    let read = |json: String| batch(json.as_bytes(), &["room:1".to_owned()], &limits());
    assert_eq!(read(format!("[{good}, {good}]")).unwrap().len(), 2);
    assert_eq!(read("[]".to_owned()).unwrap().len(), 0);
    for (json, words) in [
        (format!("[{good}, {{}}]"), "events[1]: `specversion`"),
        ("{}".to_owned(), "expected a list"),
        ("[] []".to_owned(), "trailing characters"),
        (format!("[{}]", vec!["1"; 1_001].join(",")), "more than 1000"),
    ] {
        let error = read(json).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn an_event_has_one_key_and_no_two_share_it() {
    assert_eq!(&*idempotency_key("/orders", "17"), "/orders 17");
    let long = "x".repeat(300);
    let keys = [
        idempotency_key("a b", "c"),
        idempotency_key("a", "b c"),
        idempotency_key(&long, "1"),
        idempotency_key(&long, "2"),
    ];
    for (place, key) in keys.iter().enumerate() {
        assert!(key.len() <= KEY_BYTES && !keys[..place].contains(key), "{key}");
    }
    assert_eq!(keys[2], idempotency_key(&long, "1"));
}
