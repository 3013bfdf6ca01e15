//! What stands in each server frame, once for both codecs.

use std::fmt::Display;

use crate::domain::{ChannelName, CloseReason, Epoch, Offset, Publication, Reconnect};

use super::frames::{RequestId, ServerFrame};

/// Writes one object, field by field. Names are plain ASCII; `plain` texts need no escaping either.
pub(super) trait FrameWriter {
    /// A text that may hold anything.
    fn text(&mut self, name: &'static str, text: &str);
    /// A text without quotes, backslashes and control characters.
    fn plain(&mut self, name: &'static str, text: &str);
    fn number(&mut self, name: &'static str, number: u64);
    fn bool(&mut self, name: &'static str, value: bool);
    /// `data`, with `enc` where the codec needs it.
    fn payload(&mut self, message: &Publication);
    fn headers(&mut self, headers: &[(Box<str>, Box<str>)]);
    /// A list of objects.
    fn list<T>(&mut self, name: &'static str, items: &[T], each: impl Fn(&mut Self, &T));

    fn shown(&mut self, name: &'static str, value: impl Display) {
        self.text(name, &value.to_string());
    }

    fn optional(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn offset(&mut self, name: &'static str, offset: Offset) {
        let mut digits = [0; OFFSET_LEN];
        self.plain(name, offset_text(offset, &mut digits));
    }
}

/// A message: the frame that is written once a publication and codec.
pub(super) fn message(to: &mut impl FrameWriter, channel: &ChannelName, message: &Publication, attempt: u8) {
    to.plain("type", ServerFrame::MESSAGE);
    delivered(to, channel, message, attempt);
}

fn delivered(to: &mut impl FrameWriter, channel: &ChannelName, message: &Publication, attempt: u8) {
    to.plain("channel", channel.as_str());
    to.number("attempt", attempt.into());
    publication(to, message);
}

/// A publication's own fields, as they stand in a message and in history.
fn publication(to: &mut impl FrameWriter, message: &Publication) {
    to.offset("offset", message.offset);
    to.payload(message);
    if let Some(headers) = &message.headers {
        to.headers(headers);
    }
    to.optional("key", message.key.as_deref());
    to.optional("msg_id", message.id.as_deref());
}

/// Any frame.
pub(super) fn frame(to: &mut impl FrameWriter, frame: &ServerFrame) {
    to.plain("type", frame.kind());
    match frame {
        ServerFrame::Connected { session, user, device, resume, resumed, node, ping_ms } => {
            to.shown("session", session);
            to.text("user", user.as_str());
            to.optional("device", device.as_ref().map(|device| device.as_str()));
            to.text("resume", resume);
            to.plain("resumed", resumed.label());
            to.plain("node", node.as_str());
            to.number("ping_ms", *ping_ms);
        }
        ServerFrame::Subscribed { id, channel, offset, epoch, recovered } => {
            request(to, *id);
            place(to, channel, *offset, *epoch);
            if let Some(recovered) = recovered {
                to.bool("recovered", *recovered);
            }
        }
        ServerFrame::Message { channel, message: publication, attempt } => {
            delivered(to, channel, publication, *attempt);
        }
        ServerFrame::Position { channel, offset, epoch } => {
            place(to, channel, *offset, *epoch);
        }
        ServerFrame::Gap { channel, after, until, epoch, reason } => {
            to.plain("channel", channel.as_str());
            to.offset("after", *after);
            to.offset("until", *until);
            to.shown("epoch", epoch);
            to.plain("reason", reason.label());
        }
        ServerFrame::Ok { id, offset, messages, epoch } => {
            to.number("id", *id);
            if let Some(offset) = offset {
                to.offset("offset", *offset);
            }
            if let Some(messages) = messages {
                to.list("messages", messages, |to, message| publication(to, message));
            }
            if let Some(epoch) = epoch {
                to.shown("epoch", epoch);
            }
        }
        ServerFrame::Error { id, code, message } => {
            request(to, *id);
            to.plain("code", code.label());
            to.text("message", message);
        }
        ServerFrame::Drain { retry_after_ms, url } => {
            to.number("retry_after_ms", *retry_after_ms);
            to.optional("url", url.as_deref());
        }
        ServerFrame::Disconnect { reason, message, retry_after_ms, url } => {
            disconnect(to, *reason, message);
            if let Some(pause) = retry_after_ms {
                to.number("retry_after_ms", *pause);
            }
            to.optional("url", url.as_deref());
        }
        ServerFrame::Pong => {}
    }
}

fn disconnect(to: &mut impl FrameWriter, reason: CloseReason, message: &str) {
    to.number("code", reason.code().into());
    to.plain("reason", reason.label());
    to.text("message", message);
    to.bool("reconnect", reason.reconnect() != Reconnect::Never);
}

fn request(to: &mut impl FrameWriter, id: Option<RequestId>) {
    if let Some(id) = id {
        to.number("id", id);
    }
}

fn place(to: &mut impl FrameWriter, channel: &ChannelName, offset: Offset, epoch: Epoch) {
    to.plain("channel", channel.as_str());
    to.offset("offset", offset);
    to.shown("epoch", epoch);
}

/// Two numbers of at most 20 digits and the `-` between them.
const OFFSET_LEN: usize = 41;

/// The offset's text. `Display` takes several times as long, and this stands in every message.
fn offset_text(offset: Offset, buffer: &mut [u8; OFFSET_LEN]) -> &str {
    let dash = digits_before(OFFSET_LEN, offset.seq, buffer) - 1;
    buffer[dash] = b'-';
    let start = digits_before(dash, offset.ms, buffer);
    std::str::from_utf8(&buffer[start..]).expect("digits and '-' are ASCII")
}

/// Writes the number so that it ends before `end`; the answer is where it starts.
fn digits_before(end: usize, mut number: u64, buffer: &mut [u8; OFFSET_LEN]) -> usize {
    let mut at = end;
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_read_as_display_writes_them() {
        let numbers = [0, 1, 9, 10, 1_763_769_600_000, u64::MAX];
        for (ms, seq) in numbers.iter().flat_map(|ms| numbers.map(|seq| (*ms, seq))) {
            let offset = Offset { ms, seq };
            assert_eq!(offset_text(offset, &mut [0; OFFSET_LEN]), offset.to_string());
        }
    }
}
