//! A store written by an earlier program opens, holds what it held, and damage in it is named.
//!
//! The folders are described in `storage/fixtures/README.md`. To write those of the present format anew:
//! `cargo run -p piggin-storage --example write_fixtures -- storage/fixtures/v1`.
#![cfg(test)]

mod fixture_stores;

use std::path::PathBuf;
use std::sync::Arc;

use fixture_stores::{FOLDERS, expected, make, options, read, tell, told};
use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{KvStore, LogStore, StorageError, VbucketId};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/v1")
        .join(name)
}

/// The part of a told store that is about one vbucket.
fn about(told: &str, vbucket: u16) -> String {
    let mut lines = told.lines().skip_while(|line| {
        let own = format!("vbucket {vbucket}");
        !line
            .strip_prefix(&own)
            .is_some_and(|rest| rest.starts_with([':', ' ']))
    });
    let mut part: Vec<&str> = lines.next().into_iter().collect();
    part.extend(lines.take_while(|line| line.starts_with(' ')));
    part.join("\n")
}

/// Why a vbucket is down: file and offset.
fn why_down(name: &str, vbucket: u16) -> (String, u64) {
    let (files, _) = read(&folder(name)).unwrap();
    let disk = SimulatedDisk::from_files(files);
    let store = LogStore::open(Arc::new(disk), options(9)).unwrap();
    let vbucket = VbucketId::new(vbucket).unwrap();
    match store.snapshot(vbucket) {
        Err(StorageError::VbucketDown { cause, .. }) => {
            let StorageError::Corruption { file, offset, .. } = &*cause else {
                panic!("{cause}");
            };
            (file.clone(), *offset)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn todays_bytes_are_those_of_the_clean_folder() {
    let (committed, _) = read(&folder("clean")).unwrap();
    let made = make("clean").unwrap();
    let names = |files: &fixture_stores::Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&committed));
    for (name, bytes) in &made {
        let differs = bytes.iter().zip(&committed[name]).position(|(a, b)| a != b);
        assert!(
            *bytes == committed[name],
            "{name} differs from byte {differs:?} on: see storage/fixtures/README.md"
        );
    }
}

#[test]
fn every_folder_says_what_is_written_beside_it() {
    for name in FOLDERS {
        let (files, content) = read(&folder(name)).unwrap();
        assert_eq!(told(&files).unwrap(), content, "{name}");
    }
}

#[test]
fn clean_and_crashed_hold_everything() {
    for name in ["clean", "crashed"] {
        let (files, _) = read(&folder(name)).unwrap();
        assert_eq!(told(&files).unwrap(), expected(name).unwrap(), "{name}");
    }
}

#[test]
fn of_a_torn_tail_only_the_torn_batch_is_gone() {
    let (files, _) = read(&folder("torn_tail")).unwrap();
    assert_eq!(told(&files).unwrap(), expected("torn_tail").unwrap());
    assert_ne!(expected("torn_tail").unwrap(), expected("clean").unwrap());
}

#[test]
fn a_corrupt_segment_takes_its_vbucket_down_and_no_other() {
    let (_, content) = read(&folder("corrupt_segment")).unwrap();
    let whole = expected("clean").unwrap();
    let (file, offset) = why_down("corrupt_segment", 0);
    assert!(file.starts_with("container.00."), "{file}");
    assert!(offset > 4096, "{offset}");
    for vbucket in 1..4 {
        assert_eq!(about(&content, vbucket), about(&whole, vbucket));
    }
}

#[test]
fn a_corrupt_log_takes_down_whom_it_concerns() {
    let (_, content) = read(&folder("corrupt_log")).unwrap();
    let whole = expected("clean").unwrap();
    let (file, offset) = why_down("corrupt_log", 3);
    assert!(file.starts_with("log.01."), "{file}");
    assert_eq!(offset % 64, 0, "the offset of a frame");
    for vbucket in 0..3 {
        assert_eq!(about(&content, vbucket), about(&whole, vbucket));
    }
}

#[test]
fn an_old_store_is_written_on_and_closed() {
    for name in FOLDERS {
        let (files, content) = read(&folder(name)).unwrap();
        let disk = SimulatedDisk::from_files(files);
        let open = |entropy| LogStore::open(Arc::new(disk.clone()), options(entropy)).unwrap();
        open(10).close().unwrap();
        let again = open(11);
        assert_eq!(
            tell(&again).unwrap(),
            content,
            "{name}: closed and opened again"
        );
    }
}
