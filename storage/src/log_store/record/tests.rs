//! Records come back as they were, know their end, and bytes that are no record are refused.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::document::{CollectionId, DocumentKey};
use crate::log_store::samples;

fn any_seqno() -> impl Strategy<Value = Seqno> {
    (any::<u64>(), 0u32..64).prop_map(|(seqno, shift)| Seqno(seqno >> shift))
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let level = (1u8..=3).prop_map(|byte| DurabilityLevel::from_byte(byte).unwrap());
    prop_oneof![
        Just(Operation::Mutation),
        (any::<u32>(), any::<bool>()).prop_map(|(deleted_at, expired)| Operation::Deletion {
            deleted_at,
            source: if expired {
                DeleteSource::Expiration
            } else {
                DeleteSource::Explicit
            },
        }),
        (level, any::<bool>())
            .prop_map(|(level, is_deletion)| Operation::Prepare { level, is_deletion }),
        (any_seqno(), any::<u32>()).prop_map(|(prepare_seqno, deleted_at)| Operation::Abort {
            prepare_seqno,
            deleted_at,
        }),
        any_seqno().prop_map(|prepare_seqno| Operation::CommitMutation { prepare_seqno }),
        (any_seqno(), any::<u32>()).prop_map(|(prepare_seqno, deleted_at)| {
            Operation::CommitDeletion {
                prepare_seqno,
                deleted_at,
            }
        }),
        Just(Operation::SystemEventBegin),
        Just(Operation::SystemEventEnd),
    ]
}

fn any_predecessor() -> impl Strategy<Value = Predecessor> {
    prop_oneof![
        Just(Predecessor::Unknown),
        Just(Predecessor::Absent),
        any_seqno().prop_map(Predecessor::At),
    ]
}

/// Key and value as bytes; the view borrows them.
fn any_bytes() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let key = (any::<u32>(), vec(any::<u8>(), 1..=245)).prop_map(|(collection, key)| {
        let key = DocumentKey::new(CollectionId(collection), &key).unwrap();
        key.as_encoded().to_vec()
    });
    (key, vec(any::<u8>(), 0..300))
}

prop_compose! {
    fn any_view()(
        operation in any_operation(),
        predecessor in any_predecessor(),
        seqno in any_seqno(),
        rev_seqno in any_seqno(),
        cas in any::<u64>(),
        datatype in any::<u8>(),
        flags in any::<u32>(),
        expiry in any::<u32>(),
    ) -> ItemView<'static> {
        ItemView {
            seqno,
            operation,
            predecessor,
            key: &[],
            value: &[],
            datatype: Datatype(datatype),
            flags,
            expiry: Expiry(expiry),
            cas: Cas(cas),
            rev_seqno: RevSeqno(rev_seqno.0),
        }
    }
}

proptest! {
    #[test]
    fn what_went_in_comes_out(
        view in any_view(),
        (key, value) in any_bytes(),
        behind in option::of(vec(any::<u8>(), 1..20)),
    ) {
        let view = ItemView { key: &key, value: &value, ..view };
        let behind = behind.unwrap_or_default();
        let mut bytes = Vec::new();
        encode(&mut bytes, &view);
        prop_assert!(bytes.len() <= OVERHEAD_MAX + key.len() + value.len());
        let whole = bytes.len();
        bytes.extend_from_slice(&behind);
        prop_assert_eq!(decode(&bytes), Ok((view, &behind[..])));
        for end in 0..whole {
            prop_assert_eq!(decode(&bytes[..end]), Err(RecordError), "cut off at {}", end);
        }
    }

    #[test]
    fn any_bytes_may_be_given(bytes in vec(any::<u8>(), 0..200)) {
        crate::log_store::fuzzing::record(&bytes);
    }
}

fn sample() -> Vec<u8> {
    samples::record(Operation::Mutation, Predecessor::Unknown).unwrap()
}

#[test]
fn unknown_kinds_and_levels_are_refused() {
    for head in (0x0a..=0x0f).chain([0x30, 0x40, 0x80, 0xf0]) {
        let mut bytes = sample();
        bytes[0] = head;
        assert_eq!(decode(&bytes), Err(RecordError), "{head:#x}");
    }
    let level = DurabilityLevel::Majority;
    let is_deletion = false;
    let prepare = Operation::Prepare { level, is_deletion };
    let bytes = samples::record(prepare, Predecessor::Unknown).unwrap();
    let at = bytes
        .iter()
        .zip(&sample())
        .skip(1)
        .position(|(prepare, mutation)| prepare != mutation)
        .unwrap();
    for level in [0, 4, 255] {
        let mut bytes = bytes.clone();
        bytes[at + 1] = level;
        assert_eq!(decode(&bytes), Err(RecordError), "level {level}");
    }
}

#[test]
fn values_and_keys_beyond_their_limits_are_refused() {
    let value = vec![7u8; Document::VALUE_LENGTH_MAX + 1];
    let item = samples::item(Operation::Mutation, Predecessor::Unknown).unwrap();
    let view = |key, value| ItemView {
        key,
        value,
        ..ItemView::of(&item)
    };
    let refused = |view| {
        let mut bytes = Vec::new();
        encode(&mut bytes, &view);
        decode(&bytes).is_err()
    };
    assert!(refused(view(&[0, b'k'], &value)));
    assert!(!refused(view(&[0, b'k'], &value[1..])));
    assert!(refused(view(&[0], &[])), "an empty key");
    assert!(refused(view(&[0x80], &[])), "half a collection id");
    assert!(refused(view(&[0x61; 251], &[])), "a long key");
}
