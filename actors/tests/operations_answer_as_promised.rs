//! Each client operation against documents that are there, are not, are deleted, are expired, or are another version.
#![cfg(test)]

mod support;

use std::time::Duration;

use bytes::Bytes;

use messages::vbucket::{
    Acknowledge, Add, ExpiryRequest, GetAndTouch, Replace, Set, Touch, Write, WriteBatch,
    WriteOptions,
};
use messages::{Busy, OperationError};
use storage::{
    Cas, Datatype, DeleteSource, Document, Expiry, Operation, RevSeqno, Seqno, VbucketUuid,
};
use support::{Bench, active, delete, key, set, value};

fn add(name: &str, value: &str) -> Add {
    let Set {
        key,
        value,
        options,
    } = set(name, value);
    Add {
        key,
        value,
        options,
    }
}

fn replace(name: &str, value: &str) -> Replace {
    let Set {
        key,
        value,
        options,
    } = set(name, value);
    Replace {
        key,
        value,
        options,
    }
}

fn touch(name: &str, seconds: u32) -> Touch {
    Touch {
        key: key(name),
        expiry: ExpiryRequest(seconds),
        acknowledge: Acknowledge::InMemory,
    }
}

fn expiring(name: &str, seconds: u32) -> Set {
    let mut set = set(name, "short-lived");
    set.options.expiry = ExpiryRequest(seconds);
    set
}

#[test]
fn a_set_is_read_back_with_everything_it_brought() {
    let Bench { core, clock, .. } = active();
    let options = WriteOptions {
        flags: 0xdead_beef,
        datatype: Datatype::JSON,
        expiry: ExpiryRequest(60),
        ..WriteOptions::default()
    };
    let mutated = core
        .set(Set {
            options,
            ..set("a", "{}")
        })
        .unwrap();
    assert_eq!(mutated.token.seqno, Seqno(1));
    assert_eq!(mutated.token.vbucket, support::id());
    assert_eq!(mutated.token.vbucket_uuid, VbucketUuid(0xa11ce));
    let found = core.get(&key("a")).unwrap();
    assert_eq!(found.value, Bytes::from_static(b"{}"));
    assert_eq!(found.meta.cas, mutated.cas);
    assert_eq!(found.meta.flags, 0xdead_beef);
    assert_eq!(found.meta.datatype, Datatype::JSON);
    assert_eq!(found.meta.expiry, Expiry(clock.seconds() + 60));
    assert_eq!(found.meta.rev_seqno, RevSeqno(1));
    assert_eq!(found.meta.seqno, Seqno(1));
    assert!(!found.meta.is_deleted);
}

#[test]
fn every_write_has_a_higher_cas_and_seqno() {
    let Bench { core, .. } = active();
    let first = core.set(set("a", "1")).unwrap();
    let second = core.set(set("b", "2")).unwrap();
    let third = core.delete(delete("a")).unwrap();
    assert!(first.cas < second.cas && second.cas < third.cas);
    assert_eq!(third.token.seqno, Seqno(3));
    assert_eq!(core.high_seqno(), Seqno(3));
}

#[test]
fn add_wants_nothing_there_and_replace_something() {
    let Bench { core, .. } = active();
    assert_eq!(
        core.replace(replace("a", "1")),
        Err(OperationError::KeyNotFound)
    );
    core.add(add("a", "1")).unwrap();
    assert_eq!(core.add(add("a", "2")), Err(OperationError::KeyExists));
    core.replace(replace("a", "3")).unwrap();
    assert_eq!(value(&core, "a").unwrap(), "3");
    core.delete(delete("a")).unwrap();
    assert_eq!(
        core.replace(replace("a", "4")),
        Err(OperationError::KeyNotFound)
    );
    core.add(add("a", "5")).unwrap();
    assert_eq!(
        core.high_seqno(),
        Seqno(4),
        "what was refused took no seqno"
    );
}

#[test]
fn a_cas_must_be_the_present_one() {
    let Bench { core, .. } = active();
    let with = |cas, value: &str| {
        let mut set = set("a", value);
        set.options.cas = Some(cas);
        set
    };
    assert_eq!(
        core.set(with(Cas(7), "0")),
        Err(OperationError::KeyNotFound)
    );
    let first = core.set(set("a", "1")).unwrap().cas;
    let second = core.set(with(first, "2")).unwrap().cas;
    let mismatch = OperationError::CasMismatch { current: second };
    assert_eq!(core.set(with(first, "3")), Err(mismatch.clone()));
    let mut wanted = delete("a");
    wanted.cas = Some(first);
    assert_eq!(core.delete(wanted.clone()), Err(mismatch.clone()));
    let mut add = add("a", "4");
    add.options.cas = Some(second);
    assert_eq!(core.add(add), Err(mismatch));
    wanted.cas = Some(second);
    core.delete(wanted).unwrap();
    assert_eq!(core.get(&key("a")), Err(OperationError::KeyNotFound));
}

#[test]
fn revisions_rise_across_delete_and_creation() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    core.set(set("a", "2")).unwrap();
    core.delete(delete("a")).unwrap();
    let tombstone = core.get_meta(&key("a")).unwrap();
    assert!(tombstone.is_deleted);
    assert_eq!(tombstone.rev_seqno, RevSeqno(3));
    core.set(set("a", "3")).unwrap();
    assert_eq!(core.get_meta(&key("a")).unwrap().rev_seqno, RevSeqno(4));
}

#[test]
fn a_deleted_document_is_gone_but_its_tombstone_shows_in_the_metadata() {
    let Bench { core, clock, .. } = active();
    assert_eq!(core.delete(delete("a")), Err(OperationError::KeyNotFound));
    core.set(set("a", "1")).unwrap();
    core.delete(delete("a")).unwrap();
    assert_eq!(core.get(&key("a")), Err(OperationError::KeyNotFound));
    assert_eq!(core.exists(&key("a")), Ok(false));
    assert_eq!(core.delete(delete("a")), Err(OperationError::KeyNotFound));
    assert_eq!(core.touch(touch("a", 5)), Err(OperationError::KeyNotFound));
    let taken = core.take_for_flush(10, usize::MAX).unwrap();
    let deleted = taken.items.last().unwrap();
    let operation = Operation::Deletion {
        deleted_at: clock.seconds(),
        source: DeleteSource::Explicit,
    };
    assert_eq!(deleted.operation, operation);
    assert!(deleted.document.value.is_empty());
}

#[test]
fn an_expired_document_is_none_for_every_operation() {
    let Bench { core, clock, .. } = active();
    let expire = |name: &str| {
        core.set(expiring(name, 10)).unwrap();
        clock.advance(Duration::from_secs(10));
    };
    core.set(expiring("a", 10)).unwrap();
    clock.advance(Duration::from_secs(9));
    assert_eq!(core.exists(&key("a")), Ok(true), "a second before its time");
    clock.advance(Duration::from_secs(1));
    assert_eq!(core.get(&key("a")), Err(OperationError::KeyNotFound));
    assert_eq!(
        core.get_meta(&key("a")).err(),
        Some(OperationError::KeyNotFound)
    );
    core.add(add("a", "anew")).unwrap();
    assert_eq!(core.get_meta(&key("a")).unwrap().rev_seqno, RevSeqno(2));

    expire("b");
    assert_eq!(
        core.replace(replace("b", "1")),
        Err(OperationError::KeyNotFound)
    );
    let buried = core.get_meta(&key("b")).unwrap();
    assert!(buried.is_deleted, "a write that met it queued its deletion");
    expire("b");
    assert_eq!(core.delete(delete("b")), Err(OperationError::KeyNotFound));
    expire("b");
    assert_eq!(
        core.touch(touch("b", 100)),
        Err(OperationError::KeyNotFound)
    );
    expire("b");
    let mut with_cas = set("b", "2");
    with_cas.options.cas = Some(Cas(1));
    assert_eq!(core.set(with_cas), Err(OperationError::KeyNotFound));
    let taken = core.take_for_flush(100, usize::MAX).unwrap();
    let expirations = taken.items.iter().filter(|item| {
        matches!(
            item.operation,
            Operation::Deletion {
                source: DeleteSource::Expiration,
                ..
            }
        )
    });
    assert_eq!(
        expirations.count(),
        1,
        "older ones were replaced in the checkpoint"
    );
}

#[test]
fn expiry_follows_the_rule_of_the_field() {
    let Bench { core, clock, .. } = active();
    let expiry_of = |seconds| {
        core.set(expiring("a", seconds)).unwrap();
        core.get_meta(&key("a")).map(|meta| meta.expiry)
    };
    let now = clock.seconds();
    let most = ExpiryRequest::RELATIVE_SECONDS_MAX;
    assert_eq!(expiry_of(0), Ok(Expiry(0)));
    assert_eq!(expiry_of(1), Ok(Expiry(now + 1)));
    assert_eq!(expiry_of(most), Ok(Expiry(now + most)));
    assert_eq!(expiry_of(now + 5), Ok(Expiry(now + 5)));
    assert_eq!(
        expiry_of(most + 1),
        Err(OperationError::KeyNotFound),
        "an absolute time long ago"
    );
}

#[test]
fn touch_is_a_change_like_any_other() {
    let Bench { core, clock, .. } = active();
    let options = WriteOptions {
        flags: 5,
        datatype: Datatype::JSON,
        ..WriteOptions::default()
    };
    let written = core
        .set(Set {
            options,
            ..set("a", "value")
        })
        .unwrap();
    let touched = core.touch(touch("a", 100)).unwrap();
    assert!(touched.cas > written.cas);
    assert_eq!(touched.token.seqno, Seqno(2));
    let request = GetAndTouch {
        key: key("a"),
        expiry: ExpiryRequest(200),
    };
    let found = core.get_and_touch(&request).unwrap();
    assert_eq!(found, core.get(&key("a")).unwrap());
    assert_eq!(found.value, Bytes::from_static(b"value"));
    assert_eq!((found.meta.flags, found.meta.datatype), (5, Datatype::JSON));
    assert_eq!(found.meta.expiry, Expiry(clock.seconds() + 200));
    assert_eq!(
        (found.meta.seqno, found.meta.rev_seqno),
        (Seqno(3), RevSeqno(3))
    );
    clock.advance(Duration::from_secs(200));
    assert_eq!(
        core.get_and_touch(&request),
        Err(OperationError::KeyNotFound)
    );
}

#[test]
fn a_value_over_the_limit_is_refused() {
    let Bench { core, .. } = active();
    let mut large = set("a", "");
    large.value = Bytes::from(vec![0; Document::VALUE_LENGTH_MAX]);
    core.set(large.clone()).unwrap();
    let length = Document::VALUE_LENGTH_MAX + 1;
    large.value = Bytes::from(vec![0; length]);
    let refused = Err(OperationError::ValueTooLarge { length });
    assert_eq!(core.set(large), refused);
    assert_eq!(core.high_seqno(), Seqno(1));
}

#[test]
fn a_batch_is_answered_in_order_each_for_itself() {
    let Bench { core, .. } = active();
    let batch = WriteBatch {
        writes: vec![
            Write::Set(set("a", "1")),
            Write::Add(add("a", "2")),
            Write::Delete(delete("missing")),
            Write::Replace(replace("a", "3")),
            Write::Touch(touch("a", 0)),
            Write::Delete(delete("a")),
        ],
    };
    let answers = core.write_batch(batch);
    let seqnos: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().map(|mutated| mutated.token.seqno.0))
        .collect();
    let expected = [
        Ok(1),
        Err(&OperationError::KeyExists),
        Err(&OperationError::KeyNotFound),
        Ok(2),
        Ok(3),
        Ok(4),
    ];
    assert_eq!(seqnos, expected);
}

#[test]
fn many_reads_are_answered_in_order() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    let answers = core.get_many(&[key("b"), key("a")]);
    assert_eq!(answers[0], Err(OperationError::KeyNotFound));
    assert_eq!(answers[1], core.get(&key("a")));
}

#[test]
fn a_full_disk_refuses_writes_and_reads_go_on() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    core.set_disk_full(true);
    let full = Err(OperationError::TemporaryFailure(Busy::DiskFull));
    assert_eq!(core.set(set("a", "2")), full);
    assert_eq!(value(&core, "a").unwrap(), "1");
    core.set_disk_full(false);
    core.set(set("a", "2")).unwrap();
}
