//! A vbucket is complete after warmup, or out of service with the cause: whatever call of the disk fails, partial data
//! never passes for complete (MB-47933, MB-41257); new branches of history are on disk before any write is served
//! (MB-45755); a full disk is read all the same (MB-39338); a stop answers whoever waits (MB-47851).
#![cfg(test)]

mod disk_side;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use disk_side::rig::{Plant, Rig, SHAPE, options};
use disk_side::warming::Warming;
use messages::failure::WarmupPhase;
use messages::{FailureKind, NextStep, OperationError};
use piggin_actors::flusher::Flushable;
use piggin_actors::warmup::{CleanMark, WarmupEnd};
use storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk, Verb};
use storage::{KvStore, StorageError, VbucketId};

/// Keys and seqnos by vbucket.
type Expected = BTreeMap<u16, Vec<(Vec<u8>, u64)>>;

/// A disk with a store that was written to, sealed in parts, and shut down in order or not.
fn written(seed: u64, is_clean: bool) -> (SimulatedDisk, Expected) {
    let mut rig = Rig::new(seed);
    for _ in 0..3000 {
        rig.random_step();
    }
    rig.settle("written");
    let expected = rig
        .vbuckets
        .iter()
        .map(|vbucket| {
            let items = vbucket.items();
            let newest: BTreeMap<Vec<u8>, u64> = items
                .iter()
                .map(|item| (item.document.key.as_encoded().to_vec(), item.seqno.0))
                .collect();
            (vbucket.id.get(), newest.into_iter().collect())
        })
        .collect();
    let Plant {
        store,
        disk,
        writers,
        maintenance,
        flusher,
        ..
    } = rig.plant;
    drop((writers, maintenance, flusher));
    if is_clean {
        let of = disk.clone();
        let closed = store.close(|vbuckets| CleanMark::write(&of, vbuckets));
        assert_eq!(closed, Some(Ok(())));
    }
    drop(store);
    (disk.crash_losing_everything_unsynced(), expected)
}

fn loaded(warming: &Warming, id: u16) -> Vec<(Vec<u8>, u64)> {
    let vbucket = warming.table.vbucket(id);
    let found = vbucket.warm().into_iter();
    found
        .map(|item| (item.document.key.as_encoded().to_vec(), item.seqno.0))
        .collect()
}

/// Every vbucket is complete and warm, or down and named.
fn check(warming: &Warming, expected: &Expected, what: &str) -> usize {
    let mut down = 0;
    for id in 0..SHAPE.vbuckets {
        let name = VbucketId::new(id).unwrap();
        if warming.table.down.lock().contains_key(&name) {
            down += 1;
            continue;
        }
        let vbucket = warming.table.vbucket(id);
        if vbucket.down().is_some() {
            assert!(!vbucket.is_warm(), "{what}: {id} is down and warm");
            down += 1;
            continue;
        }
        assert!(vbucket.is_warm(), "{what}: {id}");
        assert_eq!(loaded(warming, id), expected[&id], "{what}: vbucket {id}");
    }
    down
}

#[test]
fn every_document_is_loaded_whatever_worker_does_what_when() {
    for seed in 0..60 {
        let (disk, expected) = written(seed % 6, false);
        let mut warming = Warming::open(seed, &disk).unwrap();
        let mut waiting = warming.warmup.wait();
        warming.run();
        assert_eq!(check(&warming, &expected, "all"), 0);
        let end = waiting.try_recv().unwrap().unwrap();
        assert!(end.is_writable && end.down.is_empty());
        let progress = warming.warmup.progress();
        assert_eq!(progress.vbuckets_loaded, usize::from(SHAPE.vbuckets));
        let items: usize = expected.values().map(Vec::len).sum();
        assert_eq!(progress.items, items as u64);
    }
}

#[test]
fn an_unclean_shutdown_begins_a_branch_and_a_clean_one_does_not() {
    let (disk, expected) = written(1, true);
    let mut clean = Warming::open(1, &disk).unwrap();
    clean.run();
    check(&clean, &expected, "clean");
    for id in 0..SHAPE.vbuckets {
        let branches = clean
            .table
            .state(id)
            .identity
            .failover_table
            .entries()
            .len();
        assert_eq!(branches, 1, "clean");
    }
    // The mark was cleared with the opening: from here on a power cut is unclean.
    let disk = disk.crash_losing_everything_unsynced();
    let mut unclean = Warming::open(2, &disk).unwrap();
    unclean.run();
    for id in 0..SHAPE.vbuckets {
        let vbucket = unclean.table.vbucket(id);
        let state = unclean.table.state(id);
        let entries = state.identity.failover_table.entries();
        assert_eq!(entries.len(), 2, "unclean");
        assert_eq!(entries[0].seqno, vbucket.persisted_seqno());
        assert_ne!(entries[0].uuid, entries[1].uuid);
        assert!(!vbucket.is_held(), "writes are served");
    }
    // What is served was on disk before.
    let after = disk.crash_losing_everything_unsynced();
    let again = Warming::open(3, &after).unwrap();
    let lease = again.store.lease().unwrap();
    for id in 0..SHAPE.vbuckets {
        let stored = lease.store().state(VbucketId::new(id).unwrap()).unwrap();
        assert_eq!(stored.identity, unclean.table.state(id).identity);
    }
}

/// At no moment is a vbucket open for writes while its new branch is not on disk.
#[test]
fn no_write_is_served_before_its_branch_is_on_disk() {
    let (disk, _) = written(2, false);
    for seed in 0..30 {
        let disk = disk.crash_losing_everything_unsynced();
        let mut warming = Warming::open(seed, &disk).unwrap();
        while !warming.warmup.progress().is_done {
            warming.step();
            let made: Vec<_> = warming.table.made.lock().values().cloned().collect();
            for (vbucket, state) in made {
                if !vbucket.is_warm() || vbucket.is_held() {
                    continue;
                }
                let after: Arc<dyn Disk> = Arc::new(disk.crash_losing_everything_unsynced());
                let store = storage::LogStore::open(after, options(7)).unwrap();
                let stored = store.state(vbucket.id).unwrap();
                assert_eq!(stored.identity, state.identity, "seed {seed}");
            }
        }
    }
}

/// What the vbuckets say they are, the store says, too, however often their states had to be read.
#[test]
fn states_that_are_read_twice_begin_one_branch() {
    let (disk, _) = written(2, false);
    for seed in 0..10 {
        let disk = disk.crash_losing_everything_unsynced();
        let mut warming = Warming::open(seed, &disk).unwrap();
        while warming.table.made.lock().len() < 3 {
            warming.step();
        }
        let generation = warming.store.generation();
        warming.store.recall(generation, StorageError::Closed);
        warming.run();
        let lease = warming.store.lease().unwrap();
        assert_ne!(lease.generation(), generation);
        for id in 0..SHAPE.vbuckets {
            let stored = lease.store().state(VbucketId::new(id).unwrap()).unwrap();
            let served = warming.table.state(id);
            assert_eq!(stored.identity, served.identity, "seed {seed}, {id}");
            assert_eq!(stored.identity.failover_table.entries().len(), 2);
        }
    }
}

#[test]
fn a_call_that_fails_takes_vbuckets_down_or_is_made_good() {
    let (mut down, mut runs) = (0, 0);
    for kind in [
        DiskErrorKind::Other("broken".into()),
        DiskErrorKind::EndOfFile,
        DiskErrorKind::NotFound,
    ] {
        for seed in 0..3 {
            let (disk, expected) = written(seed, false);
            for n in 1.. {
                let what = format!("seed {seed}, {kind:?} at {n}");
                let disk = disk.crash_losing_everything_unsynced();
                let mut warming = Warming::open(seed, &disk).unwrap();
                let before = disk.calls();
                disk.fail_call(n, kind.clone());
                warming.run();
                let has_struck = disk.faults_waiting() == 0;
                disk.clear_faults();
                assert!(disk.calls() > before);
                for _ in 0..100 {
                    let _reopened = warming.store.reopen();
                    warming.steps(20);
                    warming.ground.clock.advance(Duration::from_millis(500));
                }
                let is_down = check(&warming, &expected, &what);
                let told = warming.ground.told.take();
                let out = told.iter().filter(|one| one.next == NextStep::OutOfService);
                assert_eq!(out.count(), is_down, "{what}: {told:#?}");
                for id in 0..SHAPE.vbuckets {
                    let vbucket = warming.table.vbucket(id);
                    assert!(!vbucket.is_held(), "{what}: it healed");
                }
                down += is_down;
                runs += 1;
                if !has_struck {
                    break;
                }
            }
        }
    }
    assert!(down > 0, "{runs} runs, none took a vbucket down");
}

#[test]
fn a_full_disk_is_read_and_takes_writes_when_it_heals() {
    let (disk, expected) = written(3, false);
    let mut warming = Warming::open(1, &disk).unwrap();
    let full = Fault::failed_call(DiskErrorKind::Full);
    for verb in [Verb::Write, Verb::Zero, Verb::Open] {
        disk.inject(full.clone().on(verb).of_files("log").lasting());
    }
    let mut waiting = warming.warmup.wait();
    warming.run();
    assert_eq!(check(&warming, &expected, "full"), 0);
    let end = waiting.try_recv().unwrap().unwrap();
    assert!(!end.is_writable);
    for id in 0..SHAPE.vbuckets {
        assert!(warming.table.vbucket(id).is_held(), "no traffic");
    }
    let told = warming.ground.told.take();
    assert_eq!(told.len(), 1, "{told:#?}");
    let phase = WarmupPhase::Persist;
    assert_eq!(told[0].kind, FailureKind::Warmup { phase });
    disk.clear_faults();
    // A try that was under way may fail yet, and be tried again later.
    for _ in 0..10 {
        warming.ground.clock.advance(Duration::from_secs(1));
        warming.steps(50);
    }
    for id in 0..SHAPE.vbuckets {
        assert!(!warming.table.vbucket(id).is_held(), "it healed");
    }
    let mut late = warming.warmup.wait();
    let end = late.try_recv().unwrap().unwrap();
    assert_eq!(
        end,
        WarmupEnd {
            is_writable: true,
            down: Vec::new()
        }
    );
}

#[test]
fn a_stop_at_any_step_answers_whoever_waits() {
    let (disk, _) = written(4, false);
    for steps in 0..60 {
        let disk = disk.crash_losing_everything_unsynced();
        let mut warming = Warming::open(u64::from(steps), &disk).unwrap();
        let mut waiting = warming.warmup.wait();
        warming.steps(steps);
        let was_done = warming.warmup.progress().is_done;
        warming.warmup.stop();
        let answer = waiting.try_recv().unwrap();
        if !was_done {
            assert_eq!(answer, Err(OperationError::Closed));
        }
        warming.steps(30);
        warming.workers.clear();
        assert_eq!(
            warming.store.close(|_| Ok(())),
            Some(Ok(())),
            "no lease is left"
        );
    }
}

/// A store that is recalled in the middle is read again from its new opening.
#[test]
fn a_store_that_is_opened_anew_meanwhile_is_read_all_the_same() {
    let (disk, expected) = written(5, false);
    for steps in 0..60 {
        let disk = disk.crash_losing_everything_unsynced();
        let mut warming = Warming::open(u64::from(steps), &disk).unwrap();
        warming.steps(steps);
        let generation = warming.store.generation();
        warming.store.recall(generation, StorageError::Closed);
        warming.run();
        assert_eq!(check(&warming, &expected, "reopened"), 0);
    }
}

/// A bucket whose creation was interrupted is completed.
#[test]
fn vbuckets_that_are_missing_are_created() {
    let (disk, expected) = written(0, true);
    {
        let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = storage::LogStore::open(as_seen, options(50)).unwrap();
        store.delete_vbucket(VbucketId::new(3).unwrap()).unwrap();
        store.close().unwrap();
    }
    let mut warming = Warming::open(1, &disk).unwrap();
    warming.run();
    for id in 0..3 {
        assert_eq!(loaded(&warming, id), expected[&id]);
    }
    assert_eq!(loaded(&warming, 3), []);
    assert!(warming.table.vbucket(3).is_warm());
    let lease = warming.store.lease().unwrap();
    assert!(lease.store().state(VbucketId::new(3).unwrap()).is_ok());
}
