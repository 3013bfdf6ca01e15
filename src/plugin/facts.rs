//! What a hook may ask about its call beyond its arguments: nothing of it is looked at before it is asked.

use std::sync::Arc;

use crate::domain::Publication;

/// What a call is about, beside its arguments.
#[derive(Debug, Clone, Default)]
pub enum About {
    /// Nothing that has headers.
    #[default]
    Nothing,
    /// A request with these headers, names in lower case.
    Request(Arc<[(Box<str>, Box<str>)]>),
    /// A message: its headers, and the facts `key`, `id` and `user`.
    Message(Arc<Publication>),
}

/// Headers and facts of one call.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    about: About,
    named: Vec<(&'static str, Arc<str>)>,
}

impl Facts {
    /// Those of a request or message.
    pub fn about(about: About) -> Self {
        Self { about, named: Vec::new() }
    }

    /// Those of a message.
    pub fn of(message: Arc<Publication>) -> Self {
        Self::about(About::Message(message))
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
        let given = self.named.iter().find(|(known, _)| *known == name).map(|(_, value)| Arc::clone(value));
        given.or_else(|| {
            let About::Message(message) = &self.about else { return None };
            let value = match name {
                "key" => &message.key,
                "id" => &message.id,
                "user" => &message.user,
                _ => return None,
            };
            value.as_deref().map(Into::into)
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        let found = self.pairs().iter().find(|(known, _)| **known == *name);
        found.map(|(_, value)| value.to_string())
    }

    pub(super) fn headers(&self) -> Vec<(String, String)> {
        self.pairs().iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn pairs(&self) -> &[(Box<str>, Box<str>)] {
        match &self.about {
            About::Nothing => &[],
            About::Request(pairs) => pairs,
            About::Message(message) => message.headers.as_deref().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_a_request_have_headers_and_only_the_one_has_facts() {
        let pairs = || vec![("a".into(), "1".into()), ("b".into(), "2".into())];
        let message = Publication { headers: Some(pairs()), key: Some("k".into()), ..Publication::default() };
        let request = Facts::about(About::Request(pairs().into()));
        for (facts, key) in [(Facts::of(Arc::new(message)), Some("k")), (request, None)] {
            let facts = facts.with("class", "gold").with_some("device", None::<&str>);
            assert_eq!(facts.header("b").as_deref(), Some("2"));
            assert_eq!(facts.header("c"), None);
            assert_eq!(facts.headers().len(), 2);
            assert_eq!(facts.named("class").as_deref(), Some("gold"));
            assert_eq!(facts.named("device"), None);
            assert_eq!(facts.named("key").as_deref(), key);
        }
        assert!(Facts::default().headers().is_empty());
    }
}
