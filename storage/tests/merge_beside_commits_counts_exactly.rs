//! While a merge runs, whatever is committed and sealed beside it is counted exactly, and every read finds it.
//!
//! At every step of a merge something is flushed; after every step the figures are those of a full scan, and they are
//! the same after a restart.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{Item, Job, KvStore, LogStore, Namespace, OpenOptions, Outcome, Seqno};
use support::log_store::{create_on, image, open_on, small_options};
use support::{Writer, abort_of, commit_of, identity, mutation, prepare, vbucket};

/// What a scan of the vbucket finds, as the counts name it: documents, tombstones, prepares, aborts.
fn scanned(store: &LogStore) -> [i64; 4] {
    let image = image(store, 0);
    let of = |is: &dyn Fn(&Item) -> bool| {
        i64::try_from(image.by_seqno.iter().filter(|item| is(item)).count()).unwrap()
    };
    let is_in = |item: &Item, namespace| item.namespace() == namespace;
    let is_dead = |item: &Item| item.operation.is_tombstone();
    [
        of(&|item| is_in(item, Namespace::Committed) && !is_dead(item)),
        of(&|item| is_in(item, Namespace::Committed) && is_dead(item)),
        of(&|item| is_in(item, Namespace::Prepared) && !is_dead(item)),
        of(&|item| is_in(item, Namespace::Prepared) && is_dead(item)),
    ]
}

fn counted(store: &LogStore) -> [i64; 4] {
    let total = store.counts(vbucket(0)).unwrap().total();
    [
        total.documents,
        total.tombstones,
        total.prepares,
        total.aborts,
    ]
}

/// What is flushed beside the merge, by number: prepares, prepares again, aborts and commits of the same few keys.
fn next_item(number: u64, seqno: u64) -> Arc<Item> {
    let key = format!("k{}", number % 5);
    match number % 4 {
        0 | 1 => prepare(seqno, &key, "prepared"),
        2 => abort_of(seqno - 1, seqno, &key),
        _ => commit_of(seqno - 1, seqno, &key, "committed"),
    }
}

/// Two segments to merge, with prepares in both.
fn segments(writer: &mut Writer) {
    for round in 0..2 {
        let first = round * 10 + 1;
        let items = (first..first + 10).map(|seqno| next_item(seqno * 3, seqno));
        writer.write(items.collect());
        writer.seal(Seqno::ZERO);
    }
}

/// MB-38428, MB-36256: a compaction beside which prepares were flushed lost track of how many there were; the figure
/// was wrong from then on, and below zero after a restart.
#[test]
fn with_prepares_flushed_at_every_step() {
    for seals in [false, true] {
        for floor in [Seqno::ZERO, Seqno::MAX] {
            let disk = SimulatedDisk::new();
            let (store, shared) = create_on(&disk, small_options(1));
            let mut writer = Writer::create(&shared, 0);
            segments(&mut writer);
            let mut merge = store.merge_job(vbucket(0), floor).unwrap();
            let mut number = 0;
            while merge.step() == Outcome::Yielded {
                number += 1;
                let seqno = writer.watermarks.high_seqno.0 + 1;
                writer.write(vec![next_item(number, seqno)]);
                if seals {
                    writer.seal(floor);
                }
                assert_eq!(counted(&store), scanned(&store), "step {number}");
            }
            assert!(number > 4, "the merge has steps");
            assert_eq!(counted(&store), scanned(&store));
            let before = image(&store, 0);
            assert_eq!(store.verify().faults, []);
            drop((writer, shared, merge, store));
            let store = open_on(&disk, 2);
            assert_eq!(image(&store, 0), before);
            assert_eq!(counted(&store), scanned(&store));
        }
    }
}

/// A seal that was made ready before a merge was published is made ready anew, at whichever of its steps the publish
/// comes: else what the merge took away would be back.
#[test]
fn with_a_seal_that_meets_the_publish_at_any_of_its_steps() {
    for steps in 0.. {
        let disk = SimulatedDisk::new();
        let options = OpenOptions {
            is_stepped: true,
            ..small_options(1)
        };
        let (store, shared) = create_on(&disk, options);
        let mut writer = Writer::create(&shared, 0);
        segments(&mut writer);
        let merged_in = |merge: &mut dyn FnMut() -> Outcome<()>| {
            let mut steps = 1;
            while merge() == Outcome::Yielded {
                steps += 1;
            }
            steps
        };
        let mut dry = store.merge_job(vbucket(0), Seqno::MAX).unwrap();
        let last = merged_in(&mut || dry.step());
        drop(dry);
        writer.write((21..30).map(|seqno| next_item(seqno * 3, seqno)).collect());
        writer.seal(Seqno::ZERO);
        let mut merge = store.merge_job(vbucket(0), Seqno::MAX).unwrap();
        for _ in 1..last {
            assert_eq!(merge.step(), Outcome::Yielded);
        }
        writer.write((31..40).map(|seqno| next_item(seqno, seqno)).collect());
        let expected = scanned(&store);
        let mut seal = store.seal_job(vbucket(0), Seqno::ZERO).unwrap();
        let has_steps = (0..steps).all(|_| seal.step() == Outcome::Yielded);
        assert_eq!(merge.step(), Outcome::Complete(()));
        assert_eq!((counted(&store), scanned(&store)), (expected, expected));
        if has_steps {
            assert_eq!(seal.run(), Outcome::Complete(()));
        }
        assert_eq!((counted(&store), scanned(&store)), (expected, expected));
        let statistics = store.file_statistics(vbucket(0)).unwrap();
        assert_eq!(statistics.segments, 2, "what was merged is not back");
        assert_eq!(store.verify().faults, []);
        let before = image(&store, 0);
        drop((writer, shared, merge, seal, store));
        assert_eq!(image(&open_on(&disk, 2), 0), before);
        if !has_steps {
            assert!(steps > 4, "the seal has steps");
            return;
        }
    }
}

/// An item of the key at this seqno, or none.
type State = fn(u64) -> Option<Arc<Item>>;

/// MB-43403: a prepare that became an abort (or the other way) while a compaction ran was not counted.
#[test]
fn with_every_change_between_nothing_prepare_and_abort() {
    let states: [State; 3] = [
        |_| None,
        |seqno| Some(prepare(seqno, "key", "prepared")),
        |seqno| Some(abort_of(1, seqno, "key")),
    ];
    for old in states {
        for new in states {
            let disk = SimulatedDisk::new();
            let (store, shared) = create_on(&disk, small_options(1));
            let mut writer = Writer::create(&shared, 0);
            segments(&mut writer);
            writer.write(old(31).into_iter().collect());
            writer.seal(Seqno::ZERO);
            let mut merge = store.merge_job(vbucket(0), Seqno::MAX).unwrap();
            assert_eq!(merge.step(), Outcome::Yielded);
            writer.write(new(32).into_iter().collect());
            writer.seal(Seqno::ZERO);
            assert_eq!(merge.run(), Outcome::Complete(()));
            assert_eq!(counted(&store), scanned(&store));
            // Kills carried over count as well in the next merge.
            let again = store.merge(vbucket(0), Seqno::MAX);
            assert_eq!(again, Outcome::Complete(()));
            assert_eq!(counted(&store), scanned(&store));
            assert_eq!(store.verify().faults, []);
        }
    }
}

/// MB-45636: a flush of nothing but a state, made while a compaction ran, was not in its output.
#[test]
fn with_a_state_flushed_at_every_step() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create_on(&disk, small_options(1));
    let mut writer = Writer::create(&shared, 0);
    segments(&mut writer);
    let mut merge = store.merge_job(vbucket(0), Seqno::MAX).unwrap();
    let mut uuid = 1;
    while merge.step() == Outcome::Yielded {
        uuid += 1;
        let mut batch = writer.batch(Vec::new());
        batch.identity = Some(identity(uuid));
        writer.try_commit(&batch).unwrap();
        let is_stored = |store: &LogStore| store.state(vbucket(0)).unwrap().identity;
        assert_eq!(is_stored(&store), identity(uuid));
        let left = disk.crash_losing_everything_unsynced();
        assert_eq!(is_stored(&open_on(&left, uuid)), identity(uuid));
    }
    store.checkpoint().unwrap();
    drop((writer, shared, merge, store));
    let state = open_on(&disk, 100).state(vbucket(0)).unwrap();
    assert_eq!(state.identity, identity(uuid));
}

/// MB-27963: a reader that opened a file while compaction switched to the next one was told an error.
#[test]
fn reads_find_the_old_or_the_new_at_every_step() {
    let disk = SimulatedDisk::new();
    let (store, shared) = create_on(&disk, small_options(1));
    // The other vbucket's segments stay where the merged ones lay, so that their places are given back one by one.
    let mut writers = [0, 1].map(|number| Writer::create(&shared, number));
    for seqno in 1..=20 {
        for writer in &mut writers {
            writer.write(vec![mutation(seqno, &format!("k{}", seqno % 7), "value")]);
        }
        if seqno % 5 == 0 {
            assert_eq!(store.seal_all(Seqno::ZERO), Outcome::Complete(()));
        }
    }
    let expected = image(&store, 0);
    let held = store.snapshot(vbucket(0)).unwrap();
    let mut merge = store.merge_job(vbucket(0), Seqno::MAX).unwrap();
    while merge.step() == Outcome::Yielded {
        assert_eq!(image(&store, 0), expected);
    }
    drop(merge);
    store.checkpoint().unwrap();
    for _ in 0..20 {
        let outcome = store.maintain();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
        assert_eq!(image(&store, 0), expected);
        assert_eq!(support::Image::of(held.as_ref()), expected);
    }
}
