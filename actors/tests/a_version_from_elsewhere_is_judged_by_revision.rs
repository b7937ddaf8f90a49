//! Of two versions of a document the same one stays wherever they meet, and no version brings a far future along.
#![cfg(test)]

mod support;

use std::time::Duration;

use bytes::Bytes;

use messages::OperationError;
use messages::vbucket::{
    Acknowledge, DeleteWithMeta, ExpiryRequest, GetAndLock, GivenMeta, Mutated, Resolution,
    SetWithMeta,
};
use piggin_actors::vbucket::VbucketCore;
use storage::{Cas, Datatype, Expiry, RevSeqno, Seqno};
use support::{Bench, active, delete, key, set, value};

const FAR: u32 = u32::MAX;

fn meta(rev: u64, cas: u64) -> GivenMeta {
    GivenMeta {
        cas: Cas(cas),
        rev_seqno: RevSeqno(rev),
        flags: 0,
        datatype: Datatype::RAW,
        expiry: Expiry(0),
    }
}

fn given(meta: GivenMeta) -> SetWithMeta {
    SetWithMeta {
        key: key("a"),
        value: Bytes::from_static(b"theirs"),
        meta,
        cas: None,
        resolution: Resolution::ByRevision,
        acknowledge: Acknowledge::InMemory,
    }
}

fn deletion(meta: GivenMeta) -> DeleteWithMeta {
    DeleteWithMeta {
        key: key("a"),
        meta,
        cas: None,
        resolution: Resolution::ByRevision,
        acknowledge: Acknowledge::InMemory,
    }
}

/// A vbucket that has a version of this metadata.
fn having(meta: GivenMeta) -> std::sync::Arc<VbucketCore> {
    let bench = active();
    bench.core.set_with_meta(given(meta)).unwrap();
    bench.core
}

fn is_lost(answer: Result<Mutated, OperationError>, current: u64) -> bool {
    let current = Cas(current);
    match answer {
        Err(error) => {
            assert_eq!(error, OperationError::ConflictLost { current });
            true
        }
        Ok(_) => false,
    }
}

#[test]
fn revision_then_cas_then_expiry_then_flags() {
    let with = |expiry, flags| GivenMeta {
        expiry: Expiry(expiry),
        flags,
        ..meta(5, 50)
    };
    // Each is later than those before it.
    let order = [
        meta(4, 99),
        meta(5, 49),
        with(0, 0),
        with(0, 1),
        with(FAR - 1, 0),
        with(FAR, 0),
        with(FAR, 1),
        meta(5, 51),
        meta(6, 1),
    ];
    for (here, ours) in order.iter().enumerate() {
        for (there, theirs) in order.iter().enumerate() {
            let core = having(*ours);
            let answer = core.set_with_meta(given(*theirs));
            assert_eq!(
                is_lost(answer, ours.cas.0),
                there <= here,
                "{ours:?} {theirs:?}"
            );
            let stays = if there > here { theirs } else { ours };
            let found = core.get_meta(&key("a")).unwrap();
            assert_eq!(GivenMeta::from(found), *stays);
        }
    }
}

#[test]
fn a_deletion_is_later_by_revision_or_cas_alone() {
    for (theirs, is_later) in [
        (meta(4, 99), false),
        (meta(5, 49), false),
        (meta(5, 50), false),
        (meta(5, 51), true),
        (meta(6, 1), true),
    ] {
        let core = having(meta(5, 50));
        let answer = core.delete_with_meta(deletion(theirs));
        assert_eq!(is_lost(answer, 50), !is_later, "{theirs:?}");
        let found = core.get_meta(&key("a")).unwrap();
        assert_eq!(found.is_deleted, is_later);
        // And a tombstone is compared as what it took the place of.
        let older = core.set_with_meta(given(meta(5, 50)));
        assert!(older.is_err());
    }
    let core = active().core;
    let made = core.delete_with_meta(deletion(meta(3, 30))).unwrap();
    assert_eq!((made.cas, made.token.seqno), (Cas(30), Seqno(1)));
    let tombstone = core.get_meta(&key("a")).unwrap();
    assert!(tombstone.is_deleted && tombstone.rev_seqno == RevSeqno(3));
    assert_eq!(core.get(&key("a")), Err(OperationError::KeyNotFound));
}

#[test]
fn what_is_expired_is_compared_as_it_is() {
    let Bench { core, clock, .. } = active();
    let mut short = set("a", "ours");
    short.options.expiry = ExpiryRequest(5);
    let ours = core.set(short).unwrap().cas;
    clock.advance(Duration::from_secs(6));
    let older = core.set_with_meta(given(meta(1, 1)));
    assert!(is_lost(older, ours.0));
    core.set_with_meta(given(meta(9, 1))).unwrap();
    assert_eq!(value(&core, "a").unwrap(), "theirs");
}

#[test]
fn the_winner_may_be_said_beforehand() {
    let core = having(meta(5, 50));
    let skipping = SetWithMeta {
        resolution: Resolution::Skip,
        ..given(meta(1, 1))
    };
    core.set_with_meta(skipping).unwrap();
    let found = core.get(&key("a")).unwrap();
    assert_eq!(
        (found.meta.cas, found.meta.rev_seqno),
        (Cas(1), RevSeqno(1))
    );
    let named = SetWithMeta {
        cas: Some(Cas(2)),
        ..given(meta(9, 9))
    };
    let current = Cas(1);
    assert_eq!(
        core.set_with_meta(named.clone()),
        Err(OperationError::CasMismatch { current })
    );
    let named = SetWithMeta {
        cas: Some(current),
        ..named
    };
    core.set_with_meta(named).unwrap();
    core.delete(delete("a")).unwrap();
    let missing = SetWithMeta {
        cas: Some(Cas(9)),
        ..given(meta(99, 99))
    };
    assert_eq!(
        core.set_with_meta(missing),
        Err(OperationError::KeyNotFound)
    );
}

#[test]
fn a_locked_document_is_for_its_holder() {
    let core = having(meta(5, 50));
    let lock = GetAndLock {
        key: key("a"),
        seconds: 0,
    };
    let cas = core.get_and_lock(&lock).unwrap().meta.cas;
    let refused = core.set_with_meta(given(meta(6, 60)));
    assert_eq!(refused, Err(OperationError::Locked));
    let held = SetWithMeta {
        cas: Some(cas),
        ..given(meta(4, 40))
    };
    let current = Cas::LOCKED;
    assert_eq!(
        core.set_with_meta(held.clone()),
        Err(OperationError::ConflictLost { current })
    );
    let held = SetWithMeta {
        meta: meta(6, 60),
        ..held
    };
    core.set_with_meta(held).unwrap();
}

#[test]
fn the_clock_follows_and_no_further_than_allowed() {
    let Bench { core, clock, .. } = active();
    for cas in [Cas(0), Cas::LOCKED] {
        let refused = core.set_with_meta(given(meta(1, cas.0)));
        assert_eq!(refused, Err(OperationError::InvalidCas { cas }));
        let refused = core.delete_with_meta(deletion(meta(1, cas.0)));
        assert_eq!(refused, Err(OperationError::InvalidCas { cas }));
    }
    let now = u64::from(clock.seconds()) * 1_000_000_000;
    let ahead = |seconds: u64| now + seconds * 1_000_000_000;
    let most = OperationError::CAS_AHEAD_S_MAX;
    let (cas, ahead_s) = (Cas(ahead(most + 1)), most + 1);
    let refused = core.set_with_meta(given(meta(1, cas.0)));
    assert_eq!(
        refused,
        Err(OperationError::CasTooFarAhead { cas, ahead_s })
    );
    let refused = core.delete_with_meta(deletion(meta(1, cas.0)));
    assert_eq!(
        refused,
        Err(OperationError::CasTooFarAhead { cas, ahead_s })
    );
    assert_eq!(core.high_seqno(), Seqno::ZERO);
    assert!(
        core.set(set("b", "1")).unwrap().cas < Cas(ahead(1)),
        "the clock is where it was"
    );
    core.set_with_meta(given(meta(1, ahead(most)))).unwrap();
    let next = core.set(set("b", "2")).unwrap().cas;
    assert_eq!(next, Cas(ahead(most) + 1));
}

#[test]
fn what_follows_a_forgotten_deletion_is_of_a_later_revision() {
    let store = storage::MemoryStore::new(8);
    let record = storage::VbucketStateRecord::new(storage::VbucketUuid(0xa11ce));
    storage::KvStore::create_vbucket(&store, support::id(), &record).unwrap();
    let core = active().core;
    for _ in 0..6 {
        core.set(set("a", "v")).unwrap();
    }
    core.delete(delete("a")).unwrap();
    support::flush_all(&core, &store, 99);
    core.shrink_log();
    assert_eq!(core.get_meta(&key("a")), Err(OperationError::KeyNotFound));
    core.set(set("a", "again")).unwrap();
    let found = core.get_meta(&key("a")).unwrap();
    assert_eq!(found.rev_seqno, RevSeqno(8));
}
