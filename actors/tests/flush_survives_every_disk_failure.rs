//! A disk call fails, whichever it is and however: after faults stop everything is on disk, nothing twice, and a power
//! cut at any call takes nothing back that was said to be there (rule R3, MB-42224, MB-38845, MB-65737).
#![cfg(test)]

mod disk_side;

use std::sync::Arc;

use disk_side::rig::{Rig, options};
use storage::LogStore;
use storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk, SyncFailure, Verb};

const STEPS: u64 = 500;

fn other() -> DiskErrorKind {
    DiskErrorKind::Other("input/output error".to_owned())
}

fn open(disk: &SimulatedDisk, what: &str) -> LogStore {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    LogStore::open(disk, options(99)).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Repeats a run with the n-th call that `fault` matches failing, for every n until none is left.
fn fail_everywhere(seeds: std::ops::Range<u64>, fault: &Fault) {
    let (mut runs, mut told, mut reopened) = (0, 0, 0);
    for seed in seeds {
        for n in 1.. {
            let what = format!("seed {seed}, n {n} of {fault:?}");
            let mut rig = Rig::new(seed);
            rig.disk.inject(fault.clone().nth(n));
            for _ in 0..STEPS {
                rig.random_step();
            }
            let struck = rig.disk.faults_waiting() == 0 || rig.ground.told.count() > 0;
            rig.disk.clear_faults();
            rig.settle(&what);
            let crashed = open(&rig.disk.crash(n), &what);
            rig.check_store(&crashed, true, &what);
            runs += 1;
            told += rig.ground.told.count();
            reopened += rig.store.generation().0 - 1;
            if !struck {
                break;
            }
        }
    }
    println!("{runs} runs, {told} failures told of, {reopened} reopenings");
    assert!(told > 0);
}

#[test]
fn a_failed_call_loses_nothing() {
    fail_everywhere(0..20, &Fault::failed_call(other()));
}

#[test]
fn a_full_disk_loses_nothing() {
    fail_everywhere(20..40, &Fault::failed_call(DiskErrorKind::Full));
}

/// From some call on, every call: nothing gets through, and then everything does.
#[test]
fn a_disk_that_stays_broken_for_a_while_loses_nothing() {
    for kind in [
        other(),
        DiskErrorKind::Full,
        DiskErrorKind::NotFound,
        DiskErrorKind::EndOfFile,
    ] {
        fail_everywhere(0..4, &Fault::failed_call(kind).lasting());
    }
    let lost = Fault::failed_sync(SyncFailure::DropsPages).lasting();
    fail_everywhere(4..8, &lost);
}

#[test]
fn a_torn_write_loses_nothing() {
    fail_everywhere(40..55, &Fault::short_write(100, other()));
}

#[test]
fn a_failed_sync_loses_nothing() {
    fail_everywhere(55..70, &Fault::failed_sync(SyncFailure::KeepsPages));
    fail_everywhere(70..85, &Fault::failed_sync(SyncFailure::DropsPages));
}

#[test]
fn a_file_that_vanished_makes_the_store_be_opened_anew() {
    let fault = Fault::failed_call(DiskErrorKind::NotFound);
    fail_everywhere(85..100, &fault.clone().on(Verb::Write));
    fail_everywhere(100..115, &fault.on(Verb::Sync));
}

#[test]
fn a_power_cut_takes_nothing_back_that_was_said_to_be_on_disk() {
    let mut cuts = 0;
    for seed in 30..34 {
        for n in 1.. {
            let what = format!("seed {seed}, cut at {n}");
            let mut rig = Rig::new(seed);
            rig.disk.cut_power_at_call(n);
            for _ in 0..STEPS {
                rig.random_step();
            }
            let has_struck = rig.disk.mutating_calls() >= n
                && rig
                    .disk
                    .lock("probe")
                    .is_err_and(|error| error.kind == DiskErrorKind::PowerCut);
            for crash in 0..3 {
                let what = format!("{what}, crash {crash}");
                let store = open(&rig.disk.crash(crash), &what);
                rig.check_store(&store, false, &what);
            }
            if !has_struck {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 100, "{cuts} cuts");
}

/// Work goes on after a crash where the store stands.
#[test]
fn what_a_crash_left_is_built_upon() {
    for seed in 40..60 {
        let what = format!("seed {seed}");
        let mut rig = Rig::new(seed);
        rig.disk.cut_power_at_call(60 + seed);
        for _ in 0..STEPS {
            rig.random_step();
        }
        let disk = rig.disk.crash(seed);
        let store = open(&disk, &what);
        rig.check_store(&store, false, &what);
        let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
        let mut next = Rig::on(seed + 1, &disk, &as_seen, store);
        for _ in 0..STEPS {
            next.random_step();
        }
        next.settle(&what);
        assert_eq!(next.ground.told.count(), 0, "{what}");
    }
}
