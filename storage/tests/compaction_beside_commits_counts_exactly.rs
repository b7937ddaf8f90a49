//! While a compaction erases two dropped collections and forgets what may be forgotten, whatever is committed, sealed
//! or dropped beside it counts exactly, at every step, and is there afterwards.
#![cfg(test)]

mod support;
#[expect(
    dead_code,
    reason = "only the model of a vbucket is used, not its runs"
)]
mod model;
mod beside;

use std::sync::Arc;

use beside::{Beside, DROPPED, LIVES, begin_of, end_of, of};
use piggin_storage::{
    CollectionId, CompactionRequest, CompactionStage, DroppedCollection, Item, Job, KvStore,
    Namespace, Outcome, Seqno,
};
use support::{Image, abort_of, commit_of, deletion, identity, key, mutation, prepare};

fn all() -> CompactionRequest {
    CompactionRequest {
        drop_deletes: true,
        ..CompactionRequest::default()
    }
}

fn generation(collection: u32, start: u64, end: u64) -> DroppedCollection {
    DroppedCollection {
        collection: CollectionId(collection),
        start: Seqno(start),
        end: Seqno(end),
    }
}

/// What is written beside the compaction, by number: every kind, to keys that are there in one way or another.
fn next_item(number: u64, seqno: u64) -> Arc<Item> {
    let names = ["a", "b", "deleted", "committed", "aborted", "waits", "new"];
    let name = names[usize::try_from(number / 6 % 7).unwrap()];
    let item = match number % 6 {
        0 => prepare(seqno, name, "prepared"),
        1 => abort_of(seqno - 1, seqno, name),
        2 => prepare(seqno, name, "again"),
        3 => commit_of(seqno - 1, seqno, name, "committed"),
        4 => deletion(seqno, name),
        _ => mutation(seqno, name, "written"),
    };
    of(LIVES, item)
}

/// MB-38428, MB-36256: a compaction beside which prepares were flushed lost track of how many there were.
#[test]
fn mb_38428_writes_of_every_kind_committed_at_every_step() {
    for (seals, first) in (0..42).flat_map(|first| [(false, first), (true, first)]) {
        let mut beside = Beside::filled();
        let mut number = first;
        let stages = beside.compact_with(&all(), |beside, stage| {
            for _ in 0..2 {
                let seqno = beside.next();
                beside.write(vec![next_item(number, seqno)]);
                number += 1;
            }
            if seals {
                beside.seal_at(stage);
            }
        });
        assert!(stages.len() > 10, "{stages:?}");
        beside.check_disk();
        // What was carried over counts as well in the next one.
        beside.compact_with(&all(), |_, _| {});
        beside.check_disk();
    }
}

/// The stages come in their order, one pass for each dropped collection.
#[test]
fn passes_come_in_their_order() {
    let mut beside = Beside::filled();
    let mut stages = beside.compact_with(&all(), |_, _| {});
    stages.dedup();
    let passes = DROPPED.map(|id| CompactionStage::Collection(CollectionId(id)));
    let expected = [
        CompactionStage::Start,
        passes[0],
        passes[1],
        CompactionStage::Prepare,
        CompactionStage::SystemEvent,
        CompactionStage::Merge,
        CompactionStage::Publish,
    ];
    assert_eq!(stages, expected);
    assert_eq!(beside.dropped(), []);
    let figures = beside.store.counts(beside.writer.vbucket).unwrap();
    for id in DROPPED {
        assert_eq!(figures.collections.get(&CollectionId(id)), None);
    }
}

type State = fn(u64) -> Option<Arc<Item>>;

/// MB-43403: a prepare that became an abort (or the other way) while a compaction ran was not counted.
#[test]
fn mb_43403_every_change_between_nothing_prepare_and_abort() {
    let states: [State; 3] = [
        |_| None,
        |seqno| Some(of(LIVES, prepare(seqno, "key", "prepared"))),
        |seqno| Some(of(LIVES, abort_of(1, seqno, "key"))),
    ];
    for old in states {
        for new in states {
            for at in [
                CompactionStage::Start,
                CompactionStage::Prepare,
                CompactionStage::Merge,
            ] {
                let mut beside = Beside::filled();
                let seqno = beside.next();
                beside.write(old(seqno).into_iter().collect());
                let mut is_written = false;
                beside.compact_with(&all(), |beside, stage| {
                    if stage == at && !is_written {
                        is_written = true;
                        let seqno = beside.next();
                        beside.write(new(seqno).into_iter().collect());
                        beside.seal_at(stage);
                    }
                });
                assert!(is_written);
                beside.compact_with(&all(), |_, _| {});
                beside.check_disk();
            }
        }
    }
}

/// MB-45636, MB-45686: a flush of nothing but a state, made while a compaction ran, was not in its output.
#[test]
fn mb_45636_a_state_flushed_at_every_step() {
    let beside = Beside::filled();
    let mut uuid = 1;
    let mut purged = false;
    let vbucket = beside.writer.vbucket;
    let mut job = beside.store.compaction_job(vbucket, all()).unwrap();
    loop {
        let ended = job.step();
        uuid += 1;
        let mut batch = beside.writer.batch(Vec::new());
        batch.identity = Some(identity(uuid));
        beside.writer.try_commit(&batch).unwrap();
        let state = beside.store.state(vbucket).unwrap();
        assert_eq!(state.identity, identity(uuid));
        purged |= state.watermarks.purge_seqno > Seqno::ZERO;
        let left = beside.disk.crash_losing_everything_unsynced();
        let left = support::log_store::open_on(&left, uuid);
        assert_eq!(left.state(vbucket).unwrap(), state);
        if ended != Outcome::Yielded {
            assert!(matches!(ended, Outcome::Complete(_)), "{ended:?}");
            break;
        }
    }
    assert!(purged, "the purge seqno rises with the publish and stays");
}

/// MB-42652: a drop flushed while a compaction ran was lost with the whole drop list, and its data never erased.
/// MB-44590: what was erased stayed on the list when something was flushed meanwhile.
#[test]
fn mb_42652_mb_44590_a_drop_at_every_step_stays_listed() {
    for at in 0.. {
        let mut beside = Beside::filled();
        let mut number = 0;
        let mut end = None;
        beside.compact_with(&all(), |beside, _| {
            if number == at {
                let seqno = beside.next();
                beside.drop_collection(LIVES, 21);
                end = Some(seqno);
            }
            number += 1;
        });
        let Some(end) = end else {
            assert!(at > 10);
            return;
        };
        // Of what was dropped before the seal nothing is left.
        let listed = beside.dropped();
        let expected = if at == 0 {
            vec![]
        } else {
            vec![generation(LIVES, 21, end)]
        };
        assert_eq!(listed, expected, "dropped after step {at}");
        beside.check_disk();
        beside.compact_with(&all(), |_, _| {});
        assert_eq!(beside.dropped(), []);
        let range = piggin_storage::KeyRange::all(Namespace::Committed);
        let (left, _) = support::read_all(beside.writer.snapshot().scan_by_key(range));
        assert_eq!(left, []);
        beside.check_disk();
    }
}

/// MB-49472: a collection that was dropped, created again and dropped again while a compaction ran came off the list
/// with its first life. The field matches lives by the whole list; here each is its own.
#[test]
fn mb_49472_a_second_life_at_every_step_is_another() {
    for at in 1.. {
        let mut beside = Beside::filled();
        let mut number = 0;
        let mut second = None;
        beside.compact_with(&all(), |beside, stage| {
            if number == at {
                let seqno = beside.next();
                beside.write(vec![
                    begin_of(seqno, 8),
                    of(8, mutation(seqno + 1, "a", "second life")),
                    of(8, prepare(seqno + 2, "waits", "second life")),
                    of(8, mutation(seqno + 3, "new", "second life")),
                ]);
                beside.seal_at(stage);
                beside.write(vec![end_of(seqno + 4, 8, seqno)]);
                second = Some(generation(8, seqno, seqno + 4));
            }
            number += 1;
        });
        let Some(second) = second else {
            assert!(at > 10);
            return;
        };
        assert_eq!(beside.dropped(), [second]);
        beside.check_disk();
        beside.compact_with(&all(), |_, _| {});
        assert_eq!(beside.dropped(), []);
        beside.check_disk();
    }
}

/// A life that goes on is not touched by the erasing of an earlier one of the same number, dropped in between or not.
#[test]
fn a_second_life_that_goes_on_stays() {
    let mut beside = Beside::filled();
    let seqno = beside.next();
    beside.write(vec![
        begin_of(seqno, 8),
        of(8, mutation(seqno + 1, "a", "second life")),
        of(8, prepare(seqno + 2, "waits", "second life")),
    ]);
    // The union of the whole list's ranges would take the second life for dropped.
    beside.drop_collection(LIVES, 21);
    beside.compact_with(&all(), |_, _| {});
    let snapshot = beside.writer.snapshot();
    let id = CollectionId(8);
    let [a, waits] =
        ["a", "waits"].map(|name| piggin_storage::DocumentKey::new(id, name.as_bytes()).unwrap());
    let found = snapshot.get(Namespace::Committed, &a).unwrap();
    assert_eq!(found.map(|item| item.seqno), Some(Seqno(seqno + 1)));
    let found = snapshot.get(Namespace::Prepared, &waits).unwrap();
    assert_eq!(found.map(|item| item.seqno), Some(Seqno(seqno + 2)));
    assert_eq!(snapshot.get(Namespace::Committed, &key("a")), Ok(None));
    beside.check_disk();
}

/// A snapshot taken at any step reads what it read then, drop list included, whatever comes later.
#[test]
fn snapshots_of_every_step_read_what_they_read() {
    let mut beside = Beside::filled();
    let mut held = Vec::new();
    let mut number = 0;
    beside.compact_with(&all(), |beside, stage| {
        let snapshot = beside.writer.snapshot();
        let image = Image::of(snapshot.as_ref());
        held.push((snapshot.dropped_collections(), image, snapshot));
        let seqno = beside.next();
        beside.write(vec![next_item(number, seqno)]);
        number += 1;
        if number % 3 == 0 {
            beside.seal_at(stage);
        }
    });
    beside.store.checkpoint().unwrap();
    for _ in 0..20 {
        let outcome = beside.store.maintain();
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
    }
    for (dropped, image, snapshot) in held {
        assert_eq!(snapshot.dropped_collections(), dropped);
        assert_eq!(Image::of(snapshot.as_ref()), image);
    }
}

/// A seal whose kills were worked out before a compaction purged their victims begins again: whatever the step at which
/// the publish comes, nothing is taken off the counts twice, and nothing is killed that is no longer there.
#[test]
fn seals_that_meet_the_publish_at_any_of_their_steps() {
    for steps in 0.. {
        let mut beside = Beside::filled();
        let request = all();
        let vbucket = beside.writer.vbucket;
        let mut job = beside
            .store
            .compaction_job(vbucket, request.clone())
            .unwrap();
        while job.progress().stage != CompactionStage::Publish {
            assert_eq!(beside.step(&mut job, &request), Outcome::Yielded);
        }
        let seqno = beside.next();
        beside.write(vec![
            of(LIVES, mutation(seqno, "deleted", "on a tombstone")),
            of(LIVES, prepare(seqno + 1, "committed", "on a prepare")),
            of(LIVES, prepare(seqno + 2, "aborted", "on an abort")),
            of(DROPPED[0], mutation(seqno + 3, "a", "on a document")),
            of(LIVES, mutation(seqno + 4, "b", "on what stays")),
        ]);
        beside.check();
        let mut seal = beside.store.seal_job(vbucket, Seqno::ZERO).unwrap();
        let has_steps = (0..steps).all(|_| seal.step() == Outcome::Yielded);
        beside.check();
        let told = loop {
            match beside.step(&mut job, &request) {
                Outcome::Yielded => beside.check(),
                Outcome::Complete(told) => break told,
                ended @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{ended:?}"),
            }
        };
        beside.published(told);
        beside.check();
        if has_steps {
            assert_eq!(seal.run(), Outcome::Complete(()));
        }
        beside.check();
        beside.check_disk();
        let statistics = beside.store.file_statistics(vbucket).unwrap();
        assert_eq!(statistics.segments, 2);
        beside.compact_with(&request, |_, _| {});
        beside.check_disk();
        let left = beside.store.file_statistics(vbucket).unwrap();
        assert_eq!(left.live_bytes, left.total_bytes, "nothing dead is left");
        if !has_steps {
            assert!(steps > 4, "the seal has steps");
            return;
        }
    }
}
