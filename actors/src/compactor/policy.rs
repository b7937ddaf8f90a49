//! What the engine compacts by itself: a pure function of figures.
//!
//! Invariant: nothing here reads a clock or a store. What the last rewrite could not change (versions that history still
//! needs, tombstones that a rule keeps) is no reason for another one, and a merge of the newest segments, which purges
//! nothing, leaves fewer of them: so nothing is rewritten for ever. Where history is kept, what was left for its sake is
//! a reason again after a quarter of its length.

use std::time::Duration;

use storage::{DroppedCollection, FileStatistics, Incarnation, RollbackEpoch, VbucketId};

/// When the engine compacts a vbucket by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// Whether dropped collections are erased as soon as they are found.
    pub erases_dropped: bool,
    /// Segments a vbucket may have: up to the first size, up to the second, and so on. Every point read may look at each
    /// of them; small vbuckets are merged earlier, for it costs little. A vbucket above all sizes is allowed what the
    /// last tier is.
    pub tiers: [SizeTier; 2],
    /// Where there are more, the newest are merged, which leaves the older ones as they are; but all are, at the first
    /// time in an opening, when the vbucket has twice as many bytes as that left, and after this time. For only then
    /// completed prepares and old tombstones go, and documents are found whose time is up.
    pub rewritten_every: Duration,
    /// Dead share of a vbucket's segments, in per mille, from which they are rewritten.
    pub fragmentation_permille: u64,
    /// Dead bytes below which nothing is rewritten for their sake.
    pub fragmented_bytes_min: u64,
    /// Share of tombstones among a vbucket's keys, in per mille, from which it is rewritten once they are old enough to
    /// be let go.
    pub tombstones_permille: u64,
}

/// How many segments vbuckets of a size may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeTier {
    /// Vbuckets of at most so many bytes
    pub bytes_max: u64,
    /// may have so many segments.
    pub segments_max: usize,
}

impl Default for CompactionPolicy {
    fn default() -> CompactionPolicy {
        CompactionPolicy {
            erases_dropped: true,
            tiers: [
                SizeTier {
                    bytes_max: 256 << 10,
                    segments_max: 4,
                },
                SizeTier {
                    bytes_max: u64::MAX,
                    segments_max: 8,
                },
            ],
            rewritten_every: Duration::from_secs(3600),
            fragmentation_permille: 500,
            fragmented_bytes_min: 1 << 20,
            tombstones_permille: 100,
        }
    }
}

impl CompactionPolicy {
    /// The engine compacts nothing by itself.
    pub const NEVER: CompactionPolicy = CompactionPolicy {
        erases_dropped: false,
        tiers: [SizeTier {
            bytes_max: u64::MAX,
            segments_max: usize::MAX,
        }; 2],
        rewritten_every: Duration::MAX,
        fragmentation_permille: u64::MAX,
        fragmented_bytes_min: u64::MAX,
        tombstones_permille: u64::MAX,
    };

    fn segments_max(&self, bytes: u64) -> usize {
        let [.., last] = &self.tiers;
        let tier = self.tiers.iter().find(|tier| bytes <= tier.bytes_max);
        tier.unwrap_or(last).segments_max.max(1)
    }

    /// Whether one that has too many segments is rewritten as a whole.
    fn is_overdue(&self, space: &FileStatistics, past: Option<&Past>, now_s: u32) -> bool {
        past.is_none_or(|past| {
            let since_s = u64::from(now_s.saturating_sub(past.at_s));
            let left = past.left.space.total_bytes;
            since_s >= self.rewritten_every.as_secs()
                || space.total_bytes >= left.saturating_mul(GROWN_TIMES)
        })
    }
}

/// What only a rewrite lets go is at most as much again as what the last one left.
const GROWN_TIMES: u64 = 2;
/// After such a part of a history's length what was left for its sake is looked at anew.
const HISTORY_PARTS: u32 = 4;

/// What is known of a vbucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VbucketFigures {
    /// Which past they are of: a vbucket that was rolled back, or deleted and made anew, has another.
    pub of: (Incarnation, RollbackEpoch),
    /// Its space on disk.
    pub space: FileStatistics,
    /// Collections that were dropped and not erased.
    pub dropped: Vec<DroppedCollection>,
    /// Live documents.
    pub documents: u64,
    /// Tombstones; zero unless [`tombstones_count`] says that they count.
    pub tombstones: u64,
    /// When it was written last, in seconds since the Unix epoch.
    pub written_at_s: u32,
    /// So many seconds what was superseded, deleted or dropped is kept; zero where no history is.
    pub history_s: u32,
}

impl VbucketFigures {
    /// What a rewrite that began at these figures, and left those, could not change: what was dropped or died while it
    /// ran was not its to change (MB-42652), and is news to whoever looks next. Where no history is kept, nothing that
    /// was dead when it began is left.
    #[must_use]
    pub fn unchanged_in(&self, mut after: VbucketFigures, keeps_history: bool) -> VbucketFigures {
        after
            .dropped
            .retain(|dropped| self.dropped.contains(dropped));
        let dead = if keeps_history {
            dead_bytes(&self.space).min(dead_bytes(&after.space))
        } else {
            0
        };
        after.space.live_bytes = after.space.total_bytes.saturating_sub(dead);
        after
    }
}

/// How a vbucket was left by its last rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// When, in seconds since the Unix epoch.
    pub at_s: u32,
    /// What of its figures that could not change: see [`VbucketFigures::unchanged_in`].
    pub left: VbucketFigures,
}

impl Past {
    /// This, if it is of the past those figures are of: what a compaction left of another says nothing.
    fn of_the_same(&self, figures: &VbucketFigures) -> Option<&Past> {
        (self.left.of == figures.of).then_some(self)
    }

    /// Whether much of what was left as history may be none any more.
    fn is_outlived(&self, figures: &VbucketFigures, now_s: u32) -> bool {
        let after_s = (figures.history_s / HISTORY_PARTS).max(1);
        figures.history_s > 0 && now_s.saturating_sub(self.at_s) >= after_s
    }
}

/// Why a vbucket is compacted, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A collection was dropped.
    DroppedCollection,
    /// It has too many segments: the newest are merged. For all other reasons all segments are rewritten.
    Segments,
    /// It has too many segments, and was not rewritten for long, or grew much since.
    Overdue,
    /// Too much of it is dead.
    Fragmentation,
    /// It has many tombstones that may go.
    Tombstones,
}

/// Whether tombstones of a vbucket may be old enough to be let go, so that it is worth counting them: it was not written
/// for as long as they are kept, or was not compacted for so long.
#[must_use]
pub fn tombstones_count(
    figures: &VbucketFigures,
    past: Option<&Past>,
    now_s: u32,
    purge_age: Duration,
) -> bool {
    let written_at_s = figures.written_at_s;
    let age_s = u32::try_from(purge_age.as_secs()).unwrap_or(u32::MAX);
    let all_old_at = written_at_s.saturating_add(age_s);
    let Some(past) = past.filter(|past| past.of_the_same(figures).is_some()) else {
        return all_old_at <= now_s;
    };
    let is_quiet = all_old_at <= now_s && past.at_s < all_old_at;
    let is_long_ago = past.at_s.saturating_add(age_s) <= now_s;
    is_quiet || is_long_ago && written_at_s > past.at_s
}

/// Why this vbucket is to be compacted now, if it is.
#[must_use]
pub fn reason(
    policy: &CompactionPolicy,
    figures: &VbucketFigures,
    past: Option<&Past>,
    now_s: u32,
) -> Option<Reason> {
    let past = past.and_then(|past| past.of_the_same(figures));
    let past = past.filter(|past| !past.is_outlived(figures, now_s));
    let left = past.map(|past| &past.left);
    let is_news = left.is_none_or(|left| left.dropped != figures.dropped);
    if policy.erases_dropped && !figures.dropped.is_empty() && is_news {
        return Some(Reason::DroppedCollection);
    }
    // Before the number of segments: where they come all the time, nothing dead would ever go.
    let space = &figures.space;
    let left_dead = left.map_or(0, |left| dead_bytes(&left.space));
    let dead = dead_bytes(space).saturating_sub(left_dead);
    let is_fragmented = permille(dead, space.total_bytes) >= policy.fragmentation_permille;
    if is_fragmented && dead >= policy.fragmented_bytes_min {
        return Some(Reason::Fragmentation);
    }
    let keys = figures.documents.saturating_add(figures.tombstones);
    let has_many = permille(figures.tombstones, keys) >= policy.tombstones_permille;
    if figures.tombstones > 0 && has_many {
        return Some(Reason::Tombstones);
    }
    let has_too_many = space.segments > policy.segments_max(space.total_bytes);
    has_too_many.then(|| {
        if policy.is_overdue(space, past, now_s) {
            Reason::Overdue
        } else {
            Reason::Segments
        }
    })
}

/// Which of these to compact, the most urgent first; of equal ones, that with most to gain.
#[must_use]
pub fn choose<'f>(
    policy: &CompactionPolicy,
    vbuckets: impl IntoIterator<Item = (VbucketId, &'f VbucketFigures, Option<&'f Past>)>,
    now_s: u32,
) -> Vec<(VbucketId, Reason)> {
    let mut chosen: Vec<_> = vbuckets
        .into_iter()
        .filter_map(|(vbucket, figures, past)| {
            let reason = reason(policy, figures, past, now_s)?;
            let gain = (dead_bytes(&figures.space), figures.space.segments);
            Some((reason, std::cmp::Reverse(gain), vbucket))
        })
        .collect();
    chosen.sort_unstable();
    let chosen = chosen.into_iter();
    chosen
        .map(|(reason, _, vbucket)| (vbucket, reason))
        .collect()
}

fn dead_bytes(space: &FileStatistics) -> u64 {
    space.total_bytes.saturating_sub(space.live_bytes)
}

fn permille(part: u64, whole: u64) -> u64 {
    let part = u128::from(part).saturating_mul(1000);
    let share = part.checked_div(u128::from(whole)).unwrap_or(0);
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
