//! A batch that begins at or below what the store holds is refused, all of it.
//!
//! MB-65737: a flush of items the disk held already was stored beside them, and one key had two newest versions.
//! The refusal says where the store stands, so that the writer can take position anew.
#![cfg(test)]

use piggin_storage::{Advice, Refusal, Seqno, StorageError};

use crate::support::{Writer, mutation, on_every_store};

mod support;

fn fill(writer: &mut Writer) {
    writer.write(vec![mutation(3, "a", "one"), mutation(5, "b", "one")]);
}

fn assert_refused(writer: &Writer, first: u64) {
    let before = writer.image();
    let batch = writer.batch(vec![mutation(first, "a", "two"), mutation(9, "c", "two")]);
    let error = writer.try_commit(&batch).unwrap_err();
    let refusal = Refusal::SeqnoNotAbovePersisted {
        given: Seqno(first),
        persisted: Seqno(5),
    };
    let vbucket = writer.vbucket;
    assert_eq!(error, StorageError::Refused { vbucket, refusal });
    assert_eq!(error.advice(), Advice::Resynchronize);
    assert_eq!(writer.image(), before);
}

#[test]
fn a_batch_that_begins_at_or_below_the_high_seqno_is_refused() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        for first in [1, 3, 4, 5] {
            assert_refused(&writer, first);
        }
    });
}

#[test]
fn the_same_batch_sent_twice_is_stored_once() {
    on_every_store(|mut writer| {
        let batch = writer.batch(vec![mutation(1, "a", "one")]);
        writer.try_commit(&batch).unwrap();
        writer.watermarks = batch.watermarks;
        writer.try_commit(&batch).unwrap_err();
        assert_eq!(writer.image().seqnos(), [1]);
    });
}

#[test]
fn the_seqno_right_above_is_taken() {
    on_every_store(|mut writer| {
        fill(&mut writer);
        writer.write(vec![mutation(6, "a", "two")]);
        assert_eq!(writer.image().seqnos(), [5, 6]);
    });
}

#[test]
fn the_refusal_outlives_a_reopening() {
    for factory in support::factories() {
        let mut writer = Writer::create(&factory.create(1), 0);
        fill(&mut writer);
        writer.reopen(factory.as_ref());
        assert_refused(&writer, 5);
    }
}
