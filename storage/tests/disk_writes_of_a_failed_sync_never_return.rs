//! What a failed sync lost stays lost: no later sync of the file makes it durable, and no power cut brings it back.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the tests themselves"
)]

use std::sync::Arc;

use piggin_storage::disk::{Disk, DiskFile, Fault, OpenMode, SimulatedDisk, SyncFailure, Verb};

/// A file whose "old" is durable and whose "lost" was in a sync that failed.
fn after_failed_sync(failure: SyncFailure) -> (SimulatedDisk, Arc<dyn DiskFile>) {
    let disk = SimulatedDisk::new();
    let file = disk.open("a", OpenMode::CreateNew).unwrap();
    file.write_at(b"old.....", 0).unwrap();
    file.sync().unwrap();
    disk.sync_directory().unwrap();
    file.write_at(b"lost", 2).unwrap();
    file.append(b"lost").unwrap();
    disk.inject(Fault::failed_sync(failure));
    assert_eq!(file.sync().unwrap_err().verb, Verb::Sync);
    (disk, file)
}

fn content(disk: &SimulatedDisk) -> Vec<u8> {
    disk.files().remove("a").unwrap()
}

#[test]
fn reads_find_the_new_bytes_or_the_old() {
    let (disk, _) = after_failed_sync(SyncFailure::KeepsPages);
    assert_eq!(content(&disk), b"ollost..lost");
    let (disk, _) = after_failed_sync(SyncFailure::DropsPages);
    assert_eq!(content(&disk), b"old.....");
}

#[test]
fn a_later_sync_makes_only_later_writes_durable() {
    for failure in [SyncFailure::KeepsPages, SyncFailure::DropsPages] {
        let (disk, file) = after_failed_sync(failure);
        file.sync().unwrap();
        assert_eq!(content(&disk.crash_keeping_everything()), b"old.....");
        file.write_at(b"new", 5).unwrap();
        file.sync().unwrap();
        for seed in 0..50 {
            assert_eq!(content(&disk.crash(seed)), b"old..new");
        }
        assert_eq!(
            content(&disk.crash_losing_everything_unsynced()),
            b"old..new"
        );
    }
}

#[test]
fn a_power_cut_finds_none_of_them() {
    for failure in [SyncFailure::KeepsPages, SyncFailure::DropsPages] {
        let (disk, _) = after_failed_sync(failure);
        for seed in 0..50 {
            assert_eq!(content(&disk.crash(seed)), b"old.....");
        }
    }
}

/// The other outcome of a failed sync: nothing was lost, the writes may even be on the disk.
#[test]
fn a_sync_that_merely_failed_leaves_them_waiting() {
    let disk = SimulatedDisk::new();
    let file = disk.open("a", OpenMode::CreateNew).unwrap();
    disk.sync_directory().unwrap();
    file.write_at(b"new", 0).unwrap();
    disk.fail_call(1, piggin_storage::disk::DiskErrorKind::Full);
    file.sync().unwrap_err();
    assert_eq!(content(&disk.crash_keeping_everything()), b"new");
    assert_eq!(content(&disk.crash_losing_everything_unsynced()), b"");
    file.sync().unwrap();
    assert_eq!(content(&disk.crash_losing_everything_unsynced()), b"new");
}
