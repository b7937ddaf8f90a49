//! Power cuts: wherever one comes, what was acknowledged as synced is there, and nothing is torn.
//!
//! Runs of random operations are cut at every call that changes the disk, "between any two writes and at every sync";
//! each cut leaves what several seeds decide. What is opened then must be one point of the run's past, goes on, is
//! closed and opened again. Every opening after a cut is itself cut at every call.
//!
//! The runs are fixed by their seeds; what failed is printed with its seed, call and crash.
#![cfg(test)]

mod support;
#[allow(dead_code, reason = "the proofs use the model, not its runs")]
mod model;
mod proof;

use piggin_storage::StorageError;
use piggin_storage::disk::{DiskErrorKind, SimulatedDisk};

use proof::Place;
use proof::world::{Failed, World};

const STEPS: u64 = 40;

/// What a power cut leaves.
#[derive(Clone, Copy, Debug)]
enum Crash {
    LosesUnsynced,
    KeepsEverything,
    Seed(u64),
}

const CRASHES: [Crash; 5] = [
    Crash::LosesUnsynced,
    Crash::KeepsEverything,
    Crash::Seed(1),
    Crash::Seed(2),
    Crash::Seed(3),
];

impl Crash {
    fn of(self, disk: &SimulatedDisk, salt: u64) -> SimulatedDisk {
        match self {
            Crash::LosesUnsynced => disk.crash_losing_everything_unsynced(),
            Crash::KeepsEverything => disk.crash_keeping_everything(),
            Crash::Seed(seed) => disk.crash(seed.wrapping_add(salt.wrapping_mul(0x9e37_79b9))),
        }
    }
}

#[derive(Debug, Default)]
struct Tried {
    runs: u64,
    cuts: u64,
    crashes: u64,
    second_cuts: u64,
}

fn is_power_cut(error: &StorageError) -> bool {
    matches!(error, StorageError::Disk(error) if error.kind == DiskErrorKind::PowerCut)
}

/// Runs until the cut; whether it came.
fn run_until_cut(seed: u64, call: u64, disk: &SimulatedDisk) -> (Option<World>, bool) {
    disk.cut_power_at_call(call);
    let mut world = match World::create(seed, disk) {
        Ok(world) => world,
        Err(error) => {
            assert!(is_power_cut(&error), "{error:?}");
            return (None, true);
        }
    };
    match world.run(STEPS) {
        Ok(()) => (Some(world), false),
        Err(Failed { error, .. }) => {
            assert!(is_power_cut(&error), "{error:?}");
            (Some(world), true)
        }
    }
}

fn cut_everywhere(seeds: std::ops::Range<u64>) {
    let mut tried = Tried::default();
    let mut place = Place(String::new());
    for seed in seeds {
        tried.runs += 1;
        for call in 1.. {
            place.0 = format!("seed {seed}, call {call}");
            let disk = SimulatedDisk::new();
            let (world, was_cut) = run_until_cut(seed, call, &disk);
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
    match world.run(5) {
        Ok(()) => {}
        Err(Failed { error, left }) => panic!("{left:?} after a crash: {error}"),
    }
    world.check();
    world.close().unwrap();
    world.open().unwrap();
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
    cut_everywhere(10..11);
}

#[test]
fn wherever_it_comes_in_other_runs() {
    cut_everywhere(107..108);
}
