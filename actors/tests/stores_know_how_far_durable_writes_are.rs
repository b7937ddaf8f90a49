//! What is stored says which prepares are there, which are over, and how far this node holds them: never more than is on
//! disk in whole snapshots, and after a restart no less than before.
#![cfg(test)]

mod support;

use piggin_actors::vbucket::StreamEpoch;
use piggin_actors::vbucket::checkpoint::ReplicaSnapshot;
use storage::{
    CommitDurability, DurabilityLevel, KvStore, MemoryStore, Seqno, VbucketState, Watermarks,
};
use support::durable::{
    aborted, acknowledge, committed, follow_again, from_disk, from_memory, lead, mutation, prepare,
    prepared, prepared_as,
};
use support::{Bench, Setup, batch, flush_all, id, position};

struct World {
    bench: Bench,
    store: MemoryStore,
}

impl World {
    fn new() -> World {
        let setup = Setup::default();
        let store = MemoryStore::new(8);
        store.create_vbucket(id(), &setup.record).unwrap();
        let bench = setup.warm();
        World { bench, store }
    }

    fn follower() -> (World, StreamEpoch) {
        let world = World::new();
        let epoch = follow_again(&world.bench.core);
        (world, epoch)
    }

    /// Writes so many items; what the store knows then: prepared, completed, held.
    fn flush(&self, items: usize) -> (u64, u64, u64) {
        let core = &self.bench.core;
        let take = core.take_for_flush(items, usize::MAX).unwrap();
        let high = take.watermarks.high_seqno;
        let group = [batch(take, &position(&self.store))];
        for done in self.store.commit(&group, CommitDurability::Synced) {
            done.unwrap();
        }
        core.note_persisted(high);
        self.stored()
    }

    fn flush_all(&self) -> (u64, u64, u64) {
        flush_all(&self.bench.core, &self.store, 9);
        self.stored()
    }

    fn marks(&self) -> Watermarks {
        self.store.state(id()).unwrap().watermarks
    }

    fn stored(&self) -> (u64, u64, u64) {
        let marks = self.marks();
        let (prepared, completed) = (marks.prepared_seqno, marks.completed_seqno);
        (prepared.0, completed.0, marks.high_prepared_seqno.0)
    }

    /// What the vbucket says it holds before and after a restart.
    fn held(&self) -> (u64, u64) {
        let before = self.bench.core.durability_figures().high_prepared;
        let setup = Setup {
            record: self.store.state(id()).unwrap(),
            position: position(&self.store),
            ..Setup::default()
        };
        let after = setup.warming().core.durability_figures().high_prepared;
        (before.0, after.0)
    }
}

#[test]
fn an_active_vbucket_stores_what_it_prepared_and_ended() {
    let world = World::new();
    let core = &world.bench.core;
    lead(core, &["a", "b"]);
    let _first = prepare(core, "x", "");
    let _second = prepare(core, "y", "");
    assert_eq!(world.flush(1), (1, 0, 1));
    assert_eq!(world.flush(1), (2, 0, 2));
    acknowledge(core, "b", 1);
    world.bench.decide();
    assert_eq!(world.flush_all(), (2, 1, 2));
    world
        .bench
        .clock
        .advance(std::time::Duration::from_secs(31));
    world.bench.decide();
    assert_eq!(world.flush_all(), (2, 2, 2));
    // The abort is no item that readers see.
    assert_eq!(world.marks().high_seqno, Seqno(4));
    assert_eq!(world.marks().max_visible_seqno, Seqno(3));
}

/// MB-35631, MB-36112: in its middle a disk snapshot may have left out what ended first.
#[test]
fn mb_35631_what_a_disk_snapshot_ended_is_stored_at_its_end() {
    let (world, epoch) = World::follower();
    let core = &world.bench.core;
    let snapshot = ReplicaSnapshot::disk(Seqno(1), Seqno(9), Seqno(4));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, aborted(5, "x", 3)).unwrap();
    core.apply_item(epoch, prepared(6, "y")).unwrap();
    assert_eq!(world.flush_all(), (6, 0, 0));
    core.apply_item(epoch, mutation(9, "z")).unwrap();
    assert_eq!(world.flush_all(), (6, 4, 9));
}

/// The same where no item lies at the end: with the next batch.
#[test]
fn the_end_of_a_disk_snapshot_need_not_be_an_item() {
    let (world, epoch) = World::follower();
    let core = &world.bench.core;
    let snapshot = ReplicaSnapshot::disk(Seqno(1), Seqno(9), Seqno(4));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, mutation(5, "x")).unwrap();
    assert_eq!(world.flush_all(), (0, 0, 0));
    core.apply_snapshot_end(epoch).unwrap();
    from_memory(core, epoch, &[mutation(10, "y")]);
    let (_, completed, held) = world.flush_all();
    assert_eq!((completed, held), (4, 5));
}

/// A batch whose fate is not known is taken anew, with all it is to say.
#[test]
fn a_batch_that_is_written_again_says_the_same() {
    let (world, epoch) = World::follower();
    let core = &world.bench.core;
    from_disk(core, epoch, 2, &[mutation(1, "x"), mutation(9, "z")]);
    let lost = core.take_for_flush(9, usize::MAX).unwrap();
    assert_eq!(lost.watermarks.completed_seqno, Seqno(2));
    core.resync(Seqno(0));
    assert_eq!(world.flush_all(), (0, 2, 9));
}

/// MB-51639.
#[test]
fn mb_51639_a_disk_snapshot_without_prepares_counts_after_a_restart() {
    let (world, epoch) = World::follower();
    from_disk(
        &world.bench.core,
        epoch,
        0,
        &[mutation(1, "x"), mutation(8, "y")],
    );
    assert_eq!(world.flush_all(), (0, 0, 8));
    assert_eq!(world.held(), (8, 8));
}

/// MB-51806.
#[test]
fn mb_51806_a_snapshot_without_prepares_takes_nothing_back() {
    let (world, epoch) = World::follower();
    let core = &world.bench.core;
    let items = [prepared(1, "x"), committed(2, "x", 1)];
    from_memory(core, epoch, &items);
    world.flush_all();
    from_memory(core, epoch, &[mutation(3, "y")]);
    let (_, _, held) = world.flush_all();
    assert_eq!(held, 1);
    assert_eq!(world.held(), (1, 1));
}

#[test]
fn what_is_acknowledged_and_on_disk_is_so_after_a_restart() {
    let strong = || prepared_as(3, "z", DurabilityLevel::PersistToMajority);
    for batch in [1, 2, 9] {
        let (world, epoch) = World::follower();
        let core = &world.bench.core;
        from_memory(core, epoch, &[prepared(1, "x"), mutation(2, "m"), strong()]);
        while core.has_unflushed() {
            let _stored = world.flush(batch);
        }
        assert_eq!(core.prepared_to_acknowledge(epoch), Ok(Some(Seqno(3))));
        assert_eq!(world.held(), (3, 3));
    }
}

#[test]
fn half_a_snapshot_on_disk_is_not_held_as_a_whole_one() {
    let (world, epoch) = World::follower();
    let core = &world.bench.core;
    from_memory(core, epoch, &[mutation(1, "a"), prepared(2, "b")]);
    world.flush_all();
    from_memory(core, epoch, &[prepared(3, "c"), prepared(4, "d")]);
    assert_eq!(core.durability_figures().high_prepared, Seqno(4));
    let (prepared, _, held) = world.flush(1);
    assert_eq!((prepared, held), (3, 2));
    assert_eq!(world.bench.core.state(), VbucketState::Replica);
}
