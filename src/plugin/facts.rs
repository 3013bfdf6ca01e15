//! What a hook may ask about its call beyond its arguments: nothing of it is looked at before it is asked.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

/// Where headers come from.
#[derive(Debug, Clone, Default)]
pub enum HeaderSource {
    /// There are none.
    #[default]
    None,
    /// Names and values.
    Pairs(Arc<[(Box<str>, Box<str>)]>),
    /// A JSON object of texts, as it stands in an entry's field `headers`; parsed when asked.
    Json(Bytes),
}

/// Headers and facts of one call.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    headers: HeaderSource,
    named: Vec<(&'static str, Arc<str>)>,
}

impl Facts {
    /// With these headers.
    pub fn new(headers: HeaderSource) -> Self {
        Self { headers, named: Vec::new() }
    }

    /// With one fact more; the names are those of `context.fact` in `wit/`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Arc<str>>) -> Self {
        self.named.push((name, value.into()));
        self
    }

    /// With one fact more, if there is a value.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl Into<Arc<str>>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<str>> {
        self.named.iter().find(|(known, _)| *known == name).map(|(_, value)| Arc::clone(value))
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        match &self.headers {
            HeaderSource::None => None,
            HeaderSource::Pairs(pairs) => {
                pairs.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.to_string())
            }
            HeaderSource::Json(json) => {
                object(json).into_iter().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
            }
        }
    }

    pub(super) fn headers(&self) -> Vec<(String, String)> {
        match &self.headers {
            HeaderSource::None => Vec::new(),
            HeaderSource::Pairs(pairs) => {
                pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
            }
            HeaderSource::Json(json) => object(json)
                .into_iter()
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        }
    }
}

/// Empty where it is not as it has to be: such an entry is no message and does not come here.
fn object(json: &[u8]) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let map: std::collections::BTreeMap<Cow<'_, str>, Cow<'_, str>> =
        serde_json::from_slice(json).unwrap_or_default();
    map.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_the_same_from_either_source() {
        let pairs: Arc<[_]> = vec![("a".into(), "1".into()), ("b".into(), "2".into())].into();
        let json = Bytes::from_static(br#"{"a":"1","b":"2"}"#);
        for source in [HeaderSource::Pairs(pairs), HeaderSource::Json(json)] {
            let facts = Facts::new(source).with("class", "gold").with_some("key", None::<&str>);
            assert_eq!(facts.header("b").as_deref(), Some("2"));
            assert_eq!(facts.header("c"), None);
            assert_eq!(facts.headers().len(), 2);
            assert_eq!(facts.named("class").as_deref(), Some("gold"));
            assert_eq!(facts.named("key"), None);
        }
        assert!(Facts::new(HeaderSource::Json(Bytes::from_static(b"[]"))).headers().is_empty());
    }
}
