//! What a stream's own figures prove about a position. Pure.

use super::values::StreamInfo;
use crate::domain::Offset;

/// Whether anything between a position and what follows it may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is.
    Whole,
    /// Something may be: doubt counts.
    Gap,
    /// The stream never came as far as the position: its data was lost.
    Lost,
}

/// Judges the position `after`, at which `added` entries had ever been added where that is known,
/// when there is no entry at `after` in the log. `None` is a stream that does not exist.
///
/// The figures may be younger than the read they prove: trimming only goes on, so what was not
/// trimmed by then was not trimmed at the read.
pub(super) fn judge(after: Offset, added: Option<u64>, info: Option<&StreamInfo>) -> Verdict {
    let Some(info) = info else {
        return if after == Offset::ZERO { Verdict::Whole } else { Verdict::Gap };
    };
    if info.last == after {
        return Verdict::Whole;
    }
    if info.last < after {
        return Verdict::Lost;
    }
    let added = if after == Offset::ZERO { Some(0) } else { added };
    let since = match (added, info.added) {
        // Fewer than before: a new stream under the old name.
        (Some(then), Some(now)) if now < then => return Verdict::Gap,
        (Some(then), Some(now)) => Some(now - then),
        _ => None,
    };
    // Trimming takes the oldest first, so an entry below the position stands for all above it.
    if info.first_entry.is_some_and(|first| first < after) || since == Some(info.length) {
        Verdict::Whole
    } else {
        Verdict::Gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Offset {
        Offset { ms, seq: 0 }
    }

    fn info(length: u64, added: Option<u64>, first: Option<u64>, last: u64) -> StreamInfo {
        let entry = |ms: u64| at(ms);
        StreamInfo {
            length,
            last: at(last),
            added,
            first_entry: first.map(entry),
            last_entry: first.map(|_| at(last)),
        }
    }

    #[test]
    fn a_stream_that_does_not_exist_is_whole_from_the_start_only() {
        assert_eq!(judge(Offset::ZERO, None, None), Verdict::Whole);
        assert_eq!(judge(at(5), Some(1), None), Verdict::Gap);
    }

    #[test]
    fn the_start_is_whole_while_nothing_was_trimmed_and_the_server_can_tell() {
        assert_eq!(judge(Offset::ZERO, None, Some(&info(3, Some(3), Some(1), 3))), Verdict::Whole);
        assert_eq!(judge(Offset::ZERO, None, Some(&info(2, Some(3), Some(2), 3))), Verdict::Gap);
        assert_eq!(judge(Offset::ZERO, None, Some(&info(3, None, Some(1), 3))), Verdict::Gap);
        assert_eq!(judge(Offset::ZERO, None, Some(&info(0, None, None, 0))), Verdict::Whole);
    }

    #[test]
    fn a_position_is_whole_at_the_end_above_an_older_entry_or_by_count() {
        assert_eq!(judge(at(9), None, Some(&info(0, None, None, 9))), Verdict::Whole);
        assert_eq!(judge(at(5), None, Some(&info(3, None, Some(4), 9))), Verdict::Whole);
        assert_eq!(judge(at(5), None, Some(&info(3, None, Some(6), 9))), Verdict::Gap);
        assert_eq!(judge(at(5), Some(7), Some(&info(3, Some(10), Some(6), 9))), Verdict::Whole);
        assert_eq!(judge(at(5), Some(6), Some(&info(3, Some(10), Some(6), 9))), Verdict::Gap);
        assert_eq!(judge(at(5), Some(11), Some(&info(3, Some(10), Some(4), 9))), Verdict::Gap);
    }

    #[test]
    fn a_stream_that_ends_before_the_position_was_lost() {
        assert_eq!(judge(at(9), None, Some(&info(1, Some(1), Some(5), 5))), Verdict::Lost);
    }
}
