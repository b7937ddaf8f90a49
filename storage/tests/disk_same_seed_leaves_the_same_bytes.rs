//! The simulated disk is deterministic: the same calls and the same seed leave the same bytes and the same trace.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the tests themselves"
)]

use std::collections::BTreeSet;

use piggin_storage::disk::{Disk, Fault, OpenMode, SimulatedDisk, SyncFailure};

/// Much of everything, faults included, all of it unsynced at the end in some file.
fn busy_disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    disk.inject(Fault::failed_sync(SyncFailure::DropsPages).of_files("file-3"));
    disk.inject(Fault::short_write(700, piggin_storage::disk::DiskErrorKind::Full).nth(5));
    for number in 0..8_u8 {
        let name = format!("file-{number}");
        let file = disk.open(&name, OpenMode::CreateNew).unwrap();
        for round in 0..6_u8 {
            let at = u64::from(round) * 3000;
            let written = file.write_at(&[number * 16 + round + 1; 5000], at);
            assert!(written.is_ok() || disk.faults_waiting() <= 1);
        }
        file.zero(2000, 600).unwrap();
        if number % 3 == 0 {
            let synced = file.sync();
            assert_eq!(synced.is_err(), number == 3);
        }
        file.write_at(&[0xff; 2000], 18_000).unwrap();
        if number == 4 {
            disk.sync_directory().unwrap();
            disk.rename("file-1", "file-2").unwrap();
        }
    }
    disk.remove("file-0").unwrap();
    disk
}

#[test]
fn the_same_seed_leaves_the_same() {
    let (one, two) = (busy_disk(), busy_disk());
    assert_eq!(one.trace(), two.trace());
    assert_eq!(one.files(), two.files());
    for seed in 0..100 {
        assert_eq!(one.crash(seed).files(), two.crash(seed).files());
        assert_eq!(one.crash(seed).files(), one.crash(seed).files());
    }
}

#[test]
fn other_seeds_leave_other_things() {
    let disk = busy_disk();
    let left: BTreeSet<_> = (0..100).map(|seed| disk.crash(seed).files()).collect();
    assert!(left.len() > 90);
}
