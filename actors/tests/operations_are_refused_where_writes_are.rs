//! Wherever a plain write is refused, so is every operation that changes a document or its locks, with the same answer; and
//! nothing changes.
#![cfg(test)]

mod support;

use bytes::Bytes;

use messages::vbucket::{
    Acknowledge, Append, Count, DeleteWithMeta, Delta, ExpiryRequest, GetAndLock, GetRandom,
    GivenMeta, Observe, Prepend, Resolution, SetWithMeta, Unlock,
};
use messages::{Busy, DownCause, OperationError};
use piggin_actors::vbucket::VbucketCore;
use storage::{
    Cas, CollectionId, Datatype, DocumentKey, Expiry, ManifestUid, RevSeqno, VbucketState,
};
use support::{Setup, active, in_state, key, set};

/// What each operation is answered.
fn writes(core: &VbucketCore, key: &DocumentKey) -> Vec<Option<OperationError>> {
    let (key, acknowledge) = (key.clone(), Acknowledge::InMemory);
    let value = Bytes::from_static(b"1");
    let meta = GivenMeta {
        cas: Cas(7),
        rev_seqno: RevSeqno(9),
        flags: 0,
        datatype: Datatype::RAW,
        expiry: Expiry(0),
    };
    let (cas, resolution) = (None, Resolution::ByRevision);
    let append = Append {
        key: key.clone(),
        value: value.clone(),
        cas,
        acknowledge,
    };
    let prepend = Prepend {
        key: key.clone(),
        value: value.clone(),
        cas,
        acknowledge,
    };
    let count = Count {
        key: key.clone(),
        delta: Delta::Increment(1),
        initial: Some(1),
        expiry: ExpiryRequest(0),
        acknowledge,
    };
    let set = SetWithMeta {
        key: key.clone(),
        value,
        meta,
        cas,
        resolution,
        acknowledge,
    };
    let delete = DeleteWithMeta {
        key: key.clone(),
        meta,
        cas,
        resolution,
        acknowledge,
    };
    let lock = GetAndLock {
        key: key.clone(),
        seconds: 0,
    };
    let unlock = Unlock { key, cas: Cas(7) };
    vec![
        core.append(append).err(),
        core.prepend(prepend).err(),
        core.count(count).err(),
        core.set_with_meta(set).err(),
        core.delete_with_meta(delete).err(),
        core.get_and_lock(&lock).err(),
        core.unlock(&unlock).err(),
    ]
}

fn assert_refused(core: &VbucketCore, expected: &OperationError) {
    let high = core.high_seqno();
    assert_eq!(core.set(set("a", "1")).err().as_ref(), Some(expected));
    for refused in writes(core, &key("a")) {
        assert_eq!(refused.as_ref(), Some(expected));
    }
    assert_eq!(core.high_seqno(), high);
}

fn assert_unread(core: &VbucketCore, expected: &OperationError) {
    let collection = CollectionId::DEFAULT;
    let random = core.get_random(&GetRandom { collection });
    assert_eq!(random.err().as_ref(), Some(expected));
    let observed = core.observe(&Observe { key: key("a") });
    assert_eq!(observed.err().as_ref(), Some(expected));
    let scanned = core.admit_scan(collection, None);
    assert_eq!(scanned.err().as_ref(), Some(expected));
}

#[test]
fn of_a_vbucket_that_is_not_active() {
    for state in [VbucketState::Replica, VbucketState::Dead] {
        let core = in_state(state).core;
        let vbucket = support::id();
        let expected = OperationError::NotMyVbucket { vbucket, state };
        assert_refused(&core, &expected);
        assert_unread(&core, &expected);
    }
    let core = in_state(VbucketState::Pending).core;
    let pending = OperationError::TemporaryFailure(Busy::Pending);
    assert_refused(&core, &pending);
    assert_unread(&core, &pending);
}

#[test]
fn of_one_that_is_down_or_closed_or_full_or_warming() {
    let core = active().core;
    let cause = DownCause::Escalated("gave up".into());
    core.take_down(cause.clone());
    let vbucket = support::id();
    let down = OperationError::VbucketDown { vbucket, cause };
    assert_refused(&core, &down);
    assert_unread(&core, &down);
    core.bring_up();
    core.set(set("a", "1")).unwrap();
    core.set_disk_full(true);
    assert_refused(&core, &OperationError::TemporaryFailure(Busy::DiskFull));
    core.set_disk_full(false);
    core.close_gate();
    assert_refused(&core, &OperationError::Closed);
    let core = Setup::default().warming().core;
    let warming = OperationError::TemporaryFailure(Busy::WarmingUp);
    assert_refused(&core, &warming);
    let collection = CollectionId::DEFAULT;
    assert_eq!(core.get_random(&GetRandom { collection }), Err(warming));
}

#[test]
fn of_a_collection_there_is_not() {
    let core = active().core;
    let collection = CollectionId(9);
    let key = DocumentKey::new(collection, b"a").unwrap();
    let manifest_uid = ManifestUid(0);
    let unknown = OperationError::UnknownCollection { manifest_uid };
    for refused in writes(&core, &key) {
        assert_eq!(refused.as_ref(), Some(&unknown));
    }
    let random = core.get_random(&GetRandom { collection });
    assert_eq!(random, Err(unknown.clone()));
    assert_eq!(core.admit_scan(collection, None), Err(unknown));
}
