//! Appended, prepended and counted values: what is there is read and changed as one step, or nothing changes.
#![cfg(test)]

mod support;

use std::sync::Arc;

use bytes::Bytes;

use messages::vbucket::{
    Acknowledge, Append, Count, Delta, ExpiryRequest, Prepend, Set, WriteOptions,
};
use messages::{Busy, Durability, OperationError};
use piggin_actors::vbucket::VbucketCore;
use storage::{Cas, Datatype, Document, DurabilityLevel, Expiry, RevSeqno, Seqno};
use support::{Bench, Setup, active, key, set, value};

fn append(name: &str, more: &str) -> Append {
    Append {
        key: key(name),
        value: Bytes::copy_from_slice(more.as_bytes()),
        cas: None,
        acknowledge: Acknowledge::InMemory,
    }
}

fn prepend(name: &str, more: &str) -> Prepend {
    let Append {
        key,
        value,
        cas,
        acknowledge,
    } = append(name, more);
    Prepend {
        key,
        value,
        cas,
        acknowledge,
    }
}

fn count(name: &str, delta: Delta) -> Count {
    Count {
        key: key(name),
        delta,
        initial: None,
        expiry: ExpiryRequest(0),
        acknowledge: Acknowledge::InMemory,
    }
}

fn json(name: &str, value: &str) -> Set {
    let options = WriteOptions {
        datatype: Datatype::JSON,
        ..WriteOptions::default()
    };
    Set {
        options,
        ..set(name, value)
    }
}

fn counted(core: &VbucketCore, name: &str, delta: Delta) -> Result<u64, OperationError> {
    let mutated = core.count(count(name, delta))?;
    Ok(mutated.counter.expect("of a count"))
}

#[test]
fn bytes_are_put_at_either_end_and_the_rest_stays() {
    let Bench { core, clock, .. } = active();
    let options = WriteOptions {
        flags: 7,
        expiry: ExpiryRequest(60),
        ..WriteOptions::default()
    };
    core.set(Set {
        options,
        ..set("a", "b")
    })
    .unwrap();
    core.append(append("a", "c")).unwrap();
    let last = core.prepend(prepend("a", "a")).unwrap();
    let found = core.get(&key("a")).unwrap();
    assert_eq!(found.value, "abc");
    assert_eq!(found.meta.flags, 7);
    assert_eq!(found.meta.expiry, Expiry(clock.seconds() + 60));
    assert_eq!(found.meta.cas, last.cas);
    assert_eq!(
        (found.meta.rev_seqno, found.meta.seqno),
        (RevSeqno(3), Seqno(3))
    );
    assert_eq!(last.counter, None);
}

#[test]
fn what_is_not_there_or_another_version_is_not_extended() {
    let Bench { core, .. } = active();
    let missing = OperationError::KeyNotFound;
    assert_eq!(core.append(append("a", "x")), Err(missing.clone()));
    assert_eq!(core.prepend(prepend("a", "x")), Err(missing.clone()));
    let mut named = append("a", "x");
    named.cas = Some(Cas(1));
    assert_eq!(core.append(named.clone()), Err(missing));
    let current = core.set(set("a", "1")).unwrap().cas;
    assert_eq!(
        core.append(named.clone()),
        Err(OperationError::CasMismatch { current })
    );
    named.cas = Some(current);
    core.append(named).unwrap();
    assert_eq!(value(&core, "a").unwrap(), "1x");
    assert_eq!(
        core.high_seqno(),
        Seqno(2),
        "what was refused took no seqno"
    );
}

#[test]
fn json_that_is_none_any_more_is_raw() {
    let Bench { core, .. } = active();
    core.set(json("a", "[1")).unwrap();
    core.append(append("a", ",2]")).unwrap();
    let datatype = |name| core.get(&key(name)).unwrap().meta.datatype;
    assert_eq!(datatype("a"), Datatype::JSON);
    core.prepend(prepend("a", "x")).unwrap();
    assert_eq!(datatype("a"), Datatype::RAW);
    core.set(set("b", "[")).unwrap();
    core.append(append("b", "]")).unwrap();
    assert_eq!(datatype("b"), Datatype::RAW, "nobody said it was");
    core.set(json("n", "1")).unwrap();
    core.count(count("n", Delta::Increment(1))).unwrap();
    assert_eq!(datatype("n"), Datatype::JSON);
}

#[test]
fn what_is_compressed_is_not_extended() {
    let Bench { core, .. } = active();
    for datatype in [Datatype::SNAPPY, Datatype::XATTR, Datatype(7)] {
        let options = WriteOptions {
            datatype,
            ..WriteOptions::default()
        };
        core.set(Set {
            options,
            ..set("a", "x")
        })
        .unwrap();
        let refused = Err(OperationError::NotExtensible);
        assert_eq!(core.append(append("a", "y")), refused);
        assert_eq!(core.prepend(prepend("a", "y")), refused);
        assert_eq!(value(&core, "a").unwrap(), "x");
    }
}

#[test]
fn a_value_does_not_grow_over_the_limit() {
    let Bench { core, memory, .. } = active();
    let most = Document::VALUE_LENGTH_MAX;
    let full = Set {
        value: Bytes::from(vec![b'x'; most - 1]),
        ..set("a", "")
    };
    core.set(full).unwrap();
    core.append(append("a", "y")).unwrap();
    let held = memory.held_bytes();
    let too_large = OperationError::ValueTooLarge { length: most + 1 };
    assert_eq!(core.append(append("a", "y")), Err(too_large.clone()));
    assert_eq!(core.prepend(prepend("a", "y")), Err(too_large));
    assert_eq!(memory.held_bytes(), held, "nothing is paid for it");
    assert_eq!(core.get(&key("a")).unwrap().value.len(), most);
}

#[test]
fn what_there_is_no_memory_for_is_refused_whole() {
    let small = Setup {
        quota_bytes: 1 << 10,
        ..Setup::default()
    };
    let Bench { core, memory, .. } = small.warm();
    core.set(set("a", "1")).unwrap();
    let held = memory.held_bytes();
    let refused = core.append(append("a", &"x".repeat(1 << 10)));
    let no_memory = OperationError::TemporaryFailure(Busy::Memory);
    assert_eq!(refused, Err(no_memory));
    assert_eq!(memory.held_bytes(), held);
    assert_eq!(value(&core, "a").unwrap(), "1");
}

#[test]
fn counting_wraps_upwards_and_stops_at_zero() {
    let Bench { core, .. } = active();
    core.set(set("a", "41")).unwrap();
    assert_eq!(counted(&core, "a", Delta::Increment(1)), Ok(42));
    assert_eq!(counted(&core, "a", Delta::Decrement(40)), Ok(2));
    assert_eq!(counted(&core, "a", Delta::Decrement(40)), Ok(0));
    assert_eq!(
        counted(&core, "a", Delta::Increment(u64::MAX)),
        Ok(u64::MAX)
    );
    assert_eq!(counted(&core, "a", Delta::Increment(3)), Ok(2));
    assert_eq!(value(&core, "a").unwrap(), "2");
}

#[test]
fn a_counter_begins_where_it_is_told() {
    let Bench { core, clock, .. } = active();
    let refused = counted(&core, "a", Delta::Increment(1));
    assert_eq!(refused, Err(OperationError::KeyNotFound));
    let begun = Count {
        initial: Some(10),
        expiry: ExpiryRequest(60),
        ..count("a", Delta::Increment(1))
    };
    assert_eq!(core.count(begun.clone()).unwrap().counter, Some(10));
    assert_eq!(core.count(begun).unwrap().counter, Some(11));
    let found = core.get(&key("a")).unwrap();
    assert_eq!(found.meta.expiry, Expiry(clock.seconds() + 60));
    assert_eq!(found.meta.datatype, Datatype::JSON);
    assert_eq!(found.value, "11");
}

#[test]
fn what_is_no_number_is_not_counted() {
    let Bench { core, .. } = active();
    for text in [
        "",
        "x",
        "1x",
        " 1",
        "-1",
        "+1",
        "1.0",
        "18446744073709551616",
    ] {
        core.set(set("a", text)).unwrap();
        let before = core.high_seqno();
        let refused = counted(&core, "a", Delta::Increment(1));
        assert_eq!(refused, Err(OperationError::DeltaBadValue), "{text:?}");
        assert_eq!(value(&core, "a").unwrap(), text);
        assert_eq!(core.high_seqno(), before);
    }
}

#[test]
fn no_count_is_lost_between_threads() {
    const EACH: u64 = 500;
    let core = active().core;
    core.set(set("a", "0")).unwrap();
    let threads = (0..4).map(|_| {
        let core = Arc::clone(&core);
        std::thread::spawn(move || {
            for _ in 0..EACH {
                core.count(count("a", Delta::Increment(1))).unwrap();
                core.append(append("b", "x")).unwrap_err();
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
    assert_eq!(value(&core, "a").unwrap(), (4 * EACH).to_string());
}

#[test]
fn a_durable_count_is_answered_with_its_number_when_it_is_committed() {
    let bench = active();
    support::durable::lead(&bench.core, &["a"]);
    let core = &bench.core;
    core.set(set("n", "1")).unwrap();
    let write = messages::vbucket::Write::Count(count("n", Delta::Increment(4)));
    let level = Durability::of(DurabilityLevel::Majority);
    let wait = core.write_durably(write, level).unwrap();
    assert_eq!(value(core, "n").unwrap(), "1", "nobody sees it before");
    assert!(!core.do_durability(std::time::Duration::ZERO, 9).has_more);
    let answer = futures_util::FutureExt::now_or_never(wait).unwrap();
    assert_eq!(answer.unwrap().counter, Some(5));
    assert_eq!(value(core, "n").unwrap(), "5");
}
