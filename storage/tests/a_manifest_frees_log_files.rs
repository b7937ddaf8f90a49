//! A manifest is written when it frees a log file. One for each vbucket that is sealed, as compactions seal them, one after the
//! other, would write down all vbuckets each time, with commits waiting for it.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::log_store::MaintenanceKind;
use piggin_storage::{CommitDurability, Job, KvStore, LogStore, OpenOptions, Outcome, Seqno};
use support::log_store::{create_on, image, names, small_options};
use support::{Writer, mutation};

/// Nothing is sealed but what the test seals.
fn options(entropy: u64) -> OpenOptions {
    OpenOptions {
        unsealed_bytes: 1 << 30,
        ..small_options(entropy)
    }
}

/// Does what is to be done, and says what that was.
fn maintain(store: &LogStore) -> Vec<MaintenanceKind> {
    let mut done = Vec::new();
    while let Some((kind, mut job)) = store.maintenance_work(0) {
        done.push(kind);
        loop {
            match job.step() {
                Outcome::Yielded => {}
                Outcome::Complete(()) => break,
                ended @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{ended:?}"),
            }
        }
    }
    done
}

#[test]
fn sealing_what_needs_no_log_file_more_than_others_writes_none() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create_on(&disk, options(1));
    let mut writers: Vec<_> = (0..4)
        .map(|number| Writer::create(&shared, number))
        .collect();
    let value = "v".repeat(1000);
    // All need the first file; then it is full, and one of them goes on.
    for writer in &mut writers {
        writer.write(vec![mutation(1, "first", &value)]);
    }
    for seqno in 2..150 {
        writers[0].write(vec![mutation(seqno, &format!("k{seqno}"), &value)]);
        maintain(&store);
    }
    let logs = || names(&disk, "log").len();
    let before = logs();
    assert!(before >= 3, "{before} log files");
    let manifests = names(&disk, "manifest");
    for writer in &writers[..3] {
        writer.seal(Seqno::ZERO);
        let done = maintain(&store);
        assert!(!done.contains(&MaintenanceKind::Checkpoint), "{done:?}");
    }
    assert_eq!(names(&disk, "manifest"), manifests);
    // The last that needs it.
    writers[3].seal(Seqno::ZERO);
    let done = maintain(&store);
    let checkpoints = done
        .iter()
        .filter(|kind| **kind == MaintenanceKind::Checkpoint);
    assert_eq!(checkpoints.count(), 1, "{done:?}");
    assert_ne!(names(&disk, "manifest"), manifests);
    assert!(logs() < before, "{} log files", logs());
    // Nothing is lost by one that was not written.
    let images: Vec<_> = (0..4).map(|number| image(&store, number)).collect();
    drop((writers, shared, store));
    let store = LogStore::open(Arc::new(disk), options(2)).unwrap();
    for (number, before) in images.into_iter().enumerate() {
        let number = u16::try_from(number).unwrap();
        assert_eq!(image(&store, number), before);
    }
}

/// Commits that come while a manifest is made are not in it: what of them is not on disk is gone after a crash, and what is stays.
#[test]
fn what_is_committed_beside_one_is_as_if_behind_it() {
    for durability in [CommitDurability::Buffered, CommitDurability::Synced] {
        let disk = SimulatedDisk::new();
        let (store, shared) = create_on(&disk, options(1));
        // One that is sealed whole, and one that has nothing.
        let mut writers = [Writer::create(&shared, 0), Writer::create(&shared, 1)];
        let value = "v".repeat(1000);
        for seqno in 1..150 {
            writers[0].write(vec![mutation(seqno, &format!("k{seqno}"), &value)]);
            maintain(&store);
        }
        writers[0].seal(Seqno::ZERO);
        let (kind, mut job) = store.maintenance_work(0).unwrap();
        assert_eq!(kind, MaintenanceKind::Checkpoint);
        let images = |store: &LogStore| [image(store, 0), image(store, 1)];
        let mut durable = None;
        for seqno in 150.. {
            for writer in &mut writers {
                let batch = writer.batch(vec![mutation(seqno, "k", "v")]);
                assert_eq!(
                    store.commit(std::slice::from_ref(&batch), durability),
                    [Ok(())]
                );
                writer.watermarks = batch.watermarks;
            }
            if durable.is_none() || durability == CommitDurability::Synced {
                // It makes durable what there is when it begins, and nothing that comes later.
                durable = Some(images(&store));
            }
            let outcome = job.step();
            let crashed = disk.crash_losing_everything_unsynced();
            let again = LogStore::open(Arc::new(crashed), options(seqno)).unwrap();
            assert_eq!(Some(images(&again)), durable);
            match outcome {
                Outcome::Yielded => {}
                Outcome::Complete(()) => break,
                ended @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{ended:?}"),
            }
        }
        let expected = images(&store);
        drop((job, writers, shared, store));
        let store = LogStore::open(Arc::new(disk), options(2)).unwrap();
        assert_eq!(images(&store), expected);
    }
}
