//! Queries of the routes about plugins.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use percent_encoding::percent_decode_str;

use super::Refused;

/// Settings of one version, the bytes of a name, and of all of them.
const SETTINGS: usize = 64;
const NAME_BYTES: usize = 128;
const SETTINGS_BYTES: usize = 8 * 1024;

/// Names and values, decoded.
pub(super) fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, Refused> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let decoded = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        Ok((text(name)?, text(value)?))
    });
    decoded
        .collect::<Result<_, std::str::Utf8Error>>()
        .map_err(|_| Refused::new(StatusCode::BAD_REQUEST, "the query is not UTF-8"))
}

/// What a version reads by `wasi:config`: the pairs `set.<name>=<value>` of the query of its upload.
pub(super) fn settings(query: Option<&str>) -> Result<BTreeMap<String, String>, Refused> {
    let wrong = |why: String| Refused::new(StatusCode::BAD_REQUEST, why);
    let mut settings = BTreeMap::new();
    for (name, value) in pairs(query)? {
        let Some(key) = name.strip_prefix("set.") else {
            return Err(wrong(format!("the query has an unknown {name:?}; it may have set.<name>=<value>")));
        };
        if key.is_empty() || key.len() > NAME_BYTES {
            return Err(wrong(format!("the name of a setting has 1 to {NAME_BYTES} bytes, not {key:?}")));
        }
        if settings.insert(key.to_owned(), value).is_some() {
            return Err(wrong(format!("the setting {key:?} is there twice")));
        }
    }
    let bytes: usize = settings.iter().map(|(name, value)| name.len() + value.len()).sum();
    if settings.len() > SETTINGS || bytes > SETTINGS_BYTES {
        return Err(wrong(format!(
            "a version can have {SETTINGS} settings of {SETTINGS_BYTES} bytes together"
        )));
    }
    Ok(settings)
}

/// Whole numbers by name; others are refused.
pub(super) fn numbers<const N: usize>(
    query: Option<&str>,
    names: [&str; N],
) -> Result<[Option<u64>; N], Refused> {
    let mut found = [None; N];
    for (name, value) in pairs(query)? {
        let wrong = |why: String| Refused::new(StatusCode::BAD_REQUEST, why);
        let at = names.iter().position(|known| *known == name);
        let at = at.ok_or_else(|| {
            wrong(format!("the query has an unknown {name:?}; it may have {}", names.join(", ")))
        })?;
        let number = value.parse();
        found[at] =
            Some(number.map_err(|_| wrong(format!("`{name}` must be a whole number, not {value:?}")))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(refused: Refused) -> String {
        String::from_utf8(refused.0.body().to_vec()).unwrap()
    }

    #[test]
    fn settings_are_pairs_with_a_prefix() {
        let Ok(settings) = settings(Some("set.greeting=hello%20you&set.a%3Db=")) else { panic!() };
        let expected = [("a=b", ""), ("greeting", "hello you")];
        assert!(settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected));
        assert!(super::settings(None).is_ok_and(|settings| settings.is_empty()));
        let long = format!("set.a={}", "x".repeat(9_000));
        for (query, says) in [
            ("greeting=hello", "set.<name>"),
            ("set.=x", "1 to 128"),
            ("set.a=1&set.a=2", "twice"),
            ("set.a=%ff", "UTF-8"),
            (long.as_str(), "8192 bytes"),
        ] {
            let refused = super::settings(Some(query)).err().map(why).unwrap();
            assert!(refused.contains(says), "{query}: {refused}");
        }
    }

    #[test]
    fn numbers_have_names() {
        let Ok(found) = numbers(Some("after=7"), ["after", "wait_ms"]) else { panic!() };
        assert_eq!(found, [Some(7), None]);
        assert!(why(numbers(Some("x=7"), ["after"]).err().unwrap()).contains("may have after"));
        assert!(why(numbers(Some("after=-1"), ["after"]).err().unwrap()).contains("whole number"));
    }
}
