//! Two buckets that hear of each other's versions, in whichever order, keep the same ones; also where a deletion left memory.

use std::sync::Arc;

use proptest::prelude::*;

use piggin::messages::OperationError;
use piggin::messages::vbucket::{Acknowledge, GivenMeta, Meta, Resolution, SetWithMeta, Write};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{Cas, Datatype, Expiry, RevSeqno};
use piggin::{Bucket, BucketConfig};

use crate::support::{Result, block_on, made_small};

fn bucket() -> Bucket {
    let disk = Arc::new(SimulatedDisk::new());
    block_on(Bucket::create(made_small(BucketConfig::on(disk)))).unwrap()
}

fn meta(cas: u64, rev: u64) -> GivenMeta {
    GivenMeta {
        cas: Cas(cas),
        rev_seqno: RevSeqno(rev),
        flags: 0,
        datatype: Datatype::RAW,
        expiry: Expiry(0),
    }
}

/// A deletion leaves memory once it is on disk and its checkpoint is closed.
fn forget(bucket: &Bucket, key: &str) {
    block_on(bucket.flush()).unwrap();
    let core = bucket.vbucket_core(bucket.vbucket_of(key.as_bytes()));
    let core = core.unwrap();
    let key = bucket.key(key).unwrap();
    core.shrink_log();
    assert_eq!(core.get_meta(&key), Err(OperationError::KeyNotFound));
    assert!(core.has_forgotten());
}

#[test]
fn a_deletion_that_left_memory_still_wins() -> Result {
    let bucket = bucket();
    for _ in 0..4 {
        block_on(bucket.set("a", "v"))?;
    }
    let deleted = block_on(bucket.delete("a"))?;
    forget(&bucket, "a");
    let seen = block_on(bucket.get_meta("a"))?;
    assert!(seen.is_deleted);
    assert_eq!((seen.cas, seen.rev_seqno), (deleted.cas, RevSeqno(5)));
    let older = block_on(bucket.set_with_meta("a", "older", meta(9, 4)));
    let current = deleted.cas;
    assert_eq!(older, Err(OperationError::ConflictLost { current }));
    let key = bucket.key("a")?;
    let write = Write::SetWithMeta(SetWithMeta {
        key,
        value: "older".into(),
        meta: meta(9, 4),
        cas: None,
        resolution: Resolution::ByRevision,
        acknowledge: Acknowledge::InMemory,
    });
    let batch = block_on(bucket.write_batch(vec![write.clone()]));
    assert_eq!(batch, [Err(OperationError::ConflictLost { current })]);
    let actor = bucket.vbucket(bucket.vbucket_of(b"a")).unwrap();
    let Write::SetWithMeta(message) = write else {
        unreachable!()
    };
    let by_message = block_on(actor.send(message))?;
    assert_eq!(by_message, Err(OperationError::ConflictLost { current }));
    let later = block_on(bucket.set_with_meta("a", "later", meta(9, 6)))?;
    assert_eq!(later.cas, Cas(9));
    let found = block_on(bucket.get("a"))?;
    assert_eq!(
        (found.meta.cas, found.meta.rev_seqno),
        (Cas(9), RevSeqno(6))
    );
    // And where nothing ever was.
    block_on(bucket.set_with_meta("b", "first", meta(9, 1)))?;
    assert_eq!(block_on(bucket.get("b"))?.value, "first");
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn what_brings_its_version_along_cannot_be_durable() -> Result {
    use piggin::storage::DurabilityLevel::Majority;
    let bucket = bucket();
    let write = bucket
        .set_with_meta("a", "v", meta(9, 1))
        .durability(Majority);
    assert_eq!(block_on(write), Err(OperationError::DurabilityNotSupported));
    block_on(bucket.shutdown())?;
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    /// A client writes, or deletes.
    Client {
        here: bool,
        key: u8,
        is_deletion: bool,
    },
    /// What one has of a key is told to the other.
    Tell {
        from_here: bool,
        key: u8,
    },
    Forget {
        here: bool,
        key: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..3u8;
    prop_oneof![
        4 => (any::<bool>(), key.clone(), prop::bool::weighted(0.4))
            .prop_map(|(here, key, is_deletion)| Step::Client { here, key, is_deletion }),
        4 => (any::<bool>(), key.clone()).prop_map(|(from_here, key)| Step::Tell { from_here, key }),
        1 => (any::<bool>(), key).prop_map(|(here, key)| Step::Forget { here, key }),
    ]
}

fn shown(bucket: &Bucket, key: &str) -> Option<(Meta, Option<Vec<u8>>)> {
    let meta = block_on(bucket.get_meta(key)).ok()?;
    let value = block_on(bucket.get(key))
        .ok()
        .map(|found| found.value.to_vec());
    Some((meta, value))
}

fn tell(from: &Bucket, to: &Bucket, key: &str) {
    let Some((meta, value)) = shown(from, key) else {
        return;
    };
    let told = match value {
        Some(value) => block_on(to.set_with_meta(key, value, meta.into())),
        None => block_on(to.delete_with_meta(key, meta.into())),
    };
    match told {
        Ok(mutated) => assert_eq!(mutated.cas, meta.cas),
        Err(OperationError::ConflictLost { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever clients did on either side, once each side heard what the other has, both have the same.
    #[test]
    fn both_sides_keep_the_same(steps in prop::collection::vec(step(), 1..60)) {
        let (here, there) = (bucket(), bucket());
        let of = |is_here: bool| if is_here { &here } else { &there };
        let name = |key: u8| format!("key {key}");
        for step in steps {
            match step {
                Step::Client { here, key, is_deletion: false } => {
                    // Clocks may show the same moment; flags then tell the two sides apart.
                    let flags = 1 + u32::from(here);
                    let set = of(here).set(name(key), format!("{here}")).flags(flags);
                    block_on(set).unwrap();
                }
                Step::Client { here, key, is_deletion: true } => {
                    drop(block_on(of(here).delete(name(key))));
                }
                Step::Tell { from_here, key } => {
                    tell(of(from_here), of(!from_here), &name(key));
                }
                Step::Forget { here, key } => {
                    block_on(of(here).flush()).unwrap();
                    let id = of(here).vbucket_of(name(key).as_bytes());
                    of(here).vbucket_core(id).unwrap().shrink_log();
                }
            }
        }
        for key in (0..3).map(name) {
            tell(&here, &there, &key);
            tell(&there, &here, &key);
            let without_place = |bucket| {
                let shown: Option<(Meta, Option<Vec<u8>>)> = shown(bucket, &key);
                shown.map(|(meta, value)| (GivenMeta::from(meta), meta.is_deleted, value))
            };
            prop_assert_eq!(without_place(&here), without_place(&there));
        }
        block_on(here.shutdown()).unwrap();
        block_on(there.shutdown()).unwrap();
    }
}
