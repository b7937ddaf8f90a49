//! Background work goes on while commits do, fails told and later each time, and leaves nothing for ever undone.
#![cfg(test)]

mod disk_side;

use std::time::Duration;

use disk_side::rig::Rig;
use messages::{FailureKind, NextStep};
use piggin_actors::environment::Clock;
use piggin_actors::executor::{Step, Worker};
use storage::KvStore;
use storage::disk::{DiskErrorKind, Fault};

#[test]
fn what_is_written_is_sealed_and_the_log_given_back() {
    let mut rig = Rig::new(1);
    for _ in 0..4000 {
        rig.random_step();
    }
    rig.settle("written");
    for _ in 0..200 {
        rig.step_maintenance();
    }
    // What is not in memory is counted a little later than it is sealed.
    rig.ground.clock.advance(Duration::from_secs(10));
    assert_eq!(rig.maintenance.step(), Step::Idle, "nothing is left to do");
    let lease = rig.store.lease().unwrap();
    let statistics = lease.store().statistics();
    assert!(statistics.container_bytes > 0, "{statistics:?}");
    assert!(statistics.log_files <= 8, "{statistics:?}");
    let id = rig.vbuckets[0].id;
    assert!(lease.store().file_statistics(id).unwrap().segments > 0);
    assert_eq!(rig.ground.told.count(), 0);
}

#[test]
fn a_failure_is_told_by_its_kind_and_waits_longer_each_time() {
    let mut rig = Rig::new(2);
    let broken = Fault::failed_call(DiskErrorKind::Other("broken".into()));
    rig.disk.inject(broken.of_files("container").lasting());
    let mut waits = Vec::new();
    for _ in 0..3000 {
        rig.random_step();
        for told in rig.ground.told.take() {
            if told.kind != FailureKind::Seal {
                continue;
            }
            let NextStep::RetryAt { at_ms } = told.next else {
                panic!("{told:?}");
            };
            let now = rig.ground.clock.since_epoch().as_millis();
            waits.push(u128::from(at_ms).saturating_sub(now));
        }
    }
    assert!(waits.len() > 3, "{waits:?}");
    assert!(waits.iter().max() > waits.first(), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 10_000), "{waits:?}");
    rig.disk.clear_faults();
    rig.settle("healed");
    rig.ground.clock.advance(Duration::from_secs(20));
    for _ in 0..500 {
        rig.step_maintenance();
    }
    let lease = rig.store.lease().unwrap();
    let sealed = rig.vbuckets.iter().filter(|vbucket| {
        let statistics = lease.store().file_statistics(vbucket.id).unwrap();
        statistics.segments > 0
    });
    assert!(sealed.count() > 0);
}

#[test]
fn a_recalled_store_is_let_go() {
    let mut rig = Rig::new(3);
    for _ in 0..300 {
        rig.random_step();
    }
    let is_working = |rig: &Rig| format!("{:?}", rig.maintenance).contains("working: Some");
    while !is_working(&rig) {
        rig.random_step();
    }
    let generation = rig.store.generation();
    rig.store.recall(generation, storage::StorageError::Closed);
    rig.step_maintenance();
    assert!(!is_working(&rig), "a long merge would hold up the opening");
    rig.settle("reopened");
    assert_eq!(rig.store.generation().0, 2);
    assert_eq!(rig.ground.told.count(), 0, "an abort is no failure");
}
