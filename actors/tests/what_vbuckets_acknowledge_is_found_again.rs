//! Real vbuckets, flusher, writers, maintenance and warmup on one disk: whatever call fails, and wherever the power goes,
//! what was said to be on disk is found by the next warmup, life after life, and nothing else.
#![cfg(test)]

mod disk_side;

use std::sync::Arc;

use disk_side::cores::Cores;
use disk_side::rig::{create, options};
use storage::LogStore;
use storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk, SyncFailure};

const STEPS: u64 = 500;

fn other() -> DiskErrorKind {
    DiskErrorKind::Other("input/output error".to_owned())
}

fn new_disk() -> (SimulatedDisk, LogStore) {
    let disk = SimulatedDisk::new();
    let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = create(&as_seen);
    (disk, store)
}

fn open(disk: &SimulatedDisk, entropy: u64) -> LogStore {
    let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
    LogStore::open(as_seen, options(entropy)).unwrap()
}

/// How many failures were told of.
fn fail_everywhere(seeds: std::ops::Range<u64>, fault: &Fault) -> usize {
    let mut told = 0;
    for seed in seeds {
        for n in 1.. {
            let what = format!("seed {seed}, n {n} of {fault:?}");
            let (disk, store) = new_disk();
            let mut cores = Cores::open(seed, &disk, store, Cores::no_histories());
            disk.inject(fault.clone().nth(n));
            for _ in 0..STEPS {
                cores.random_step();
            }
            let has_struck = disk.faults_waiting() == 0 || cores.plant.ground.told.count() > 0;
            disk.clear_faults();
            cores.check_memory(&what);
            cores.settle(&what);
            told += cores.plant.ground.told.count();
            let after = disk.crash(n);
            let histories = cores.histories.clone();
            let next = Cores::open(seed, &after, open(&after, 77), histories);
            next.check_memory(&what);
            if !has_struck {
                break;
            }
        }
    }
    told
}

#[test]
fn a_call_that_fails_loses_nothing() {
    // The store makes most of these good by itself.
    fail_everywhere(0..4, &Fault::failed_call(other()));
    fail_everywhere(4..6, &Fault::failed_call(DiskErrorKind::Full));
    fail_everywhere(6..12, &Fault::failed_sync(SyncFailure::KeepsPages));
    fail_everywhere(12..18, &Fault::failed_sync(SyncFailure::DropsPages));
}

/// From some call on, every call: nothing gets through, and then everything does.
#[test]
fn a_disk_that_stays_broken_for_a_while_loses_nothing() {
    let mut told = 0;
    for kind in [
        other(),
        DiskErrorKind::Full,
        DiskErrorKind::NotFound,
        DiskErrorKind::EndOfFile,
    ] {
        told += fail_everywhere(0..3, &Fault::failed_call(kind).lasting());
    }
    let lost = Fault::failed_sync(SyncFailure::DropsPages).lasting();
    told += fail_everywhere(3..6, &lost);
    assert!(told > 100, "{told}");
}

#[test]
fn a_power_cut_at_any_call_takes_back_nothing_that_was_said() {
    let mut cuts = 0;
    for seed in 20..24 {
        for n in 1.. {
            let what = format!("seed {seed}, cut at {n}");
            let (disk, store) = new_disk();
            let mut cores = Cores::open(seed, &disk, store, Cores::no_histories());
            let before = disk.mutating_calls();
            disk.cut_power_at_call(n);
            for _ in 0..STEPS {
                cores.random_step();
            }
            let has_struck = disk.mutating_calls() >= before + n;
            let said = cores.said();
            for crash in 0..3 {
                let what = format!("{what}, crash {crash}");
                let after = disk.crash(crash);
                let histories = cores.histories.clone();
                let mut next = Cores::open(seed, &after, open(&after, 77), histories);
                next.check_after_crash(&said, &what);
            }
            cuts += 1;
            if !has_struck {
                break;
            }
        }
    }
    assert!(cuts > 100, "{cuts}");
}

#[test]
fn life_after_life_goes_on_where_the_last_one_ended() {
    for seed in 30..60 {
        let (disk, store) = new_disk();
        let mut cores = Cores::open(seed, &disk, store, Cores::no_histories());
        let mut disk = disk;
        for life in 1..8 {
            let what = format!("seed {seed}, life {life}");
            let n = 20 + cores.plant.ground.numbers.below(150);
            disk.cut_power_at_call(n);
            for _ in 0..STEPS {
                cores.random_step();
            }
            let said = cores.said();
            let histories = cores.histories.clone();
            disk = disk.crash(seed * 10 + life);
            let store = open(&disk, seed * 100 + life);
            cores = Cores::open(seed * 10 + life, &disk, store, histories);
            cores.check_after_crash(&said, &what);
        }
        cores.settle("end");
        cores.check_memory("end");
    }
}
