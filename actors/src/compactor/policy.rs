//! What the engine compacts by itself: a pure function of figures.
//!
//! Invariant: nothing here reads a clock or a store. What the last compaction could not change (versions that history
//! still needs, tombstones that a rule keeps) is no reason for another one, so that nothing is rewritten for ever.

use std::time::Duration;

use storage::{DroppedCollection, FileStatistics, Incarnation, RollbackEpoch, VbucketId};

/// When the engine compacts a vbucket by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// Whether dropped collections are erased as soon as they are found.
    pub erases_dropped: bool,
    /// Segments a vbucket may have: up to the first size, up to the second, and so on. Every point read may look at each
    /// of them, and to merge them rewrites the whole vbucket; small ones are merged earlier, for it costs little. A
    /// vbucket above all sizes is allowed what the last tier is.
    pub tiers: [SizeTier; 2],
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
        fragmentation_permille: u64::MAX,
        fragmented_bytes_min: u64::MAX,
        tombstones_permille: u64::MAX,
    };

    fn segments_max(&self, bytes: u64) -> usize {
        let [.., last] = &self.tiers;
        let tier = self.tiers.iter().find(|tier| bytes <= tier.bytes_max);
        tier.unwrap_or(last).segments_max.max(1)
    }
}

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
}

impl VbucketFigures {
    /// What a compaction that began at these figures, and left those, could not change: what was dropped, died or was
    /// sealed while it ran was not its to change (MB-42652), and is news to whoever looks next.
    #[must_use]
    pub fn unchanged_in(&self, mut after: VbucketFigures) -> VbucketFigures {
        after
            .dropped
            .retain(|dropped| self.dropped.contains(dropped));
        let dead = dead_bytes(&self.space).min(dead_bytes(&after.space));
        after.space.live_bytes = after.space.total_bytes.saturating_sub(dead);
        after.space.segments = after.space.segments.min(self.space.segments);
        after
    }
}

/// How a vbucket was left by its last compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// When, in seconds since the Unix epoch.
    pub at_s: u32,
    /// What of its figures that could not change: see [`VbucketFigures::unchanged_in`].
    pub left: VbucketFigures,
}

impl Past {
    /// This, if it is of the past those figures are of: what a compaction left of another says nothing.
    fn of_the_same(&self, figures: &VbucketFigures) -> Option<&VbucketFigures> {
        (self.left.of == figures.of).then_some(&self.left)
    }
}

/// Why a vbucket is compacted, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A collection was dropped.
    DroppedCollection,
    /// It has too many segments.
    Segments,
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
) -> Option<Reason> {
    let left = past.and_then(|past| past.of_the_same(figures));
    let is_news = left.is_none_or(|left| left.dropped != figures.dropped);
    if policy.erases_dropped && !figures.dropped.is_empty() && is_news {
        return Some(Reason::DroppedCollection);
    }
    let space = &figures.space;
    let left_segments = left.map_or(0, |left| left.space.segments);
    if space.segments > policy.segments_max(space.total_bytes) && space.segments > left_segments {
        return Some(Reason::Segments);
    }
    let left_dead = left.map_or(0, |left| dead_bytes(&left.space));
    let dead = dead_bytes(space).saturating_sub(left_dead);
    let is_fragmented = permille(dead, space.total_bytes) >= policy.fragmentation_permille;
    if is_fragmented && dead >= policy.fragmented_bytes_min {
        return Some(Reason::Fragmentation);
    }
    let keys = figures.documents.saturating_add(figures.tombstones);
    let has_many = permille(figures.tombstones, keys) >= policy.tombstones_permille;
    (figures.tombstones > 0 && has_many).then_some(Reason::Tombstones)
}

/// Which of these to compact, the most urgent first; of equal ones, that with most to gain.
#[must_use]
pub fn choose<'f>(
    policy: &CompactionPolicy,
    vbuckets: impl IntoIterator<Item = (VbucketId, &'f VbucketFigures, Option<&'f Past>)>,
) -> Vec<(VbucketId, Reason)> {
    let mut chosen: Vec<_> = vbuckets
        .into_iter()
        .filter_map(|(vbucket, figures, past)| {
            let reason = reason(policy, figures, past)?;
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
