//! From the call on at which the power is cut nothing is done, and a new disk shows what was left.

use std::collections::BTreeSet;

use piggin_storage::disk::{Disk, DiskError, DiskErrorKind, Fault, OpenMode, SimulatedDisk};

/// Ten mutating calls, between them some that only look.
fn work(disk: &SimulatedDisk) -> Result<(), DiskError> {
    let _guard = disk.lock("lock")?;
    let file = disk.open("next", OpenMode::CreateNew)?;
    file.zero(0, 1000)?;
    file.write_at(&[1; 1000], 0)?;
    file.length()?;
    file.sync()?;
    file.punch(0, 10)?;
    file.truncate(900)?;
    disk.list()?;
    file.sync()?;
    disk.rename("next", "current")?;
    disk.sync_directory()
}

#[test]
fn every_mutating_call_can_be_the_last() {
    let disk = SimulatedDisk::new();
    work(&disk).unwrap();
    let calls = disk.mutating_calls();
    assert_eq!(calls, 10);
    for n in 1..=calls + 1 {
        let disk = SimulatedDisk::new();
        disk.cut_power_at_call(n);
        let answer = work(&disk);
        if n > calls {
            answer.unwrap();
            continue;
        }
        assert_eq!(answer.unwrap_err().kind, DiskErrorKind::PowerCut);
        assert_eq!(disk.mutating_calls(), n);
        assert_eq!(disk.list().unwrap_err().kind, DiskErrorKind::PowerCut);
        assert_eq!(
            disk.crash(n).list().unwrap().len(),
            disk.crash(n).files().len()
        );
    }
}

#[test]
fn nothing_works_afterwards() {
    let disk = SimulatedDisk::from_files([("a".to_owned(), b"old".to_vec())].into());
    let file = disk.open("a", OpenMode::Existing).unwrap();
    disk.cut_power_at_call(1);
    file.read_at(&mut [0], 0).unwrap();
    assert_eq!(
        disk.sync_directory().unwrap_err().kind,
        DiskErrorKind::PowerCut
    );
    let answers = [
        file.read_at(&mut [0], 0),
        file.write_at(b"x", 0),
        file.sync(),
        file.length().map(drop),
        file.truncate(0),
        file.zero(0, 1),
        file.punch(0, 1),
        disk.open("a", OpenMode::ReadOnly).map(drop),
        disk.rename("a", "b"),
        disk.remove("a"),
        disk.list().map(drop),
        disk.sync_directory(),
        disk.lock("lock").map(drop),
    ];
    for answer in answers {
        assert_eq!(answer.unwrap_err().kind, DiskErrorKind::PowerCut);
    }
    for seed in 0..20 {
        assert_eq!(disk.crash(seed).files(), disk.files());
    }
    assert_eq!(disk.files()["a"], b"old");
}

#[test]
fn the_write_struck_may_remain_in_part() {
    let disk = SimulatedDisk::from_files([("a".to_owned(), b"...".to_vec())].into());
    let file = disk.open("a", OpenMode::Existing).unwrap();
    disk.cut_power_at_call(1);
    assert_eq!(
        file.write_at(b"abc", 0).unwrap_err().kind,
        DiskErrorKind::PowerCut
    );
    let left: BTreeSet<_> = (0..500)
        .map(|seed| disk.crash(seed).files()["a"].clone())
        .collect();
    let expected = ["...", "a..", "ab.", "abc"].map(|bytes| bytes.as_bytes().to_vec());
    assert_eq!(left, expected.into());
}

#[test]
fn the_sync_struck_makes_nothing_durable() {
    let disk = SimulatedDisk::from_files([("a".to_owned(), b"...".to_vec())].into());
    let file = disk.open("a", OpenMode::Existing).unwrap();
    file.write_at(b"abc", 0).unwrap();
    disk.cut_power_at_call(1);
    assert_eq!(file.sync().unwrap_err().kind, DiskErrorKind::PowerCut);
    assert_eq!(disk.crash_losing_everything_unsynced().files()["a"], b"...");
    assert_eq!(disk.crash_keeping_everything().files()["a"], b"abc");
}

#[test]
fn the_disk_afterwards_has_power_and_no_faults() {
    let disk = SimulatedDisk::new();
    disk.inject(Fault::failed_call(DiskErrorKind::Full).lasting());
    disk.set_space_limit(Some(0));
    disk.set_read_only(true);
    disk.cut_power_at_call(1);
    assert_eq!(
        disk.sync_directory().unwrap_err().kind,
        DiskErrorKind::PowerCut
    );
    let after = disk.crash(1);
    assert_eq!((after.calls(), after.faults_waiting()), (0, 0));
    work(&after).unwrap();
}
