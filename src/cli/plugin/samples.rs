//! Sample messages: JSON, one a line (`docs/plugins.md`).

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::domain::{ChannelName, Offset};
use crate::plugin::contract::{
    Credentials, Incoming, Recipient, SessionChange, SessionNews, SubscribeRequest,
};
use crate::plugin::{About, Delivery, Facts, Hook, Hooks};

/// When built-in and unsaid things happen: a message's offset counts on from here.
const MOMENT_MS: u64 = 1_763_769_600_000;

/// A line of a file of samples. What is not said is something sensible.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Which hook; needs not be said where the plugin has one.
    hook: Option<String>,
    /// What the answer must be: the verdict's word, or an object with `verdict` and what else must be as it says.
    pub expect: Option<Value>,
    token: Option<String>,
    refreshes: Option<String>,
    user: Option<String>,
    /// Who published a message that is on its way: the fact `user`.
    from: Option<String>,
    channel: Option<String>,
    /// JSON goes as it is, a text as its bytes.
    data: Option<Value>,
    data_base64: Option<String>,
    #[serde(default)]
    headers: Map<String, Value>,
    offset: Option<Offset>,
    #[serde(default)]
    to: Vec<ChannelName>,
    class: Option<String>,
    session: Option<String>,
    device: Option<String>,
    claims: Option<Value>,
    key: Option<String>,
    id: Option<String>,
    change: Option<Change>,
    address: Option<String>,
    transport: Option<String>,
    origin: Option<String>,
    path: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Connected,
    Disconnected,
}

/// What a hook is called with.
#[derive(Debug)]
pub enum Question {
    /// `authenticate`.
    Authenticate(Credentials, Facts),
    /// `on-subscribe`.
    OnSubscribe(SubscribeRequest, Facts),
    /// `on-publish`.
    OnPublish(Incoming, Facts),
    /// `route`.
    Route(Offset, Vec<ChannelName>, Bytes, Facts),
    /// One of the `on-deliver` hooks.
    OnDeliver(Delivery),
    /// `on-session`.
    OnSession(SessionNews, Facts),
}

/// The samples of a file, by the number of their line. Empty lines and those that begin with `#` are left out.
///
/// # Errors
/// Names the line that is wrong.
pub fn parse(text: &str) -> Result<Vec<(usize, Sample)>> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(at, line)| Ok((at, serde_json::from_str(line).with_context(|| format!("line {at}"))?)))
        .collect()
}

/// Some for each of these hooks, for a first look.
pub fn built_in(hooks: Hooks) -> Vec<(usize, Sample)> {
    parse(&lines(hooks)).expect("they are written with this program, and a test reads them")
}

/// The same as lines of a file.
pub fn lines(hooks: Hooks) -> String {
    let of = |line: &&str, hook: Hook| line.starts_with(&format!("{{\"hook\": \"{}\"", hook.interface()));
    let lines = include_str!("samples.jsonl").lines();
    let wanted = lines.filter(|line| hooks.iter().any(|hook| of(line, hook)));
    wanted.map(|line| format!("{line}\n")).collect()
}

impl Sample {
    /// The hook that this is for, among those that the plugin has.
    ///
    /// # Errors
    /// Where it is none of them, or not said and there are several.
    pub fn hook(&self, hooks: Hooks) -> Result<Hook> {
        let names = || hooks.iter().map(Hook::interface).collect::<Vec<_>>().join(", ");
        let hook = match &self.hook {
            Some(name) => Hook::of_interface(name),
            None if hooks.iter().count() == 1 => hooks.iter().next(),
            None => bail!("`hook` must say which: the plugin has {}", names()),
        };
        match hook {
            Some(hook) if hooks.has(hook) => Ok(hook),
            _ => bail!(
                "the plugin has no hook `{}`; it has {}",
                self.hook.as_deref().unwrap_or_default(),
                names()
            ),
        }
    }

    /// What the hook is called with; `number` tells samples of one file apart.
    ///
    /// # Errors
    /// Where a field is not as it has to be.
    pub fn question(&self, hook: Hook, number: usize) -> Result<Question> {
        let user = || -> Box<str> { self.user.as_deref().unwrap_or("ada").into() };
        let channel = || -> Box<str> { self.channel.as_deref().unwrap_or("room:1").into() };
        let session = || -> Box<str> { self.session.as_deref().unwrap_or("session-1").into() };
        let offset = self.offset.unwrap_or(Offset { ms: MOMENT_MS + number as u64, seq: 0 });
        Ok(match hook {
            Hook::Authenticate => {
                let text = |text: &Option<String>| text.as_deref().map(Into::into);
                let credentials = Credentials { token: text(&self.token), refreshes: text(&self.refreshes) };
                Question::Authenticate(credentials, self.connection()?)
            }
            Hook::OnSubscribe => Question::OnSubscribe(
                SubscribeRequest { user: user(), channel: channel() },
                self.client(session())?,
            ),
            Hook::OnPublish => {
                let message = Incoming { user: user(), channel: channel(), data: self.data()? };
                Question::OnPublish(message, self.message(self.client(session())?))
            }
            Hook::Route => {
                Question::Route(offset, self.to.clone(), self.data()?, self.message(self.headers()?))
            }
            Hook::OnDeliver | Hook::OnDeliverClass | Hook::OnDeliverSession => {
                let class: Arc<str> = self.class.as_deref().unwrap_or_default().into();
                let recipient = || Recipient { session: session(), user: user(), class: Arc::clone(&class) };
                Question::OnDeliver(Delivery {
                    offset,
                    channel: self.channel.as_deref().unwrap_or("room:1").into(),
                    data: self.data()?,
                    facts: self.message(self.headers()?),
                    recipient: (hook == Hook::OnDeliverSession).then(recipient),
                    class: (hook == Hook::OnDeliverClass).then_some(class),
                })
            }
            Hook::OnSession => {
                let change = match self.change.unwrap_or(Change::Connected) {
                    Change::Connected => SessionChange::Connected,
                    Change::Disconnected => SessionChange::Disconnected,
                };
                Question::OnSession(
                    SessionNews { change, user: user(), session: session() },
                    self.client(session())?,
                )
            }
        })
    }

    fn data(&self) -> Result<Bytes> {
        match (&self.data, &self.data_base64) {
            (Some(_), Some(_)) => bail!("`data` and `data_base64` are the same twice"),
            (None, Some(text)) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                Ok(bytes.context("`data_base64`")?.into())
            }
            (Some(Value::String(text)), None) => Ok(text.clone().into()),
            (Some(value), None) => Ok(value.to_string().into()),
            (None, None) => Ok(Bytes::from_static(b"hello")),
        }
    }

    /// Headers alone.
    fn headers(&self) -> Result<Facts> {
        let pairs = self.headers.iter().map(|(name, value)| match value {
            Value::String(value) => Ok((name.as_str().into(), value.as_str().into())),
            _ => bail!("`headers` must be an object of texts"),
        });
        let pairs: Vec<(Box<str>, Box<str>)> = pairs.collect::<Result<_>>()?;
        Ok(Facts::about(About::Request(pairs.into())))
    }

    /// Facts of a connection.
    fn connection(&self) -> Result<Facts> {
        Ok(self
            .headers()?
            .with("address", self.address.as_deref().unwrap_or("192.0.2.1"))
            .with("transport", self.transport.as_deref().unwrap_or("websocket"))
            .with_some("origin", self.origin.as_deref())
            .with_some("path", self.path.as_deref()))
    }

    /// Facts of a client that is connected.
    fn client(&self, session: Box<str>) -> Result<Facts> {
        let claims = match &self.claims {
            Some(Value::String(text)) => Some(text.clone()),
            other => other.as_ref().map(Value::to_string),
        };
        Ok(self
            .headers()?
            .with("session", session)
            .with_some("device", self.device.as_deref())
            .with_some("class", self.class.as_deref())
            .with_some("claims", claims))
    }

    /// With the facts of a message.
    fn message(&self, facts: Facts) -> Facts {
        facts
            .with_some("key", self.key.as_deref())
            .with_some("id", self.id.as_deref())
            .with_some("user", self.from.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_has_samples_that_come_with_this_program() {
        for hook in <Hook as crate::telemetry::Label>::ALL {
            let hooks = Hooks::default().with(*hook);
            let samples = built_in(hooks);
            assert!(!samples.is_empty(), "{}", hook.interface());
            for (line, sample) in samples {
                assert_eq!(sample.hook(hooks).unwrap(), *hook);
                sample.question(*hook, line).unwrap();
                assert!(sample.expect.is_none(), "nobody knows what a plugin makes of them");
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_sample_is_said() {
        let said = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(said("{}\n\n# note\n{\"hok\": 1}").starts_with("line 4: unknown field `hok`"));
        assert!(said("[]").starts_with("line 1: "));
        let one = |text: &str| parse(text).unwrap().remove(0).1;
        let filter = Hooks::default().with(Hook::OnPublish);
        let both = filter.with(Hook::OnSession);
        assert_eq!(one("{}").hook(filter).unwrap(), Hook::OnPublish);
        assert!(one("{}").hook(both).unwrap_err().to_string().contains("on-publish, on-session"));
        let other = one(r#"{"hook": "route"}"#).hook(both).unwrap_err().to_string();
        assert!(other.contains("no hook `route`"), "{other}");
        for wrong in
            [r#"{"data": 1, "data_base64": "AA=="}"#, r#"{"data_base64": "?"}"#, r#"{"headers": {"a": 1}}"#]
        {
            assert!(one(wrong).question(Hook::OnPublish, 1).is_err(), "{wrong}");
        }
    }

    #[test]
    fn data_is_json_or_text_or_bytes() {
        for (sample, bytes) in [
            (r#"{"data": {"b": 1, "a": [2]}}"#, &br#"{"a":[2],"b":1}"#[..]),
            (r#"{"data": "text"}"#, b"text"),
            (r#"{"data_base64": "AP8="}"#, b"\x00\xff"),
            ("{}", b"hello"),
        ] {
            assert_eq!(parse(sample).unwrap()[0].1.data().unwrap(), bytes, "{sample}");
        }
    }
}
