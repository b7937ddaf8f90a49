//! An empty store takes little of the disk, and a busy one does not grow without bound.
//!
//! Log files begin small and grow to their full size with use; files that no manifest needs are used again, and what
//! was overwritten is given back, so that the directory stays within a bound that the live data and the log's size
//! decide, however much was written.
#![cfg(test)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else comes is printed by the panic"
)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::log_store::Maintained;
use piggin_storage::{
    Batch, CommitDurability, CreateOptions, KvStore, LogStore, OpenOptions, Outcome, RollbackEpoch,
    Seqno,
};

use support::log_store::small_options;
use support::{Writer, mutation, new_state, vbucket};

const MEBIBYTE: u64 = 1 << 20;

fn maintain(store: &LogStore) {
    for _ in 0..1000 {
        match store.maintain() {
            Outcome::Complete(Maintained::Nothing) => return,
            Outcome::Complete(Maintained::Worked) => {}
            other => panic!("maintenance: {other:?}"),
        }
    }
    panic!("maintenance does not come to an end");
}

#[test]
fn an_empty_store_of_many_shards_and_vbuckets_is_small() {
    let disk = SimulatedDisk::new();
    let shape = CreateOptions::of(128, 8);
    let store = LogStore::create(Arc::new(disk.clone()), shape, OpenOptions::new(1)).unwrap();
    for number in 0..128 {
        store.create_vbucket(vbucket(number), &new_state()).unwrap();
    }
    maintain(&store);
    println!("open and empty: {} bytes", disk.space_used());
    assert!(
        disk.space_used() <= 16 * MEBIBYTE,
        "{} bytes",
        disk.space_used()
    );
    store.close().unwrap();
    println!("closed and empty: {} bytes", disk.space_used());
    assert!(
        disk.space_used() <= 16 * MEBIBYTE,
        "{} bytes",
        disk.space_used()
    );
}

#[test]
fn overwriting_for_ever_takes_a_bounded_part_of_the_disk() {
    let disk = SimulatedDisk::new();
    let options = OpenOptions {
        history_floor: Seqno::MAX,
        ..small_options(1)
    };
    let shape = CreateOptions::of(4, 2);
    let store = LogStore::create(Arc::new(disk.clone()), shape, options).unwrap();
    let shared: Arc<dyn KvStore> = Arc::new(store.clone());
    let mut writers: Vec<Writer> = (0..4)
        .map(|number| Writer::create(&shared, number))
        .collect();
    let value = "v".repeat(1500);
    let full = options.log_file_bytes_max;
    let (mut written, mut most, mut files_most) = (0, 0, 0);
    let mut number: u64 = 0;
    while written < 50 * full * u64::from(shape.log_shards) {
        number += 1;
        for writer in &mut writers {
            writer.write(vec![mutation(
                number,
                &format!("key-{}", number % 7),
                &value,
            )]);
            written += 1500;
        }
        maintain(&store);
        most = most.max(disk.space_used());
        files_most = files_most.max(disk.files().len());
    }
    let statistics = store.statistics();
    println!(
        "{written} bytes written, at most {most} on disk in {files_most} files; {statistics:?}"
    );
    // Per shard: the live log files and a spare, the containers half dead, one being written.
    let bound = u64::from(shape.log_shards) * 8 * full;
    assert!(
        most <= bound,
        "{most} bytes of the disk, the bound is {bound}"
    );
    assert!(files_most <= 40, "{files_most} files");
    // Full log files are used again, none is made while a commit waits.
    assert!(
        statistics.log_files_made_inline <= 2 * u64::from(shape.log_shards),
        "{statistics:?}"
    );
    for writer in &writers {
        assert_eq!(writer.image().by_seqno.len(), 7);
    }
}

#[test]
fn state_alone_does_not_grow_a_store_either() {
    let disk = SimulatedDisk::new();
    let shape = CreateOptions::of(1, 1);
    let store = LogStore::create(Arc::new(disk.clone()), shape, small_options(1)).unwrap();
    let incarnation = store.create_vbucket(vbucket(0), &new_state()).unwrap();
    let full = small_options(1).log_file_bytes_max;
    let mut most = 0;
    for commit_time_ms in 0..20_000 {
        let mut watermarks = new_state().watermarks;
        watermarks.commit_time_ms = commit_time_ms;
        let batch = Batch {
            vbucket: vbucket(0),
            incarnation,
            epoch: RollbackEpoch(0),
            items: Vec::new(),
            watermarks,
            identity: None,
        };
        let results = store.commit(&[batch], CommitDurability::Synced);
        assert_eq!(results, [Ok(())]);
        maintain(&store);
        most = most.max(disk.space_used());
    }
    println!("at most {most} bytes on disk, {:?}", store.statistics());
    assert!(most <= 8 * full, "{most} bytes of the disk");
}
