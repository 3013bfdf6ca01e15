//! Settings of a version as its upload has them: in headers, which logs of proxies have not, as they have addresses.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode;

use super::Refused;

/// The header of one setting, `<name>=<value>`, both percent-encoded.
const SETTING: &str = "tidegate-setting";
/// Settings of one version, the bytes of a name, and of all of them.
const SETTINGS: usize = 64;
const NAME_BYTES: usize = 128;
const SETTINGS_BYTES: usize = 8 * 1024;

/// What a version reads by `wasi:config`.
pub(super) fn settings(
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<BTreeMap<String, String>, Refused> {
    let wrong = |why: String| Refused::new(StatusCode::BAD_REQUEST, why);
    if query.is_some_and(|query| !query.is_empty()) {
        let why = format!("an upload has no query: send settings as headers, `{SETTING}: <name>=<value>`");
        return Err(wrong(why));
    }
    let mut settings = BTreeMap::new();
    for pair in headers.get_all(SETTING) {
        let mut parts = pair.as_bytes().splitn(2, |byte| *byte == b'=');
        let mut text = || parts.next().map(|text| percent_decode(text).decode_utf8().map(String::from));
        let (Some(Ok(name)), Some(Ok(value))) = (text(), text()) else {
            return Err(wrong(format!("`{SETTING}` must be <name>=<value>, percent-encoded UTF-8")));
        };
        if name.is_empty() || name.len() > NAME_BYTES {
            return Err(wrong(format!("the name of a setting has 1 to {NAME_BYTES} bytes, not {name:?}")));
        }
        if settings.contains_key(&name) {
            return Err(wrong(format!("the setting {name:?} is there twice")));
        }
        settings.insert(name, value);
    }
    let bytes: usize = settings.iter().map(|(name, value)| name.len() + value.len()).sum();
    if settings.len() > SETTINGS || bytes > SETTINGS_BYTES {
        let why = format!("a version can have {SETTINGS} settings of {SETTINGS_BYTES} bytes together");
        return Err(wrong(why));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(pairs: &[&str]) -> Result<BTreeMap<String, String>, String> {
        let headers =
            pairs.iter().map(|pair| (SETTING.parse().unwrap(), HeaderValue::from_str(pair).unwrap()));
        settings(&headers.collect(), None).map_err(why)
    }

    fn why(refused: Refused) -> String {
        String::from_utf8(refused.0.body().to_vec()).unwrap()
    }

    #[test]
    fn settings_are_headers_with_a_name_and_a_value() {
        let settings = of(&["greeting=hello%20you=", "a%3Db="]).unwrap();
        let expected = [("a=b", ""), ("greeting", "hello you=")];
        assert!(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected));
        assert!(of(&[]).unwrap().is_empty());
        let long = format!("a={}", "x".repeat(9_000));
        for (pairs, says) in [
            (&["greeting"][..], "<name>=<value>"),
            (&["=x"], "1 to 128"),
            (&["a=1", "a=2"], "twice"),
            (&["a=%ff"], "UTF-8"),
            (&[long.as_str()], "8192 bytes"),
        ] {
            let why = of(pairs).unwrap_err();
            assert!(why.contains(says), "{pairs:?}: {why}");
        }
    }

    #[test]
    fn addresses_carry_no_settings() {
        let refused = settings(&HeaderMap::new(), Some("set.greeting=hello")).map_err(why).unwrap_err();
        assert!(refused.contains("tidegate-setting") && !refused.contains("hello"), "{refused}");
        assert!(settings(&HeaderMap::new(), Some("")).is_ok());
    }
}
