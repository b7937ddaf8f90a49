//! A collection is open from the event that begins it to the event that ends it: before, after and between its lives every
//! operation is told so, and memory is rid of what was in it.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use messages::vbucket::{
    Acknowledge, Add, Delete, ExpiryRequest, GetAndTouch, Replace, Set, Touch, Write, WriteBatch,
    WriteOptions,
};
use messages::{CollectionsManifest, ManifestChange, OperationError};
use piggin_actors::vbucket::changed;
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use storage::{CollectionId, DocumentKey, ManifestUid, Outcome, Seqno};
use support::{Bench, Setup, active, set, value};

fn follow(bench: &Bench, change: ManifestChange) -> CollectionsManifest {
    let next = changed(&bench.manifest.current(), &change.into()).unwrap();
    bench.manifest.set(Arc::new(next.clone()));
    bench.core.follow_manifest().unwrap();
    next
}

fn create(bench: &Bench, name: &str, max_ttl_s: u32) -> CollectionId {
    let change = ManifestChange::CreateCollection {
        scope: "_default".to_owned(),
        collection: name.to_owned(),
        max_ttl_s,
    };
    follow(bench, change).collection("_default", name).unwrap()
}

fn end(bench: &Bench, name: &str) {
    let change = ManifestChange::DropCollection {
        scope: "_default".to_owned(),
        collection: name.to_owned(),
    };
    follow(bench, change);
}

fn key(collection: CollectionId, name: &str) -> DocumentKey {
    DocumentKey::new(collection, name.as_bytes()).unwrap()
}

fn write(collection: CollectionId, name: &str, expiry: u32) -> Set {
    Set {
        key: key(collection, name),
        value: Bytes::from_static(b"in a collection"),
        options: WriteOptions {
            expiry: ExpiryRequest(expiry),
            ..WriteOptions::default()
        },
    }
}

/// The answers of every operation there is, with what it did left out.
fn all_operations(bench: &Bench, key: &DocumentKey) -> Vec<Result<(), OperationError>> {
    let core = &bench.core;
    let (value, options) = (Bytes::from_static(b"v"), WriteOptions::default());
    let acknowledge = Acknowledge::InMemory;
    let expiry = ExpiryRequest(60);
    let set = || Set {
        key: key.clone(),
        value: value.clone(),
        options,
    };
    let mut answers = vec![
        core.get(key).map(drop),
        core.get_meta(key).map(drop),
        core.exists(key).map(drop),
        core.set(set()).map(drop),
        core.touch(Touch {
            key: key.clone(),
            expiry,
            acknowledge,
        })
        .map(drop),
        core.get_and_touch(&GetAndTouch {
            key: key.clone(),
            expiry,
        })
        .map(drop),
        core.replace(Replace {
            key: key.clone(),
            value: value.clone(),
            options,
        })
        .map(drop),
        core.delete(Delete {
            key: key.clone(),
            cas: None,
            acknowledge,
        })
        .map(drop),
        core.add(Add {
            key: key.clone(),
            value: value.clone(),
            options,
        })
        .map(drop),
    ];
    let many = core.get_many(std::slice::from_ref(key)).into_iter();
    answers.extend(many.map(|answer| answer.map(drop)));
    let writes = vec![Write::Set(set())];
    let batch = core.write_batch(WriteBatch { writes }).into_iter();
    answers.extend(batch.map(|answer| answer.map(drop)));
    let acknowledged = core.write_acknowledged(Write::Set(set())).now();
    answers.push(acknowledged.unwrap().map(drop));
    answers
}

fn assert_unknown(bench: &Bench, key: &DocumentKey, uid: u64) {
    let manifest_uid = ManifestUid(uid);
    let high = bench.core.high_seqno();
    for (place, answer) in all_operations(bench, key).into_iter().enumerate() {
        let unknown = Err(OperationError::UnknownCollection { manifest_uid });
        assert_eq!(answer, unknown, "operation {place}");
    }
    assert_eq!(bench.core.high_seqno(), high, "nothing was written");
}

#[test]
fn every_operation_is_told_of_a_collection_that_is_not_open() {
    let bench = active();
    for number in [1, 2, 7, 8, 9, u32::MAX] {
        assert_unknown(&bench, &key(CollectionId(number), "k"), 0);
    }
    let id = create(&bench, "c", 0);
    assert_eq!(id, CollectionId(8));
    let before = key(id, "before");
    bench.core.set(write(id, "before", 0)).unwrap();
    let answers = all_operations(&bench, &key(id, "k"));
    // Of a key that is not there yet: read first.
    let not_found = Err(OperationError::KeyNotFound);
    assert_eq!(answers[0], not_found);
    assert_eq!(answers[1], not_found);
    assert!(answers[2..].iter().all(Result::is_ok), "{answers:?}");
    assert_unknown(&bench, &key(CollectionId(9), "k"), 1);
    end(&bench, "c");
    assert_unknown(&bench, &before, 2);
    let again = create(&bench, "c", 0);
    assert_eq!(again, CollectionId(10));
    assert_unknown(&bench, &before, 3);
    assert_eq!(
        bench.core.get(&key(again, "before")),
        Err(OperationError::KeyNotFound)
    );
}

#[test]
fn a_batch_is_told_for_each_write() {
    let bench = active();
    let id = create(&bench, "c", 0);
    let writes = vec![
        Write::Set(write(id, "a", 0)),
        Write::Set(write(CollectionId(77), "a", 0)),
        Write::Set(set("a", "default")),
    ];
    let answers = bench.core.write_batch(WriteBatch { writes });
    let manifest_uid = ManifestUid(1);
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(
        answers[1],
        Err(OperationError::UnknownCollection { manifest_uid })
    );
    assert_eq!(value(&bench.core, "a").unwrap(), "default");
    let found = bench.core.get(&key(id, "a")).unwrap();
    assert_eq!(found.value, "in a collection");
}

#[test]
fn a_collection_limits_the_life_of_its_documents() {
    let bench = active();
    let id = create(&bench, "c", 100);
    let now = bench.clock.seconds();
    let expiry = |name: &str| {
        let meta = bench.core.get_meta(&key(id, name)).unwrap();
        meta.expiry.0
    };
    for (name, asked, expected) in [
        ("never", 0, now + 100),
        ("soon", 40, now + 40),
        ("late", 101, now + 100),
        ("then", now + 99, now + 99),
        ("much later", now + 5000, now + 100),
    ] {
        bench.core.set(write(id, name, asked)).unwrap();
        assert_eq!(expiry(name), expected, "{name}");
    }
    bench.clock.advance(Duration::from_secs(10));
    let touch = |expiry| Touch {
        key: key(id, "soon"),
        expiry: ExpiryRequest(expiry),
        acknowledge: Acknowledge::InMemory,
    };
    bench.core.touch(touch(0)).unwrap();
    assert_eq!(expiry("soon"), now + 110);
    let request = GetAndTouch {
        key: key(id, "soon"),
        expiry: ExpiryRequest(7000),
    };
    bench.clock.advance(Duration::from_secs(5));
    bench.core.get_and_touch(&request).unwrap();
    assert_eq!(expiry("soon"), now + 115);
    bench.clock.advance(Duration::from_secs(200));
    assert_eq!(bench.core.exists(&key(id, "soon")), Ok(false));
    // The default collection has no limit.
    bench.core.set(set("default", "v")).unwrap();
    let meta = bench.core.get_meta(&support::key("default")).unwrap();
    assert_eq!(meta.expiry.0, 0);
}

#[test]
fn memory_is_rid_of_a_collection_that_ended_in_slices() {
    let bench = active();
    let (gone, stays) = (create(&bench, "gone", 0), create(&bench, "stays", 0));
    for number in 0..2000 {
        bench
            .core
            .set(write(gone, &format!("k{number}"), 0))
            .unwrap();
        bench
            .core
            .set(write(stays, &format!("k{number}"), 0))
            .unwrap();
        bench.core.set(set(&format!("k{number}"), "v")).unwrap();
    }
    assert_eq!(bench.core.figures().documents, 6000);
    assert!(!bench.core.has_ended());
    assert_eq!(bench.core.erase_ended(), Outcome::Complete(()));
    end(&bench, "gone");
    assert!(bench.core.has_ended());
    let mut steps = 0;
    let mut before = 6000;
    while bench.core.erase_ended() == Outcome::Yielded {
        let documents = bench.core.figures().documents;
        assert!(before - documents <= 256, "{}", before - documents);
        before = documents;
        steps += 1;
    }
    assert!(steps > 8, "{steps}");
    assert!(!bench.core.has_ended());
    assert_eq!(bench.core.figures().documents, 4000);
    for number in 0..2000 {
        let name = format!("k{number}");
        assert!(bench.core.get(&key(stays, &name)).is_ok());
        assert!(bench.core.get(&support::key(&name)).is_ok());
    }
}

#[test]
fn a_collection_that_ends_while_another_is_erased_is_erased_too() {
    let bench = active();
    let (first, second) = (create(&bench, "first", 0), create(&bench, "second", 0));
    for number in 0..1000 {
        bench
            .core
            .set(write(first, &format!("k{number}"), 0))
            .unwrap();
        bench
            .core
            .set(write(second, &format!("k{number}"), 0))
            .unwrap();
    }
    end(&bench, "first");
    for _ in 0..3 {
        assert_eq!(bench.core.erase_ended(), Outcome::Yielded);
    }
    end(&bench, "second");
    while bench.core.erase_ended() == Outcome::Yielded {}
    assert_eq!(bench.core.figures().documents, 0);
    assert!(!bench.core.has_ended());
}

#[test]
fn an_end_frees_the_memory_that_was_paid_for() {
    let setup = Setup {
        checkpoints: CheckpointLimits {
            items_max: 5,
            ..CheckpointLimits::default()
        },
        ..Setup::default()
    };
    let bench = setup.warm();
    let flush = || {
        while let Some(take) = bench.core.take_for_flush(100, usize::MAX) {
            bench.core.note_persisted(take.watermarks.high_seqno);
        }
    };
    let id = create(&bench, "c", 0);
    for number in 0..100 {
        bench.core.set(write(id, &format!("k{number}"), 0)).unwrap();
    }
    flush();
    let full = bench.memory.held_bytes();
    end(&bench, "c");
    flush();
    assert!(bench.memory.held_bytes() >= full);
    while bench.core.erase_ended() == Outcome::Yielded {}
    assert_eq!(bench.core.figures().bytes, 0);
    let left = bench.memory.held_bytes();
    assert!(left < full / 10, "{full} -> {left}");
}

#[test]
fn each_collection_knows_how_far_it_came() {
    let bench = active();
    let high = |id| bench.core.collection_high_seqno(id).map(|seqno| seqno.0);
    assert_eq!(high(CollectionId::DEFAULT), Some(0));
    let (a, b) = (create(&bench, "a", 0), create(&bench, "b", 0));
    assert_eq!((high(a), high(b)), (Some(1), Some(2)));
    bench.core.set(write(a, "k", 0)).unwrap();
    bench.core.set(set("k", "v")).unwrap();
    bench.core.delete(support::delete("k")).unwrap();
    assert_eq!(high(a), Some(3));
    assert_eq!(high(b), Some(2));
    assert_eq!(high(CollectionId::DEFAULT), Some(5));
    end(&bench, "a");
    assert_eq!(high(a), None);
    assert_eq!(bench.core.high_seqno(), Seqno(6));
}
