//! A fault says whether the bytes are known to be damaged, or the file is not there, or the disk did not tell: only the first
//! is a reason to give anything up.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use piggin_storage::disk::{DiskErrorKind, Fault as DiskFault, SimulatedDisk, Verb};
use piggin_storage::log_store::{Fault, FaultKind};
use piggin_storage::{CreateOptions, KvStore, LogStore, OpenOptions, Outcome, Seqno};

use support::log_store::{names, small_options};
use support::{Writer, mutation};

const SHAPE: CreateOptions = CreateOptions::of(2, 1);

fn options(entropy: u64) -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 16 << 10,
        log_file_bytes_max: 32 << 10,
        unsealed_bytes: 1 << 20,
        ..small_options(entropy)
    }
}

/// Segments, and a log of several files that are all needed.
fn filled() -> BTreeMap<String, Vec<u8>> {
    let disk = SimulatedDisk::new();
    let store = LogStore::create(Arc::new(disk.clone()), SHAPE, options(1)).unwrap();
    let shared: Arc<dyn KvStore> = Arc::new(store.clone());
    let mut writers = [0, 1].map(|number| Writer::create(&shared, number));
    let value = "v".repeat(3000);
    for writer in &mut writers {
        writer.write(vec![mutation(1, "a", &value)]);
        writer.seal(Seqno::ZERO);
    }
    store.checkpoint().unwrap();
    for seqno in 2..60 {
        for writer in &mut writers {
            writer.write(vec![mutation(seqno, "b", &value)]);
        }
    }
    store.checkpoint().unwrap();
    drop((writers, shared, store));
    assert!(names(&disk, "log.").len() > 3);
    disk.files()
}

fn faults_on(disk: &SimulatedDisk) -> Vec<Fault> {
    let store = LogStore::open(Arc::new(disk.clone()), options(2)).unwrap();
    store.verify().faults
}

/// Something is wrong, with this file among others, and nothing of another kind.
fn assert_all(faults: &[Fault], kind: FaultKind, file: &str) {
    assert!(faults.iter().any(|fault| fault.file == file), "{faults:?}");
    let is_it = |fault: &Fault| fault.kind == kind;
    assert!(faults.iter().all(is_it), "{kind:?}: {faults:?}");
}

#[test]
fn bytes_that_are_not_what_was_written_are_damage() {
    let files = filled();
    for name in files.keys().filter(|name| name.starts_with("container")) {
        let disk = SimulatedDisk::from_files(files.clone());
        disk.flip_bit(name, 4096 + 60, 1).unwrap();
        assert_all(&faults_on(&disk), FaultKind::Damage, name);
        let mut cut = files.clone();
        cut.get_mut(name).unwrap().truncate(4096 + 60);
        let disk = SimulatedDisk::from_files(cut);
        assert_all(&faults_on(&disk), FaultKind::Damage, name);
    }
}

#[test]
fn a_file_that_is_not_there_is_missing() {
    let files = filled();
    let needed = |name: &&String| name.starts_with("container") || name.starts_with("log.");
    let mut missing = 0;
    for name in files.keys().filter(needed) {
        let disk = SimulatedDisk::from_files(files.clone());
        disk.remove_underneath(name).unwrap();
        let faults = faults_on(&disk);
        if !faults.is_empty() {
            assert_all(&faults, FaultKind::Missing, name);
            let mut vbuckets = faults.iter().flat_map(|fault| &fault.vbuckets);
            assert!(vbuckets.next().is_some(), "{faults:?}");
            missing += 1;
        }
    }
    // One is prepared, and nothing in it.
    assert!(missing >= 4, "{missing}");
}

/// Files of the log that begin behind frame 1, all of it sealed.
fn moved_on() -> BTreeMap<String, Vec<u8>> {
    let disk = SimulatedDisk::from_files(filled());
    let store = LogStore::open(Arc::new(disk.clone()), options(3)).unwrap();
    let outcome = store.seal_all(Seqno::ZERO);
    assert!(matches!(outcome, Outcome::Complete(())), "{outcome:?}");
    store.checkpoint().unwrap();
    for _ in 0..20 {
        let outcome = store.maintain();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    }
    drop(store);
    let first = names(&disk, "log.").remove(0);
    assert!(!first.ends_with("0000000001"), "{first}");
    disk.files()
}

/// Nothing else says what the containers hold: it is named, no file the store removed itself, and none is removed for it.
#[test]
fn a_manifest_that_is_not_there_is_missing_and_nothing_is_removed() {
    let files = moved_on();
    let is_log = |name: &str| name.starts_with("log.");
    let is_manifest = |name: &str| name.starts_with("manifest");
    let oldest = files.keys().find(|name| is_log(name)).unwrap();
    let without = |is_gone: &dyn Fn(&str) -> bool| {
        let kept = files.iter().filter(|(name, _)| !is_gone(name));
        let kept = kept.map(|(name, bytes)| (name.clone(), bytes.clone()));
        SimulatedDisk::from_files(kept.collect())
    };
    let disks = [
        without(&is_manifest),
        without(&|name| is_manifest(name) || is_log(name)),
        without(&is_manifest),
    ];
    // The header of the oldest file: nobody can say where it begins.
    disks[2].flip_bit(oldest, 20, 1).unwrap();
    for (number, disk) in disks.iter().enumerate() {
        let before = disk.files();
        let faults = faults_on(disk);
        assert_all(&faults, FaultKind::Missing, "manifest.00.*");
        let vbuckets = faults.iter().flat_map(|fault| &fault.vbuckets);
        assert_eq!(vbuckets.count(), 2, "{number}: {faults:?}");
        assert!(faults.len() == 1, "{number}: {faults:?}");
        assert!(disk.files() == before, "{number}: changed");
    }
    let mut back = disks[0].files();
    let manifest = files.iter().find(|(name, _)| is_manifest(name)).unwrap();
    back.insert(manifest.0.clone(), manifest.1.clone());
    assert_eq!(faults_on(&SimulatedDisk::from_files(back)), []);
}

#[test]
fn what_the_disk_does_not_tell_is_no_damage() {
    let files = filled();
    let container = files.keys().find(|name| name.starts_with("container"));
    let container = container.unwrap();
    let broken = || DiskErrorKind::Other("broken".to_owned());
    for (verb, kind) in [
        (Verb::Open, DiskErrorKind::PermissionDenied),
        (Verb::Open, broken()),
        (Verb::Read, broken()),
    ] {
        let disk = SimulatedDisk::from_files(files.clone());
        let fault = DiskFault::failed_call(kind).on(verb).of_files(container);
        disk.inject(fault.clone().lasting());
        assert_all(&faults_on(&disk), FaultKind::Unreadable, container);
        disk.clear_faults();
        assert_eq!(faults_on(&disk), []);
        // Found by reading what could be opened.
        let store = LogStore::open(Arc::new(disk.clone()), options(3)).unwrap();
        disk.inject(fault.lasting());
        let faults = store.verify().faults;
        if verb == Verb::Read {
            assert_all(&faults, FaultKind::Unreadable, container);
        }
    }
}
