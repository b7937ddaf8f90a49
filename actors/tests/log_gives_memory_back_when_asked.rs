//! What a vbucket's log gives back when memory is short: what nobody needs at once, what a slow stream keeps when it is
//! asked for that; a replica's snapshot under way goes on all the same.
#![cfg(test)]

mod disk_side;
mod support;

use std::sync::Arc;

use disk_side::readers::{Consumer, Streamed};
use messages::stream::StreamEndReason;
use piggin_actors::vbucket::checkpoint::ReplicaSnapshot;
use storage::{
    Cas, Document, Item, KvStore, MemoryStore, Seqno, VbucketState, VbucketStateRecord, VbucketUuid,
};
use support::{Bench, Setup, active, become_state, delete, flush_all, id, key, set};

const KEYS: std::ops::Range<u64> = 0..60;

fn store() -> MemoryStore {
    let store = MemoryStore::new(8);
    let state = VbucketStateRecord::new(VbucketUuid(0xa11ce));
    store.create_vbucket(id(), &state).unwrap();
    store
}

#[test]
fn what_is_on_disk_and_read_by_all_is_given_back() {
    let Bench { core, memory, .. } = active();
    let store = store();
    for number in 0..50 {
        core.set(set(&format!("key-{number}"), "value")).unwrap();
    }
    core.delete(delete("key-7")).unwrap();
    let held = memory.held_bytes();
    assert_eq!(core.shrink_log(), 0, "nothing is on disk");
    flush_all(&core, &store, usize::MAX);
    let empty = Setup::default().warm().core.checkpoint_bytes();
    let before = core.checkpoint_bytes();
    assert_eq!(core.shrink_log(), before - empty);
    assert_eq!(core.checkpoint_bytes(), empty);
    assert_eq!(core.shrink_log(), 0);
    drop(store);
    // The tombstone goes with its checkpoint, and the version it took the place of.
    assert!(memory.held_bytes() < held);
    assert!(core.get_meta(&key("key-7")).is_err());
    core.set(set("key-8", "newer")).unwrap();
    assert_eq!(support::value(&core, "key-8").unwrap(), "newer");
}

#[test]
fn a_slow_stream_loses_its_place_and_nothing_else() {
    for written in [3, 8, 15] {
        let mut streamed = Streamed::new(1);
        streamed.write(KEYS, 60);
        let consumer = Consumer::with_room(usize::MAX);
        let (_, acknowledged) = streamed.open(&consumer, Some(1));
        streamed.drain(&consumer, &acknowledged);
        streamed.write(KEYS, written);
        let core = streamed.core();
        assert_eq!(core.cursors(), 2, "too little to lag behind");
        core.shrink_log();
        assert_eq!(core.cursors(), 2, "nobody loses his place by that");
        assert!(core.bytes_kept_for_streams() > 0);
        assert_eq!(core.drop_stream_cursors(), 1);
        assert_eq!((core.cursors(), core.bytes_kept_for_streams()), (1, 0));
        assert_eq!(core.drop_stream_cursors(), 0);
        streamed.turn();
        if consumer.content().end.is_some() {
            // It was told of a snapshot whose end can no longer be delivered.
            let end = consumer.content().end;
            assert_eq!(end, Some(StreamEndReason::StateChanged));
        } else {
            streamed.drain(&consumer, &acknowledged);
            streamed.assert_has_all(&consumer, KEYS);
            consumer.leave();
        }
        streamed.assert_at_base();
    }
}

#[test]
fn one_that_keeps_up_keeps_its_place() {
    let mut streamed = Streamed::new(2);
    streamed.write(KEYS, 60);
    let consumer = Consumer::with_room(usize::MAX);
    let (_, acknowledged) = streamed.open(&consumer, None);
    streamed.drain(&consumer, &acknowledged);
    let snapshots = consumer.content().snapshots;
    for _ in 0..5 {
        streamed.write(KEYS, 7);
        let core = streamed.core();
        core.shrink_log();
        assert_eq!(core.bytes_kept_for_streams(), 0);
        assert_eq!(core.drop_stream_cursors(), 0);
    }
    streamed.drain(&consumer, &acknowledged);
    streamed.assert_has_all(&consumer, KEYS);
    assert!(consumer.content().snapshots > snapshots);
    consumer.leave();
    streamed.assert_at_base();
}

#[test]
fn a_snapshot_that_comes_from_elsewhere_goes_on() {
    let Bench { core, .. } = support::in_state(VbucketState::Replica);
    let store = store();
    let epoch = core.begin_stream().unwrap();
    let snapshot = ReplicaSnapshot::memory(Seqno(1), Seqno(6));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    for seqno in 1..=6 {
        let document = Document::new(key(&format!("key-{seqno}")), "v", Cas(seqno << 20));
        let item = Arc::new(Item::mutation(Seqno(seqno), document));
        core.apply_item(epoch, item).unwrap();
        flush_all(&core, &store, usize::MAX);
        core.shrink_log();
        core.drop_stream_cursors();
    }
    become_state(&core, VbucketState::Active);
    assert_eq!(core.high_seqno(), Seqno(6));
    let branches = core.identity().failover_table.entries().to_vec();
    assert_eq!(branches[0].seqno, Seqno(6), "it came whole");
}
