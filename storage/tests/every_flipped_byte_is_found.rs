//! A bit flips in any byte of any file: what is read is right, or an error names the file, and nothing in between.
//!
//! Small stores are closed in order, or left by a crash, and then opened and read whole once for every byte, with one
//! bit of it flipped. A cleanly closed store never misses anything in silence; one left by a crash may take damage in
//! the very last frame of a log for a torn tail, and is then what it was before that frame. Of long stretches of
//! zeros, which nothing was written to yet, one byte in 32 is flipped.
#![cfg(test)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else comes is printed by the panic"
)]

mod support;
#[expect(dead_code, reason = "the proofs use the model, not its runs")]
mod model;
mod proof;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{
    CommitDurability, CompactionRequest, KvStore, LogStore, StorageError, VbucketId,
};

use model::generate;
use model::random::Random;
use model::vbucket::Expected;
use proof::operation::Operation;
use proof::world::{Failed, LOG_SHARDS, World};
use proof::{Place, look};

/// A store to be damaged.
struct Victim {
    disk: SimulatedDisk,
    /// What each vbucket must be.
    expected: BTreeMap<VbucketId, Expected>,
    /// Per log file, the bytes of the last frame, and what the shard's vbuckets were before it.
    torn: Torn,
    /// Only files whose names begin so are damaged.
    only: &'static str,
}

#[derive(Debug, Default)]
struct Tried {
    flips: u64,
    refused: u64,
    down: u64,
    failed_reads: u64,
    as_torn: u64,
    found_by_verify: u64,
    without_effect: u64,
}

fn apply(world: &mut World, operation: Operation) {
    if let Err(Failed { left, error }) = world.apply(operation) {
        panic!("{left:?}: {error}");
    }
}

fn commit(world: &mut World, items_max: u64) {
    for vbucket in world.past.present() {
        let model = Arc::clone(world.past.current(vbucket).unwrap());
        let batch = loop {
            let batch = generate::batch(&mut world.random, &model, items_max);
            let bytes: u64 = batch.items.iter().map(|item| item.user_bytes()).sum();
            if !batch.items.is_empty() && bytes < 1000 {
                break batch;
            }
        };
        apply(
            world,
            Operation::Commit(vec![batch], CommitDurability::Synced),
        );
    }
}

/// Sealed, merged and unsealed data of four vbuckets in two log shards.
fn build(seed: u64) -> World {
    let disk = SimulatedDisk::new();
    let mut world = World::create(seed, &disk, false).unwrap();
    for number in 0..4 {
        let state = generate::new_state(&mut world.random);
        apply(
            &mut world,
            Operation::Create(support::vbucket(number), state),
        );
    }
    for _ in 0..3 {
        commit(&mut world, 8);
        apply(&mut world, Operation::Reopen { closes: true });
    }
    commit(&mut world, 6);
    for vbucket in world.past.present().into_iter().take(2) {
        apply(
            &mut world,
            Operation::Merge(vbucket, piggin_storage::Seqno(3)),
        );
    }
    let compacted = world.past.present().into_iter().last().unwrap();
    let request = CompactionRequest {
        drop_deletes: true,
        ..CompactionRequest::default()
    };
    apply(&mut world, Operation::Compact(compacted, request));
    apply(&mut world, Operation::Checkpoint);
    for _ in 0..20 {
        apply(&mut world, Operation::Maintain);
    }
    commit(&mut world, 4);
    world
}

fn expected(world: &World) -> BTreeMap<VbucketId, Expected> {
    let present = world.past.present().into_iter();
    present
        .map(|vbucket| (vbucket, world.past.current(vbucket).unwrap().expected()))
        .collect()
}

fn closed(seed: u64) -> Victim {
    let mut world = build(seed);
    world.close().unwrap();
    Victim {
        disk: world.disk.crash_losing_everything_unsynced(),
        expected: expected(&world),
        torn: BTreeMap::new(),
        only: "",
    }
}

type Torn = BTreeMap<String, (Range<usize>, BTreeMap<VbucketId, Expected>)>;

/// A last frame in each log.
fn commit_last(world: &mut World) -> Torn {
    let mut torn = BTreeMap::new();
    for number in 0..LOG_SHARDS {
        let before = expected(world);
        let files = world.disk.files();
        let vbucket = support::vbucket(number);
        let model = Arc::clone(world.past.current(vbucket).unwrap());
        let mut batch = generate::batch(&mut world.random, &model, 4);
        while batch.items.is_empty() {
            batch = generate::batch(&mut world.random, &model, 4);
        }
        apply(
            world,
            Operation::Commit(vec![batch], CommitDurability::Synced),
        );
        let mine = before
            .into_iter()
            .filter(|(vbucket, _)| vbucket.get() % LOG_SHARDS == number);
        let mine: BTreeMap<_, _> = mine.collect();
        for (name, after) in world.disk.files() {
            let zeros = vec![0; after.len()];
            let before = files.get(&name).unwrap_or(&zeros);
            if let Some(range) = difference(before, &after) {
                torn.insert(name, (range, mine.clone()));
            }
        }
    }
    torn
}

fn left_by_a_crash(seed: u64) -> Victim {
    let mut world = build(seed);
    let torn = commit_last(&mut world);
    Victim {
        disk: world.disk.crash_losing_everything_unsynced(),
        expected: expected(&world),
        torn,
        only: "",
    }
}

/// The frame that was written: from the first byte that changed, to the end of the frame's last 64 bytes.
fn difference(before: &[u8], after: &[u8]) -> Option<Range<usize>> {
    let differs = |index: &usize| before.get(*index) != after.get(*index);
    let first = (0..after.len()).find(differs)?;
    let last = (0..after.len()).rev().find(differs)?;
    Some(first / 64 * 64..(last + 1).next_multiple_of(64))
}

/// What one damaged store came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    ByVerify,
    AsTorn,
    FailedRead,
    Down,
    Refused,
}

fn names_the_file(error: &StorageError, file: &str) -> bool {
    if let StorageError::VbucketDown { cause, .. } = error {
        return names_the_file(cause, file);
    }
    matches!(error, StorageError::Corruption { file: named, .. } if named == file)
}

fn open_and_read(victim: &Victim, disk: &SimulatedDisk, file: &str, offset: usize) -> Found {
    let options = support::log_store::small_options(99);
    let store = match LogStore::open(Arc::new(disk.clone()), options) {
        Ok(store) => store,
        Err(error) => {
            assert!(names_the_file(&error, file), "refused: {error}");
            return Found::Refused;
        }
    };
    let mut found = Found::Nothing;
    let listed: BTreeMap<VbucketId, _> = store
        .vbuckets()
        .into_iter()
        .map(|status| (status.vbucket, status.position))
        .collect();
    let all: Vec<&VbucketId> = victim.expected.keys().collect();
    assert_eq!(
        listed.keys().collect::<Vec<_>>(),
        all,
        "the vbuckets there are"
    );
    let mut concerned = 0;
    for (vbucket, expected) in &victim.expected {
        let torn = victim
            .torn
            .get(file)
            .filter(|(range, _)| range.contains(&offset));
        let torn = torn.and_then(|(_, before)| before.get(vbucket));
        #[expect(clippy::single_match_else, reason = "two findings of equal rank")]
        let one = match &listed[vbucket] {
            Err(error) => {
                assert!(names_the_file(error, file), "down: {error}");
                Found::Down
            }
            Ok(_) => {
                let is_torn = torn.is_some_and(|before| {
                    store.state(*vbucket) != Ok(expected.state.clone())
                        && store.state(*vbucket) == Ok(before.state.clone())
                });
                let wanted = torn.filter(|_| is_torn).unwrap_or(expected);
                match look::attempt(&store, wanted) {
                    Ok(()) if is_torn => Found::AsTorn,
                    Ok(()) => Found::Nothing,
                    Err(error) => {
                        assert!(names_the_file(&error, file), "read: {error}");
                        Found::FailedRead
                    }
                }
            }
        };
        concerned += usize::from(one != Found::Nothing);
        found = found.max(one);
    }
    // A log or a manifest is one shard's, a segment one vbucket's.
    let most = if file.starts_with("container") && offset >= 4096 {
        1
    } else {
        2
    };
    assert!(concerned <= most, "{concerned} vbuckets are concerned");
    let report = store.verify();
    let is_named = report.faults.iter().any(|fault| fault.file == file);
    match found {
        Found::Nothing if is_named => Found::ByVerify,
        Found::Nothing => {
            assert!(report.faults.is_empty(), "{:?}", report.faults);
            Found::Nothing
        }
        found => found,
    }
}

/// Whether there are nothing but zeros around.
fn is_unwritten(bytes: &[u8], offset: usize) -> bool {
    let around = offset.saturating_sub(256)..(offset + 256).min(bytes.len());
    bytes[around].iter().all(|byte| *byte == 0)
}

fn flip_everywhere(victim: &Victim, seed: u64) {
    let mut place = Place(String::new());
    let mut random = Random::new(seed);
    let files = victim.disk.files().into_iter();
    for (file, bytes) in files.filter(|(name, _)| name.starts_with(victim.only)) {
        let mut tried = Tried::default();
        for offset in 0..bytes.len() {
            if is_unwritten(&bytes, offset) && random.below(32) > 0 {
                continue;
            }
            let bit = u8::try_from(random.below(8)).unwrap();
            place.0 = format!("seed {seed}, {file}, offset {offset}, bit {bit}");
            let disk = victim.disk.crash_keeping_everything();
            disk.flip_bit(&file, offset as u64, bit).unwrap();
            tried.flips += 1;
            let figure = match open_and_read(victim, &disk, &file, offset) {
                Found::Nothing => &mut tried.without_effect,
                Found::ByVerify => &mut tried.found_by_verify,
                Found::AsTorn => &mut tried.as_torn,
                Found::FailedRead => &mut tried.failed_reads,
                Found::Down => &mut tried.down,
                Found::Refused => &mut tried.refused,
            };
            *figure += 1;
        }
        println!("{file}: {tried:?}");
    }
}

/// A store that was never checkpointed but for the second shard, so that creations are only in the log.
fn young(seed: u64, has_manifest: bool) -> Victim {
    let disk = SimulatedDisk::new();
    let mut world = World::create(seed, &disk, false).unwrap();
    if has_manifest {
        apply(&mut world, Operation::Checkpoint);
    }
    for number in 0..4 {
        let state = generate::new_state(&mut world.random);
        apply(
            &mut world,
            Operation::Create(support::vbucket(number), state),
        );
    }
    commit(&mut world, 3);
    commit(&mut world, 3);
    let torn = commit_last(&mut world);
    Victim {
        disk: world.disk.crash_losing_everything_unsynced(),
        expected: expected(&world),
        torn,
        only: "log.00",
    }
}

#[test]
fn in_a_log_that_creates_vbuckets() {
    flip_everywhere(&young(3, false), 3);
}

#[test]
fn in_a_log_that_creates_vbuckets_after_a_manifest() {
    flip_everywhere(&young(4, true), 4);
}

#[test]
fn in_a_store_closed_in_order() {
    flip_everywhere(&closed(1), 1);
}

#[test]
fn in_a_store_left_by_a_crash() {
    flip_everywhere(&left_by_a_crash(2), 2);
}
