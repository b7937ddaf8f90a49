//! What a compaction forgets is what the rules name, in every store: tombstones by age or all, never a collection's
//! highest item; prepares once they are completed; dropped collections each by its own life.
#![cfg(test)]

mod support;
#[expect(
    dead_code,
    reason = "only the model of a vbucket is used, not its runs"
)]
mod model;
mod beside;

use std::sync::Arc;

use beside::{begin_of, end_of, of};
use piggin_storage::{
    Advice, CollectionId, Compacted, CompactionRequest, DeleteSource, DurabilityLevel, Expiry,
    Item, Namespace, Operation, Outcome, Refusal, RolledBack, Seqno, StorageError,
};
use support::{Writer, abort_of, commit_of, item, key, mutation, on_every_store, prepare};

const TIME: u32 = 1_700_000_000;

fn by_age(purge_before_s: u32) -> CompactionRequest {
    CompactionRequest {
        purge_before_s,
        ..CompactionRequest::default()
    }
}

fn everything() -> CompactionRequest {
    CompactionRequest {
        drop_deletes: true,
        ..CompactionRequest::default()
    }
}

fn compact(writer: &Writer, request: &CompactionRequest) -> Compacted {
    match writer.store.compact(writer.vbucket, request) {
        Outcome::Complete(told) => told,
        ended @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => {
            panic!("{ended:?}")
        }
    }
}

fn deleted(seqno: u64, name: &str, deleted_at: u32) -> Arc<Item> {
    let source = DeleteSource::Explicit;
    item(seqno, Operation::Deletion { deleted_at, source }, name, "")
}

/// MB-71917: the tombstone that was a collection's high seqno was purged; a filtered stream skipped a rollback.
#[test]
fn mb_71917_the_highest_item_of_a_collection_stays() {
    on_every_store(|mut writer| {
        writer.write(vec![
            of(8, deleted(1, "low", TIME)),
            of(8, deleted(2, "high", TIME)),
            of(9, deleted(3, "alone", TIME)),
            mutation(4, "of another", "value"),
        ]);
        let told = compact(&writer, &everything());
        assert_eq!((told.tombstones_purged, told.purge_seqno), (1, Seqno(1)));
        assert_eq!(writer.image().seqnos(), [2, 3, 4]);
        // Once something follows, it goes.
        writer.write(vec![of(8, mutation(5, "later", "value"))]);
        let told = compact(&writer, &everything());
        assert_eq!((told.tombstones_purged, told.purge_seqno), (1, Seqno(2)));
        assert_eq!(writer.image().seqnos(), [3, 4, 5]);
    });
}

/// What told a collection's high seqno and went leaves no moment at which a rollback would count too low a one: up to the
/// collection's next item the past is not known any more, and where that lies above the history floor, nothing goes.
#[test]
fn the_high_seqno_of_a_collection_is_exact_after_a_rollback_or_there_is_none() {
    let items: [fn(u64) -> Arc<Item>; 2] = [
        |seqno| deleted(seqno, "gone", TIME),
        |seqno| prepare(seqno, "gone", "value"),
    ];
    for gone in items {
        on_every_store(|mut writer| {
            writer.write(vec![of(8, mutation(5, "a", "value"))]);
            writer.write(vec![of(8, gone(10))]);
            writer.watermarks.completed_seqno = writer.watermarks.prepared_seqno;
            writer.write(vec![mutation(12, "of another", "value")]);
            writer.write(vec![mutation(15, "of another", "again")]);
            writer.write(vec![of(8, mutation(20, "b", "value"))]);
            writer.write(vec![mutation(30, "of another", "at last")]);
            let up_to = |floor| CompactionRequest {
                history_floor: Seqno(floor),
                ..everything()
            };
            let went = |told: Compacted| told.tombstones_purged + told.prepares_purged;
            assert_eq!(went(compact(&writer, &up_to(19))), 0);
            writer.seal(Seqno::ZERO);
            assert_eq!(went(compact(&writer, &up_to(20))), 1);
            let high = |writer: &Writer| {
                let counts = writer.snapshot().counts().unwrap();
                let counts = counts.collections.get(&CollectionId(8));
                counts.map(|counts| counts.high_seqno)
            };
            writer.rollback(20);
            assert_eq!(high(&writer), Some(Seqno(20)));
            let outcome = writer.store.rollback(writer.vbucket, Seqno(15));
            assert!(
                matches!(outcome, Outcome::Complete(RolledBack::ToZero { .. })),
                "{outcome:?}"
            );
        });
    }
}

/// Nor does the vbucket's highest item go, of a system event, which knows no collection's high seqno.
#[test]
fn the_highest_item_of_the_vbucket_stays() {
    on_every_store(|mut writer| {
        writer.write(vec![end_of(2, 8, 1), end_of(3, 9, 1)]);
        let told = compact(&writer, &everything());
        assert_eq!((told.tombstones_purged, told.purge_seqno), (1, Seqno(2)));
        assert_eq!(writer.image().seqnos(), [3]);
    });
}

/// MB-30015, MB-29861: tombstones without a time of deletion were taken for the oldest, and purged at once.
#[test]
fn mb_30015_a_deletion_time_of_zero_says_nothing_of_an_age() {
    on_every_store(|mut writer| {
        writer.write(vec![
            deleted(1, "no time", 0),
            deleted(2, "old", TIME - 1),
            deleted(3, "young", TIME),
            mutation(4, "a", "value"),
        ]);
        let told = compact(&writer, &by_age(TIME));
        assert_eq!((told.tombstones_purged, told.purge_seqno), (1, Seqno(2)));
        assert_eq!(writer.image().seqnos(), [1, 3, 4]);
        let told = compact(&writer, &everything());
        assert_eq!((told.tombstones_purged, told.purge_seqno), (2, Seqno(3)));
    });
}

#[test]
fn tombstones_above_the_limit_stay_whatever_their_age() {
    on_every_store(|mut writer| {
        writer.write(vec![
            deleted(1, "a", TIME),
            deleted(2, "b", TIME),
            mutation(3, "c", "value"),
        ]);
        let request = CompactionRequest {
            purge_up_to: Some(Seqno(1)),
            ..by_age(u32::MAX)
        };
        assert_eq!(compact(&writer, &request).purge_seqno, Seqno(1));
        assert_eq!(writer.image().seqnos(), [2, 3]);
        // It limits only what goes because of its age.
        let request = CompactionRequest {
            drop_deletes: true,
            ..request
        };
        assert_eq!(compact(&writer, &request).purge_seqno, Seqno(2));
    });
}

/// MB-39478: prepares were compared with the purge seqno, and outstanding ones removed. MB-47991: a prepare of a
/// deletion looked like a tombstone, and went because of its age.
#[test]
fn mb_39478_mb_47991_outstanding_prepares_stay_whatever_their_age() {
    on_every_store(|mut writer| {
        let level = DurabilityLevel::Majority;
        let is_deletion = true;
        let delete = Operation::Prepare { level, is_deletion };
        writer.write(vec![
            prepare(1, "committed", "value"),
            commit_of(1, 2, "committed", "value"),
            prepare(3, "aborted", "value"),
            abort_of(3, 4, "aborted"),
            prepare(5, "waits", "value"),
            item(6, delete, "waits to go", ""),
            deleted(7, "gone", TIME),
            mutation(8, "a", "value"),
        ]);
        writer.watermarks.purge_seqno = Seqno(8);
        writer.write(vec![]);
        let told = compact(&writer, &everything());
        assert_eq!((told.prepares_purged, told.tombstones_purged), (1, 2));
        assert_eq!(told.prepares_erased, []);
        assert_eq!(writer.image().seqnos(), [2, 5, 6, 8]);
    });
}

/// An abort is a tombstone: it stays for the purge age, though the prepare it ended goes at once.
#[test]
fn an_abort_goes_by_its_age() {
    on_every_store(|mut writer| {
        let abort = Operation::Abort {
            prepare_seqno: Seqno(1),
            deleted_at: TIME,
        };
        writer.write(vec![
            prepare(1, "aborted", "value"),
            item(2, abort, "aborted", ""),
            mutation(3, "a", "value"),
        ]);
        let told = compact(&writer, &by_age(TIME));
        assert_eq!((told.tombstones_purged, told.purge_seqno), (0, Seqno(0)));
        assert_eq!(writer.image().seqnos(), [2, 3]);
        let told = compact(&writer, &by_age(TIME + 1));
        assert_eq!((told.tombstones_purged, told.purge_seqno), (1, Seqno(2)));
        assert_eq!(writer.image().seqnos(), [3]);
    });
}

/// What tells that a collection ended outlives its documents, and goes as a tombstone that nobody dated.
#[test]
fn the_end_of_a_collection_outlives_its_documents() {
    on_every_store(|mut writer| {
        writer.write(vec![
            begin_of(1, 8),
            of(8, mutation(2, "a", "value")),
            end_of(3, 8, 1),
            mutation(4, "of another", "value"),
        ]);
        let told = compact(&writer, &by_age(u32::MAX));
        assert_eq!((told.erased.len(), told.tombstones_purged), (1, 0));
        assert_eq!(writer.image().seqnos(), [3, 4]);
        let told = compact(&writer, &everything());
        assert_eq!((told.tombstones_purged, told.purge_seqno), (1, Seqno(3)));
        assert_eq!(writer.image().seqnos(), [4]);
    });
}

/// MB-34768, MB-42610: prepares were expired. Here nothing is: documents whose time is up are told, and stay.
#[test]
fn mb_34768_what_is_expired_stays() {
    on_every_store(|mut writer| {
        let expiring = |item: Arc<Item>| {
            let mut item = Item::clone(&item);
            item.document.expiry = Expiry(TIME);
            Arc::new(item)
        };
        writer.write(vec![
            expiring(mutation(1, "document", "value")),
            expiring(prepare(2, "prepared", "value")),
        ]);
        let request = CompactionRequest {
            expired_at_s: TIME + 1,
            ..everything()
        };
        compact(&writer, &request);
        assert_eq!(writer.image().seqnos(), [1, 2]);
    });
}

/// MB-48473, MB-49349: the purge seqno rose for prepares and for what was dropped, and consumers went back to zero.
#[test]
fn mb_48473_only_tombstones_raise_the_purge_seqno() {
    on_every_store(|mut writer| {
        writer.write(vec![
            begin_of(1, 8),
            of(8, mutation(2, "a", "value")),
            of(8, deleted(3, "b", TIME)),
            of(8, prepare(4, "c", "value")),
            of(8, commit_of(4, 5, "c", "value")),
            of(8, prepare(6, "waits", "value")),
            prepare(7, "d", "value"),
            commit_of(7, 8, "d", "value"),
            end_of(9, 8, 1),
        ]);
        let told = compact(&writer, &by_age(u32::MAX));
        assert_eq!(told.purge_seqno, Seqno::ZERO);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno::ZERO);
        assert_eq!((told.prepares_purged, told.tombstones_purged), (1, 0));
        assert_eq!(told.collection_items_purged, 5);
        let waits: Vec<Seqno> = told.prepares_erased.iter().map(|one| one.seqno).collect();
        // The monitor has come to 7: what is below is completed, as far as the vbucket knows.
        assert_eq!(waits, []);
        // The end of the collection outlives what it ended.
        assert_eq!(writer.image().seqnos(), [8, 9]);
    });
}

/// MB-48384, MB-39113: of two writers of the purge seqno the one with the lower value came last.
#[test]
fn mb_48384_a_purge_never_lowers_the_purge_seqno() {
    on_every_store(|mut writer| {
        writer.write(vec![
            deleted(1, "a", TIME),
            mutation(2, "b", "value"),
            mutation(3, "c", "value"),
        ]);
        writer.watermarks.purge_seqno = Seqno(2);
        writer.write(vec![]);
        assert_eq!(compact(&writer, &everything()).purge_seqno, Seqno(2));
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno(2));
        // A batch that was made before the purge brings it down no more than another.
        writer.watermarks.purge_seqno = Seqno::ZERO;
        writer.write(vec![deleted(4, "c", TIME), mutation(5, "d", "value")]);
        assert_eq!(compact(&writer, &everything()).purge_seqno, Seqno(4));
        writer.write(vec![mutation(6, "e", "value")]);
        assert_eq!(writer.stored_watermarks().purge_seqno, Seqno(4));
    });
}

/// MB-47687: what a rollback still needed to report was purged. Nothing above the history floor goes, and a rollback
/// below what went is a reset.
#[test]
fn mb_47687_nothing_above_the_history_floor_goes() {
    on_every_store(|mut writer| {
        writer.write(vec![
            begin_of(1, 8),
            of(8, mutation(2, "a", "value")),
            deleted(3, "b", TIME),
            prepare(4, "c", "value"),
        ]);
        writer.write(vec![commit_of(4, 5, "c", "value")]);
        writer.write(vec![end_of(6, 8, 1)]);
        writer.write(vec![mutation(7, "d", "value")]);
        let dropped = writer.snapshot().dropped_collections();
        for floor in [2, 3, 4, 5] {
            let request = CompactionRequest {
                history_floor: Seqno(floor),
                ..everything()
            };
            let told = compact(&writer, &request);
            // Until the next item of its collection, at 4, a rollback would ask for it.
            let tombstones = u64::from(floor == 4);
            let prepares = u64::from(floor == 5);
            assert_eq!(
                (
                    told.tombstones_purged,
                    told.prepares_purged,
                    told.erased.len()
                ),
                (tombstones, prepares, 0),
                "{floor}"
            );
            assert_eq!(writer.snapshot().dropped_collections(), dropped);
        }
        let request = CompactionRequest {
            history_floor: Seqno(6),
            ..everything()
        };
        assert_eq!(compact(&writer, &request).erased, dropped);
        assert_eq!(writer.snapshot().dropped_collections(), []);
        writer.rollback(6);
        assert_eq!(writer.snapshot().dropped_collections(), []);
        let outcome = writer.store.rollback(writer.vbucket, Seqno(5));
        assert!(
            matches!(outcome, Outcome::Complete(RolledBack::ToZero { .. })),
            "{outcome:?}"
        );
    });
}

/// A rollback takes back a drop that is not erased yet.
#[test]
fn a_drop_that_is_rolled_back_is_off_the_list() {
    on_every_store(|mut writer| {
        writer.write(vec![begin_of(1, 8), of(8, mutation(2, "a", "value"))]);
        writer.write(vec![end_of(3, 8, 1)]);
        writer.write(vec![mutation(4, "b", "value")]);
        assert_eq!(writer.snapshot().dropped_collections().len(), 1);
        writer.rollback(2);
        assert_eq!(writer.snapshot().dropped_collections(), []);
        let told = compact(&writer, &everything());
        assert_eq!((told.collection_items_purged, told.erased), (0, vec![]));
        assert_eq!(writer.image().seqnos(), [1, 2]);
    });
}

/// What is purged is gone by every way of reading, and its key may be written again.
#[test]
fn a_purged_key_is_empty_and_may_be_written_again() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(1, "a", "value"), mutation(2, "b", "value")]);
        writer.seal(Seqno::ZERO);
        writer.write(vec![deleted(3, "a", TIME), mutation(4, "c", "value")]);
        compact(&writer, &everything());
        let snapshot = writer.snapshot();
        assert_eq!(snapshot.get(Namespace::Committed, &key("a")), Ok(None));
        writer.write(vec![mutation(5, "a", "again")]);
        writer.seal(Seqno::ZERO);
        let counts = support::counts_of(writer.snapshot().as_ref()).total();
        assert_eq!((counts.documents, counts.tombstones), (3, 0));
        assert_eq!(snapshot.get(Namespace::Committed, &key("a")), Ok(None));
    });
}

/// What the drop list could not be made from is refused, and nothing of its batch is there.
#[test]
fn items_that_are_no_system_events_are_refused() {
    on_every_store(|mut writer| {
        writer.write(vec![begin_of(1, 8)]);
        let unreadable = item(2, Operation::SystemEventEnd, "no event", "");
        let begun_later = end_of(2, 8, 2);
        let without_value = {
            let mut item = Item::clone(&end_of(2, 8, 1));
            item.document.value = bytes::Bytes::new();
            Arc::new(item)
        };
        for bad in [unreadable, begun_later, without_value] {
            let batch = writer.batch(vec![bad, mutation(3, "a", "value")]);
            let error = writer.try_commit(&batch).unwrap_err();
            let refusal = Refusal::SystemEvent { at: Seqno(2) };
            let vbucket = writer.vbucket;
            assert_eq!(error, StorageError::Refused { vbucket, refusal });
            assert_eq!(error.advice(), Advice::FixRequest);
            assert_eq!(writer.image().seqnos(), [1]);
        }
        assert_eq!(writer.snapshot().dropped_collections(), []);
    });
}
