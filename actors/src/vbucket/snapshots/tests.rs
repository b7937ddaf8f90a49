//! Ranges for the store, and where branches begin.

use proptest::prelude::*;

use super::*;

fn at(snapshots: &Snapshots, high: u64) -> (u64, u64) {
    let (range, _) = snapshots.range_at(Seqno(high), Seqno(high), Seqno(high));
    (range.start.0, range.end.0)
}

fn stored(start: u64, end: u64, high: u64, is_active: bool) -> Snapshots {
    let watermarks = Watermarks {
        high_seqno: Seqno(high),
        snapshot: SnapshotRange {
            start: Seqno(start),
            end: Seqno(end),
        },
        ..Watermarks::default()
    };
    Snapshots::stored(&watermarks, is_active)
}

fn receive(snapshots: &mut Snapshots, seqnos: std::ops::RangeInclusive<u64>) {
    seqnos.for_each(|seqno| snapshots.note_received(Seqno(seqno)));
}

#[test]
fn a_replica_names_the_last_whole_snapshot_whatever_was_given_up_since() {
    let mut snapshots = stored(0, 0, 0, false);
    snapshots.begin_source(Seqno(0), Seqno(10), SnapshotKind::Memory);
    receive(&mut snapshots, 1..=10);
    snapshots.begin_source(Seqno(10), Seqno(20), SnapshotKind::Disk);
    receive(&mut snapshots, 11..=15);
    snapshots.begin_source(Seqno(15), Seqno(30), SnapshotKind::Memory);
    receive(&mut snapshots, 16..=18);
    assert_eq!(at(&snapshots, 5), (0, 10));
    assert_eq!(at(&snapshots, 10), (10, 10));
    assert_eq!(at(&snapshots, 13), (10, 20));
    let (_, kind) = snapshots.range_at(Seqno(13), Seqno(13), Seqno(18));
    assert_eq!(kind, SnapshotKind::Disk);
    assert_eq!(at(&snapshots, 15), (10, 20), "given up, not whole");
    assert_eq!(at(&snapshots, 18), (10, 30));
    assert_eq!(snapshots.newest_whole(Seqno(18)), Seqno(10));
}

#[test]
fn what_came_in_a_snapshot_is_told_of_it_for_ever() {
    let kind = |snapshots: &Snapshots, high| {
        let (range, kind) = snapshots.range_at(Seqno(high), Seqno(high), Seqno(high));
        assert_eq!(range.end, Seqno(high), "whole");
        kind
    };
    let mut snapshots = stored(0, 0, 0, false);
    snapshots.begin_source(Seqno(0), Seqno(10), SnapshotKind::Memory);
    receive(&mut snapshots, 1..=10);
    assert_eq!(kind(&snapshots, 10), SnapshotKind::Disk);
    // Own changes in one batch with it, then in one of their own.
    snapshots.begin_own(Seqno(10));
    assert_eq!(kind(&snapshots, 12), SnapshotKind::Disk);
    snapshots.forget(Seqno(12));
    assert_eq!(kind(&snapshots, 13), SnapshotKind::Memory);
    // Opened again, with nothing new.
    let stored = Snapshots::stored(
        &Watermarks {
            snapshot_kind: SnapshotKind::Disk,
            ..Watermarks::at(Seqno(10), 0)
        },
        true,
    );
    assert_eq!(kind(&stored, 10), SnapshotKind::Disk);
}

#[test]
fn a_whole_snapshot_of_which_something_is_missing_is_none() {
    let mut snapshots = stored(0, 0, 0, false);
    for end in [10, 20] {
        snapshots.begin_source(Seqno(end - 10), Seqno(end), SnapshotKind::Memory);
        receive(&mut snapshots, end - 9..=end);
    }
    // What item 5 wrote was written again by item 15, in the same checkpoint.
    let cut = snapshots.range_at(Seqno(10), Seqno(4), Seqno(20)).0;
    assert_eq!((cut.start, cut.end), (Seqno(0), Seqno(20)));
    // The same, with an end in the middle of a snapshot: what is missing came with the one behind it.
    let cut = snapshots.range_at(Seqno(9), Seqno(4), Seqno(20)).0;
    assert_eq!((cut.start, cut.end), (Seqno(0), Seqno(20)));
}

#[test]
fn own_changes_are_whole_up_to_what_is_settled() {
    let mut snapshots = stored(10, 20, 15, false);
    assert_eq!(snapshots.newest_whole(Seqno(15)), Seqno(10));
    snapshots.begin_own(Seqno(15));
    assert_eq!(
        at(&snapshots, 15),
        (10, 15),
        "of what was received nothing more comes"
    );
    assert_eq!(at(&snapshots, 17), (17, 17));
    let cut = snapshots.range_at(Seqno(19), Seqno(17), Seqno(23)).0;
    assert_eq!((cut.start, cut.end), (Seqno(17), Seqno(23)));
    let cut = snapshots.range_at(Seqno(16), Seqno(15), Seqno(23)).0;
    assert_eq!((cut.start, cut.end), (Seqno(10), Seqno(23)));
    assert_eq!(snapshots.newest_whole(Seqno(23)), Seqno(23));
    snapshots.end_own(Seqno(23));
    snapshots.begin_source(Seqno(23), Seqno(40), SnapshotKind::Memory);
    receive(&mut snapshots, 24..=30);
    assert_eq!(at(&snapshots, 30), (23, 40));
}

#[test]
fn an_active_vbucket_that_lost_part_of_a_checkpoint_branches_below_it() {
    let mut snapshots = stored(10, 20, 15, true);
    assert_eq!(snapshots.newest_whole(Seqno(15)), Seqno(10));
    snapshots.end_own(Seqno(15));
    assert_eq!(
        snapshots.newest_whole(Seqno(15)),
        Seqno(10),
        "nothing was written since"
    );
}

#[test]
fn forgetting_what_is_on_disk_changes_nothing_above() {
    let mut snapshots = stored(0, 0, 0, false);
    for end in 1..=9 {
        let high = Seqno(end * 10 - 10);
        snapshots.begin_source(high, Seqno(end * 10), SnapshotKind::Memory);
        receive(&mut snapshots, high.0 + 1..=end * 10);
    }
    let before: Vec<_> = (35..=90).map(|high| at(&snapshots, high)).collect();
    snapshots.forget(Seqno(35));
    let after: Vec<_> = (35..=90).map(|high| at(&snapshots, high)).collect();
    assert_eq!(before, after);
    assert!(snapshots.origins.len() < 8 && snapshots.whole.len() < 9);
}

#[test]
fn what_is_kept_is_bounded_however_many_snapshots_come_before_one_is_on_disk() {
    let last = 40_000u64;
    let mut snapshots = stored(0, 0, 0, false);
    let mut exact = stored(0, 0, 0, false);
    for begin in (0..last).step_by(4) {
        let (high, end) = (Seqno(begin), Seqno(begin + 4));
        snapshots.begin_source(high, end, SnapshotKind::Memory);
        receive(&mut snapshots, begin + 1..=begin + 4);
        exact
            .origins
            .push_back((high, Origin::Source(end, SnapshotKind::Memory)));
        exact.whole.push_back(end);
        assert!(snapshots.origins.len() <= KEPT_MAX && snapshots.whole.len() <= KEPT_MAX);
    }
    assert_eq!(snapshots.newest_whole(Seqno(last)), Seqno(last));
    let newest = Seqno(last);
    for high in (1..=last).step_by(97) {
        let high = Seqno(high);
        let (range, kind) = snapshots.range_at(high, high, newest);
        let (narrow, _) = exact.range_at(high, high, newest);
        assert!(
            range.start <= narrow.start && range.end >= narrow.end,
            "{high}"
        );
        assert!(range.start <= high && high <= range.end, "{high}");
        // What says that it is whole is.
        assert!(
            range.start != range.end || narrow.start == narrow.end,
            "{high}"
        );
        // What came whole from a source is told of for ever.
        let told = if range.end > high {
            SnapshotKind::Memory
        } else {
            SnapshotKind::Disk
        };
        assert_eq!(kind, told, "{high}");
    }
    assert_eq!(at(&snapshots, last), (last, last));
    snapshots.forget(Seqno(last));
    assert_eq!((snapshots.whole.len(), snapshots.origins.len()), (1, 1));
}

#[test]
fn kinds_that_take_turns_are_bounded_too() {
    let last = 40_000u64;
    let mut snapshots = stored(0, 0, 0, false);
    for begin in (0..last).step_by(4) {
        let (high, end) = (Seqno(begin), Seqno(begin + 4));
        let kinds = [SnapshotKind::Memory, SnapshotKind::Disk];
        snapshots.begin_source(high, end, kinds[usize::from(begin % 8 == 0)]);
        receive(&mut snapshots, begin + 1..=begin + 3);
        // Given up, and gone on with as its own now and then.
        if begin % 16 == 0 {
            snapshots.begin_own(Seqno(begin + 3));
            snapshots.end_own(Seqno(begin + 4));
        }
        assert!(snapshots.origins.len() <= KEPT_MAX && snapshots.whole.len() <= KEPT_MAX);
    }
    // The newest is as it came.
    let (range, kind) = snapshots.range_at(Seqno(last - 1), Seqno(last - 1), Seqno(last - 1));
    assert_eq!((range.end, kind), (Seqno(last), SnapshotKind::Memory));
    snapshots.forget(Seqno(last));
    assert!(snapshots.origins.len() <= 1 && snapshots.whole.len() <= 1);
}

#[derive(Clone, Debug)]
enum Came {
    /// A snapshot of so many items, of which so many came.
    Snapshot(SnapshotKind, u64, u64),
    /// So many own changes.
    Own(u64),
    /// Too many are kept.
    TooMany,
}

fn history() -> impl Strategy<Value = Vec<Came>> {
    let kind = prop::sample::select(vec![SnapshotKind::Memory, SnapshotKind::Disk]);
    let came = prop_oneof![
        6 => (kind, 1u64..5, 0u64..5).prop_map(|(kind, all, came)| Came::Snapshot(kind, all, came.min(all))),
        1 => (0u64..4).prop_map(Came::Own),
        3 => Just(Came::TooMany),
    ];
    prop::collection::vec(came, 0..40)
}

/// What came, kept whole and thinned; and how far it goes.
fn kept(history: &[Came]) -> (Snapshots, Snapshots, u64) {
    let (mut exact, mut thinned) = (stored(0, 0, 0, false), stored(0, 0, 0, false));
    let mut last = 0;
    for came in history {
        for one in [&mut exact, &mut thinned] {
            let high = Seqno(last);
            let was_own = matches!(one.origins.back(), Some((_, Origin::Own)));
            match came {
                Came::Snapshot(kind, all, came) => {
                    if was_own {
                        one.end_own(high);
                    }
                    one.begin_source(high, Seqno(last + all), *kind);
                    receive(one, last + 1..=last + came);
                }
                Came::Own(_) => one.begin_own(high),
                Came::TooMany => {}
            }
        }
        match came {
            Came::Snapshot(_, _, came) => last += came,
            Came::Own(changes) => last += changes,
            Came::TooMany => {
                thinned.thin_origins();
                thinned.thin_whole();
            }
        }
    }
    (exact, thinned, last)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever is made one, no more is said of it than of each: nothing is whole, or all of memory, or begins later, that was
    /// not so before.
    #[test]
    fn what_is_thinned_says_less(history in history()) {
        let (exact, thinned, last) = kept(&history);
        let newest = Seqno(last);
        for high in 1..=last {
            for settled in high.saturating_sub(3)..=high {
                let (narrow, kind_of_all) = exact.range_at(Seqno(high), Seqno(settled), newest);
                let (range, kind) = thinned.range_at(Seqno(high), Seqno(settled), newest);
                prop_assert!(range.start <= narrow.start, "{high}");
                prop_assert!(range.start <= Seqno(high) && Seqno(high) <= range.end, "{high}");
                prop_assert!(range.start != range.end || narrow.start == narrow.end, "{high}");
                // Any end above says that something is missing.
                let is_missing = narrow.end > Seqno(high);
                prop_assert!(!is_missing || range.end > Seqno(high), "{high}");
                // What is whole, and is not told so any more, need not be told of a disk.
                let is_disk = kind_of_all == SnapshotKind::Disk;
                let must_be = is_disk && (is_missing || range.end == Seqno(high));
                prop_assert!(!must_be || kind == SnapshotKind::Disk, "{high}");
            }
        }
        prop_assert!(thinned.newest_whole(newest) == exact.newest_whole(newest));
    }
}
