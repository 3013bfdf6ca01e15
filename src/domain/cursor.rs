//! What the backbone remembers of a device.

use super::position::{Offset, Position};

/// A subscription's last acknowledged position, and how often the entry after it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Everything at or below is acknowledged or was skipped.
    pub position: Position,
    /// Counted deliveries of the head of the window.
    pub attempts: u8,
    /// Which message that is, where it was tried. Cursors written by earlier versions do not say it: there
    /// it is the next message that comes.
    pub head: Option<Offset>,
}

/// Counts the sessions of one device: only the latest may write cursors or dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);
