//! A batch that is refused leaves no trace, and the other batches of its group do not notice.
//!
//! MB-36739: a flush that failed had changed the cached state record, and the next one stored it. Here every
//! refusal is forced, and everything the vbucket answers is the same as before.
#![cfg(test)]

use std::sync::Arc;

use bytes::Bytes;
use piggin_storage::{
    Batch, CommitDurability, Document, Incarnation, Item, Refusal, RollbackEpoch, Seqno,
    StorageError,
};

use crate::support::{Writer, identity, mutation, on_every_store, vbucket};

mod support;

/// A batch that changes everything a batch can change.
fn sweeping(writer: &Writer) -> Batch {
    let items = vec![mutation(11, "a", "two"), mutation(12, "c", "two")];
    let mut batch = writer.batch(items);
    batch.watermarks.purge_seqno = Seqno(4);
    batch.watermarks.commit_time_ms = 99;
    batch.identity = Some(identity(0xb0b));
    batch
}

/// What makes a batch bad, and the refusal it must meet.
type Case = (fn(&mut Batch), fn(&Refusal) -> bool);

fn refusals() -> Vec<Case> {
    vec![
        (
            |batch| batch.incarnation = Incarnation(batch.incarnation.0 + 1),
            |refusal| matches!(refusal, Refusal::StaleIncarnation { .. }),
        ),
        (
            |batch| batch.epoch = RollbackEpoch(batch.epoch.0 + 1),
            |refusal| matches!(refusal, Refusal::StaleEpoch { .. }),
        ),
        (
            |batch| batch.items.insert(0, mutation(10, "b", "two")),
            |refusal| matches!(refusal, Refusal::SeqnoNotAbovePersisted { .. }),
        ),
        (
            |batch| batch.items.push(mutation(12, "d", "two")),
            |refusal| *refusal == Refusal::SeqnoOrder { at: Seqno(12) },
        ),
        (
            |batch| batch.watermarks.high_seqno = Seqno(13),
            |refusal| {
                let (high, items) = (Seqno(13), Seqno(12));
                *refusal == Refusal::HighSeqno { high, items }
            },
        ),
        (make_too_large, |refusal| {
            let (seqno, length) = (Seqno(12), Document::VALUE_LENGTH_MAX + 1);
            *refusal == Refusal::ValueTooLarge { seqno, length }
        }),
        (
            |batch| {
                batch.items.push(mutation(u64::MAX, "d", "two"));
                batch.watermarks.high_seqno = Seqno::MAX;
            },
            |refusal| *refusal == Refusal::SeqnoOrder { at: Seqno::MAX },
        ),
        (make_batch_too_large, |refusal| {
            matches!(refusal, Refusal::BatchTooLarge { .. })
        }),
    ]
}

fn make_too_large(batch: &mut Batch) {
    let mut item = Item::clone(&batch.items[1]);
    item.document.value = Bytes::from(vec![0; Document::VALUE_LENGTH_MAX + 1]);
    batch.items[1] = Arc::new(item);
}

/// One value shared by many items: little memory here, but far too much in one frame of the log.
fn make_batch_too_large(batch: &mut Batch) {
    let mut item = Item::clone(&batch.items[1]);
    item.document.value = Bytes::from(vec![0; Document::VALUE_LENGTH_MAX]);
    for seqno in 13..=70 {
        item.seqno = Seqno(seqno);
        batch.items.push(Arc::new(item.clone()));
    }
    batch.watermarks.high_seqno = Seqno(70);
}

fn refusal_of(verdict: &Result<(), StorageError>) -> Refusal {
    let Err(StorageError::Refused { refusal, .. }) = verdict else {
        panic!("not refused: {verdict:?}");
    };
    *refusal
}

#[test]
fn no_refusal_leaves_a_trace() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(9, "a", "one"), mutation(10, "b", "one")]);
        let before = writer.image();
        for (number, (damage, is_expected)) in refusals().into_iter().enumerate() {
            let mut batch = sweeping(&writer);
            damage(&mut batch);
            let refusal = refusal_of(&writer.try_commit(&batch));
            assert!(is_expected(&refusal), "case {number}: {refusal:?}");
            assert_eq!(writer.image(), before, "case {number}");
        }
        let batch = sweeping(&writer);
        writer.try_commit(&batch).unwrap();
        assert_ne!(writer.image(), before);
    });
}

#[test]
fn the_largest_value_allowed_is_taken() {
    on_every_store(|writer| {
        let mut batch = sweeping(&writer);
        let mut item = Item::clone(&batch.items[1]);
        item.document.value = Bytes::from(vec![0; Document::VALUE_LENGTH_MAX]);
        batch.items[1] = Arc::new(item);
        writer.try_commit(&batch).unwrap();
    });
}

#[test]
fn other_batches_of_the_group_are_stored() {
    on_every_store(|writer| {
        let other = Writer::create(&writer.store, 2);
        let stranger = Batch {
            vbucket: vbucket(3),
            ..sweeping(&writer)
        };
        let group = [
            stranger,
            sweeping(&writer),
            writer.batch(vec![mutation(13, "d", "late")]),
            other.batch(vec![mutation(1, "a", "other")]),
        ];
        let verdicts = writer.store.commit(&group, CommitDurability::Buffered);
        assert_eq!(verdicts[0], Err(StorageError::UnknownVbucket(vbucket(3))));
        assert_eq!(verdicts[1], Ok(()));
        assert_eq!(refusal_of(&verdicts[2]), Refusal::DuplicateVbucket);
        assert_eq!(verdicts[3], Ok(()));
        assert_eq!(writer.image().seqnos(), [11, 12]);
        assert_eq!(other.image().seqnos(), [1]);
    });
}

#[test]
fn a_batch_of_an_earlier_life_is_refused() {
    on_every_store(|writer| {
        let batch = sweeping(&writer);
        writer.store.delete_vbucket(writer.vbucket).unwrap();
        let again = Writer::create(&writer.store, writer.vbucket.get());
        let refusal = refusal_of(&writer.try_commit(&batch));
        assert!(matches!(refusal, Refusal::StaleIncarnation { .. }));
        assert!(again.incarnation > writer.incarnation);
        assert_eq!(again.image().seqnos(), [0; 0]);
    });
}

#[test]
fn a_batch_from_before_a_rollback_is_refused() {
    on_every_store(|mut writer| {
        writer.write(vec![mutation(1, "a", "one"), mutation(2, "b", "one")]);
        let batch = sweeping(&writer);
        writer.rollback(1);
        let before = writer.image();
        let refusal = refusal_of(&writer.try_commit(&batch));
        assert!(matches!(refusal, Refusal::StaleEpoch { .. }));
        assert_eq!(writer.image(), before);
    });
}
