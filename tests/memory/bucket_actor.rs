//! A bucket as an actor finds what left memory, whatever it is asked.

use actix::prelude::*;

use piggin::messages::vbucket::{
    Acknowledge, Add, Append, Count, Delta, ExpiryRequest, Get, GetAndLock, GetAndTouch, GetMany,
    GetMeta, GetRandom, Observe, Observed, SetVbucketState, Unlock, Write, WriteBatch,
    WriteOptions,
};
use piggin::messages::{Durability, OperationError, WriteDurably};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{CollectionId, DocumentKey, DurabilityLevel, Topology, VbucketState};
use piggin::{Bucket, BucketActor, BucketConfig};

use crate::common::{config_of, each, evict};
use crate::support::Result;

fn key(name: &str) -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, name.as_bytes()).unwrap()
}

fn in_system<F: Future<Output = Result>>(test: impl Fn(Bucket) -> F) -> Result {
    each(|eviction| {
        System::new().block_on(async {
            let disk = SimulatedDisk::new();
            let bucket = Bucket::create(BucketConfig {
                node_name: Some("alone".to_owned()),
                ..config_of(&disk, eviction)
            })
            .await?;
            bucket.set("a", "1").await?;
            test(bucket.clone()).await?;
            Ok(bucket.shutdown().await.map(drop)?)
        })
    })
}

#[test]
fn a_bucket_as_an_actor_reads_what_left_memory() -> Result {
    in_system(|bucket| async move {
        let actor = BucketActor::new(bucket.clone()).start();
        let key = key("a");
        evict(&bucket);
        assert_eq!(actor.send(Get { key: key.clone() }).await??.value, "1");
        evict(&bucket);
        assert!(!actor.send(GetMeta { key: key.clone() }).await??.is_deleted);
        evict(&bucket);
        let keys = vec![key.clone(), key.clone()];
        let many = actor.send(GetMany { keys }).await?;
        assert!(many.len() == 2 && many.iter().all(std::result::Result::is_ok));
        evict(&bucket);
        let observed = actor.send(Observe { key: key.clone() }).await??;
        assert!(matches!(observed, Observed::Found { .. }));
        evict(&bucket);
        let collection = CollectionId::DEFAULT;
        assert_eq!(actor.send(GetRandom { collection }).await??.key, key);
        evict(&bucket);
        let touch = GetAndTouch {
            key: key.clone(),
            expiry: ExpiryRequest(0),
        };
        assert_eq!(actor.send(touch).await??.value, "1");
        evict(&bucket);
        let lock = GetAndLock {
            key: key.clone(),
            seconds: 30,
        };
        let cas = actor.send(lock).await??.meta.cas;
        actor
            .send(Unlock {
                key: key.clone(),
                cas,
            })
            .await??;
        evict(&bucket);
        let unlock = Unlock { key, cas };
        assert_eq!(actor.send(unlock).await?, Err(OperationError::NotLocked));
        Ok(())
    })
}

#[test]
fn a_bucket_as_an_actor_writes_over_what_left_memory() -> Result {
    in_system(|bucket| async move {
        for id in bucket.vbuckets() {
            let topology = Topology {
                chains: vec![vec![Some("alone".to_owned())]],
            };
            let change = SetVbucketState {
                state: VbucketState::Active,
                topology: Some(topology),
                is_takeover: false,
            };
            bucket.vbucket(id).unwrap().send(change).await??;
        }
        let actor = BucketActor::new(bucket.clone()).start();
        let count = Count {
            key: key("a"),
            delta: Delta::Increment(1),
            initial: None,
            expiry: ExpiryRequest(0),
            acknowledge: Acknowledge::InMemory,
        };
        evict(&bucket);
        assert_eq!(actor.send(count.clone()).await??.counter, Some(2));
        evict(&bucket);
        let add = Add {
            key: key("a"),
            value: "x".into(),
            options: WriteOptions::default(),
        };
        assert_eq!(actor.send(add).await?, Err(OperationError::KeyExists));
        evict(&bucket);
        let durability = Durability::of(DurabilityLevel::Majority);
        let write = Write::Count(count.clone());
        let counted = actor.send(WriteDurably { write, durability }).await??;
        assert_eq!(counted.counter, Some(3));
        evict(&bucket);
        let append = Append {
            key: key("a"),
            value: "0".into(),
            cas: None,
            acknowledge: Acknowledge::InMemory,
        };
        let writes = vec![Write::Append(append), Write::Count(count)];
        let answers = actor.send(WriteBatch { writes }).await?;
        assert!(answers[0].is_ok());
        assert_eq!(answers[1].as_ref().unwrap().counter, Some(31));
        Ok(())
    })
}
