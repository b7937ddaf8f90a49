//! A seal of many vbuckets freezes and publishes a few at a time: a power cut between two of them, or a job given up
//! there, leaves nothing out and counts nothing twice, and the log files that the first freed can go.
#![cfg(test)]

mod support;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::log_store::MaintenanceKind;
use piggin_storage::{
    CompactionRequest, Job, KvStore, LogStore, OpenOptions, Outcome, Seqno, StorageError,
};
use support::log_store::{create_on, image, open_on, small_options};
use support::{Image, Writer, deletion, mutation, vbucket};

const VBUCKETS: u16 = 4;

fn options(published_at_once: usize) -> OpenOptions {
    OpenOptions {
        published_at_once,
        // Nobody but the test seals or merges.
        unsealed_bytes: 1 << 30,
        segments_max: usize::MAX,
        ..small_options(1)
    }
}

/// One segment of each vbucket, and on top of it what supersedes some of that.
fn filled(disk: &SimulatedDisk, published_at_once: usize) -> (LogStore, Vec<Writer>) {
    let (store, shared) = create_on(disk, options(published_at_once));
    let writers = (0..VBUCKETS).map(|number| Writer::create(&shared, number));
    let mut writers: Vec<Writer> = writers.collect();
    for writer in &mut writers {
        writer.write(vec![
            mutation(1, "a", "first"),
            mutation(2, "b", "first"),
            mutation(3, "c", "first"),
        ]);
    }
    assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
    for writer in &mut writers {
        writer.write(vec![mutation(4, "a", "second"), deletion(5, "b")]);
        writer.write(vec![mutation(6, "a", "third"), mutation(7, "d", "first")]);
    }
    (store, writers)
}

fn images(store: &LogStore) -> Vec<Image> {
    let numbers = 0..VBUCKETS;
    numbers.map(|number| image(store, number)).collect()
}

fn segments(store: &LogStore) -> Vec<usize> {
    let of = |number| store.file_statistics(vbucket(number)).unwrap().segments;
    (0..VBUCKETS).map(of).collect()
}

fn seal(store: &LogStore) -> impl Job<Output = (), Failure = StorageError> + use<> {
    store.seal_shard_job(0, 0).unwrap()
}

#[test]
fn a_power_cut_at_every_call() {
    for at_once in [1, 2, 3] {
        let mut cuts = 0;
        for n in 1.. {
            let disk = SimulatedDisk::new();
            let (store, _writers) = filled(&disk, at_once);
            let expected = images(&store);
            disk.cut_power_at_call(n);
            let ended = store.seal_all(Seqno::ZERO);
            let crashes = [
                disk.crash_losing_everything_unsynced(),
                disk.crash_keeping_everything(),
                disk.crash(n),
                disk.crash(n + 1000),
            ];
            for left in crashes {
                let store = open_on(&left, 2);
                assert_eq!(images(&store), expected, "{at_once} at once, call {n}");
                assert_eq!(store.verify().faults, [], "{at_once} at once, call {n}");
                assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
                assert_eq!(images(&store), expected, "{at_once} at once, call {n}");
                drop(store);
                let store = open_on(&left, 3);
                assert_eq!(images(&store), expected, "{at_once} at once, call {n}");
            }
            if ended == Outcome::Complete(()) {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 5, "{cuts}");
    }
}

#[test]
fn a_job_given_up_between_two_of_them_frees_the_log_of_the_first() {
    let disk = SimulatedDisk::new();
    let (store, mut writers) = filled(&disk, 1);
    assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
    // Of the first vbucket alone, over several log files, of which the others need the last.
    let value = "v".repeat(30_000);
    for seqno in 8..16 {
        writers[0].write(vec![mutation(seqno, &format!("k{seqno}"), &value)]);
    }
    for writer in &mut writers[1..] {
        writer.write(vec![mutation(8, "k8", &value)]);
    }
    let log_files = store.statistics().log_files;
    assert!(log_files > 2, "{log_files}");
    store.checkpoint().unwrap();
    let expected = images(&store);
    let mut job = seal(&store);
    while segments(&store)[0] == 2 {
        assert_eq!(job.step(), Outcome::Yielded);
    }
    assert_eq!(segments(&store), [3, 2, 2, 2], "one at a time");
    drop(job);
    let mut done = Vec::new();
    while let Some((kind, mut job)) = store.maintenance_work(0) {
        assert_eq!(job.run(), Outcome::Complete(()));
        done.push(kind);
        assert!(done.len() < 50, "{done:?}");
    }
    assert!(done.contains(&MaintenanceKind::Checkpoint), "{done:?}");
    assert!(store.statistics().log_files < log_files, "{done:?}");
    assert_eq!(images(&store), expected);
    assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
    assert_eq!(segments(&store), [3, 3, 3, 3]);
    assert_eq!(images(&store), expected);
    assert_eq!(store.verify().faults, []);
}

/// A merge between two of them makes what was made ready for the later ones useless.
#[test]
fn a_merge_between_two_of_them_loses_and_doubles_nothing() {
    for after in 0.. {
        let disk = SimulatedDisk::new();
        let (store, mut writers) = filled(&disk, 1);
        let mut job = seal(&store);
        let mut ended = Outcome::Yielded;
        for _ in 0..after {
            ended = job.step();
        }
        if ended == Outcome::Yielded {
            let request = CompactionRequest {
                drop_deletes: true,
                ..CompactionRequest::default()
            };
            // Not a compaction: that one seals first, and so waits for the seal that has begun.
            let merged = store.merge(vbucket(3), Seqno::MAX);
            assert_eq!(merged, Outcome::Complete(()), "after {after}");
            writers[3].write(vec![mutation(8, "c", "second")]);
            while job.step() == Outcome::Yielded {}
            let compacted = store.compact(vbucket(3), &request);
            assert!(matches!(compacted, Outcome::Complete(_)), "{compacted:?}");
        }
        let expected = images(&store);
        for one in &expected {
            let documents = one.counts.total().documents;
            assert_eq!(documents, 3, "after {after}: {:?}", one.seqnos());
        }
        assert_eq!(store.verify().faults, [], "after {after}");
        drop((job, store, writers));
        assert_eq!(images(&open_on(&disk, 2)), expected, "after {after}");
        if ended != Outcome::Yielded {
            return;
        }
    }
}
