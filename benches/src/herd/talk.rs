//! What a client says and hears, whatever carries the frames.

use anyhow::{Context as _, Result, bail};

use super::Kind;
use super::counts::Seen;
use super::tokens::token;

/// One client's side of the protocol.
pub struct Talk {
    /// What it is.
    pub kind: Kind,
    /// Whether it got all it waits for before messages.
    pub begun: bool,
    number: usize,
    resume: Option<Box<str>>,
    /// `subscribed` frames that came.
    subscribed: usize,
    /// The acknowledgement of where its subscription began.
    beginning: Option<Box<str>>,
}

impl Talk {
    /// Of a client that has said nothing yet.
    pub fn new(kind: Kind, number: usize, resume: Option<Box<str>>) -> Self {
        Self { kind, begun: kind == Kind::Bare, number, resume, subscribed: 0, beginning: None }
    }

    /// Of the same client with a new connection and its resume token.
    pub fn again(&self) -> Result<Self> {
        let resume = self.resume.clone().context("a client has no resume token")?;
        Ok(Self::new(self.kind, self.number, Some(resume)))
    }

    /// Its number in the herd.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The first frame.
    pub fn hello(&self) -> String {
        let user = self.user();
        match (self.kind, &self.resume) {
            (Kind::Bare, _) => String::new(),
            (Kind::Room, _) => r#"{"type":"connect","subs":[{"channel":"room:1"}]}"#.to_owned(),
            (Kind::Live, _) => r#"{"type":"connect","subs":[{"channel":"live:1"}]}"#.to_owned(),
            (Kind::Stalled, _) => {
                r#"{"type":"connect","subs":[{"channel":"room:1"},{"channel":"room:noise"}]}"#.to_owned()
            }
            (Kind::Own, _) => format!(r#"{{"type":"connect","token":"{}"}}"#, token(&user)),
            (Kind::Acking, _) => format!(
                r#"{{"type":"connect","token":"{}","subs":[{{"channel":"user:{user}","ack":true}}]}}"#,
                token(&user)
            ),
            (Kind::Device, None) => format!(
                r#"{{"type":"connect","token":"{}","device":"d","subs":[{{"channel":"room:1","ack":true}}]}}"#,
                token(&user)
            ),
            (Kind::Device, Some(resume)) => {
                format!(r#"{{"type":"connect","token":"{}","device":"d","resume":"{resume}"}}"#, token(&user))
            }
        }
    }

    /// The same as query and header of a request for a stream of events.
    pub fn request(&self) -> Result<(&'static str, String)> {
        match self.kind {
            Kind::Room => Ok(("?channel=room:1", String::new())),
            Kind::Live => Ok(("?channel=live:1", String::new())),
            Kind::Own => Ok(("", format!("Authorization: Bearer {}\r\n", token(&self.user())))),
            other => bail!("no stream of events for a client of kind {other:?}"),
        }
    }

    fn user(&self) -> String {
        format!("u{}", self.number)
    }

    /// Hears a frame that took so many bytes; the answer is what it has to say to it. `sample` asks for
    /// times of sending.
    pub fn hear(
        &mut self,
        text: &[u8],
        bytes: usize,
        sample: bool,
        seen: &mut Seen,
    ) -> Result<Option<String>> {
        // Every frame begins with its type.
        match text.get(br#"{"type":""#.len()..).unwrap_or_default() {
            [b'm', ..] => {
                seen.messages += 1;
                seen.bytes += bytes as u64;
                if sample && let Some(sent) = field(text, br#""data":""#, 20) {
                    seen.sent_ns.extend(sent.parse::<u64>());
                }
                if matches!(self.kind, Kind::Acking | Kind::Device) {
                    return acknowledgement(text).map(Some);
                }
            }
            [b's', ..] => {
                self.subscribed += 1;
                self.begun |= self.subscribed == self.subscriptions();
                if self.kind == Kind::Acking {
                    self.beginning = Some(acknowledgement(text)?.into());
                }
            }
            [b'g', ..] => seen.gaps += 1,
            [b'c', ..] => {
                let text = String::from_utf8_lossy(text);
                let resume = text.split_once(r#""resume":""#).and_then(|(_, rest)| rest.split_once('"'));
                let again = self.resume.take().is_some();
                self.resume = resume.filter(|_| self.kind == Kind::Device).map(|(token, _)| token.into());
                seen.home = text.contains(r#""resumed":"home""#);
                self.begun |= again;
            }
            [b'e' | b'd', ..] => bail!("the node says {}", String::from_utf8_lossy(text)),
            _ => {}
        }
        Ok(None)
    }

    /// An acknowledgement that moves nothing.
    pub fn acknowledge_again(&self) -> Option<&str> {
        self.beginning.as_deref()
    }

    /// Subscriptions of a new session.
    fn subscriptions(&self) -> usize {
        match self.kind {
            Kind::Bare => 0,
            Kind::Own | Kind::Acking => 1,
            Kind::Room | Kind::Live | Kind::Device => 2,
            Kind::Stalled => 3,
        }
    }
}

/// Of a frame that names a channel and an offset.
fn acknowledgement(frame: &[u8]) -> Result<String> {
    let channel = field(frame, br#""channel":""#, 0).context("a frame names no channel")?;
    let offset = field(frame, br#""offset":""#, 0).context("a frame has no offset")?;
    Ok(format!(r#"{{"type":"ack","channel":"{channel}","offset":"{offset}"}}"#))
}

/// What stands after a name, up to the closing quote or for so many bytes.
fn field<'t>(text: &'t [u8], name: &[u8], bytes: usize) -> Option<&'t str> {
    let from = find(text, name)? + name.len();
    let length = match bytes {
        0 => text[from..].iter().position(|byte| *byte == b'"')?,
        bytes => bytes,
    };
    std::str::from_utf8(text.get(from..from + length)?).ok()
}

/// Where something stands.
pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
