//! A locked document is changed by who holds its lock and by nobody else, until the lock ends; and a lock is no change.
#![cfg(test)]

mod support;

use std::time::Duration;

use bytes::Bytes;

use messages::vbucket::{
    Acknowledge, Add, Append, Count, Delete, Delta, ExpiryRequest, GetAndLock, GetAndTouch,
    Replace, Set, Touch, Unlock, Write, WriteOptions,
};
use messages::{Busy, Durability, OperationError};
use piggin_actors::vbucket::VbucketCore;
use storage::{Cas, DurabilityLevel, Seqno, VbucketState};
use support::{Bench, active, become_state, delete, key, set, value};

fn lock(core: &VbucketCore, name: &str, seconds: u32) -> Result<Cas, OperationError> {
    let key = key(name);
    let found = core.get_and_lock(&GetAndLock { key, seconds })?;
    Ok(found.meta.cas)
}

fn unlock(core: &VbucketCore, name: &str, cas: Cas) -> Result<(), OperationError> {
    let key = key(name);
    core.unlock(&Unlock { key, cas })
}

fn set_with(name: &str, value: &str, cas: Cas) -> Set {
    let options = WriteOptions {
        cas: Some(cas),
        ..WriteOptions::default()
    };
    Set {
        options,
        ..set(name, value)
    }
}

/// Every write of a document that is there, naming this version where it can.
fn writes(name: &str, cas: Option<Cas>) -> Vec<Write> {
    let (key, value) = (key(name), Bytes::from_static(b"2"));
    let acknowledge = Acknowledge::InMemory;
    let options = WriteOptions {
        cas,
        ..WriteOptions::default()
    };
    vec![
        Write::Set(Set {
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
            value,
            cas,
            acknowledge,
        }),
        Write::Count(Count {
            key: key.clone(),
            delta: Delta::Increment(1),
            initial: Some(1),
            expiry: ExpiryRequest(0),
            acknowledge,
        }),
        Write::Touch(Touch {
            key: key.clone(),
            expiry: ExpiryRequest(9),
            acknowledge,
        }),
        Write::Delete(Delete {
            key,
            cas,
            acknowledge,
        }),
    ]
}

#[test]
fn without_the_locks_version_nothing_changes_it() {
    let Bench { core, .. } = active();
    let before = core.set(set("a", "1")).unwrap().cas;
    lock(&core, "a", 0).unwrap();
    for cas in [None, Some(before), Some(Cas::LOCKED)] {
        for write in writes("a", cas) {
            assert_eq!(
                core.write(write.clone()),
                Err(OperationError::Locked),
                "{write:?}"
            );
        }
    }
    let touch = GetAndTouch {
        key: key("a"),
        expiry: ExpiryRequest(9),
    };
    assert_eq!(core.get_and_touch(&touch), Err(OperationError::Locked));
    assert_eq!(lock(&core, "a", 0), Err(OperationError::Locked));
    let Set {
        key: added,
        value: other,
        options,
    } = set("a", "2");
    let add = |options| {
        core.add(Add {
            key: added.clone(),
            value: other.clone(),
            options,
        })
    };
    assert_eq!(add(options), Err(OperationError::KeyExists));
    let named = WriteOptions {
        cas: Some(before),
        ..options
    };
    let current = Cas::LOCKED;
    assert_eq!(add(named), Err(OperationError::CasMismatch { current }));
    assert_eq!(value(&core, "a").unwrap(), "1");
    assert_eq!(core.high_seqno(), Seqno(1), "a lock is no change");
}

#[test]
fn who_holds_the_lock_changes_it_and_frees_it() {
    for place in 0..6 {
        let Bench { core, .. } = active();
        core.set(set("a", "1")).unwrap();
        let cas = lock(&core, "a", 0).unwrap();
        let write = writes("a", Some(cas)).remove(place);
        if matches!(write, Write::Count(_) | Write::Touch(_)) {
            // They name no version.
            continue;
        }
        core.write(write).unwrap();
        assert_eq!(core.high_seqno(), Seqno(2));
        core.set(set("a", "3")).unwrap();
        assert!(unlock(&core, "a", cas).is_err());
    }
}

#[test]
fn readers_see_the_document_and_no_version() {
    let Bench { core, .. } = active();
    let before = core.set(set("a", "1")).unwrap().cas;
    let found = core
        .get_and_lock(&GetAndLock {
            key: key("a"),
            seconds: 3,
        })
        .unwrap();
    assert_eq!(found.value, "1");
    assert!(found.meta.cas > before && found.meta.cas != Cas::LOCKED);
    let read = core.get(&key("a")).unwrap();
    assert_eq!((read.value, read.meta.cas), (found.value, Cas::LOCKED));
    assert_eq!(core.get_meta(&key("a")).unwrap().cas, Cas::LOCKED);
    assert_eq!(core.exists(&key("a")), Ok(true));
    unlock(&core, "a", found.meta.cas).unwrap();
    assert_eq!(core.get(&key("a")).unwrap().meta.cas, before);
    core.set(set_with("a", "2", before)).unwrap();
}

#[test]
fn a_lock_ends_when_its_time_is_up() {
    for (asked, lasts) in [(0, 15), (1, 1), (30, 30)] {
        let Bench { core, clock, .. } = active();
        let before = core.set(set("a", "1")).unwrap().cas;
        let cas = lock(&core, "a", asked).unwrap();
        clock.advance(Duration::from_millis(lasts * 1000 - 1));
        assert_eq!(core.set(set("a", "2")), Err(OperationError::Locked));
        clock.advance(Duration::from_millis(1));
        assert_eq!(core.get(&key("a")).unwrap().meta.cas, before);
        assert_eq!(unlock(&core, "a", cas), Err(OperationError::NotLocked));
        let late = core.set(set_with("a", "2", cas));
        let current = before;
        assert_eq!(late, Err(OperationError::CasMismatch { current }));
        core.set(set("a", "2")).unwrap();
    }
}

#[test]
fn a_lock_is_asked_for_thirty_seconds_at_most() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    for seconds in [31, u32::MAX] {
        let refused = lock(&core, "a", seconds);
        assert_eq!(refused, Err(OperationError::LockTimeTooLong { seconds }));
    }
    core.set(set("a", "2")).unwrap();
}

#[test]
fn only_the_locks_version_unlocks() {
    let Bench { core, .. } = active();
    assert_eq!(
        lock(&core, "a", 0),
        Err(OperationError::KeyNotFound),
        "nothing to lock"
    );
    assert_eq!(unlock(&core, "a", Cas(1)), Err(OperationError::KeyNotFound));
    let before = core.set(set("a", "1")).unwrap().cas;
    assert_eq!(unlock(&core, "a", before), Err(OperationError::NotLocked));
    let cas = lock(&core, "a", 0).unwrap();
    for wrong in [before, Cas(0), Cas::LOCKED] {
        assert_eq!(unlock(&core, "a", wrong), Err(OperationError::Locked));
    }
    assert_eq!(core.set(set("a", "2")), Err(OperationError::Locked));
    unlock(&core, "a", cas).unwrap();
    assert_eq!(unlock(&core, "a", cas), Err(OperationError::NotLocked));
    core.set(set("a", "2")).unwrap();
}

#[test]
fn a_document_that_expires_is_no_longer_locked() {
    let Bench { core, clock, .. } = active();
    let mut short = set("a", "1");
    short.options.expiry = ExpiryRequest(5);
    core.set(short).unwrap();
    let cas = lock(&core, "a", 30).unwrap();
    clock.advance(Duration::from_secs(5));
    assert_eq!(core.get(&key("a")), Err(OperationError::KeyNotFound));
    assert_eq!(unlock(&core, "a", cas), Err(OperationError::KeyNotFound));
    core.set(set("a", "2")).unwrap();
}

#[test]
fn no_lock_outlives_the_role() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    lock(&core, "a", 30).unwrap();
    become_state(&core, VbucketState::Replica);
    let vbucket = support::id();
    let state = VbucketState::Replica;
    let refused = Err(OperationError::NotMyVbucket { vbucket, state });
    assert_eq!(lock(&core, "a", 0), refused);
    become_state(&core, VbucketState::Active);
    core.set(set("a", "2")).unwrap();
}

#[test]
fn a_durable_write_with_the_locks_version_frees_it() {
    let bench = active();
    support::durable::lead(&bench.core, &["a", "b"]);
    let core = &bench.core;
    core.set(set("a", "1")).unwrap();
    let cas = lock(core, "a", 0).unwrap();
    let level = Durability::of(DurabilityLevel::Majority);
    let refused = core.write_durably(Write::Set(set("a", "2")), level);
    assert_eq!(refused.err(), Some(OperationError::Locked));
    let wait = core.write_durably(Write::Set(set_with("a", "2", cas)), level);
    drop(wait.unwrap());
    assert_ne!(core.get(&key("a")).unwrap().meta.cas, Cas::LOCKED);
    let busy = Err(OperationError::SyncWriteInProgress);
    assert_eq!(lock(core, "a", 0), busy);
}

#[test]
fn so_many_are_locked_and_no_more() {
    const MOST: usize = 4096;
    let Bench { core, clock, .. } = active();
    for number in 0..=MOST {
        core.set(set(&format!("k{number}"), "1")).unwrap();
    }
    for number in 0..MOST {
        lock(&core, &format!("k{number}"), 1).unwrap();
    }
    let last = format!("k{MOST}");
    let full = Err(OperationError::TemporaryFailure(Busy::Locks));
    assert_eq!(lock(&core, &last, 0), full);
    core.set(set(&last, "2")).unwrap();
    core.delete(delete(&last)).unwrap();
    core.set(set(&last, "3")).unwrap();
    clock.advance(Duration::from_secs(1));
    lock(&core, &last, 0).unwrap();
}
