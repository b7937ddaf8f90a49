//! A scan that could not read everything fails, stays failed, and never proves completeness.
//!
//! MB-47790: the end of a scan that had met an error was taken for the end of the data, and a stream was told that it
//! had everything. MB-47933: so was the warmup, to which keys not read did not exist.
#![cfg(test)]

mod support;

use std::ops::ControlFlow;

use piggin_storage::disk::{SimulatedDisk, Verb};
use piggin_storage::{
    ItemView, KeyRange, KvStore, Namespace, Outcome, Scan, Seqno, SeqnoRange, Snapshot,
    StorageError,
};
use support::log_store::{create_on, failing, image, names, open_on, small_options};
use support::{Writer, drain, mutation, prepare, vbucket};

/// Several blocks and index pages in two segments, then unsealed items.
fn fill(writer: &mut Writer) {
    let value = "v".repeat(600);
    for round in 0..3 {
        let seqnos = round * 20 + 1..=round * 20 + 20;
        let item = |seqno| match seqno % 5 {
            0 => prepare(seqno, &format!("p{seqno}"), &value),
            _ => mutation(seqno, &format!("k{seqno}"), &value),
        };
        writer.write(seqnos.map(item).collect());
        if round < 2 {
            writer.seal(Seqno::ZERO);
        }
    }
}

fn scans(snapshot: &dyn Snapshot) -> [Box<dyn Scan>; 3] {
    [
        snapshot.scan_by_seqno(SeqnoRange::ALL),
        snapshot.scan_by_key(KeyRange::all(Namespace::Committed)),
        snapshot.scan_by_key(KeyRange::all(Namespace::Prepared)),
    ]
}

fn assert_stays_failed(scan: &mut dyn Scan, cause: &StorageError) {
    let mut visit = |view: ItemView<'_>| -> ControlFlow<()> {
        panic!("a failed scan visited {view:?}");
    };
    for bytes_max in [1, usize::MAX] {
        let again = scan.step(bytes_max, &mut visit);
        assert_eq!(again, Outcome::Failed(cause.clone()));
    }
}

/// Also MB-52699: an iterator that ended early on an error was at its end.
#[test]
fn whichever_read_fails() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create_on(&disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    fill(&mut writer);
    drop((writer, shared, store));
    let mut struck = [0; 3];
    for (kind, struck) in struck.iter_mut().enumerate() {
        for n in 1.. {
            // Opened anew, so that nothing is in memory yet.
            let store = open_on(&disk, n + 1);
            let snapshot = store.snapshot(vbucket(0)).unwrap();
            disk.inject(failing(Verb::Read, "container").nth(n));
            let mut scan = scans(snapshot.as_ref()).into_iter().nth(kind).unwrap();
            let (_, ended) = drain(scan.as_mut(), 2000, usize::MAX);
            let has_struck = disk.faults_waiting() == 0;
            disk.clear_faults();
            if !has_struck {
                assert!(matches!(ended, Outcome::Complete(_)), "{ended:?}");
                break;
            }
            *struck += 1;
            let Outcome::Failed(cause) = ended else {
                panic!("read {n} failed, the scan ended as {ended:?}");
            };
            assert!(matches!(cause, StorageError::Disk(_)), "{cause:?}");
            assert_stays_failed(scan.as_mut(), &cause);
            // The next scan is not harmed by it.
            for mut scan in scans(snapshot.as_ref()) {
                let (_, ended) = drain(scan.as_mut(), 2000, usize::MAX);
                assert!(matches!(ended, Outcome::Complete(_)), "{ended:?}");
            }
        }
    }
    assert!(struck.iter().all(|reads| *reads > 1), "{struck:?}");
}

/// MB-52160, MB-62727: a value that did not decompress or decode was passed over.
#[test]
fn whichever_record_is_damaged() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create_on(&disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    fill(&mut writer);
    let whole = image(&store, 0).by_seqno.len();
    drop((writer, shared, store));
    let container = names(&disk, "container").remove(0);
    let bytes = disk.files().remove(&container).unwrap();
    let values = bytes.windows(600).enumerate();
    let values = values.filter(|(_, window)| window.iter().all(|byte| *byte == b'v'));
    let values: Vec<u64> = values.map(|(at, _)| at as u64 + 300).collect();
    assert_eq!(values.len(), 20);
    for (n, at) in (2..).zip(values) {
        disk.flip_bit(&container, at, 1).unwrap();
        let store = open_on(&disk, n);
        let snapshot = store.snapshot(vbucket(0)).unwrap();
        let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
        let (items, ended) = drain(scan.as_mut(), usize::MAX, usize::MAX);
        let Outcome::Failed(cause) = ended else {
            panic!("damage at {at}, the scan ended as {ended:?}");
        };
        assert!(items.len() < whole);
        assert!(
            matches!(&cause, StorageError::Corruption { file, .. } if *file == container),
            "{cause:?}"
        );
        assert_stays_failed(scan.as_mut(), &cause);
        disk.flip_bit(&container, at, 1).unwrap();
    }
}
