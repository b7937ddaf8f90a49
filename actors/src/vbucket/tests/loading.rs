//! What is under way is found again in the store: after a restart and after a rollback, and nothing that was over.

use storage::{
    DurabilityLevel, Eviction, Item, KvStore, MemoryStore, Outcome, RollbackEpoch, RolledBack,
    Seqno, VbucketPosition, VbucketState,
};

use super::durable::check;
use super::support::durable::{
    aborted, acknowledge, committed, follow_again, from_disk, from_memory, lead, mutation,
    one_by_one, prepare, prepared, prepared_as,
};
use super::support::{Bench, Setup, become_state, flush_all, id, key, position, set, value};
use crate::durability::Monitor;
use crate::vbucket::checkpoint::ReplicaSnapshot;
use crate::vbucket::{LookedUp, StreamEpoch, VbucketCore};
use crate::warmup::prepares::PreparesReading;
use messages::vbucket::{ExpiryRequest, GetAndTouch};
use messages::{Busy, OperationError};

struct World {
    bench: Bench,
    store: MemoryStore,
}

fn found(store: &MemoryStore) -> Vec<Item> {
    let snapshot = store.snapshot(id()).unwrap();
    let Some(mut reading) = PreparesReading::of(&*snapshot) else {
        return Vec::new();
    };
    loop {
        match reading.step(64) {
            Outcome::Yielded => {}
            Outcome::Complete(prepares) => return prepares,
            other @ (Outcome::Failed(_) | Outcome::Aborted(_)) => panic!("{other:?}"),
        }
    }
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

    fn flush(&self) {
        flush_all(&self.bench.core, &self.store, 2);
    }

    /// The vbucket as its store has it, with so much memory.
    fn restart(self, quota_bytes: u64) -> World {
        let setup = Setup {
            record: self.store.state(id()).unwrap(),
            position: position(&self.store),
            quota_bytes,
            ..Setup::default()
        };
        let bench = setup.warming();
        bench.core.warm_prepares(found(&self.store));
        bench.core.warm_done();
        check(&bench.core);
        World { bench, ..self }
    }

    fn open(&self) -> Vec<u64> {
        let all = self.bench.core.prepares.outstanding();
        let mut seqnos: Vec<_> = all.iter().map(|one| one.seqno.0).collect();
        seqnos.sort_unstable();
        seqnos
    }

    fn core(&self) -> &VbucketCore {
        &self.bench.core
    }

    /// A replica goes back, with its store.
    fn roll_back(&self, to: u64) {
        let core = self.core();
        core.begin_rollback().unwrap();
        assert!(core.withdraw());
        let rolled = self.store.rollback(id(), Seqno(to));
        let Outcome::Complete(RolledBack::To { epoch, .. }) = rolled else {
            panic!("{rolled:?}");
        };
        core.note_epoch(epoch);
        core.reset(&self.store.state(id()).unwrap());
        core.warm_prepares(found(&self.store));
        core.warm_done();
        check(core);
    }
}

#[test]
fn what_goes_on_is_loaded_and_nothing_else() {
    let world = World::new();
    lead(world.core(), &["a", "b"]);
    let _waits = ["x", "y", "z"].map(|name| prepare(world.core(), name, name));
    acknowledge(world.core(), "b", 1);
    world.bench.decide();
    world.flush();
    let world = world.restart(1 << 30);
    assert_eq!(world.open(), [2, 3]);
    let figures = world.core().durability_figures();
    assert_eq!((figures.maybe_visible, figures.waiting), (2, 0));
    assert_eq!(
        world.core().get(&key("y")),
        Err(OperationError::SyncWriteReCommitInProgress)
    );
    assert_eq!(
        world.core().set(set("y", "")),
        Err(OperationError::SyncWriteInProgress)
    );
    // Never given up: another may have committed it. The topology is that of the store (MB-35768).
    world
        .bench
        .clock
        .advance(std::time::Duration::from_secs(100));
    world.bench.decide();
    assert_eq!(world.open(), [2, 3]);
    acknowledge(world.core(), "b", 3);
    world.bench.decide();
    assert_eq!(value(world.core(), "y").unwrap(), "y");
    assert_eq!(world.core().high_seqno(), Seqno(6));
}

#[test]
fn mb_37184_no_prepare_is_refused_for_memory() {
    let (world, epoch) = World::follower();
    from_memory(world.core(), epoch, &[prepared(1, "x"), prepared(2, "y")]);
    world.flush();
    let world = world.restart(16);
    assert_eq!(world.open(), [1, 2]);
    assert!(world.bench.memory.held_bytes() > 16);
}

/// MB-36112: what ended in half a disk snapshot is told by what came of it.
#[test]
fn mb_36112_half_a_disk_snapshot_is_read_to_its_end() {
    let (world, epoch) = World::follower();
    let core = world.core();
    from_memory(
        core,
        epoch,
        &[prepared(1, "x"), prepared(2, "y"), prepared(3, "z")],
    );
    let snapshot = ReplicaSnapshot::disk(Seqno(4), Seqno(99), Seqno(2));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    for item in [
        mutation(5, "x"),
        aborted(6, "y", 2),
        prepared(7, "w"),
        mutation(8, "m"),
    ] {
        core.apply_item(epoch, item).unwrap();
    }
    world.flush();
    let world = world.restart(1 << 30);
    assert_eq!(world.open(), [3, 7]);
    let epoch = world.core().begin_stream().unwrap();
    // All of what is left of it comes again.
    from_disk(
        world.core(),
        epoch,
        2,
        &[mutation(9, "z"), mutation(99, "n")],
    );
    assert_eq!(world.open(), [7]);
}

/// The end of the disk snapshot never comes: this one is active now.
#[test]
fn what_ended_in_half_a_disk_snapshot_is_over_after_a_promotion() {
    let (world, epoch) = World::follower();
    let core = world.core();
    from_memory(core, epoch, &[prepared(1, "x"), prepared(2, "y")]);
    let snapshot = ReplicaSnapshot::disk(Seqno(3), Seqno(99), Seqno(2));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, mutation(8, "x")).unwrap();
    become_state(core, VbucketState::Active);
    core.set(set("x", "newer")).unwrap();
    assert_eq!(world.open(), [2]);
    world.flush();
    let world = world.restart(1 << 30);
    assert_eq!(world.open(), [2]);
}

/// One that is promoted before its prepares are loaded says so once they are.
#[test]
fn what_ended_in_half_a_disk_snapshot_is_over_after_a_promotion_that_was_first() {
    let (world, epoch) = World::follower();
    let core = world.core();
    from_memory(core, epoch, &[prepared(1, "x"), prepared(2, "y")]);
    let snapshot = ReplicaSnapshot::disk(Seqno(3), Seqno(99), Seqno(2));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, mutation(8, "x")).unwrap();
    world.flush();
    let setup = Setup {
        record: world.store.state(id()).unwrap(),
        position: position(&world.store),
        ..Setup::default()
    };
    let bench = setup.warming();
    become_state(&bench.core, VbucketState::Active);
    bench.core.warm_prepares(found(&world.store));
    bench.core.warm_done();
    let world = World { bench, ..world };
    world.core().set(set("z", "new")).unwrap();
    world.flush();
    let stored = world.store.state(id()).unwrap().watermarks;
    assert_eq!((stored.completed_seqno, world.open()), (Seqno(1), vec![2]));
}

/// The stream goes on behind what came before the restart, and tells of no prepare.
#[test]
fn mb_51805_the_end_of_a_snapshot_counts_though_its_prepare_came_before_a_restart() {
    let (world, epoch) = World::follower();
    let core = world.core();
    let snapshot = ReplicaSnapshot::memory(Seqno(1), Seqno(5));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, prepared(1, "x")).unwrap();
    world.flush();
    let world = world.restart(1 << 30);
    let epoch = world.core().begin_stream().unwrap();
    assert_eq!(world.core().prepared_to_acknowledge(epoch), Ok(None));
    from_memory(world.core(), epoch, &[mutation(2, "y"), mutation(5, "z")]);
    assert_eq!(
        world.core().prepared_to_acknowledge(epoch),
        Ok(Some(Seqno(1)))
    );
}

#[test]
fn nothing_is_loaded_of_a_store_where_all_is_over() {
    let (world, epoch) = World::follower();
    let items = [
        prepared(1, "x"),
        committed(2, "x", 1),
        prepared(3, "y"),
        aborted(4, "y", 3),
    ];
    one_by_one(world.core(), epoch, &items);
    world.flush();
    assert!(found(&world.store).is_empty());
    let world = world.restart(1 << 30);
    assert!(world.open().is_empty());
    assert!(!world.core().prepares.is_unloaded());
}

/// While they are not loaded nothing can be said of any key, and no source may send how they ended.
#[test]
fn before_they_are_loaded_nothing_is_said() {
    let (world, epoch) = World::follower();
    from_memory(world.core(), epoch, &[mutation(1, "x"), prepared(2, "x")]);
    become_state(world.core(), VbucketState::Active);
    world.flush();
    let setup = || Setup {
        record: world.store.state(id()).unwrap(),
        position: position(&world.store),
        ..Setup::default()
    };
    let Bench { core, .. } = setup().warming();
    assert!(core.warm_insert(mutation(1, "x")));
    assert!(matches!(
        core.get(&key("x")),
        Err(OperationError::TemporaryFailure(_))
    ));
    become_state(&core, VbucketState::Replica);
    assert!(matches!(
        core.begin_stream(),
        Err(OperationError::TemporaryFailure(_))
    ));
    become_state(&core, VbucketState::Active);
    core.warm_prepares(found(&world.store));
    // Twice, as after a panic of whoever loads.
    core.warm_prepares(found(&world.store));
    assert_eq!(
        core.get(&key("x")),
        Err(OperationError::SyncWriteReCommitInProgress)
    );
    assert!(matches!(core.monitor(), Monitor::Active(_)));
    check(&core);
}

/// MB-36423, MB-39333: what is rolled back is not replaced by an older prepare that was over.
#[test]
fn mb_36423_and_mb_39333_nothing_that_was_over_comes_back_with_a_rollback() {
    let of_prepare = [prepared(5, "x")];
    let of_abort = [aborted(5, "y", 3), prepared(6, "x"), aborted(7, "x", 6)];
    for gone in [&of_prepare[..], &of_abort[..]] {
        for is_flushed in [true, false] {
            let (world, epoch) = World::follower();
            let core = world.core();
            let before = [
                prepared(1, "x"),
                committed(2, "x", 1),
                prepared(3, "y"),
                mutation(4, "m"),
            ];
            one_by_one(core, epoch, &before);
            world.flush();
            one_by_one(core, epoch, gone);
            if is_flushed {
                world.flush();
            }
            world.roll_back(4);
            assert_eq!(world.open(), [3]);
            assert_eq!(core.durability_figures().high_completed, Seqno(1));
            assert_eq!(core.durability_figures().high_prepared, Seqno(3));
            // Then streamed anew, differently.
            let again = core.begin_stream().unwrap();
            one_by_one(core, again, &[prepared(5, "x"), committed(6, "y", 3)]);
            assert_eq!(world.open(), [5]);
            assert_eq!(core.prepared_to_acknowledge(again), Ok(Some(Seqno(5))));
        }
    }
}

#[test]
fn what_ended_above_goes_on_after_a_rollback() {
    let (world, epoch) = World::follower();
    let strong = prepared_as(1, "x", DurabilityLevel::PersistToMajority);
    one_by_one(world.core(), epoch, &[strong, mutation(2, "m")]);
    world.flush();
    one_by_one(world.core(), epoch, &[committed(3, "x", 1)]);
    world.flush();
    assert!(world.open().is_empty());
    world.roll_back(2);
    assert_eq!(world.open(), [1]);
    let restarted = world.restart(1 << 30);
    assert_eq!(restarted.open(), [1]);
}

/// Where values leave memory alone, of what there is no room for the stub is loaded, and counted; it says which value is the
/// right one, also while the rest is being loaded.
#[test]
fn what_there_is_no_room_for_is_loaded_without_its_value() {
    let setup = Setup {
        quota_bytes: 100,
        eviction: Eviction::Values,
        position: VbucketPosition {
            high_seqno: Seqno(9),
            ..Setup::default().position
        },
        ..Setup::default()
    };
    let Bench { core, memory, .. } = setup.warming();
    core.warm_prepares(Vec::new());
    assert!(core.warm_insert(mutation(1, "x")));
    assert!(core.warm_insert(mutation(2, "y")));
    let figures = core.figures();
    assert_eq!((figures.documents, figures.stubs), (2, 1));
    assert!(core.get(&key("x")).is_ok(), "there was room");
    assert_eq!(figures.bytes, memory.held_bytes());
    let not_in_memory = OperationError::TemporaryFailure(Busy::NotInMemory);
    assert_eq!(core.get(&key("y")), Err(not_in_memory.clone()));
    assert_eq!(core.get_meta(&key("y")).unwrap().seqno, Seqno(2));
    assert_eq!(core.exists(&key("y")), Ok(true));
    let looked_up = |seqno| LookedUp {
        up_to: Seqno(9),
        epoch: RollbackEpoch(0),
        newest: Some(mutation(seqno, "y")),
    };
    let other = core.get_knowing(&key("y"), Some(&looked_up(3)));
    assert_eq!(other, Err(not_in_memory));
    let found = core.get_knowing(&key("y"), Some(&looked_up(2))).unwrap();
    assert_eq!(found.value, mutation(2, "y").document.value);
    core.warm_done();
    assert!(!core.lacks_documents());
    assert_eq!(core.get(&key("z")), Err(OperationError::KeyNotFound));
    assert!(!core.restore(&looked_up(2)), "there is still no room");
    memory.pool().set_quota_bytes(1 << 20);
    assert!(!core.restore(&looked_up(3)));
    assert!(core.restore(&looked_up(2)));
    assert_eq!(core.get(&key("y")), Ok(found));
    assert_eq!((core.figures().stubs, core.documents_in_memory()), (0, 2));
}

/// What was read before a rollback is not the value of a stub behind it, though the store gave the same seqno again.
#[test]
fn a_stub_takes_no_value_of_a_past_that_was_given_up() {
    let setup = Setup {
        quota_bytes: 0,
        eviction: Eviction::Values,
        ..Setup::default()
    };
    let Bench { core, memory, .. } = setup.warming();
    core.warm_prepares(Vec::new());
    assert!(core.warm_insert(mutation(1, "x")));
    assert!(core.warm_insert(mutation(2, "y")));
    core.warm_done();
    memory.pool().set_quota_bytes(1 << 20);
    let looked_up = LookedUp {
        up_to: Seqno(2),
        epoch: RollbackEpoch(0),
        newest: Some(mutation(2, "y")),
    };
    assert!(core.get_knowing(&key("y"), Some(&looked_up)).is_ok());
    core.note_epoch(RollbackEpoch(1));
    let not_in_memory = Err(OperationError::TemporaryFailure(Busy::NotInMemory));
    assert_eq!(core.get_knowing(&key("y"), Some(&looked_up)), not_in_memory);
    let touch = GetAndTouch {
        key: key("y"),
        expiry: ExpiryRequest(0),
    };
    let touched = core.get_and_touch_knowing(&touch, Some(looked_up.clone()));
    assert_eq!(touched, not_in_memory);
    assert!(!core.restore(&looked_up));
    assert_eq!(core.figures().documents, 2);
}
