//! What a request asks for.

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::delivery::dead_letters::Letter;
use crate::domain::Offset;

/// Letters in one answer, by default and at most.
const LIMIT: usize = 100;
const MOST: usize = 1_000;

/// Which letters are meant, of those looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) channel: Option<String>,
    pub(super) reason: Option<String>,
}

impl Filter {
    pub(super) fn fits(&self, letter: &Letter) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| letter.text(name) == Some(wanted))
        };
        is("channel", &self.channel) && is("reason", &self.reason)
    }
}

/// The query of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) limit: usize,
    pub(super) before: Option<Offset>,
    pub(super) after: Option<Offset>,
    pub(super) filter: Filter,
}

impl Listing {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let (mut limit, mut before, mut after, mut filter) = (LIMIT, None, None, Filter::default());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| format!("`{name}` in the query is not UTF-8"))?;
            let offset = || value.parse::<Offset>().map_err(|error| format!("`{name}`: {error}"));
            match name {
                "limit" => {
                    let number = value.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                    limit = number.ok_or_else(|| format!("`limit` must be 1 to {MOST}, not {value:?}"))?;
                }
                "before" => before = Some(offset()?),
                "after" => after = Some(offset()?),
                "channel" => filter.channel = Some(value.into_owned()),
                "reason" => filter.reason = Some(value.into_owned()),
                _ => {
                    let known = "limit, before, after, channel, reason";
                    return Err(format!("the query has an unknown {name:?}; it may have {known}"));
                }
            }
        }
        if before.is_some() && after.is_some() {
            return Err("say either `before` or `after`, not both".into());
        }
        Ok(Self { limit, before, after, filter })
    }
}

/// Which letters to send again or to remove.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// These.
    These(Vec<Offset>),
    /// All that fit, between two offsets.
    All { filter: Filter, after: Offset, before: Option<Offset> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    offsets: Option<Vec<Offset>>,
    #[serde(default)]
    all: bool,
    channel: Option<String>,
    reason: Option<String>,
    after: Option<Offset>,
    before: Option<Offset>,
}

impl Selection {
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        if body.len() > super::BODY_BYTES {
            return Err(format!("the body is larger than {} bytes", super::BODY_BYTES));
        }
        let raw: Raw =
            serde_json::from_slice(body).map_err(|error| format!("the body is not valid: {error}"))?;
        match raw.offsets {
            Some(offsets) => {
                let more = raw.all || raw.channel.is_some() || raw.reason.is_some();
                if more || raw.after.is_some() || raw.before.is_some() {
                    return Err("`offsets` say which letters are meant: leave the rest out".into());
                }
                if offsets.is_empty() || offsets.len() > MOST {
                    return Err(format!("`offsets` has {}, a request takes 1 to {MOST}", offsets.len()));
                }
                Ok(Self::These(offsets))
            }
            None if raw.all || raw.before.is_some() => Ok(Self::All {
                filter: Filter { channel: raw.channel, reason: raw.reason },
                after: raw.after.unwrap_or(Offset::ZERO),
                before: raw.before,
            }),
            None => Err("say which letters are meant: `offsets`, `\"all\": true`, or `before`".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(text: &str) -> Offset {
        text.parse().unwrap()
    }

    #[test]
    fn queries_are_understood() {
        let listing = Listing::parse("limit=5&after=1-2&channel=user%3Aal%2Fice&reason=attempts").unwrap();
        let filter = Filter { channel: Some("user:al/ice".into()), reason: Some("attempts".into()) };
        assert_eq!(listing, Listing { limit: 5, before: None, after: Some(offset("1-2")), filter });
        assert_eq!(Listing::parse("").unwrap().limit, LIMIT);
        for (query, words) in [
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("before=1-1&after=1-1", "not both"),
            ("before=x", "is not an offset"),
            ("what=1", "unknown \"what\""),
        ] {
            let error = Listing::parse(query).unwrap_err();
            assert!(error.contains(words), "{query}: {error}");
        }
    }

    #[test]
    fn selections_are_understood() {
        let parse = |body: &str| Selection::parse(body.as_bytes());
        assert_eq!(parse(r#"{"offsets": ["1-2"]}"#), Ok(Selection::These(vec![offset("1-2")])));
        let all = |filter, before| Selection::All { filter, after: Offset::ZERO, before };
        let filter = Filter { channel: Some("room:1".into()), reason: None };
        assert_eq!(parse(r#"{"all": true, "channel": "room:1"}"#), Ok(all(filter, None)));
        assert_eq!(parse(r#"{"before": "5-0"}"#), Ok(all(Filter::default(), Some(offset("5-0")))));
        for (body, words) in [
            ("", "not valid"),
            ("{}", "which letters"),
            (r#"{"all": false}"#, "which letters"),
            (r#"{"channel": "room:1"}"#, "which letters"),
            (r#"{"offsets": []}"#, "1 to 1000"),
            (r#"{"offsets": ["1-2"], "all": true}"#, "leave the rest out"),
            (r#"{"all": true, "what": 1}"#, "unknown field"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(words), "{body}: {error}");
        }
    }
}
