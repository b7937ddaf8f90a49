//! What leaves the memory of a replica: nothing of a snapshot from memory that its source has not ended, whose next version of
//! a key takes the place of the one before; of a snapshot from disk, which has each key once, what is on disk.
#![cfg(test)]

mod support;

use piggin_actors::vbucket::checkpoint::ReplicaSnapshot;
use piggin_actors::vbucket::{EvictionWalk, StreamEpoch, VbucketCore};
use storage::{Eviction, Seqno, VbucketState};
use support::durable::mutation;
use support::{Bench, active_evicting, become_state};

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
fn follower(eviction: Eviction) -> (Bench, StreamEpoch) {
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
    let (bench, epoch) = follower(eviction);
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
    let (bench, epoch) = follower(eviction);
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
