//! Each commit that failed is told once, with the time of the next try; a full disk refuses writes until it heals;
//! a vbucket in trouble holds up no other; pausing, resuming, stopping and flushing now do what they say.
#![cfg(test)]

mod disk_side;

use std::time::Duration;

use disk_side::rig::Rig;
use messages::{FailureCause, FailureKind, NextStep, OperationError};
use piggin_actors::environment::Clock;
use piggin_actors::executor::{Step, Worker};
use piggin_actors::flusher::{Flushable, Stage};
use storage::disk::{DiskErrorKind, Fault, Verb};
use storage::{
    FailoverTable, KvStore, Outcome, Seqno, StorageError, Topology, VbucketIdentity, VbucketState,
    VbucketStateRecord, VbucketUuid, Watermarks,
};

/// A flusher that runs and has nothing to do.
fn idle() -> Rig {
    let mut rig = Rig::new(1);
    rig.write(0);
    rig.write(1);
    rig.settle("begin");
    assert_eq!(rig.flusher.stage(), Stage::Running);
    rig
}

fn rounds(rig: &mut Rig, count: u32) {
    for _ in 0..count {
        let _left = rig.flusher.look();
        for log_shard in 0..2 {
            rig.step_writer(log_shard);
        }
    }
}

fn break_the_log(rig: &Rig, kind: DiskErrorKind) {
    let broken = Fault::failed_call(kind);
    rig.disk.inject(broken.clone().on(Verb::Write).lasting());
    rig.disk
        .inject(broken.on(Verb::Open).of_files("log").lasting());
}

#[test]
fn every_failed_commit_is_told_once_with_its_next_try() {
    let mut rig = idle();
    break_the_log(&rig, DiskErrorKind::Other("broken".into()));
    // Two vbuckets of one log shard: one commit, one failure.
    rig.write(0);
    rig.write(2);
    let mut waits = Vec::new();
    for tries in 1..8 {
        rounds(&mut rig, 30);
        let told = rig.ground.told.take();
        assert_eq!(told.len(), 1, "try {tries}: {told:#?}");
        assert_eq!(told[0].kind, FailureKind::Flush);
        assert!(matches!(told[0].cause, FailureCause::Storage(_)));
        let NextStep::RetryAt { at_ms } = told[0].next else {
            panic!("{:?}", told[0].next);
        };
        let at = Duration::from_millis(at_ms);
        let wait = at.saturating_sub(rig.ground.clock.since_epoch());
        waits.push(wait);
        rig.ground.clock.advance(wait + Duration::from_millis(1));
    }
    assert!(waits.last() > waits.first(), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(10)));
    rig.disk.clear_faults();
    rig.settle("healed");
    assert_eq!(rig.ground.told.count(), 0);
}

#[test]
fn a_full_disk_refuses_writes_until_it_heals() {
    let mut rig = idle();
    break_the_log(&rig, DiskErrorKind::Full);
    rig.write(0);
    rounds(&mut rig, 10);
    assert!(rig.vbuckets[0].is_disk_full());
    assert!(!rig.vbuckets[1].is_disk_full(), "it has nothing to write");
    rig.disk.clear_faults();
    rig.settle("healed");
    assert!(!rig.vbuckets[0].is_disk_full());
}

#[test]
fn a_full_disk_of_the_store_itself_heals_when_there_is_room() {
    for seed in 0..20 {
        let mut rig = Rig::new(seed);
        for _ in 0..100 {
            rig.random_step();
        }
        rig.disk.set_space_limit(Some(rig.disk.space_used()));
        for _ in 0..600 {
            rig.random_step();
        }
        rig.disk.set_space_limit(None);
        rig.settle(&format!("seed {seed}"));
        assert!(!rig.vbuckets.iter().any(|vbucket| vbucket.is_disk_full()));
    }
}

#[test]
fn a_pause_waits_for_what_is_under_way_and_nothing_follows() {
    let mut rig = idle();
    rig.write(0);
    let _left = rig.flusher.look();
    let mut paused = rig.flusher.pause();
    let _left = rig.flusher.look();
    assert!(paused.try_recv().is_err(), "a batch is under way");
    rounds(&mut rig, 10);
    assert_eq!(paused.try_recv().unwrap(), Ok(()));
    assert_eq!(rig.flusher.stage(), Stage::Paused);
    rig.write(0);
    let calls = rig.disk.calls_of(Verb::Sync);
    rounds(&mut rig, 20);
    assert_eq!(rig.disk.calls_of(Verb::Sync), calls);
    assert!(rig.vbuckets[0].persisted_seqno() < rig.vbuckets[0].high_seqno());
    assert_eq!(rig.flusher.resume().try_recv().unwrap(), Ok(()));
    rig.settle("resumed");
}

/// A broken disk does not hold up a pause: the batch is back in the flusher's hands.
#[test]
fn a_pause_ends_on_a_broken_disk() {
    let mut rig = idle();
    break_the_log(&rig, DiskErrorKind::Other("broken".into()));
    rig.write(0);
    rounds(&mut rig, 3);
    let mut paused = rig.flusher.pause();
    rounds(&mut rig, 10);
    assert_eq!(paused.try_recv().unwrap(), Ok(()));
}

#[test]
fn flush_now_waits_for_what_there_is_now() {
    let mut rig = idle();
    assert_eq!(rig.flusher.flush_now(None).try_recv().unwrap(), Ok(()));
    let wanted = rig.write(0);
    let id = rig.vbuckets[0].id;
    let mut flushed = rig.flusher.flush_now(Some(id));
    while flushed.try_recv().is_err() {
        // What comes later is not waited for, however much it is.
        rig.write(0);
        rounds(&mut rig, 1);
    }
    assert!(rig.vbuckets[0].persisted_seqno() >= wanted);
}

#[test]
fn a_state_without_items_reaches_the_disk() {
    let mut rig = idle();
    let identity = VbucketIdentity {
        state: VbucketState::Replica,
        failover_table: FailoverTable::new(VbucketUuid(5)),
        topology: Topology::default(),
        manifest_uid: 3,
    };
    rig.vbuckets[0].change_state(identity.clone());
    rig.mark(0);
    let id = rig.vbuckets[0].id;
    let mut flushed = rig.flusher.flush_now(Some(id));
    rounds(&mut rig, 10);
    assert_eq!(flushed.try_recv().unwrap(), Ok(()));
    let lease = rig.store.lease().unwrap();
    let stored = lease.store().state(rig.vbuckets[0].id).unwrap();
    assert_eq!(*stored.identity, identity);
    assert_eq!(stored.watermarks.high_seqno, rig.vbuckets[0].high_seqno());
}

/// A new state in a batch that failed is there with the retry (MB-37546).
#[test]
fn a_state_in_a_failed_batch_is_not_lost() {
    for n in 1..6 {
        let mut rig = idle();
        let identity = VbucketIdentity {
            state: VbucketState::Pending,
            failover_table: FailoverTable::new(VbucketUuid(5)),
            topology: Topology::default(),
            manifest_uid: 4,
        };
        rig.vbuckets[0].change_state(identity.clone());
        rig.write(0);
        let broken = Fault::failed_call(DiskErrorKind::Other("broken".into()));
        rig.disk.inject(broken.nth(n));
        rig.settle("retried");
        let lease = rig.store.lease().unwrap();
        let stored = lease.store().state(rig.vbuckets[0].id).unwrap();
        assert_eq!(*stored.identity, identity, "call {n}");
    }
}

/// Rolled back underneath: the batch is of an older epoch, which is nobody's failure.
#[test]
fn a_stale_epoch_makes_the_vbucket_be_placed_anew() {
    let mut rig = idle();
    {
        let lease = rig.store.lease().unwrap();
        let high = rig.vbuckets[0].high_seqno();
        let rolled_back = lease.store().rollback(rig.vbuckets[0].id, high);
        assert!(
            matches!(rolled_back, Outcome::Complete(_)),
            "{rolled_back:?}"
        );
    }
    rig.write(0);
    rig.settle("placed anew");
    assert_eq!(rig.ground.told.count(), 0);
}

/// Behind the store: refused by seqno, told once, never sent again as it is (MB-65737).
#[test]
fn a_refusal_by_seqno_leads_to_the_position_of_the_store() {
    let mut rig = idle();
    rig.write(0);
    let persisted = rig.vbuckets[0].persisted_seqno();
    // A cursor that went back behind the store.
    rig.vbuckets[0].resync(Seqno::ZERO);
    rig.settle("placed anew");
    let told = rig.ground.told.take();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].vbucket, Some(rig.vbuckets[0].id));
    assert!(rig.vbuckets[0].persisted_seqno() > persisted);
}

/// The store deleted it: nothing is told, nothing hangs, the others go on.
#[test]
fn a_vbucket_that_was_deleted_is_left_alone() {
    let mut rig = idle();
    {
        let lease = rig.store.lease().unwrap();
        lease.store().delete_vbucket(rig.vbuckets[0].id).unwrap();
    }
    rig.write(0);
    rig.write(2);
    rounds(&mut rig, 20);
    assert_eq!(
        rig.vbuckets[2].persisted_seqno(),
        rig.vbuckets[2].high_seqno()
    );
    assert_eq!(rig.ground.told.count(), 0);
    let answered = rig.flusher.flush_now(None).try_recv().unwrap();
    assert!(answered.is_err(), "it is not on disk");
}

/// Opened anew, the store has less than it said: what was freed from memory cannot be written again, so the vbucket
/// must not look whole.
#[test]
fn a_store_that_went_back_takes_the_vbucket_down() {
    let mut rig = idle();
    let id = rig.vbuckets[0].id;
    {
        let lease = rig.store.lease().unwrap();
        let state = lease.store().state(id).unwrap();
        lease.store().delete_vbucket(id).unwrap();
        let empty = VbucketStateRecord {
            watermarks: Watermarks::default(),
            ..state
        };
        lease.store().create_vbucket(id, &empty).unwrap();
    }
    rig.store
        .recall(rig.store.generation(), StorageError::Closed);
    rounds(&mut rig, 20);
    assert!(rig.vbuckets[0].down().is_some());
    let told = rig.ground.told.take();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].cause, StorageError::Gone.into());
    assert_eq!(told[0].next, NextStep::OutOfService);
    let answered = rig.flusher.flush_now(Some(id)).try_recv().unwrap();
    assert!(matches!(answered, Err(OperationError::VbucketDown { .. })));
}

/// Without room in its memory no vbucket waits for another that always has more (MB-37294).
#[test]
fn a_busy_vbucket_does_not_starve_the_others() {
    let mut rig = idle();
    for _ in 0..500 {
        rig.write(0);
    }
    let late = rig.write(2);
    rounds(&mut rig, 12);
    assert!(rig.vbuckets[2].persisted_seqno() >= late);
    assert!(rig.vbuckets[0].persisted_seqno() < rig.vbuckets[0].high_seqno());
}

#[test]
fn a_stop_drains_and_a_late_one_says_what_is_missing() {
    let mut rig = idle();
    rig.write(0);
    let mut stopped = rig.flusher.stop(Duration::from_secs(5));
    rounds(&mut rig, 20);
    assert_eq!(stopped.try_recv().unwrap().unpersisted, []);

    let mut rig = idle();
    break_the_log(&rig, DiskErrorKind::Other("broken".into()));
    rig.write(0);
    let mut stopped = rig.flusher.stop(Duration::from_secs(5));
    for _ in 0..300 {
        rounds(&mut rig, 1);
        rig.ground.clock.advance(Duration::from_millis(20));
    }
    let report = stopped.try_recv().unwrap();
    let named: Vec<_> = report.unpersisted.iter().map(|one| one.vbucket).collect();
    assert_eq!(named, [rig.vbuckets[0].id]);
    assert_eq!(rig.flusher.stage(), Stage::Stopped);
}

/// What arrives while one group is on its way is the next group: one sync for all of it.
#[test]
fn what_arrives_during_a_sync_shares_the_next() {
    let mut rig = idle();
    rig.write(0);
    let _left = rig.flusher.look();
    // Taken, written; its sync comes with the next step.
    rig.writers[0].step();
    rig.writers[0].step();
    rig.write(2);
    let _left = rig.flusher.look();
    let syncs = rig.disk.calls_of(Verb::Sync);
    while rig.writers[0].step() != Step::Idle {}
    assert_eq!(rig.disk.calls_of(Verb::Sync), syncs + 2);

    rig.write(0);
    rig.write(2);
    let _left = rig.flusher.look();
    let _left = rig.flusher.look();
    let syncs = rig.disk.calls_of(Verb::Sync);
    while rig.writers[0].step() != Step::Idle {}
    assert_eq!(
        rig.disk.calls_of(Verb::Sync),
        syncs + 1,
        "two vbuckets, one sync"
    );
}
