//! Names are durable by a sync of the directory only; without it a power cut leaves the old or the new ones.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the tests themselves"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use piggin_storage::disk::{Disk, DiskFile, OpenMode, SimulatedDisk};

fn create_synced(disk: &SimulatedDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(name, OpenMode::CreateNew).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    file
}

fn outcomes(disk: &SimulatedDisk) -> BTreeSet<BTreeMap<String, Vec<u8>>> {
    (0..200).map(|seed| disk.crash(seed).files()).collect()
}

fn files<const N: usize>(files: [(&str, &[u8]); N]) -> BTreeMap<String, Vec<u8>> {
    files
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
        .collect()
}

#[test]
fn a_synced_file_may_lose_its_name() {
    let disk = SimulatedDisk::new();
    create_synced(&disk, "a", b"x");
    assert_eq!(outcomes(&disk), [files([]), files([("a", b"x")])].into());
    disk.sync_directory().unwrap();
    assert_eq!(outcomes(&disk), [files([("a", b"x")])].into());
}

#[test]
fn a_synced_directory_does_not_sync_its_files() {
    let disk = SimulatedDisk::new();
    disk.open("a", OpenMode::CreateNew)
        .unwrap()
        .write_at(b"x", 0)
        .unwrap();
    disk.sync_directory().unwrap();
    assert_eq!(
        disk.crash_losing_everything_unsynced().files(),
        files([("a", b"")])
    );
}

#[test]
fn a_rename_is_atomic() {
    let disk = SimulatedDisk::new();
    create_synced(&disk, "current", b"old");
    create_synced(&disk, "next", b"new");
    disk.sync_directory().unwrap();
    disk.rename("next", "current").unwrap();
    let before = files([("current", b"old"), ("next", b"new")]);
    let after = files([("current", b"new")]);
    assert_eq!(outcomes(&disk), [before, after.clone()].into());
    assert_eq!(disk.crash_keeping_everything().files(), after);
    disk.sync_directory().unwrap();
    assert_eq!(outcomes(&disk), [after].into());
}

#[test]
fn a_removed_file_may_return_as_it_was_synced() {
    let disk = SimulatedDisk::new();
    let file = create_synced(&disk, "a", b"x");
    disk.sync_directory().unwrap();
    disk.remove("a").unwrap();
    file.append(b"y").unwrap();
    file.sync().unwrap();
    assert_eq!(outcomes(&disk), [files([("a", b"xy")]), files([])].into());
    disk.sync_directory().unwrap();
    assert_eq!(outcomes(&disk), [files([])].into());
}

#[test]
fn changes_of_names_remain_in_their_order() {
    let disk = SimulatedDisk::new();
    create_synced(&disk, "a", b"1");
    disk.rename("a", "b").unwrap();
    create_synced(&disk, "a", b"2");
    disk.remove("b").unwrap();
    let expected = [
        files([]),
        files([("a", b"1")]),
        files([("b", b"1")]),
        files([("a", b"2"), ("b", b"1")]),
        files([("a", b"2")]),
    ];
    assert_eq!(outcomes(&disk), expected.into());
}

#[test]
fn locks_go_and_lock_files_stay() {
    let disk = SimulatedDisk::new();
    let guard = disk.lock("lock").unwrap();
    disk.sync_directory().unwrap();
    let after = disk.crash(1);
    assert_eq!(after.list().unwrap(), ["lock"]);
    let again = after.lock("lock").unwrap();
    drop(guard);
    after.lock("lock").unwrap_err();
    drop(again);
}
