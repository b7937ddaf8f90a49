//! The ends of batches that a rollback goes by do not gather: of many a merge keeps few, and a rollback is as exact as
//! before in everything but the snapshot's range, the commit time and what was acknowledged of prepares.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{
    Item, KvStore, LogStore, OpenOptions, Outcome, Seqno, SnapshotKind, SnapshotRange, Watermarks,
};
use support::log_store::{create_on, small_options};
use support::{Image, Writer, abort_of, commit_of, deletion, mutation, prepare, vbucket};

/// More than a merge may keep under the options of these tests.
const BATCHES: u64 = 300;
/// Fewest bytes an end takes.
const END_BYTES: u64 = 10;

fn options() -> OpenOptions {
    OpenOptions {
        batch_ends_max: 8,
        unsealed_bytes: 1 << 20,
        segments_max: 100,
        ..small_options(1)
    }
}

fn merge(store: &LogStore, floor: Seqno) {
    assert_eq!(store.merge(vbucket(0), floor), Outcome::Complete(()));
}

/// Bytes on disk of a vbucket that took `items` in batches of so many, merged twice.
fn merged_bytes(
    items: impl Fn(u64) -> Arc<Item>,
    batch: u64,
    floor: Seqno,
    options: OpenOptions,
) -> u64 {
    let (store, shared) = create_on(&SimulatedDisk::new(), options);
    let mut writer = Writer::create(&shared, 0);
    for half in [1..=BATCHES / 2, BATCHES / 2 + 1..=BATCHES] {
        let seqnos: Vec<u64> = half.collect();
        for seqnos in seqnos.chunks(usize::try_from(batch).unwrap()) {
            writer.write(seqnos.iter().map(|seqno| items(*seqno)).collect());
        }
        writer.seal(Seqno::ZERO);
        merge(&store, floor);
    }
    store.file_statistics(vbucket(0)).unwrap().total_bytes
}

#[test]
fn of_what_is_only_added_few_stay() {
    let items = |seqno| mutation(seqno, &format!("key {seqno}"), "value");
    let all = BATCHES / 2;
    let none = merged_bytes(items, all, Seqno::MAX, options());
    let some = merged_bytes(items, 1, Seqno::MAX, options());
    assert!(some - none < 20 * 3 * END_BYTES, "{none}, {some}");
    // Where more are asked for, more stay.
    let more = OpenOptions {
        batch_ends_max: 1000,
        ..options()
    };
    let many = merged_bytes(items, 1, Seqno::MAX, more);
    assert!(many - none > (BATCHES - 10) * END_BYTES, "{none}, {many}");
}

#[test]
fn of_what_is_superseded_they_go_with_the_past() {
    let items = |seqno| mutation(seqno, &format!("key {}", seqno % 7), "value");
    let more = OpenOptions {
        batch_ends_max: 1000,
        ..options()
    };
    let none = merged_bytes(items, BATCHES / 2, Seqno::MAX, more);
    let some = merged_bytes(items, 1, Seqno::MAX, more);
    assert!(some - none < 10 * 3 * END_BYTES, "{none}, {some}");
}

/// A few items of every kind; prepares are completed in later batches, and what completed them is superseded.
fn batch(number: u64, first: u64) -> Vec<Arc<Item>> {
    let key = format!("key {}", number % 11);
    match number % 6 {
        3 if is_deduplicated(number) => vec![mutation(first, "durable", "on top")],
        4 if is_deduplicated(number - 1) => vec![mutation(first, &key, "value")],
        0 | 1 => vec![
            mutation(first, &format!("new {first}"), "value"),
            mutation(first + 1, &key, "value"),
        ],
        2 => vec![prepare(first, "durable", "prepared")],
        3 => vec![
            commit_of(first - 1, first, "durable", "committed"),
            prepare(first + 1, &key, "prepared"),
        ],
        4 => vec![
            abort_of(first - 1, first, &key),
            mutation(first + 1, "durable", "on top"),
        ],
        _ => vec![deletion(first, &key)],
    }
}

/// Whether the commit of the batch before went in favour of what was written on top of it.
fn is_deduplicated(number: u64) -> bool {
    number % 12 == 3
}

/// Without what only the nearest end knew.
fn told(image: Image) -> Image {
    let mut image = image;
    image.position.1 = piggin_storage::RollbackEpoch(0);
    let watermarks = &mut image.state.watermarks;
    *watermarks = Watermarks {
        high_prepared_seqno: Seqno::ZERO,
        snapshot: SnapshotRange::default(),
        snapshot_kind: SnapshotKind::Memory,
        commit_time_ms: 0,
        ..*watermarks
    };
    image
}

/// Merged again and again with floors that rise, rolled back to the end of every batch above the last of them.
#[test]
fn a_rollback_is_as_exact_as_before() {
    for (floors, merges) in [(0, 1), (0, 4), (40, 1), (40, 4), (90, 5)] {
        let (store, shared) = create_on(&SimulatedDisk::new(), options());
        let mut writer = Writer::create(&shared, 0);
        let mut moments = Vec::new();
        let mut floor = Seqno::ZERO;
        for number in 0..BATCHES {
            let items = batch(number, writer.watermarks.high_seqno.0 + 1);
            let high = items.last().unwrap().seqno;
            if is_deduplicated(number) {
                // The flusher knew of a commit that nothing in the store tells.
                writer.watermarks.completed_seqno = writer.watermarks.prepared_seqno;
            }
            writer.watermarks.commit_time_ms = number;
            writer.write(items);
            moments.push((high, told(writer.image())));
            if number % (BATCHES / merges) == BATCHES / merges - 1 {
                floor = Seqno(high.0 * floors / 100);
                writer.seal(floor);
                merge(&store, floor);
            }
        }
        let above = moments.iter().filter(|(high, _)| *high >= floor);
        let mut seen = 0;
        for (high, then) in above.rev() {
            writer.rollback(high.0);
            assert_eq!(
                told(writer.image()),
                *then,
                "to {high} of {floors} {merges}"
            );
            seen += 1;
        }
        assert!(seen > 20);
    }
}
