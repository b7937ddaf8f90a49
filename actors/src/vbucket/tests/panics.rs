//! A panic at one step of one operation: it was done or not, nothing else is touched, and nobody is blamed for another's.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::super::{ChangeStep, VbucketCore, WAITERS_MAX};
use super::crashing;
use super::support::{self, Bench, active, id, key, set};
use messages::vbucket::{
    Acknowledge, Append, Count, DeleteWithMeta, Delta, ExpiryRequest, GetAndLock, GivenMeta,
    Prepend, Resolution, SetWithMeta, Unlock, Write,
};
use messages::{Busy, OperationError};
use storage::{Cas, Datatype, Expiry, RevSeqno, Seqno};

#[test]
fn a_panic_at_every_step_leaves_what_the_log_says() {
    for point in ChangeStep::ALL {
        let Bench {
            core,
            suspects,
            dirty,
            ..
        } = active();
        core.set(set("k0", "before")).unwrap();
        while dirty.take().is_some() {}
        let answer = crashing(&core, Some(point), || core.set(set("k0", "after")));
        assert_eq!(answer, None);
        assert_eq!(suspects.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(
            dirty.take(),
            Some(id()),
            "the flusher is told of what was repaired"
        );
        let happened = matches!(
            point,
            ChangeStep::Appended | ChangeStep::Mapped | ChangeStep::Cleared
        );
        let (text, high) = if happened {
            ("after", 2)
        } else {
            ("before", 1)
        };
        assert_eq!(support::value(&core, "k0").unwrap(), text);
        assert_eq!(core.high_seqno(), Seqno(high));
        let taken = core.take_for_flush(10, usize::MAX).unwrap();
        assert_eq!(taken.items.last().unwrap().document.value, text);
        assert_eq!(
            core.set(set("k1", "")).unwrap().token.seqno,
            Seqno(high + 1)
        );
    }
}

/// What is there, as whoever reads it sees it.
fn shown(core: &VbucketCore) -> Option<(String, Cas)> {
    let found = core.get(&key("k0")).ok()?;
    let text = String::from_utf8(found.value.to_vec()).unwrap();
    Some((text, found.meta.cas))
}

#[test]
fn a_panic_in_any_operation_leaves_it_done_or_not() {
    let acknowledge = Acknowledge::InMemory;
    let (key, value) = (key("k0"), Bytes::from_static(b"1"));
    let meta = GivenMeta {
        cas: Cas(77),
        rev_seqno: RevSeqno(9),
        flags: 0,
        datatype: Datatype::RAW,
        expiry: Expiry(0),
    };
    let writes = [
        Write::Append(Append {
            key: key.clone(),
            value: value.clone(),
            cas: None,
            acknowledge,
        }),
        Write::Prepend(Prepend {
            key: key.clone(),
            value: value.clone(),
            cas: None,
            acknowledge,
        }),
        Write::Count(Count {
            key: key.clone(),
            delta: Delta::Increment(5),
            initial: None,
            expiry: ExpiryRequest(0),
            acknowledge,
        }),
        Write::SetWithMeta(SetWithMeta {
            key: key.clone(),
            value,
            meta,
            cas: None,
            resolution: Resolution::ByRevision,
            acknowledge,
        }),
        Write::DeleteWithMeta(DeleteWithMeta {
            key: key.clone(),
            meta,
            cas: None,
            resolution: Resolution::ByRevision,
            acknowledge,
        }),
    ];
    for write in writes {
        let whole = active().core;
        whole.set(set("k0", "7")).unwrap();
        whole.write(write.clone()).unwrap();
        let after = shown(&whole);
        for point in ChangeStep::ALL {
            let core = active().core;
            core.set(set("k0", "7")).unwrap();
            let before = shown(&core);
            let answer = crashing(&core, Some(point), || core.write(write.clone()));
            assert_eq!(answer, None);
            let happened = !matches!(point, ChangeStep::Locked | ChangeStep::Noted);
            let expected = if happened { &after } else { &before };
            assert_eq!(&shown(&core), expected, "{write:?} at {point:?}");
            assert_eq!(core.high_seqno(), Seqno(1 + u64::from(happened)));
            let taken = core.take_for_flush(9, usize::MAX).unwrap();
            assert_eq!(taken.watermarks.high_seqno, core.high_seqno());
        }
    }
}

#[test]
fn a_panic_beside_a_lock_neither_takes_nor_frees_it() {
    let core = active().core;
    core.set(set("k0", "7")).unwrap();
    let lock = GetAndLock {
        key: key("k0"),
        seconds: 0,
    };
    let locked = crashing(&core, Some(ChangeStep::Locked), || core.get_and_lock(&lock));
    assert_eq!(locked, None);
    let cas = core.get_and_lock(&lock).unwrap().meta.cas;
    let unlock = Unlock {
        key: key("k0"),
        cas,
    };
    let freed = crashing(&core, Some(ChangeStep::Locked), || core.unlock(&unlock));
    assert_eq!(freed, None);
    assert_eq!(core.set(set("k0", "8")), Err(OperationError::Locked));
    // The holder's own write, cut off behind the log, was done, and the lock went with its version.
    let mut own = set("k0", "9");
    own.options.cas = Some(cas);
    let cut = crashing(&core, Some(ChangeStep::Appended), || core.set(own));
    assert_eq!(cut, None);
    assert_eq!(support::value(&core, "k0").unwrap(), "9");
    core.set(set("k0", "10")).unwrap();
}

#[test]
fn a_log_that_a_panic_is_repaired_from_gives_nothing_back() {
    let Bench { core, .. } = active();
    core.set(set("k0", "1")).unwrap();
    core.panic_at(ChangeStep::Appended);
    let panicked = catch_unwind(AssertUnwindSafe(|| core.set(set("k0", "2"))));
    assert!(panicked.is_err() && core.is_suspect());
    let before = core.checkpoint_bytes();
    assert_eq!(core.shrink_log(), 0);
    assert_eq!(core.drop_stream_cursors(), 0);
    assert_eq!(core.checkpoint_bytes(), before);
    core.reconcile();
    assert_eq!(support::value(&core, "k0").unwrap(), "2");
}

#[test]
fn a_panic_while_unwinding_elsewhere_blames_nobody() {
    struct WritesWhenDropped<'a>(&'a VbucketCore);
    impl Drop for WritesWhenDropped<'_> {
        fn drop(&mut self) {
            self.0.set(set("k0", "late")).unwrap();
        }
    }
    let Bench { core, .. } = active();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _writes = WritesWhenDropped(&core);
        panic!("somewhere else");
    }));
    assert!(unwound.is_err());
    assert!(!core.is_suspect());
    assert_eq!(support::value(&core, "k0").unwrap(), "late");
}

#[test]
fn what_waits_for_the_disk_is_refused_before_it_is_written() {
    let Bench { core, .. } = active();
    let places: Vec<_> = (0..WAITERS_MAX)
        .map(|_| core.reserve_wait().unwrap())
        .collect();
    let busy = OperationError::TemporaryFailure(Busy::Queue);
    assert_eq!(core.reserve_wait().err(), Some(busy));
    assert_eq!(core.waiting(), 0);
    drop(places);
    assert!(core.reserve_wait().is_ok());
}
