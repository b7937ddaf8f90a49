//! A durable write that cannot be taken on is refused for the first of the protocol's reasons, and nothing of it is written;
//! while one of a key is under way every other write of that key is refused, and the key does not expire.
#![cfg(test)]

mod support;

use std::time::Duration;

use bytes::Bytes;

use messages::vbucket::{
    Acknowledge, Add, Append, Count, Delete, Delta, ExpiryRequest, GetAndLock, GetAndTouch,
    Prepend, Replace, Set, Touch, Unlock, Write, WriteBatch, WriteOptions,
};
use messages::{Busy, Durability, OperationError};
use piggin_actors::compactor::Expiring;
use piggin_actors::durability::Requirements;
use storage::{
    Cas, CollectionId, Datatype, Document, DocumentKey, DurabilityLevel, Seqno, VbucketState,
};
use support::durable::{MAJORITY, acknowledge, answer, lead, leader, prepare};
use support::{Bench, Setup, active, become_state, delete, in_state, key, set, value};

fn refused(bench: &Bench, write: Write, durability: Durability) -> OperationError {
    let before = bench.core.high_seqno();
    let memory = bench.memory.held_bytes();
    let refused = bench.core.write_durably(write, durability).unwrap_err();
    assert_eq!(bench.core.high_seqno(), before, "nothing is written");
    assert_eq!(bench.memory.held_bytes(), memory, "nothing is kept");
    refused
}

fn a(text: &str) -> Write {
    Write::Set(set("a", text))
}

fn within(milliseconds: u64) -> Durability {
    Durability {
        level: DurabilityLevel::Majority,
        timeout: Some(Duration::from_millis(milliseconds)),
    }
}

#[test]
fn the_first_reason_is_told() {
    let stranger = Write::Set(Set {
        key: DocumentKey::new(CollectionId(77), b"a").unwrap(),
        ..set("a", "")
    });
    for state in [VbucketState::Replica, VbucketState::Dead] {
        let bench = in_state(state);
        let told = refused(&bench, stranger.clone(), within(0));
        assert!(matches!(told, OperationError::NotMyVbucket { .. }));
    }
    let bench = active();
    let told = refused(&bench, stranger, within(0));
    assert!(matches!(told, OperationError::UnknownCollection { .. }));
    assert_eq!(
        refused(&bench, a(""), within(0)),
        OperationError::DurabilityInvalidLevel
    );
    // MB-70387: that may change.
    assert_eq!(
        refused(&bench, a(""), MAJORITY),
        OperationError::TemporaryFailure(Busy::NoTopology)
    );
    lead(&bench.core, &["a", ""]);
    let add = Write::Add(Add {
        key: key("a"),
        value: Bytes::new(),
        options: WriteOptions::default(),
    });
    bench.core.set(set("a", "there")).unwrap();
    assert_eq!(
        refused(&bench, add.clone(), MAJORITY),
        OperationError::DurabilityImpossible
    );
    // Before all that a plain write is refused for.
    let too_large = Write::Set(Set {
        value: Bytes::from(vec![0; Document::VALUE_LENGTH_MAX + 1]),
        ..set("a", "")
    });
    assert_eq!(
        refused(&bench, too_large.clone(), MAJORITY),
        OperationError::DurabilityImpossible
    );
    lead(&bench.core, &["a", "b"]);
    let told = refused(&bench, too_large, MAJORITY);
    assert!(matches!(told, OperationError::ValueTooLarge { .. }));
    assert_eq!(refused(&bench, add, MAJORITY), OperationError::KeyExists);
    let touch = Write::Touch(Touch {
        key: key("a"),
        expiry: ExpiryRequest(9),
        acknowledge: Acknowledge::InMemory,
    });
    assert_eq!(
        refused(&bench, touch, MAJORITY),
        OperationError::DurabilityNotSupported
    );
}

#[test]
fn a_timeout_outside_the_range_is_an_invalid_level() {
    let bench = leader(&["a", "b"]);
    for out in [0, 65_535, u64::MAX] {
        assert_eq!(
            refused(&bench, a(""), within(out)),
            OperationError::DurabilityInvalidLevel
        );
    }
    for (name, inside) in [("x", 1), ("y", 65_534)] {
        let write = Write::Set(set(name, ""));
        assert!(bench.core.write_durably(write, within(inside)).is_ok());
    }
}

/// MB-34453.
#[test]
fn three_replicas_are_too_many_unless_the_bucket_says_otherwise() {
    let bench = leader(&["a", "b", "c", "d"]);
    assert_eq!(
        refused(&bench, a(""), MAJORITY),
        OperationError::DurabilityImpossible
    );
    bench.core.set_requirements(Requirements {
        replicas_max: 3,
        is_fallback: false,
    });
    assert!(bench.core.write_durably(a(""), MAJORITY).is_ok());
}

#[test]
fn what_a_closed_or_full_vbucket_is_asked_is_refused() {
    let bench = leader(&["a", "b"]);
    bench.core.set_disk_full(true);
    assert_eq!(
        refused(&bench, a(""), MAJORITY),
        OperationError::TemporaryFailure(Busy::DiskFull)
    );
    bench.core.set_disk_full(false);
    bench.core.close_gate();
    assert_eq!(refused(&bench, a(""), MAJORITY), OperationError::Closed);
    let small = Setup {
        quota_bytes: 1 << 10,
        ..Setup::default()
    };
    let small = small.warm();
    lead(&small.core, &["a", "b"]);
    let large = "x".repeat(2 << 10);
    assert_eq!(
        refused(&small, a(&large), MAJORITY),
        OperationError::TemporaryFailure(Busy::Memory)
    );
}

fn all_writes(name: &str) -> Vec<Write> {
    let (key, options) = (key(name), WriteOptions::default());
    let (value, acknowledge) = (Bytes::from_static(b"other"), Acknowledge::InMemory);
    vec![
        Write::Set(set(name, "other")),
        Write::Add(Add {
            key: key.clone(),
            value: value.clone(),
            options,
        }),
        Write::Replace(Replace {
            key: key.clone(),
            value: value.clone(),
            options,
        }),
        Write::Append(Append {
            key: key.clone(),
            value: value.clone(),
            cas: None,
            acknowledge,
        }),
        Write::Prepend(Prepend {
            key: key.clone(),
            value,
            cas: None,
            acknowledge,
        }),
        Write::Count(Count {
            key: key.clone(),
            delta: Delta::Increment(1),
            initial: Some(1),
            expiry: ExpiryRequest(0),
            acknowledge,
        }),
        Write::Delete(Delete {
            key: key.clone(),
            cas: None,
            acknowledge,
        }),
        Write::Touch(Touch {
            key,
            expiry: ExpiryRequest(9),
            acknowledge,
        }),
    ]
}

#[test]
fn every_write_of_a_key_that_is_prepared_is_refused() {
    let Bench { core, .. } = leader(&["a", "b"]);
    core.set(set("a", "before")).unwrap();
    let mut wait = prepare(&core, "a", "prepared");
    let high = core.high_seqno();
    for write in all_writes("a") {
        let refused = core.write(write.clone()).unwrap_err();
        assert_eq!(refused, OperationError::SyncWriteInProgress, "{write:?}");
        if write.can_be_durable() {
            let refused = core.write_durably(write, MAJORITY).unwrap_err();
            assert_eq!(refused, OperationError::SyncWriteInProgress);
        }
    }
    let batch = WriteBatch {
        writes: all_writes("a"),
    };
    for refused in core.write_batch(batch) {
        assert_eq!(refused, Err(OperationError::SyncWriteInProgress));
    }
    let request = GetAndTouch {
        key: key("a"),
        expiry: ExpiryRequest(9),
    };
    let refused = core.get_and_touch(&request);
    assert_eq!(refused, Err(OperationError::SyncWriteInProgress));
    let request = GetAndLock {
        key: key("a"),
        seconds: 0,
    };
    let refused = core.get_and_lock(&request);
    assert_eq!(refused, Err(OperationError::SyncWriteInProgress));
    let request = Unlock {
        key: key("a"),
        cas: Cas(7),
    };
    let refused = core.unlock(&request);
    assert_eq!(refused, Err(OperationError::SyncWriteInProgress));
    assert_eq!(core.high_seqno(), high);
    // Who reads sees what is committed.
    assert_eq!(value(&core, "a").unwrap(), "before");
    core.set(set("b", "another key")).unwrap();
    assert_eq!(answer(&mut wait), None);
}

/// MB-37342: there is nothing to replace, whatever becomes of the prepare; but an add may still be refused for it.
#[test]
fn mb_37342_a_replacement_of_nothing_is_told_so_first() {
    let Bench { core, clock, .. } = leader(&["a", "b"]);
    let _wait = prepare(&core, "new", "prepared");
    let mut expiring = set("old", "");
    expiring.options.expiry = ExpiryRequest(5);
    core.set(expiring).unwrap();
    let _other = prepare(&core, "old", "prepared");
    clock.advance(Duration::from_secs(6));
    for name in ["new", "old"] {
        let high = core.high_seqno();
        let answers: Vec<_> = all_writes(name)
            .into_iter()
            .map(|write| core.write(write).unwrap_err())
            .collect();
        let busy = OperationError::SyncWriteInProgress;
        let mut expected = vec![busy; answers.len()];
        expected[2] = OperationError::KeyNotFound;
        assert_eq!(answers, expected, "{name}");
        // Nor did anything expire by the way (MB-43238).
        assert_eq!(core.high_seqno(), high);
    }
}

/// Where the prepare may have been committed elsewhere a client may have seen it: that there is nothing to replace is not known.
#[test]
fn a_replacement_of_what_may_be_there_is_told_to_wait() {
    let Bench { core, .. } = leader(&["a", "b"]);
    let _wait = prepare(&core, "new", "prepared");
    become_state(&core, VbucketState::Replica);
    become_state(&core, VbucketState::Active);
    for write in all_writes("new") {
        assert_eq!(core.write(write), Err(OperationError::SyncWriteInProgress));
    }
}

#[test]
fn nothing_expires_beside_a_prepare() {
    let bench = leader(&["a", "b"]);
    let Bench { core, clock, .. } = &bench;
    let mut expiring = set("a", "");
    expiring.options.expiry = ExpiryRequest(5);
    let cas = core.set(expiring).unwrap().cas;
    let _wait = prepare(core, "a", "prepared");
    clock.advance(Duration::from_secs(6));
    assert_eq!(core.expire_found(&key("a"), cas, None), Expiring::PutOff);
    assert_eq!(core.get(&key("a")), Err(OperationError::KeyNotFound));
    acknowledge(core, "b", 2);
    bench.decide();
    assert_eq!(value(core, "a").unwrap(), "prepared");
}

#[test]
fn the_version_is_compared_with_what_is_committed() {
    let bench = leader(&["a"]);
    let core = &bench.core;
    let before = core.set(set("a", "1")).unwrap();
    let mut wrong = set("a", "2");
    wrong.options.cas = Some(Cas(7));
    let refused = core.write_durably(Write::Set(wrong.clone()), MAJORITY);
    let current = before.cas;
    assert_eq!(
        refused.unwrap_err(),
        OperationError::CasMismatch { current }
    );
    wrong.options.cas = Some(before.cas);
    let mut wait = core.write_durably(Write::Set(wrong), MAJORITY).unwrap();
    bench.decide();
    let after = answer(&mut wait).unwrap().unwrap();
    assert!(after.cas > before.cas);
    assert_eq!(after.token.seqno, Seqno(3));
    let meta = core.get_meta(&key("a")).unwrap();
    assert_eq!((meta.cas, meta.rev_seqno.0), (after.cas, 2));
    // The commit is a version like any other.
    let mut next = set("a", "3");
    next.options.cas = Some(after.cas);
    core.set(next).unwrap();
    let gone = core.write_durably(Write::Delete(delete("b")), MAJORITY);
    assert_eq!(gone.unwrap_err(), OperationError::KeyNotFound);
}

#[test]
fn a_value_that_is_too_large_is_refused() {
    let bench = leader(&["a"]);
    let length = Document::VALUE_LENGTH_MAX + 1;
    let write = Write::Set(Set {
        value: Bytes::from(vec![0; length]),
        options: WriteOptions {
            datatype: Datatype::RAW,
            ..WriteOptions::default()
        },
        ..set("a", "")
    });
    let told = refused(&bench, write, MAJORITY);
    assert_eq!(told, OperationError::ValueTooLarge { length });
}
