//! Which vbuckets of a shard are merged next: those with too many segments, and those of which too much is dead.
//!
//! Invariant: a pure function of what the segments come to; what a rewrite could not make smaller is not rewritten again
//! and again. Asked by [`super::figures`].

use std::cmp::Reverse;

use crate::log_store::shard::Shard;
use crate::log_store::version::{SegmentView, Version};
use crate::seqno::Seqno;
use crate::vbucket::VbucketId;

use super::Work;

/// Of a thousand bytes of a shard's segments, so many may be dead before vbuckets are rewritten, those first that have
/// at least so many themselves. Between the two they take turns, and the space does not grow in waves.
const DEAD_PERMILLE_OF_SHARD: u64 = 300;
const DEAD_PERMILLE_OF_VBUCKET: u64 = 350;
/// A vbucket is rewritten whatever the others are like when as much of it is dead as lives, or more: to write what lives
/// costs no more than is won.
const DEAD_PERMILLE_AT_ONCE: u64 = 500;
/// Where what is dead may be history, no vbucket is rewritten for its sake before it has grown by a part of so many.
const GROWN_BY: u64 = 4;

/// The vbuckets whose segments should be merged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Merging {
    /// The one with the most segments, if those are too many.
    pub(super) most_segments: Option<VbucketId>,
    /// The one with the largest part of it dead, if too much is.
    pub(super) most_dead: Option<VbucketId>,
}

/// What the segments of a vbucket come to.
struct Segments {
    vbucket: VbucketId,
    count: usize,
    bytes: u64,
    /// Of those; indexes are as dead as the records they are of.
    dead: u64,
    /// Bytes of the oldest one.
    oldest: u64,
    /// Nothing that is dead is history that a rewrite would keep.
    all_goes: bool,
}

impl Segments {
    fn of(version: &Version, history_floor: Seqno) -> Segments {
        let of = |view: &SegmentView| {
            let meta = view.segment.meta();
            let dead = u128::from(meta.length).saturating_mul(u128::from(view.dead_bytes));
            let dead = dead.checked_div(u128::from(meta.data_bytes)).unwrap_or(0);
            let dead = u64::try_from(dead).unwrap_or(u64::MAX).min(meta.length);
            (meta.length, dead)
        };
        let segments: Vec<(u64, u64)> = version.segments.iter().map(of).collect();
        Segments {
            vbucket: version.place.vbucket,
            count: segments.len(),
            bytes: segments.iter().map(|(length, _)| length).sum(),
            dead: segments.iter().map(|(_, dead)| dead).sum(),
            oldest: segments.first().map_or(0, |(length, _)| *length),
            all_goes: version.sealed <= history_floor,
        }
    }

    fn dead_permille(&self) -> u64 {
        permille(self.dead, self.bytes)
    }

    /// Whether to write all of it anew for what is dead, `is_much` of the shard being dead.
    fn is_worth_it(&self, is_much: bool) -> bool {
        let newer = self.bytes.saturating_sub(self.oldest);
        let has_grown = newer.saturating_mul(GROWN_BY) >= self.oldest;
        let from = if is_much {
            DEAD_PERMILLE_OF_VBUCKET
        } else {
            DEAD_PERMILLE_AT_ONCE
        };
        // One segment by itself holds nothing dead that could go: whatever killed it was in a newer one, merged since.
        self.count > 1 && (has_grown || self.all_goes) && self.dead_permille() >= from
    }
}

fn permille(part: u64, whole: u64) -> u64 {
    let share = part.saturating_mul(1000).checked_div(whole);
    share.unwrap_or(0)
}

/// Which of a shard's vbuckets to merge next, `failed` being the work that failed last.
pub(super) fn merging(shard: &Shard, failed: Option<Work>) -> Merging {
    let segments_max = shard.options.segments_max.max(1);
    if segments_max == usize::MAX {
        return Merging::default();
    }
    let versions = shard.versions().into_iter();
    // Where a history is kept, a rewrite may keep what is dead.
    let floor = match shard.history {
        Some(_) => Seqno::ZERO,
        None => shard.options.history_floor,
    };
    let all = versions.map(|version| Segments::of(&version, floor));
    let all: Vec<Segments> = all.collect();
    let is_free = |vbucket| !shard.is_merging(vbucket);
    choose(&all, segments_max, failed, is_free)
}

fn choose(
    all: &[Segments],
    segments_max: usize,
    failed: Option<Work>,
    is_free: impl Fn(VbucketId) -> bool,
) -> Merging {
    // What failed last has its turn again after all others.
    let turn = |vbucket: VbucketId| {
        let Some(Work::Merge(last) | Work::Rewrite(last)) = failed else {
            return (false, Reverse(0));
        };
        (vbucket > last, Reverse(vbucket.get()))
    };
    let sum = |of: fn(&Segments) -> u64| all.iter().map(of).fold(0, u64::saturating_add);
    let dead = permille(sum(|one| one.dead), sum(|one| one.bytes));
    let free = || all.iter().filter(|one| is_free(one.vbucket));
    let too_many = free().filter(|one| one.count > segments_max);
    let most_segments = too_many.max_by_key(|one| (turn(one.vbucket), one.count));
    let is_much = dead > DEAD_PERMILLE_OF_SHARD;
    let too_dead = free().filter(|one| one.is_worth_it(is_much));
    let most_dead = too_dead.max_by_key(|one| (turn(one.vbucket), one.dead_permille()));
    Merging {
        most_segments: most_segments.map(|one| one.vbucket),
        most_dead: most_dead.map(|one| one.vbucket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vbucket: u16, lengths: &[u64], dead: u64) -> Segments {
        Segments {
            vbucket: VbucketId::new(vbucket).unwrap(),
            count: lengths.len(),
            bytes: lengths.iter().sum(),
            dead,
            oldest: lengths[0],
            all_goes: false,
        }
    }

    fn chosen(all: &[Segments], failed: Option<Work>) -> [Option<u16>; 2] {
        let chosen = choose(all, 4, failed, |_| true);
        [chosen.most_segments, chosen.most_dead].map(|one| one.map(VbucketId::get))
    }

    #[test]
    fn the_most_segments_come_first_and_only_where_they_are_too_many() {
        let few = [100, 10, 10, 10];
        let many = [100, 10, 10, 10, 10];
        let most = [100, 10, 10, 10, 10, 10];
        let all = [of(0, &few, 0), of(1, &most, 0), of(2, &many, 0)];
        assert_eq!(chosen(&all, None), [Some(1), None]);
        assert_eq!(chosen(&all[..1], None), [None, None]);
        // What failed steps back behind the rest.
        let failed = Work::Merge(all[1].vbucket);
        assert_eq!(chosen(&all, Some(failed)), [Some(2), None]);
    }

    #[test]
    fn what_is_mostly_dead_is_rewritten_once_much_of_the_shard_is() {
        let grown = [100, 30, 30];
        let all = [of(0, &grown, 60), of(1, &grown, 70), of(2, &[100], 0)];
        assert_eq!(chosen(&all, None), [None, Some(1)]);
        let all = [of(0, &grown, 60), of(1, &[600], 0)];
        assert_eq!(chosen(&all, None), [None, None], "little of the shard");
        // What stays dead when it is rewritten is history.
        let all = [of(0, &[100], 90), of(1, &[100, 10], 80)];
        assert_eq!(chosen(&all, None), [None, None]);
    }

    /// All documents of a vbucket were deleted: its tombstones are much less than they were, and the others live.
    #[test]
    fn what_is_dead_to_more_than_half_goes_at_once_if_it_is_no_history() {
        let others = || of(1, &[1000], 0);
        let deleted = |all_goes| Segments {
            all_goes,
            ..of(0, &[100, 20], 100)
        };
        assert_eq!(chosen(&[deleted(true), others()], None), [None, Some(0)]);
        assert_eq!(chosen(&[deleted(false), others()], None), [None, None]);
        let half = Segments {
            all_goes: true,
            ..of(0, &[100, 20], 59)
        };
        assert_eq!(chosen(&[half, others()], None), [None, None]);
    }
}
