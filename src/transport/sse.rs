//! Server-sent events (HTML Living Standard, section 9.2): how frames and positions stand in them.

use std::fmt::Write as _;

use crate::domain::{ChannelName, Epoch, Offset, Position};

/// A comment, which clients pass over and proxies pass on.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// Most channels whose positions an event's id says.
pub const MOST_CHANNELS: usize = 16;

/// Most bytes of an id that is looked at.
const MOST_ID_BYTES: usize = MOST_CHANNELS * 64;

/// Appends one event. JSON as the codec writes it has no line breaks of its own, so it is one line of data.
pub fn event(kind: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    write(out);
    out.extend_from_slice(b"\n\n");
}

/// The positions that a stream's events say in their ids, so that a client that knows nothing but the last
/// of them (`Last-Event-ID`) comes back to where it was.
///
/// An id lists one position for each channel that the client named, in its order: `offset@epoch`, or `-`
/// where none is known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids(Vec<(ChannelName, Option<Position>)>);

/// An id that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the last event's id is not one of this stream's: it has to say a position for each of the {channels} channels; leave it out to begin anew"
)]
pub struct BadId {
    channels: usize,
}

impl Ids {
    /// Positions of these channels, none of them known.
    pub fn new(channels: Vec<ChannelName>) -> Self {
        Self(channels.into_iter().map(|channel| (channel, None)).collect())
    }

    /// Takes the positions of an id that [`Self::write`] wrote for the same channels.
    ///
    /// # Errors
    /// [`BadId`] where it is another's.
    pub fn restore(&mut self, id: &str) -> Result<(), BadId> {
        let bad = BadId { channels: self.0.len() };
        if id.len() > MOST_ID_BYTES || id.split(',').count() != self.0.len() {
            return Err(bad);
        }
        for ((_, position), part) in self.0.iter_mut().zip(id.split(',')) {
            *position = match part {
                "-" => None,
                part => {
                    let (offset, epoch) = part.split_once('@').ok_or(bad.clone())?;
                    let offset = offset.parse::<Offset>().map_err(|_| bad.clone())?;
                    let epoch = epoch.parse::<Epoch>().map_err(|_| bad.clone())?;
                    Some(Position { offset, epoch })
                }
            };
        }
        Ok(())
    }

    /// The channels and where each stands.
    pub fn positions(&self) -> impl Iterator<Item = (&ChannelName, Option<Position>)> {
        self.0.iter().map(|(channel, position)| (channel, *position))
    }

    /// A channel stands here now. `false`: it is not one of those that the client named.
    pub fn set(&mut self, channel: &ChannelName, position: Position) -> bool {
        let found = self.0.iter_mut().find(|(name, _)| name == channel);
        found.map(|(_, known)| *known = Some(position)).is_some()
    }

    /// A message of a channel was delivered. Redeliveries, which come late, move nothing back. `false`: the
    /// channel is not one of those that the client named.
    pub fn advance(&mut self, channel: &ChannelName, offset: Offset) -> bool {
        let Some((_, known)) = self.0.iter_mut().find(|(name, _)| name == channel) else { return false };
        if let Some(known) = known {
            known.offset = known.offset.max(offset);
        }
        true
    }

    /// Appends the line that says the positions; the event's other lines follow.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = String::from("id: ");
        for (at, (_, position)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            // Writing to a string does not fail.
            let _ = match position {
                Some(Position { offset, epoch }) => write!(line, "{comma}{offset}@{epoch}"),
                None => write!(line, "{comma}-"),
            };
        }
        line.push('\n');
        out.extend_from_slice(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn line(ids: &Ids) -> String {
        let mut out = Vec::new();
        ids.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_id_says_all_positions_and_brings_them_back() {
        let mut ids = Ids::new(vec![channel("room:1"), channel("room:2")]);
        assert_eq!(line(&ids), "id: -,-\n");
        let position = Position { offset: Offset { ms: 7, seq: 1 }, epoch: Epoch(10) };
        assert!(ids.set(&channel("room:2"), position));
        assert!(!ids.set(&channel("user:me"), position));
        assert!(ids.advance(&channel("room:2"), Offset { ms: 9, seq: 0 }));
        assert!(ids.advance(&channel("room:2"), Offset { ms: 8, seq: 0 }), "it comes again");
        let written = line(&ids);
        assert_eq!(written, "id: -,9-0@000000000000000a\n");
        let mut later = Ids::new(vec![channel("room:1"), channel("room:2")]);
        later.restore(written.trim_end().strip_prefix("id: ").unwrap()).unwrap();
        assert_eq!(later, ids);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for bad in ["", "1-0", "-,-", "1-0@xyz", "@", "1-0@000000000000000a,-", &"1".repeat(9_999)] {
            assert!(Ids::new(vec![channel("room:1")]).restore(bad).is_err(), "{bad}");
        }
    }
}
