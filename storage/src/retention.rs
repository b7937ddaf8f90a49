//! Retention: how much of its past a store keeps, and which seqno that comes to.
//!
//! Invariant: what a version, a tombstone, a completed prepare or a dropped collection counts from is the commit time of
//! what ended it (rule R10); a floor below which it may go is never above what the window still holds. Pure functions:
//! the time is handed in.

use crate::error::StorageError;
use crate::seqno::Seqno;
use crate::vbucket::Watermarks;

/// How much of its past a store keeps: chosen when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// For so many seconds, at least one, what was superseded, deleted or dropped can still be read.
    pub window_s: u32,
    /// Most bytes of superseded versions, of all vbuckets together and shared out equally among them: beyond, the oldest
    /// go before their time. `None` is no bound.
    pub bytes: Option<u64>,
}

/// The part of one vbucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    window_ms: u64,
    pub(crate) bytes: Option<u64>,
}

impl Retention {
    /// So many seconds, however many bytes that is.
    #[must_use]
    pub const fn of_seconds(window_s: u32) -> Retention {
        Retention {
            window_s,
            bytes: None,
        }
    }

    pub(crate) fn check(self, vbuckets: u16) -> Result<(), StorageError> {
        if self.window_s == 0 {
            let what = "a history of 0 seconds: give at least 1, or none".to_owned();
            return Err(StorageError::Setting(what));
        }
        // Less would be none at all for each of them.
        if let Some(bytes) = self.bytes.filter(|bytes| *bytes < u64::from(vbuckets)) {
            let what = format!(
                "a history of {bytes} bytes for {vbuckets} vbuckets: give at least a byte for each, or no bound"
            );
            return Err(StorageError::Setting(what));
        }
        Ok(())
    }

    pub(crate) fn share(self, vbuckets: u16) -> Share {
        let of_one = |bytes: u64| bytes / u64::from(vbuckets.max(1));
        Share {
            window_ms: u64::from(self.window_s).saturating_mul(1000),
            bytes: self.bytes.map(of_one),
        }
    }
}

impl Share {
    /// What was ended at or before this is outside of the window; `None` while nothing can be.
    pub(crate) fn cutoff_ms(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(self.window_ms)
    }

    /// The highest of these batch ends, which come in their order, that lies outside of the window: what was ended at or
    /// below it may go.
    pub(crate) fn floor_of(
        &self,
        marks: impl IntoIterator<Item = Watermarks>,
        now_ms: u64,
    ) -> Seqno {
        let Some(cutoff) = self.cutoff_ms(now_ms) else {
            return Seqno::ZERO;
        };
        let outside = marks
            .into_iter()
            .take_while(|mark| mark.commit_time_ms <= cutoff);
        outside.last().map_or(Seqno::ZERO, |mark| mark.high_seqno)
    }
}

/// Into how many parts the range of seqnos is divided to find where the oldest versions are too many.
const PARTS: u64 = 4096;

/// Bytes of superseded versions by what superseded them, in bounded memory.
#[derive(Debug)]
pub(crate) struct BytesByKiller {
    first: Seqno,
    width: u64,
    parts: Vec<u64>,
}

impl BytesByKiller {
    /// Of killers from `first` to `last`; others are not counted.
    pub(crate) fn between(first: Seqno, last: Seqno) -> BytesByKiller {
        let seqnos = last.0.saturating_sub(first.0).saturating_add(1);
        let width = seqnos.div_ceil(PARTS).max(1);
        let parts = usize::try_from(seqnos.div_ceil(width)).unwrap_or(0);
        BytesByKiller {
            first,
            width,
            parts: vec![0; parts],
        }
    }

    /// Takes note of a superseded version.
    pub(crate) fn note(&mut self, killer: Seqno, bytes: u32) {
        let within = killer.0.checked_sub(self.first.0);
        let part = within.and_then(|within| usize::try_from(within / self.width).ok());
        if let Some(sum) = part.and_then(|part| self.parts.get_mut(part)) {
            *sum = sum.saturating_add(u64::from(bytes));
        }
    }

    /// The lowest floor found above which there are at most `bytes_max`.
    pub(crate) fn floor(&self, bytes_max: u64) -> Seqno {
        let mut above = 0u64;
        for (part, bytes) in self.parts.iter().enumerate().rev() {
            above = above.saturating_add(*bytes);
            if above > bytes_max {
                let parts = (part as u64).saturating_add(1);
                let end = self
                    .first
                    .0
                    .saturating_add(parts.saturating_mul(self.width));
                return Seqno(end.saturating_sub(1));
            }
        }
        Seqno::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ended_before_the_window_is_below_the_floor() {
        let share = Retention::of_seconds(10).share(4);
        let marks = [(0, 0), (5, 1_000), (9, 2_000), (12, 2_001)];
        let marks = marks.map(|(seqno, time)| Watermarks::at(Seqno(seqno), time));
        let floor = |now_ms| share.floor_of(marks, now_ms);
        assert_eq!(floor(9_999), Seqno::ZERO);
        assert_eq!(floor(10_999), Seqno(0));
        assert_eq!(floor(11_000), Seqno(5));
        assert_eq!(floor(12_000), Seqno(9));
        assert_eq!(floor(u64::MAX), Seqno(12));
    }

    #[test]
    fn the_oldest_are_too_many_first() {
        let mut bytes = BytesByKiller::between(Seqno(11), Seqno(20));
        bytes.note(Seqno(10), 1000);
        for killer in 11..=20 {
            bytes.note(Seqno(killer), 10);
        }
        bytes.note(Seqno(21), 1000);
        assert_eq!(bytes.floor(100), Seqno::ZERO);
        assert_eq!(bytes.floor(99), Seqno(11));
        assert_eq!(bytes.floor(30), Seqno(17));
        assert_eq!(bytes.floor(0), Seqno(20));
        // Where parts are of many seqnos, a little more goes.
        let mut bytes = BytesByKiller::between(Seqno(1), Seqno(40_960));
        bytes.note(Seqno(5), 10);
        bytes.note(Seqno(40_000), 10);
        assert_eq!(bytes.floor(15), Seqno(10));
    }

    #[test]
    fn each_vbucket_has_its_part() {
        let retention = Retention {
            window_s: 1,
            bytes: Some(1000),
        };
        assert_eq!(retention.share(128).bytes, Some(7));
        assert_eq!(retention.check(1000), Ok(()));
        for refused in [(0, None), (1, Some(0)), (1, Some(127))] {
            let (window_s, bytes) = refused;
            assert!(Retention { window_s, bytes }.check(128).is_err());
        }
    }
}
