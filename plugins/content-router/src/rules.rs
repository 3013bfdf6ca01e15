//! Rules: when which fields have which values, and where an entry goes then.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use crate::bindings::wasi::config::store;

/// The settings.
pub struct Rules {
    pub rules: Vec<Rule>,
    /// Where entries go that fit no rule and name no channel.
    pub otherwise: Vec<String>,
}

/// One rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Fields (`order.region`) or headers (`header:ce-type`), each with what must be there. All must fit.
    #[serde(default)]
    when: BTreeMap<String, Test>,
    /// Channels; `{field}` stands for the field's value.
    pub to: Vec<String>,
    /// Whether rules after this one are left out once it fits.
    #[serde(default)]
    pub last: bool,
}

/// What must be in a field.
#[derive(Deserialize)]
#[serde(untagged)]
enum Test {
    /// One of these.
    OneOf(Vec<Value>),
    /// A number within bounds.
    Bounds(Bounds),
    /// This.
    Is(Value),
}

/// From and to, both included.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    min: Option<f64>,
    max: Option<f64>,
}

/// A channel's name as it came out of a template.
pub enum Target {
    Channel(String),
    /// The template wants a field that is not there.
    Missing(String),
}

impl Rules {
    /// Read once: an instance's settings never change. New ones come with new instances.
    pub fn get() -> Result<&'static Self, &'static str> {
        static RULES: OnceLock<Result<Rules, String>> = OnceLock::new();
        RULES.get_or_init(Self::read).as_ref().map_err(String::as_str)
    }

    fn read() -> Result<Self, String> {
        let rules = setting("rules").ok_or("the setting `rules` is missing")?;
        let rules = serde_json::from_str(&rules).map_err(|error| format!("the setting `rules`: {error}"))?;
        let otherwise = setting("otherwise").unwrap_or_default();
        let otherwise = otherwise.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Self { rules, otherwise: otherwise.map(str::to_owned).collect() })
    }
}

impl Rule {
    /// Whether an entry is one for this rule.
    pub fn fits(&self, content: &Value, header: &dyn Fn(&str) -> Option<String>) -> bool {
        self.when.iter().all(|(place, test)| match place.strip_prefix("header:") {
            Some(name) => header(name).is_some_and(|value| test.fits(&Value::String(value))),
            None => find(content, place).is_some_and(|value| test.fits(value)),
        })
    }
}

impl Test {
    fn fits(&self, value: &Value) -> bool {
        match self {
            Self::OneOf(values) => values.contains(value),
            Self::Bounds(Bounds { min, max }) => value.as_f64().is_some_and(|number| {
                min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max)
            }),
            Self::Is(wanted) => wanted == value,
        }
    }
}

/// The channel of a template such as `room:orders-{order.region}`.
pub fn channel(template: &str, content: &Value) -> Target {
    let mut name = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((field, after)) = after.split_once('}') else { break };
        name += before;
        match find(content, field) {
            Some(Value::String(text)) if !text.is_empty() => name.extend(text.chars().map(plain)),
            Some(Value::Number(number)) => name += &number.to_string(),
            _ => return Target::Missing(field.to_owned()),
        }
        rest = after;
    }
    Target::Channel(name + rest)
}

/// What a value may bring into a channel's name: never a `:`, which would choose the namespace.
fn plain(c: char) -> char {
    if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-') { c } else { '_' }
}

fn find<'v>(content: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(content, |value, name| value.get(name))
}

fn setting(name: &str) -> Option<String> {
    store::get(name).ok().flatten()
}
