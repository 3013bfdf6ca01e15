//! Queries of the routes about plugins.

use axum::http::StatusCode;
use percent_encoding::percent_decode_str;

use super::Refused;

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

/// Names and values, decoded.
fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, Refused> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn why(refused: Refused) -> String {
        String::from_utf8(refused.0.body().to_vec()).unwrap()
    }

    #[test]
    fn numbers_have_names() {
        let Ok(found) = numbers(Some("after=7"), ["after", "wait_ms"]) else { panic!() };
        assert_eq!(found, [Some(7), None]);
        assert!(why(numbers(Some("x=7"), ["after"]).err().unwrap()).contains("may have after"));
        assert!(why(numbers(Some("after=-1"), ["after"]).err().unwrap()).contains("whole number"));
    }
}
