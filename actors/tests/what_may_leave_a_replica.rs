//! What leaves memory. Of a replica nothing of a snapshot from memory that its source has not ended, whose next version of a key
//! takes the place of the one before; of a snapshot from disk, which has each key once, what is on disk, deletions too. And
//! of an active vbucket what was locked, as soon as its lock has ended.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use messages::vbucket::GetAndLock;
use piggin_actors::vbucket::checkpoint::ReplicaSnapshot;
use piggin_actors::vbucket::{EvictionWalk, StreamEpoch, VbucketCore};
use storage::{DeleteSource, Eviction, Item, Operation, Seqno, VbucketState};
use support::durable::{follower, mutation};
use support::{Bench, active, active_evicting, become_state, key, set};

/// What is taken is on disk, though there is none, and only the map has it.
fn persist(core: &VbucketCore) {
    while let Some(taken) = core.take_for_flush(usize::MAX, usize::MAX) {
        let high = taken.watermarks.high_seqno;
        drop(taken);
        core.note_persisted(high);
    }
    core.shrink_log();
}

fn evict(core: &VbucketCore) -> u64 {
    let (mut walk, mut documents) = (EvictionWalk::default(), 0);
    loop {
        let evicted = core.evict(&mut walk);
        documents += evicted.documents;
        if evicted.is_at_end {
            return documents;
        }
    }
}

/// A replica of a bucket that has this leave memory.
fn follower_evicting(eviction: Eviction) -> (Bench, StreamEpoch) {
    let bench = active_evicting(eviction);
    become_state(&bench.core, VbucketState::Replica);
    let epoch = bench.core.begin_stream().unwrap();
    (bench, epoch)
}

const LEAVING: [Eviction; 2] = [Eviction::Documents, Eviction::Values];

#[test]
fn nothing_of_a_snapshot_from_memory_that_goes_on() {
    LEAVING.into_iter().for_each(from_memory);
}

fn from_memory(eviction: Eviction) {
    let (bench, epoch) = follower_evicting(eviction);
    let core = &bench.core;
    let snapshot = ReplicaSnapshot::memory(Seqno(1), Seqno(10));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    for seqno in 1..=3 {
        core.apply_item(epoch, mutation(seqno, &format!("{seqno}")))
            .unwrap();
    }
    persist(core);
    assert_eq!(evict(core), 0, "a newer version may take its place");
    core.apply_item(epoch, mutation(4, "1")).unwrap();
    for seqno in 5..=10 {
        core.apply_item(epoch, mutation(seqno, &format!("{seqno}")))
            .unwrap();
    }
    persist(core);
    let next = ReplicaSnapshot::memory(Seqno(11), Seqno(20));
    core.apply_marker(epoch, &next, true).unwrap();
    persist(core);
    assert_eq!(evict(core), 9, "it is whole, and closed");
}

#[test]
fn of_a_snapshot_from_disk_what_is_on_disk() {
    LEAVING.into_iter().for_each(from_disk);
}

fn from_disk(eviction: Eviction) {
    let (bench, epoch) = follower_evicting(eviction);
    let core = &bench.core;
    let items: Vec<_> = (1..=3)
        .map(|seqno| mutation(seqno, &format!("{seqno}")))
        .collect();
    let snapshot = ReplicaSnapshot::disk(Seqno(1), Seqno(10), Seqno::ZERO);
    core.apply_marker(epoch, &snapshot, true).unwrap();
    for item in items {
        core.apply_item(epoch, item).unwrap();
    }
    assert_eq!(evict(core), 0, "nothing is on disk");
    persist(core);
    assert_eq!(core.persisted_seqno(), Seqno(3));
    assert_eq!(evict(core), 3);
}

fn deletion(seqno: u64, name: &str) -> Arc<Item> {
    let mut item = Item::clone(&mutation(seqno, name));
    item.operation = Operation::Deletion {
        deleted_at: 1,
        source: DeleteSource::Explicit,
    };
    item.document.value.clear();
    Arc::new(item)
}

/// However many a source has kept, they do not fill the memory of who follows it from disk before the snapshot's end.
#[test]
fn of_a_snapshot_from_disk_deletions_that_are_on_disk() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    let snapshot = ReplicaSnapshot::disk(Seqno(1), Seqno(10), Seqno::ZERO);
    core.apply_marker(epoch, &snapshot, true).unwrap();
    let before = core.memory_bytes();
    for seqno in 1..=3 {
        core.apply_item(epoch, deletion(seqno, &format!("{seqno}")))
            .unwrap();
    }
    assert!(core.memory_bytes() > before, "nothing is on disk");
    persist(core);
    assert_eq!(core.memory_bytes(), before);
}

#[test]
fn what_was_locked_and_is_not_any_more() {
    let bench = active();
    let core = &bench.core;
    core.set(set("a", "value")).unwrap();
    let request = GetAndLock {
        key: key("a"),
        seconds: 5,
    };
    core.get_and_lock(&request).unwrap();
    persist(core);
    assert_eq!(evict(core) + evict(core), 0, "it is locked");
    bench.clock.advance(Duration::from_secs(5));
    assert_eq!(evict(core), 1);
}
