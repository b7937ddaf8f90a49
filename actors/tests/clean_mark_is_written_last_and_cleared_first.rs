//! The mark of a clean shutdown: whatever call fails while it is written or cleared, it never calls clean what is not
//! (MB-45756, MB-46310).
#![cfg(test)]

use piggin_actors::warmup::CleanMark;
use storage::disk::{Disk, DiskErrorKind, OpenMode, SimulatedDisk};
use storage::{Incarnation, RollbackEpoch, Seqno, VbucketId, VbucketPosition, VbucketStatus};

fn position(high: u64) -> VbucketPosition {
    VbucketPosition {
        incarnation: Incarnation(3),
        epoch: RollbackEpoch(1),
        high_seqno: Seqno(high),
    }
}

fn statuses() -> Vec<VbucketStatus> {
    (0..1024)
        .map(|id| VbucketStatus {
            vbucket: VbucketId::new(id).unwrap(),
            position: Ok(position(u64::MAX - u64::from(id))),
        })
        .collect()
}

fn is_clean(disk: &SimulatedDisk, id: u16, high: u64) -> bool {
    CleanMark::read(disk).is_clean(VbucketId::new(id).unwrap(), &position(high))
}

#[test]
fn what_is_written_is_read_for_exactly_that_position() {
    let disk = SimulatedDisk::new();
    CleanMark::write(&disk, &statuses()).unwrap();
    let disk = disk.crash_losing_everything_unsynced();
    for id in (0..1024).step_by(93) {
        assert!(is_clean(&disk, id, u64::MAX - u64::from(id)));
        assert!(!is_clean(&disk, id, 5));
    }
    CleanMark::clear(&disk).unwrap();
    assert!(!is_clean(
        &disk.crash_losing_everything_unsynced(),
        0,
        u64::MAX
    ));
}

#[test]
fn a_mark_that_was_cleared_never_comes_back() {
    for n in 1..4 {
        for seed in 0..20 {
            let disk = SimulatedDisk::new();
            CleanMark::write(&disk, &statuses()).unwrap();
            disk.fail_call(n, DiskErrorKind::Other("broken".into()));
            if CleanMark::clear(&disk).is_ok() {
                assert!(
                    !is_clean(&disk.crash(seed), 0, u64::MAX),
                    "call {n}, seed {seed}"
                );
            }
        }
    }
}

/// The name may be gone from memory and be on the disk still: clearing makes sure, also when it finds nothing.
#[test]
fn a_mark_that_is_not_seen_is_cleared_durably() {
    let disk = SimulatedDisk::new();
    CleanMark::write(&disk, &statuses()).unwrap();
    disk.remove("piggin.clean").unwrap();
    CleanMark::clear(&disk).unwrap();
    assert!(!is_clean(
        &disk.crash_losing_everything_unsynced(),
        0,
        u64::MAX
    ));
}

#[test]
fn a_mark_is_whole_or_not_there() {
    for n in 1..12 {
        for seed in 0..20 {
            let disk = SimulatedDisk::new();
            disk.cut_power_at_call(n);
            let written = CleanMark::write(&disk, &statuses());
            let after = disk.crash(seed);
            let mark = CleanMark::read(&after);
            let is_clean = |status: &&VbucketStatus| {
                let position = status.position.as_ref().unwrap();
                mark.is_clean(status.vbucket, position)
            };
            let clean = statuses().iter().filter(is_clean).count();
            assert!(
                clean == 0 || clean == 1024,
                "call {n}, seed {seed}: {clean}"
            );
            if written.is_ok() {
                assert_eq!(clean, 1024);
            }
        }
    }
}

#[test]
fn a_damaged_mark_calls_nothing_clean_that_is_not() {
    let disk = SimulatedDisk::new();
    let few = statuses().split_off(1020);
    CleanMark::write(&disk, &few).unwrap();
    let length = disk
        .open("piggin.clean", OpenMode::ReadOnly)
        .unwrap()
        .length()
        .unwrap();
    for offset in 0..length {
        for bit in 0..8 {
            let damaged = disk.crash_losing_everything_unsynced();
            damaged.flip_bit("piggin.clean", offset, bit).unwrap();
            // A flipped digit may name another position; it is never the one the store is at beside the right one.
            let mark = CleanMark::read(&damaged);
            let named = (1020..1024u16).filter(|id| {
                let id = VbucketId::new(*id).unwrap();
                [0, 5, u64::MAX]
                    .iter()
                    .any(|high| mark.is_clean(id, &position(*high)))
            });
            assert_eq!(named.count(), 0, "bit {bit} at {offset}");
        }
    }
}
