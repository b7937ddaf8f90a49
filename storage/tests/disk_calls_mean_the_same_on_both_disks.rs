//! The real disk and the simulated one answer every call of the traits alike.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the tests themselves"
)]

mod temporary_directory;

use std::sync::Arc;

use piggin_storage::disk::{
    Disk, DiskError, DiskErrorKind, DiskFile, FileSystemDisk, OpenMode, SimulatedDisk, Verb,
};
use temporary_directory::TemporaryDirectory;

fn on_both_disks(promise: impl Fn(&dyn Disk)) {
    promise(&SimulatedDisk::new());
    let directory = TemporaryDirectory::new();
    promise(&FileSystemDisk::new(directory.path()).unwrap());
}

fn create(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(name, OpenMode::CreateNew).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn content(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0xaa; usize::try_from(file.length().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn error<T: std::fmt::Debug>(
    verb: Verb,
    file: &str,
    kind: DiskErrorKind,
    answer: Result<T, DiskError>,
) {
    assert_eq!(
        answer.unwrap_err(),
        DiskError {
            verb,
            file: file.to_owned(),
            kind
        }
    );
}

#[test]
fn what_is_written_is_read() {
    on_both_disks(|disk| {
        let file = create(disk, "a", b"hello world");
        file.write_at(b"W", 6).unwrap();
        assert_eq!(content(&*file), b"hello World");
        let mut part = [0; 5];
        file.read_at(&mut part, 6).unwrap();
        assert_eq!(&part, b"World");
        assert_eq!(file.append(b"!").unwrap(), 11);
        file.sync().unwrap();
        disk.sync_directory().unwrap();
        assert_eq!(
            content(&*disk.open("a", OpenMode::Existing).unwrap()),
            b"hello World!"
        );
    });
}

#[test]
fn a_write_beyond_the_end_leaves_zeros_between() {
    on_both_disks(|disk| {
        let file = create(disk, "a", b"x");
        file.write_at(b"y", 300_000).unwrap();
        let bytes = content(&*file);
        assert_eq!(bytes.len(), 300_001);
        assert_eq!((bytes[0], bytes[300_000]), (b'x', b'y'));
        assert!(bytes[1..300_000].iter().all(|&byte| byte == 0));
    });
}

#[test]
fn a_read_beyond_the_end_is_an_end_of_file() {
    on_both_disks(|disk| {
        let file = create(disk, "a", b"1234");
        let mut buffer = [0; 3];
        file.read_at(&mut buffer, 1).unwrap();
        error(
            Verb::Read,
            "a",
            DiskErrorKind::EndOfFile,
            file.read_at(&mut buffer, 2),
        );
        error(
            Verb::Read,
            "a",
            DiskErrorKind::EndOfFile,
            file.read_at(&mut buffer, 100),
        );
        file.read_at(&mut [], 100).unwrap();
    });
}

#[test]
fn an_empty_write_does_not_grow_the_file() {
    on_both_disks(|disk| {
        let file = create(disk, "a", b"");
        file.write_at(b"", 10).unwrap();
        file.zero(10, 0).unwrap();
        file.punch(10, 0).unwrap();
        assert_eq!(file.length().unwrap(), 0);
    });
}

#[test]
fn a_file_cut_and_grown_again_reads_as_zeros() {
    on_both_disks(|disk| {
        let file = create(disk, "a", &vec![7; 700_000]);
        file.truncate(5000).unwrap();
        assert_eq!(content(&*file), [7; 5000]);
        file.truncate(700_000).unwrap();
        let bytes = content(&*file);
        assert!(bytes[..5000].iter().all(|&byte| byte == 7));
        assert!(bytes[5000..].iter().all(|&byte| byte == 0));
    });
}

#[test]
fn zeroing_overwrites_and_grows() {
    on_both_disks(|disk| {
        let file = create(disk, "a", &vec![7; 20_000]);
        file.zero(100, 10_000).unwrap();
        let bytes = content(&*file);
        assert!(bytes[..100].iter().all(|&byte| byte == 7));
        assert!(bytes[100..10_100].iter().all(|&byte| byte == 0));
        assert!(bytes[10_100..].iter().all(|&byte| byte == 7));
        // More than the real disk writes at once.
        file.zero(20_000, 3_000_000).unwrap();
        assert_eq!(file.length().unwrap(), 3_020_000);
        assert!(content(&*file)[20_000..].iter().all(|&byte| byte == 0));
    });
}

#[test]
fn punching_keeps_the_length_and_the_bytes_around() {
    on_both_disks(|disk| {
        let file = create(disk, "a", &vec![7; 20_000]);
        file.punch(5000, 10_000).unwrap();
        file.punch(30_000, 10_000).unwrap();
        let bytes = content(&*file);
        assert_eq!(bytes.len(), 20_000);
        assert!(bytes[..5000].iter().all(|&byte| byte == 7));
        assert!(bytes[15_000..].iter().all(|&byte| byte == 7));
        // Where the file system cannot punch, the bytes are as before.
        let punched = &bytes[5000..15_000];
        assert!(punched.iter().all(|&byte| byte == 0) || punched.iter().all(|&byte| byte == 7));
    });
}

#[test]
fn opening_asks_for_what_is_there() {
    on_both_disks(|disk| {
        error(
            Verb::Open,
            "a",
            DiskErrorKind::NotFound,
            disk.open("a", OpenMode::Existing),
        );
        error(
            Verb::Open,
            "a",
            DiskErrorKind::NotFound,
            disk.open("a", OpenMode::ReadOnly),
        );
        create(disk, "a", b"kept");
        error(
            Verb::Open,
            "a",
            DiskErrorKind::Exists,
            disk.open("a", OpenMode::CreateNew),
        );
        assert_eq!(
            content(&*disk.open("a", OpenMode::Existing).unwrap()),
            b"kept"
        );
    });
}

#[test]
fn a_file_opened_to_read_cannot_be_changed() {
    on_both_disks(|disk| {
        create(disk, "a", b"kept");
        let file = disk.open("a", OpenMode::ReadOnly).unwrap();
        error(
            Verb::Write,
            "a",
            DiskErrorKind::ReadOnly,
            file.write_at(b"x", 0),
        );
        error(
            Verb::Truncate,
            "a",
            DiskErrorKind::ReadOnly,
            file.truncate(0),
        );
        error(Verb::Zero, "a", DiskErrorKind::ReadOnly, file.zero(0, 1));
        error(Verb::Punch, "a", DiskErrorKind::ReadOnly, file.punch(0, 1));
        file.sync().unwrap();
        assert_eq!(content(&*file), b"kept");
    });
}

#[test]
fn only_plain_names_are_taken() {
    on_both_disks(|disk| {
        let too_long = "n".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "/a",
            "../a",
            "a\0b",
            too_long.as_str(),
        ] {
            let refused = DiskErrorKind::Other("not a plain file name".to_owned());
            error(
                Verb::Open,
                name,
                refused.clone(),
                disk.open(name, OpenMode::CreateNew),
            );
            error(Verb::Rename, name, refused.clone(), disk.rename(name, "b"));
            error(Verb::Rename, name, refused.clone(), disk.rename("b", name));
            error(Verb::Remove, name, refused.clone(), disk.remove(name));
            error(Verb::Lock, name, refused, disk.lock(name));
        }
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    });
}

#[test]
fn names_are_listed_sorted() {
    on_both_disks(|disk| {
        for name in ["b", "a..b", "c-10", "c-9", "B"] {
            create(disk, name, b"");
        }
        assert_eq!(disk.list().unwrap(), ["B", "a..b", "b", "c-10", "c-9"]);
    });
}

#[test]
fn a_rename_replaces_its_target() {
    on_both_disks(|disk| {
        create(disk, "new", b"new");
        let old = create(disk, "target", b"old");
        disk.rename("new", "target").unwrap();
        assert_eq!(disk.list().unwrap(), ["target"]);
        assert_eq!(
            content(&*disk.open("target", OpenMode::Existing).unwrap()),
            b"new"
        );
        assert_eq!(content(&*old), b"old");
        disk.rename("target", "target").unwrap();
        assert_eq!(disk.list().unwrap(), ["target"]);
        error(
            Verb::Rename,
            "new",
            DiskErrorKind::NotFound,
            disk.rename("new", "target"),
        );
        error(
            Verb::Rename,
            "new",
            DiskErrorKind::NotFound,
            disk.rename("new", "new"),
        );
    });
}

#[test]
fn a_removed_file_stays_open() {
    on_both_disks(|disk| {
        let old = create(disk, "a", b"old");
        disk.remove("a").unwrap();
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
        error(Verb::Remove, "a", DiskErrorKind::NotFound, disk.remove("a"));
        let new = create(disk, "a", b"new");
        old.append(b"er").unwrap();
        old.sync().unwrap();
        assert_eq!(content(&*old), b"older");
        assert_eq!(content(&*new), b"new");
    });
}

#[test]
fn the_lock_is_held_by_one_guard() {
    on_both_disks(|disk| {
        let guard = disk.lock("lock").unwrap();
        assert_eq!(disk.list().unwrap(), ["lock"]);
        error(Verb::Lock, "lock", DiskErrorKind::Locked, disk.lock("lock"));
        let other = disk.lock("other").unwrap();
        drop(guard);
        drop(disk.lock("lock").unwrap());
        drop(other);
        assert_eq!(disk.list().unwrap(), ["lock", "other"]);
    });
}

/// Whether the file system gives space back; where not, punched bytes read as before.
fn can_punch(disk: &dyn Disk) -> bool {
    let file = create(disk, "probe", &[1; 4096]);
    file.punch(0, 4096).unwrap();
    disk.remove("probe").unwrap();
    content(&*file) == [0; 4096]
}

/// Long random histories: what a hand-written case forgets, such as a punch over the edge of a hole.
#[test]
fn random_calls_get_the_same_answers() {
    let directory = TemporaryDirectory::new();
    let real = FileSystemDisk::new(directory.path()).unwrap();
    let simulated = SimulatedDisk::new();
    let punches = can_punch(&real);
    let mut state = 1_u64;
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let names = ["a", "b", "c"];
    let mut open: Vec<(Arc<dyn DiskFile>, Arc<dyn DiskFile>)> = Vec::new();
    for step in 0..3000 {
        let name = names[usize::try_from(below(3)).unwrap()];
        match below(12) {
            0 | 1 => {
                let mode = if below(2) == 0 {
                    OpenMode::CreateNew
                } else {
                    OpenMode::Existing
                };
                match (real.open(name, mode), simulated.open(name, mode)) {
                    (Ok(real), Ok(simulated)) => open.push((real, simulated)),
                    (real, simulated) => assert_eq!(real.unwrap_err(), simulated.unwrap_err()),
                }
            }
            2 => assert_eq!(real.remove(name), simulated.remove(name)),
            3 => {
                let to = names[usize::try_from(below(3)).unwrap()];
                assert_eq!(real.rename(name, to), simulated.rename(name, to));
            }
            verb => {
                if open.is_empty() {
                    continue;
                }
                let index = usize::try_from(below(open.len() as u64)).unwrap();
                let (offset, length) = (below(400_000), below(40_000));
                let (real, simulated) = &open[index];
                match verb {
                    4..=6 => {
                        let data = vec![
                            u8::try_from(step % 251 + 1).unwrap();
                            usize::try_from(length).unwrap()
                        ];
                        assert_eq!(
                            real.write_at(&data, offset),
                            simulated.write_at(&data, offset)
                        );
                    }
                    7 => assert_eq!(real.zero(offset, length), simulated.zero(offset, length)),
                    8 if punches => {
                        assert_eq!(real.punch(offset, length), simulated.punch(offset, length));
                    }

                    9 => assert_eq!(real.truncate(offset), simulated.truncate(offset)),
                    8 => {}
                    10 => assert_eq!(real.sync(), simulated.sync()),
                    _ => drop(open.swap_remove(index)),
                }
            }
        }
        assert_eq!(real.list(), simulated.list());
        if step % 10 == 0 {
            for (real, simulated) in &open {
                assert_eq!(content(&**real), content(&**simulated), "step {step}");
            }
        }
    }
}
