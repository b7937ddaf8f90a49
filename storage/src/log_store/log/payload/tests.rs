//! Batches and edits come back as they were, in their order, and damage is an error.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::log_store::samples;
use crate::seqno::SnapshotRange;

fn place() -> Place {
    samples::place().unwrap()
}

fn batch_of(bytes: Vec<u8>) -> LoggedBatch {
    let mut records = read(&bytes.into()).unwrap();
    match records.pop() {
        Some(Record::Batch(batch)) if records.is_empty() => batch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_comes_back_with_and_without_identity() {
    let batch = samples::batch(place()).unwrap();
    let identity = codec::encode(&*samples::identity()).unwrap();
    for identity in [None, Some(&*identity)] {
        let mut bytes = Vec::new();
        put_batch(&mut bytes, &batch, &batch.watermarks, identity);
        let read = batch_of(bytes);
        assert_eq!(read.place, place());
        assert_eq!(read.watermarks, batch.watermarks);
        assert_eq!(read.items, batch.items);
        let expected = identity.map(|_| samples::identity());
        assert_eq!(read.identity, expected);
    }
}

#[test]
fn values_share_the_payloads_memory() {
    let batch = samples::batch(place()).unwrap();
    let mut bytes = Vec::new();
    put_batch(&mut bytes, &batch, &batch.watermarks, None);
    let payload = Bytes::from(bytes);
    let held = payload.as_ptr_range();
    for record in read(&payload).unwrap() {
        let Record::Batch(batch) = record else {
            panic!("no edit was written");
        };
        for item in batch.items {
            assert!(held.contains(&item.document.value.as_ptr()));
        }
    }
}

#[test]
fn every_edit_comes_back_and_names_its_place() {
    for (name, edit) in samples::edits(place()) {
        let mut bytes = Vec::new();
        put_edit(&mut bytes, &codec::encode(&edit).unwrap());
        assert_eq!(edit.place(), place());
        match &*read(&bytes.into()).unwrap() {
            [Record::Edit(read)] => assert_eq!(**read, edit, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// A payload of everything: each edit, a batch behind each.
fn mixed() -> Vec<u8> {
    let batch = samples::batch(place()).unwrap();
    let identity = codec::encode(&*samples::identity()).unwrap();
    let mut bytes = Vec::new();
    for (_, edit) in samples::edits(place()) {
        put_edit(&mut bytes, &codec::encode(&edit).unwrap());
        put_batch(&mut bytes, &batch, &batch.watermarks, Some(&identity));
    }
    bytes
}

#[test]
fn records_come_back_in_their_order() {
    let records = read(&mixed().into()).unwrap();
    let kinds: Vec<bool> = records
        .iter()
        .map(|record| matches!(record, Record::Edit(_)))
        .collect();
    assert_eq!(kinds, [true, false].repeat(6));
    assert!(read(&Bytes::new()).unwrap().is_empty());
}

#[test]
fn a_cut_payload_gives_an_error_or_its_first_records() {
    let whole = mixed();
    let all = format!("{:?}", read(&whole.clone().into()).unwrap());
    for end in 0..whole.len() {
        if let Ok(records) = read(&whole[..end].to_vec().into()) {
            let some = format!("{records:?}");
            assert!(all.starts_with(some.trim_end_matches(']')), "cut at {end}");
        }
    }
}

#[test]
fn counts_and_lengths_beyond_the_payload_allocate_nothing() {
    let mut bytes = vec![BATCH, 0];
    for _ in 0..12 {
        put_u64(&mut bytes, 1);
    }
    put_u64(&mut bytes, u64::from(u32::MAX));
    assert!(read(&bytes.into()).is_err());
    let mut bytes = vec![EDIT];
    put_u64(&mut bytes, u64::from(u32::MAX));
    assert!(read(&bytes.into()).is_err());
    assert!(read(&vec![3, 0].into()).unwrap_err().contains("kind 3"));
}

#[test]
fn a_vbucket_out_of_range_is_refused() {
    let batch = samples::batch(place()).unwrap();
    let mut bytes = Vec::new();
    put_batch(&mut bytes, &batch, &batch.watermarks, None);
    assert_eq!(bytes[2..4], [0x81, 0x04], "vbucket 513");
    bytes[3] = 0x08;
    assert!(read(&bytes.into()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_may_be_given(mut bytes in vec(any::<u8>(), 0..300), kind in 1u8..=2) {
        crate::log_store::fuzzing::payload(&bytes);
        bytes.insert(0, kind);
        crate::log_store::fuzzing::payload(&bytes);
        crate::log_store::fuzzing::metadata(&bytes);
    }

    #[test]
    fn watermarks_come_back(words in any::<[u64; 9]>(), is_disk in any::<bool>()) {
        let [high, visible, prepared, completed, acked, purge, start, end, time] = words;
        let watermarks = Watermarks {
            high_seqno: Seqno(high),
            max_visible_seqno: Seqno(visible),
            prepared_seqno: Seqno(prepared),
            completed_seqno: Seqno(completed),
            high_prepared_seqno: Seqno(acked),
            purge_seqno: Seqno(purge),
            snapshot: SnapshotRange { start: Seqno(start), end: Seqno(end) },
            snapshot_kind: if is_disk { SnapshotKind::Disk } else { SnapshotKind::Memory },
            commit_time_ms: time,
        };
        let mut batch = samples::batch(place()).unwrap();
        batch.items.clear();
        let mut bytes = Vec::new();
        put_batch(&mut bytes, &batch, &watermarks, None);
        prop_assert_eq!(batch_of(bytes).watermarks, watermarks);
    }
}
