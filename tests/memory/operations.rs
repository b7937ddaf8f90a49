//! Whatever is done with a document finds what left memory as it would find what is there: by both doors, alone and in
//! batches, durably or not.

use piggin::messages::vbucket::{
    Acknowledge, Add, Append, Count, Delete, Delta, ExpiryRequest, Get, GetAndLock, GetAndTouch,
    GetMany, GetMeta, GetRandom, Observe, Observed, Replace, Set, Touch, Unlock, Write, WriteBatch,
    WriteOptions,
};
use piggin::messages::{Durability, OperationError, WriteDurably};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{Cas, CollectionId, Datatype, DocumentKey, DurabilityLevel, RevSeqno};
use piggin::{Bucket, BucketConfig, VbucketAddr};

use crate::common::{bucket, config_of, core, each, evict, round, seal};
use crate::support::{Result, block_on};

type Answer<T> = std::result::Result<T, OperationError>;

fn actor(bucket: &Bucket, key: &str) -> VbucketAddr {
    bucket.vbucket(bucket.vbucket_of(key.as_bytes())).unwrap()
}

fn key(name: &str) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).unwrap()
}

const fn with_cas(cas: Option<Cas>) -> WriteOptions {
    WriteOptions {
        cas,
        flags: 0,
        datatype: Datatype::RAW,
        expiry: ExpiryRequest(0),
        acknowledge: Acknowledge::InMemory,
    }
}

fn set(name: &str, cas: Option<Cas>) -> Write {
    Write::Set(Set {
        key: key(name),
        value: "set".into(),
        options: with_cas(cas),
    })
}

fn delete(name: &str) -> Write {
    Write::Delete(Delete {
        key: key(name),
        cas: None,
        acknowledge: Acknowledge::InMemory,
    })
}

#[test]
fn reads_find_it_and_bring_it_back() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        let written = block_on(bucket.set("a", "value").flags(7))?;
        block_on(bucket.set("b", "other"))?;
        block_on(bucket.delete("b"))?;
        evict(&bucket);
        let found = block_on(bucket.get("a"))?;
        assert_eq!(
            (&found.value[..], found.meta.cas),
            (&b"value"[..], written.cas)
        );
        assert_eq!(
            (found.meta.flags, found.meta.seqno),
            (7, written.token.seqno)
        );
        let figures = bucket.statistics();
        assert_eq!(
            (
                figures.memory.evicted,
                figures.memory.fetched,
                figures.memory.restored
            ),
            (1, 1, 1)
        );
        assert_eq!(block_on(bucket.get("a"))?, found);
        assert_eq!(bucket.memory().fetched, 1, "it is in memory again");
        evict(&bucket);
        assert_eq!(block_on(bucket.get_meta("a"))?, found.meta);
        evict(&bucket);
        assert!(block_on(bucket.exists("a"))?);
        evict(&bucket);
        let is_persisted = Observed::Found {
            cas: written.cas,
            is_persisted: true,
        };
        assert_eq!(block_on(bucket.observe("a"))?, is_persisted);
        evict(&bucket);
        let many = block_on(bucket.get_many(["a", "b", "c", "a"]));
        let missing = Err(OperationError::KeyNotFound);
        assert_eq!(
            many,
            [
                Ok(found.clone()),
                missing.clone(),
                missing.clone(),
                Ok(found.clone())
            ]
        );
        evict(&bucket);
        let picked = block_on(bucket.get_random())?;
        assert_eq!((picked.key, picked.found), (key("a"), found));
        for gone in ["b", "c"] {
            assert_eq!(block_on(bucket.get(gone)), missing);
            assert!(!block_on(bucket.exists(gone))?);
            assert_eq!(block_on(bucket.observe(gone))?, Observed::Missing);
        }
        assert!(block_on(bucket.get_meta("b"))?.is_deleted);
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn messages_find_it() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        block_on(bucket.set("a", "value"))?;
        let actor = actor(&bucket, "a");
        let again = || evict(&bucket);
        again();
        assert_eq!(block_on(actor.send(Get { key: key("a") }))??.value, "value");
        again();
        assert!(!block_on(actor.send(GetMeta { key: key("a") }))??.is_deleted);
        again();
        let keys = vec![key("a"), key("a")];
        let many: Vec<Answer<_>> = block_on(actor.send(GetMany { keys }))?;
        assert!(
            many.iter()
                .all(|found| found.as_ref().unwrap().value == "value")
        );
        again();
        let observed = block_on(actor.send(Observe { key: key("a") }))??;
        assert!(matches!(observed, Observed::Found { .. }));
        again();
        let collection = CollectionId::DEFAULT;
        assert_eq!(
            block_on(actor.send(GetRandom { collection }))??.key,
            key("a")
        );
        again();
        let expiry = ExpiryRequest(0);
        let touched = block_on(actor.send(GetAndTouch {
            key: key("a"),
            expiry,
        }))??;
        assert_eq!(touched.value, "value");
        again();
        let locked = block_on(actor.send(GetAndLock {
            key: key("a"),
            seconds: 30,
        }))??;
        let cas = locked.meta.cas;
        block_on(actor.send(Unlock { key: key("a"), cas }))??;
        again();
        let acknowledge = Acknowledge::InMemory;
        let append = Append {
            key: key("a"),
            value: "+".into(),
            cas: None,
            acknowledge,
        };
        block_on(actor.send(append))??;
        again();
        let write = Write::Touch(Touch {
            key: key("a"),
            expiry,
            acknowledge,
        });
        let add = Write::Add(Add {
            key: key("a"),
            value: "x".into(),
            options: with_cas(None),
        });
        let writes = vec![add, write, set("a", Some(Cas(1)))];
        let answers = block_on(actor.send(WriteBatch { writes }))?;
        assert_eq!(answers[0], Err(OperationError::KeyExists));
        assert!(answers[1].is_ok());
        assert!(matches!(
            answers[2],
            Err(OperationError::CasMismatch { .. })
        ));
        again();
        assert_eq!(
            block_on(actor.send(Get { key: key("a") }))??.value,
            "value+"
        );
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn writes_are_judged_by_it() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        let mut cas = block_on(bucket.set("a", "value"))?.cas;
        evict(&bucket);
        assert_eq!(
            block_on(bucket.add("a", "x")),
            Err(OperationError::KeyExists)
        );
        evict(&bucket);
        let wrong = block_on(bucket.set("a", "x").cas(Cas(1)));
        assert_eq!(wrong, Err(OperationError::CasMismatch { current: cas }));
        evict(&bucket);
        cas = block_on(bucket.set("a", "cas").cas(cas))?.cas;
        evict(&bucket);
        cas = block_on(bucket.replace("a", "replaced").cas(cas))?.cas;
        evict(&bucket);
        block_on(bucket.touch("a", 0))?;
        evict(&bucket);
        block_on(bucket.append("a", ">"))?;
        evict(&bucket);
        block_on(bucket.prepend("a", "<"))?;
        evict(&bucket);
        assert_eq!(block_on(bucket.get("a"))?.value, "<replaced>");
        assert_ne!(block_on(bucket.get("a"))?.meta.cas, cas);
        block_on(bucket.set("n", "41"))?;
        evict(&bucket);
        assert_eq!(block_on(bucket.increment("n", 1))?.counter, Some(42));
        evict(&bucket);
        assert_eq!(
            block_on(bucket.increment("n", 1).initial(9))?.counter,
            Some(43)
        );
        evict(&bucket);
        block_on(bucket.delete("a"))?;
        evict(&bucket);
        let missing = Err(OperationError::KeyNotFound);
        assert_eq!(block_on(bucket.delete("a")), missing);
        assert_eq!(block_on(bucket.replace("a", "x")), missing);
        block_on(bucket.add("a", "again"))?;
        evict(&bucket);
        assert_eq!(block_on(bucket.get("a"))?.value, "again");
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn a_write_that_asks_nothing_does_not_ask_and_goes_on_behind_it() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        for _ in 0..5 {
            block_on(bucket.set("a", "value"))?;
        }
        evict(&bucket);
        block_on(bucket.set("a", "blind"))?;
        assert_eq!(bucket.memory().fetched, 0);
        let found = block_on(bucket.get("a"))?;
        assert_eq!(
            (&found.value[..], found.meta.rev_seqno),
            (&b"blind"[..], RevSeqno(6))
        );
        evict(&bucket);
        assert_eq!(
            block_on(bucket.get("a"))?,
            found,
            "the older one stays replaced"
        );
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn what_is_locked_stays_and_its_lock_holds() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        block_on(bucket.set("a", "value"))?;
        block_on(bucket.set("b", "value"))?;
        evict(&bucket);
        let locked = block_on(bucket.get_and_lock("a", 30))?;
        assert_eq!(locked.value, "value");
        seal(&bucket);
        for core in bucket.vbuckets().map(|id| core(&bucket, id)) {
            core.shrink_log();
            (0..8).for_each(|_| assert_eq!(round(&core), 0));
        }
        assert_eq!(block_on(bucket.set("a", "x")), Err(OperationError::Locked));
        assert_eq!(block_on(bucket.get("a"))?.meta.cas, Cas::LOCKED);
        assert_eq!(
            block_on(bucket.unlock("b", Cas(1))),
            Err(OperationError::NotLocked)
        );
        block_on(bucket.set("a", "mine").cas(locked.meta.cas))?;
        evict(&bucket);
        assert_eq!(block_on(bucket.get("a"))?.value, "mine");
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn durable_writes_are_judged_by_it_and_take_its_place() -> Result {
    each(|eviction| {
        use piggin::messages::vbucket::SetVbucketState;
        use piggin::storage::{Topology, VbucketState};
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(BucketConfig {
            node_name: Some("alone".to_owned()),
            ..config_of(&disk, eviction)
        }))?;
        for id in bucket.vbuckets() {
            let topology = Topology {
                chains: vec![vec![Some("alone".to_owned())]],
            };
            let change = SetVbucketState {
                state: VbucketState::Active,
                topology: Some(topology),
                is_takeover: false,
            };
            block_on(bucket.vbucket(id).unwrap().send(change))??;
        }
        let level = DurabilityLevel::Majority;
        block_on(bucket.set("a", "1"))?;
        evict(&bucket);
        let added = block_on(bucket.add("a", "x").durability(level));
        assert_eq!(added, Err(OperationError::KeyExists));
        evict(&bucket);
        assert_eq!(
            block_on(bucket.increment("a", 1).durability(level))?.counter,
            Some(2)
        );
        evict(&bucket);
        block_on(bucket.set("a", "7").durability(level))?;
        evict(&bucket);
        let durability = Durability::of(level);
        let write = Write::Count(Count {
            key: key("a"),
            delta: Delta::Increment(1),
            initial: None,
            expiry: ExpiryRequest(0),
            acknowledge: Acknowledge::InMemory,
        });
        let counted = block_on(actor(&bucket, "a").send(WriteDurably { write, durability }))??;
        assert_eq!(counted.counter, Some(8));
        evict(&bucket);
        block_on(bucket.delete("a").durability(level))?;
        assert_eq!(block_on(bucket.get("a")), Err(OperationError::KeyNotFound));
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn a_batch_does_at_once_what_it_can_and_the_rest_behind_that() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        for name in ["a", "b", "c"] {
            block_on(bucket.set(name, "value"))?;
        }
        evict(&bucket);
        let replace = Write::Replace(Replace {
            key: key("b"),
            value: "replaced".into(),
            options: with_cas(None),
        });
        let writes = vec![set("a", None), replace, delete("c"), delete("d")];
        let answers = block_on(bucket.write_batch(writes));
        assert!(
            answers[..3].iter().all(std::result::Result::is_ok),
            "{answers:?}"
        );
        assert_eq!(answers[3], Err(OperationError::KeyNotFound));
        evict(&bucket);
        let found = |name: &str| block_on(bucket.get(name)).map(|found| found.value);
        assert_eq!(found("a")?, "set");
        assert_eq!(found("b")?, "replaced");
        assert_eq!(found("c"), Err(OperationError::KeyNotFound));
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}
