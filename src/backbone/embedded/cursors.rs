//! Cursors of devices, each with its time to live.

use std::collections::HashMap;
use std::time::Duration;

use crate::backbone::{BackboneError, CursorWrite, Stored};
use crate::domain::{ChannelName, Cursor, CursorKey, Generation, SessionId};

/// Devices remembered at most; a million idle ones take some 200 MB.
const MAX_DEVICES: usize = 1_000_000;
/// Cursors of one device at most; a session has no more channels than this at once by far.
const MAX_CURSORS: usize = 1_024;
/// Time to live of a device that writes after it was forgotten.
const LATE_TTL_MS: u64 = 24 * 60 * 60 * 1_000;
/// Below so many devices nothing is swept.
const MIN_SWEEP: usize = 1_024;

/// The cursors. Expired devices are swept whenever the table has doubled, so it holds at most about
/// twice what is alive.
#[derive(Debug)]
pub(super) struct Cursors {
    devices: HashMap<CursorKey, Device>,
    /// One counter for all devices: a generation stays refused after its device was forgotten.
    generation: u64,
    sweep_at: usize,
}

#[derive(Debug)]
struct Device {
    generation: Generation,
    session: Option<SessionId>,
    ttl_ms: u64,
    expires_ms: u64,
    cursors: HashMap<ChannelName, (Generation, Cursor)>,
}

impl Cursors {
    pub(super) fn new() -> Self {
        Self { devices: HashMap::new(), generation: 0, sweep_at: MIN_SWEEP }
    }

    pub(super) fn claim(
        &mut self,
        key: &CursorKey,
        ttl: Duration,
        now_ms: u64,
    ) -> Result<(Generation, Vec<(ChannelName, Cursor)>), BackboneError> {
        self.generation += 1;
        let generation = Generation(self.generation);
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let device = self.device(key, now_ms)?;
        (device.generation, device.ttl_ms) = (generation, ttl_ms);
        device.expires_ms = now_ms.saturating_add(ttl_ms);
        let mut cursors: Vec<_> =
            device.cursors.iter().map(|(channel, (_, cursor))| (channel.clone(), *cursor)).collect();
        cursors.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok((generation, cursors))
    }

    pub(super) fn begin(
        &mut self,
        key: &CursorKey,
        generation: Generation,
        session: SessionId,
    ) -> Option<SessionId> {
        let device = self.devices.get_mut(key)?;
        if device.generation == generation { device.session.replace(session) } else { device.session }
    }

    pub(super) fn end(&mut self, key: &CursorKey, generation: Generation, session: SessionId) -> bool {
        let noted = self.devices.get_mut(key).filter(|device| device.session == Some(session));
        let Some(device) = noted else { return true };
        let is_latest = device.generation == generation;
        if is_latest {
            device.session = None;
        }
        is_latest
    }

    pub(super) fn store(&mut self, write: &CursorWrite, now_ms: u64) -> Result<Stored, BackboneError> {
        let device = self.device(&write.device, now_ms)?;
        if write.generation < device.generation {
            return Ok(Stored::Stale);
        }
        // A session may outlive its device's cursors; what it writes then begins them anew.
        device.generation = write.generation;
        device.expires_ms = now_ms.saturating_add(device.ttl_ms);
        let forward = device.cursors.get(&write.channel).is_none_or(|(generation, cursor)| {
            *generation < write.generation || cursor.position.offset <= write.cursor.position.offset
        });
        if forward {
            device.cursors.insert(write.channel.clone(), (write.generation, write.cursor));
            device.forget_excess();
        }
        // The next claim has to be newer than what a writer of a device that was forgotten holds.
        self.generation = self.generation.max(write.generation.0);
        Ok(Stored::Yes)
    }

    /// The live record of a device, empty where it is new or expired.
    fn device(&mut self, key: &CursorKey, now_ms: u64) -> Result<&mut Device, BackboneError> {
        if self.devices.len() >= self.sweep_at.min(MAX_DEVICES) && !self.devices.contains_key(key) {
            self.devices.retain(|_, device| device.expires_ms > now_ms);
            self.sweep_at = (self.devices.len() * 2).max(MIN_SWEEP);
            if self.devices.len() >= MAX_DEVICES {
                return Err(BackboneError::ReadOnly("too many devices have cursors".into()));
            }
        }
        let device = self.devices.entry(key.clone()).or_insert_with(Device::new);
        if device.expires_ms <= now_ms {
            // The generation stays: an expired record still in the table refuses older writers.
            *device = Device { generation: device.generation, ..Device::new() };
        }
        Ok(device)
    }
}

impl Device {
    fn new() -> Self {
        let (generation, cursors) = (Generation(0), HashMap::new());
        Self { generation, session: None, ttl_ms: LATE_TTL_MS, expires_ms: 0, cursors }
    }

    /// Drops the cursor that lies furthest back when there are too many.
    fn forget_excess(&mut self) {
        if self.cursors.len() <= MAX_CURSORS {
            return;
        }
        let oldest = self.cursors.iter().min_by_key(|(_, (_, cursor))| cursor.position.offset);
        if let Some(channel) = oldest.map(|(channel, _)| channel.clone()) {
            self.cursors.remove(&channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DeviceId, Epoch, Offset, Position, TenantId, UserId};

    const TTL: Duration = Duration::from_millis(100);

    fn device(name: &str) -> CursorKey {
        let (tenant, user) = (TenantId::parse("acme").unwrap(), UserId::parse("u").unwrap());
        CursorKey::new(&tenant, &user, &DeviceId::parse(name).unwrap())
    }

    fn write(generation: Generation, channel: &str, ms: u64, attempts: u8) -> CursorWrite {
        let position = Position { offset: Offset { ms, seq: 0 }, epoch: Epoch(1) };
        let channel = ChannelName::parse(channel).unwrap();
        CursorWrite {
            device: device("d"),
            generation,
            channel,
            cursor: Cursor { position, attempts, head: None },
        }
    }

    #[test]
    fn cursors_move_forward_within_a_generation_and_expire() {
        let mut cursors = Cursors::new();
        let (first, none) = cursors.claim(&device("d"), TTL, 0).unwrap();
        assert!(none.is_empty());
        for (ms, attempts) in [(5, 0), (4, 9), (5, 2)] {
            assert_eq!(cursors.store(&write(first, "room:1", ms, attempts), 50), Ok(Stored::Yes));
        }
        let (second, stored) = cursors.claim(&device("d"), TTL, 149).unwrap();
        assert!(second > first);
        assert_eq!(stored, [(ChannelName::parse("room:1").unwrap(), write(first, "room:1", 5, 2).cursor)]);
        assert_eq!(cursors.store(&write(first, "room:1", 9, 0), 149), Ok(Stored::Stale));
        assert_eq!(cursors.store(&write(second, "room:1", 3, 0), 149), Ok(Stored::Yes));
        let (third, expired) = cursors.claim(&device("d"), TTL, 249).unwrap();
        assert!(expired.is_empty());
        assert_eq!(cursors.store(&write(second, "room:1", 9, 0), 999), Ok(Stored::Stale));
        assert_eq!(cursors.store(&write(third, "room:1", 9, 0), 999), Ok(Stored::Yes));
    }

    #[test]
    fn the_tables_stay_bounded() {
        let mut cursors = Cursors::new();
        for n in 0..10 * MIN_SWEEP {
            cursors.claim(&device(&n.to_string()), TTL, n as u64).unwrap();
        }
        assert!(cursors.devices.len() <= MIN_SWEEP, "{}", cursors.devices.len());
        let (generation, _) = cursors.claim(&device("d"), TTL, 0).unwrap();
        for n in 0..=MAX_CURSORS as u64 {
            cursors.store(&write(generation, &format!("room:{n}"), 1 + n, 0), 1).unwrap();
        }
        let (_, stored) = cursors.claim(&device("d"), TTL, 2).unwrap();
        assert_eq!(stored.len(), MAX_CURSORS);
        assert!(stored.iter().all(|(channel, _)| channel.as_str() != "room:0"));
    }
}
