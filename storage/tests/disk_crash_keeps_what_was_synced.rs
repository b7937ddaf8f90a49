//! A power cut leaves every synced byte, and of the unsynced ones what a real disk could leave.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the tests themselves"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use piggin_storage::disk::{Disk, DiskFile, OpenMode, SimulatedDisk};

/// A disk with one file, durable as given.
fn disk_with(bytes: &[u8]) -> (SimulatedDisk, Arc<dyn DiskFile>) {
    let disk = SimulatedDisk::from_files([("a".to_owned(), bytes.to_vec())].into());
    let file = disk.open("a", OpenMode::Existing).unwrap();
    (disk, file)
}

fn content(disk: &SimulatedDisk) -> Vec<u8> {
    disk.files().remove("a").unwrap()
}

/// All contents that any of many seeds leaves.
fn outcomes(disk: &SimulatedDisk) -> BTreeSet<Vec<u8>> {
    (0..4000).map(|seed| content(&disk.crash(seed))).collect()
}

#[test]
fn synced_changes_are_always_there() {
    let (disk, file) = disk_with(&[1; 10_000]);
    file.write_at(&[2; 2000], 9000).unwrap();
    file.zero(0, 1000).unwrap();
    file.punch(4096, 4096).unwrap();
    file.truncate(10_500).unwrap();
    file.sync().unwrap();
    let expected = content(&disk);
    for seed in 0..100 {
        assert_eq!(content(&disk.crash(seed)), expected);
    }
}

#[test]
fn unsynced_changes_may_be_lost_or_kept() {
    let (disk, file) = disk_with(b"old");
    file.write_at(b"new!", 0).unwrap();
    assert_eq!(content(&disk.crash_losing_everything_unsynced()), b"old");
    assert_eq!(content(&disk.crash_keeping_everything()), b"new!");
    let outcomes = outcomes(&disk);
    assert!(outcomes.contains(&b"old"[..]) && outcomes.contains(&b"new!"[..]));
}

#[test]
fn a_write_may_be_torn_at_any_byte() {
    let (disk, file) = disk_with(b"........");
    file.write_at(b"abcdef", 1).unwrap();
    let torn = (0..=6).map(|kept| {
        let mut bytes = b"........".to_vec();
        bytes[1..=kept].copy_from_slice(&b"abcdef"[..kept]);
        bytes
    });
    assert_eq!(outcomes(&disk), torn.collect());
}

#[test]
fn any_choice_of_sectors_may_remain() {
    let (disk, file) = disk_with(&[0; 4 * 512]);
    // Not aligned: sectors are those of the file, not of the write.
    file.write_at(&[1; 3 * 512], 256).unwrap();
    let pieces = [256..512, 512..1024, 1024..1536, 1536..1792];
    let outcomes = outcomes(&disk);
    for choice in 0..16 {
        let mut bytes = vec![0; 4 * 512];
        for (number, piece) in pieces.iter().enumerate() {
            if choice & (1 << number) != 0 {
                bytes[piece.clone()].fill(1);
            }
        }
        assert!(outcomes.contains(&bytes), "choice {choice:04b}");
    }
}

#[test]
fn a_later_change_may_remain_without_an_earlier_one() {
    let (disk, file) = disk_with(&[0; 3 * 512]);
    file.write_at(&[1; 512], 0).unwrap();
    file.write_at(&[2; 512], 512).unwrap();
    file.truncate(1024).unwrap();
    let outcomes = outcomes(&disk);
    for (first, second, length) in [(0, 2, 1536), (1, 0, 1536), (0, 0, 1024), (0, 2, 1024)] {
        let mut bytes = vec![0; length];
        bytes[..512].fill(first);
        bytes[512..1024].fill(second);
        assert!(outcomes.contains(&bytes), "{first} {second} {length}");
    }
}

#[test]
fn the_length_may_remain_without_the_bytes() {
    let (disk, file) = disk_with(b"old");
    file.append(b"new").unwrap();
    let outcomes = outcomes(&disk);
    assert!(outcomes.contains(&b"old\0\0\0"[..]));
    assert!(
        outcomes
            .iter()
            .all(|bytes| bytes.starts_with(b"old") && bytes.len() <= 6)
    );
}

#[test]
fn files_are_cut_independently() {
    let disk = SimulatedDisk::new();
    for name in ["a", "b"] {
        disk.open(name, OpenMode::CreateNew).unwrap();
    }
    disk.sync_directory().unwrap();
    for name in ["a", "b"] {
        disk.open(name, OpenMode::Existing)
            .unwrap()
            .write_at(b"x", 0)
            .unwrap();
    }
    let lengths: BTreeSet<Vec<usize>> = (0..200)
        .map(|seed| disk.crash(seed).files().values().map(Vec::len).collect())
        .collect();
    assert_eq!(
        lengths,
        [vec![0, 0], vec![0, 1], vec![1, 0], vec![1, 1]].into()
    );
}

#[test]
fn a_crash_leaves_the_old_disk_alone() {
    let (disk, file) = disk_with(&[0; 10_000]);
    file.write_at(&[1; 5000], 100).unwrap();
    let before = content(&disk);
    let after = disk.crash_losing_everything_unsynced();
    after
        .open("a", OpenMode::Existing)
        .unwrap()
        .write_at(&[9; 9000], 0)
        .unwrap();
    assert_eq!(content(&disk), before);
    assert_eq!(
        content(&disk.crash_losing_everything_unsynced()),
        [0; 10_000]
    );
    file.write_at(&[2; 9000], 0).unwrap();
    assert_eq!(&content(&after)[..9000], [9; 9000]);
}

#[test]
fn two_power_cuts_in_a_row_keep_what_the_first_left() {
    let (disk, file) = disk_with(&[0; 2048]);
    file.write_at(&[1; 2048], 0).unwrap();
    for seed in 0..50 {
        let once = disk.crash(seed);
        assert_eq!(content(&once.crash(seed + 1)), content(&once));
    }
}
