//! The real disk is exactly one existing directory, for one store at a time.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the tests themselves"
)]

mod temporary_directory;

#[cfg(target_os = "linux")]
use std::os::unix::fs::MetadataExt;

use piggin_storage::disk::{Disk, DiskErrorKind, FileSystemDisk, OpenMode};
use temporary_directory::TemporaryDirectory;

fn kind<T: std::fmt::Debug>(answer: Result<T, piggin_storage::disk::DiskError>) -> DiskErrorKind {
    answer.unwrap_err().kind
}

#[test]
fn it_must_exist_and_be_a_directory() {
    let directory = TemporaryDirectory::new();
    let missing = directory.path().join("missing");
    assert_eq!(kind(FileSystemDisk::new(&missing)), DiskErrorKind::NotFound);
    let disk = FileSystemDisk::new(directory.path()).unwrap();
    disk.open("file", OpenMode::CreateNew).unwrap();
    let file = directory.path().join("file");
    assert_eq!(
        kind(FileSystemDisk::new(&file)),
        DiskErrorKind::NotADirectory
    );
    assert_eq!(
        kind(FileSystemDisk::create(&file)),
        DiskErrorKind::NotADirectory
    );
}

#[test]
fn it_can_be_created_once_or_again() {
    let directory = TemporaryDirectory::new();
    let path = directory.path().join("store");
    let disk = FileSystemDisk::create(&path).unwrap();
    disk.open("file", OpenMode::CreateNew).unwrap();
    let again = FileSystemDisk::create(&path).unwrap();
    assert_eq!(again.list().unwrap(), ["file"]);
    let orphan = directory.path().join("missing").join("store");
    assert_eq!(
        kind(FileSystemDisk::create(orphan)),
        DiskErrorKind::NotFound
    );
}

#[test]
fn two_disks_of_one_process_do_not_share_the_lock() {
    let directory = TemporaryDirectory::new();
    let one = FileSystemDisk::new(directory.path()).unwrap();
    let two = FileSystemDisk::new(directory.path()).unwrap();
    let guard = one.lock("lock").unwrap();
    assert_eq!(kind(two.lock("lock")), DiskErrorKind::Locked);
    drop(guard);
    two.lock("lock").unwrap();
}

#[test]
fn what_is_no_plain_file_is_neither_listed_nor_opened() {
    let directory = TemporaryDirectory::new();
    let disk = FileSystemDisk::new(directory.path()).unwrap();
    disk.open("file", OpenMode::CreateNew).unwrap();
    std::fs::create_dir(directory.path().join("folder")).unwrap();
    std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
    assert_eq!(disk.list().unwrap(), ["file"]);
    for name in ["folder", "link"] {
        for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
            assert!(matches!(
                kind(disk.open(name, mode)),
                DiskErrorKind::Other(_)
            ));
        }
    }
}

#[test]
fn it_follows_its_directory_when_that_is_moved() {
    let directory = TemporaryDirectory::new();
    let path = directory.path().join("before");
    let disk = FileSystemDisk::create(&path).unwrap();
    disk.open("file", OpenMode::CreateNew).unwrap();
    let moved = FileSystemDisk::new(directory.path()).unwrap();
    moved.rename("before", "after").unwrap();
    FileSystemDisk::create(&path).unwrap();
    disk.open("file", OpenMode::Existing).unwrap();
    assert_eq!(disk.list().unwrap(), ["file"]);
}

#[test]
#[cfg(target_os = "linux")]
fn punching_gives_space_back() {
    let directory = TemporaryDirectory::new();
    let disk = FileSystemDisk::new(directory.path()).unwrap();
    let file = disk.open("file", OpenMode::CreateNew).unwrap();
    let blocks = || {
        std::fs::metadata(directory.path().join("file"))
            .unwrap()
            .blocks()
    };
    file.write_at(&vec![1; 1 << 20], 0).unwrap();
    file.sync().unwrap();
    let written = blocks();
    file.punch(0, 1 << 20).unwrap();
    file.sync().unwrap();
    assert!(blocks() < written);
    assert_eq!(file.length().unwrap(), 1 << 20);
}
