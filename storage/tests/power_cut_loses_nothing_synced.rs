//! Power cuts: wherever one comes, what was acknowledged as synced is there, and nothing is torn.
//!
//! Runs of random operations are cut at every call that changes the disk, "between any two writes and at every sync";
//! each cut leaves what several seeds decide. What is opened then must be one point of the run's past, goes on, is
//! closed and opened again. Every opening after a cut is itself cut at every call.
//!
//! The runs are fixed by their seeds; what failed is printed with its seed, call and crash.
#![cfg(test)]

mod support;
#[expect(dead_code, reason = "the proofs use the model, not its runs")]
mod model;
mod proof;

use piggin_storage::StorageError;
use piggin_storage::disk::{DiskErrorKind, SimulatedDisk};

use proof::Place;
use proof::crash::CRASHES;
use proof::stepped::UnderWay;
use proof::world::{Failed, World};

/// What is cut.
#[derive(Clone, Copy)]
struct Run {
    operations: u64,
    /// Jobs and scans are under way at the same time, in steps.
    is_stepped: bool,
}

const ONE_BY_ONE: Run = Run {
    operations: 40,
    is_stepped: false,
};
const LONG: Run = Run {
    operations: 150,
    is_stepped: false,
};
const ALL_AT_ONCE: Run = Run {
    operations: 40,
    is_stepped: true,
};
const LONG_ALL_AT_ONCE: Run = Run {
    operations: 150,
    is_stepped: true,
};

#[derive(Debug, Default)]
struct Tried {
    runs: u64,
    cuts: u64,
    crashes: u64,
    second_cuts: u64,
    steps_of_jobs: u64,
    jobs_completed: u64,
    jobs_aborted: u64,
}

fn is_power_cut(error: &StorageError) -> bool {
    matches!(error, StorageError::Disk(error) if error.kind == DiskErrorKind::PowerCut)
}

/// Runs until the cut; whether it came.
fn run_until_cut(
    run: Run,
    seed: u64,
    call: u64,
    disk: &SimulatedDisk,
    tried: &mut Tried,
) -> (Option<World>, bool) {
    disk.cut_power_at_call(call);
    let mut world = match World::create(seed, disk, run.is_stepped) {
        Ok(world) => world,
        Err(error) => {
            assert!(is_power_cut(&error), "{error:?}");
            return (None, true);
        }
    };
    let ended = if run.is_stepped {
        let mut under_way = UnderWay::default();
        let ended = world.run_stepped(run.operations, &mut under_way);
        tried.steps_of_jobs += under_way.steps;
        tried.jobs_completed += under_way.completed;
        tried.jobs_aborted += under_way.aborted;
        ended
    } else {
        world.run(run.operations)
    };
    match ended {
        Ok(()) => (Some(world), false),
        Err(Failed { error, .. }) => {
            assert!(is_power_cut(&error), "{error:?}");
            (Some(world), true)
        }
    }
}

fn cut_everywhere(run: Run, seeds: std::ops::Range<u64>) {
    let mut tried = Tried::default();
    let mut place = Place(String::new());
    for seed in seeds {
        tried.runs += 1;
        for call in 1.. {
            place.0 = format!("seed {seed}, call {call}");
            let disk = SimulatedDisk::new();
            let (world, was_cut) = run_until_cut(run, seed, call, &disk, &mut tried);
            if let Some(world) = world {
                tried.cuts += 1;
                for (number, crash) in CRASHES.into_iter().enumerate() {
                    place.0 = format!("seed {seed}, call {call}, {crash:?}");
                    tried.crashes += 1;
                    let left = crash.of(&disk, call);
                    if call % 5 == number as u64 {
                        tried.second_cuts += cut_again(&world, &left, call, &mut place);
                    }
                    go_on(world.after_crash(left, call));
                }
            }
            if !was_cut {
                break;
            }
        }
    }
    println!("{tried:?}");
}

/// Opens what the cut left, does something, closes, and opens again.
fn go_on(mut world: World) {
    world.open().unwrap();
    let report = world.store().verify();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    match world.run(5) {
        Ok(()) => {}
        Err(Failed { error, left }) => panic!("{left:?} after a crash: {error}"),
    }
    world.check();
    for crash in CRASHES.into_iter().step_by(2) {
        let left = crash.of(&world.disk, 7);
        world.after_crash(left, 7).open().unwrap();
    }
    world.close().unwrap();
    world.open().unwrap();
    let report = world.store().verify();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
}

/// Cuts the opening of what a cut left, at every call.
fn cut_again(world: &World, left: &SimulatedDisk, salt: u64, place: &mut Place) -> u64 {
    let said = place.0.clone();
    for call in 1.. {
        place.0 = format!("{said}, second cut at {call}");
        let disk = left.crash_keeping_everything();
        disk.cut_power_at_call(call);
        let mut opening = world.after_crash(disk.clone(), salt);
        match opening.open() {
            Ok(()) => return call,
            Err(error) => assert!(is_power_cut(&error), "{error:?}"),
        }
        let mut again = world.after_crash(disk.crash(salt ^ call), salt + 1);
        again.open().unwrap();
    }
    0
}

#[test]
fn wherever_it_comes() {
    cut_everywhere(ONE_BY_ONE, 0..6);
}

#[test]
fn wherever_it_comes_in_a_long_run() {
    cut_everywhere(LONG, 1000..1001);
}

#[test]
fn wherever_it_comes_while_jobs_are_at_work() {
    cut_everywhere(ALL_AT_ONCE, 0..6);
}

#[test]
fn wherever_it_comes_in_a_long_run_while_jobs_are_at_work() {
    cut_everywhere(LONG_ALL_AT_ONCE, 1001..1004);
}
