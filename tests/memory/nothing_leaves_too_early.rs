//! Nothing leaves memory that is not on disk, that the checkpoint log may still take the place of, that somebody holds, or that
//! is a tombstone; what was used lately stays a while longer.

use piggin::Bucket;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{Busy, OperationError};
use piggin::storage::{DocumentKey, VbucketState};

use crate::common::{bucket, core, each, evict, evict_but, round, seal};
use crate::support::{Result, block_on, key_in, vbucket};

#[test]
fn what_is_not_on_disk_and_sealed_stays() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        let core = core(&bucket, vbucket(0));
        let key = key_in(&bucket, vbucket(0), 0);
        block_on(bucket.set(&key, "value"))?;
        for _ in 0..8 {
            assert_eq!(round(&core), 0, "not on disk, or not sealed");
        }
        seal(&bucket);
        for _ in 0..8 {
            assert_eq!(round(&core), 0, "the open checkpoint has it");
        }
        evict(&bucket);
        assert_eq!(core.get(&core_key(&bucket, &key)), Err(not_in_memory()));
        // A deletion keeps what is older on disk from coming back.
        block_on(bucket.delete(&key))?;
        seal(&bucket);
        for _ in 0..8 {
            assert_eq!(round(&core), 0);
        }
        assert_eq!(
            core.get(&core_key(&bucket, &key)),
            Err(OperationError::KeyNotFound)
        );
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn what_was_read_stays_longer_than_what_was_not() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        let id = vbucket(0);
        let (hot, cold) = (key_in(&bucket, id, 0), key_in(&bucket, id, 1));
        for key in [&hot, &cold] {
            block_on(bucket.set(key, "value"))?;
        }
        for _ in 0..100 {
            block_on(bucket.get(&hot))?;
        }
        evict_but(&bucket, 1);
        let core = core(&bucket, id);
        assert_eq!(core.get(&core_key(&bucket, &cold)), Err(not_in_memory()));
        assert!(core.get(&core_key(&bucket, &hot)).is_ok());
        evict(&bucket);
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn of_a_replica_all_leaves_at_once() -> Result {
    each(|eviction| {
        let bucket = bucket(eviction);
        let id = vbucket(0);
        let key = key_in(&bucket, id, 0);
        block_on(bucket.set(&key, "value"))?;
        block_on(bucket.get(&key))?;
        let become_it = |state| {
            let change = SetVbucketState {
                state,
                topology: None,
                is_takeover: false,
            };
            block_on(bucket.vbucket(id).unwrap().send(change))
        };
        evict_but(&bucket, 0);
        block_on(bucket.get(&key))?;
        block_on(bucket.get(&key))?;
        become_it(VbucketState::Replica)??;
        assert_eq!(round(&core(&bucket, id)), 1, "nobody reads it");
        become_it(VbucketState::Active)??;
        assert_eq!(block_on(bucket.get(&key))?.value, "value");
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

fn core_key(bucket: &Bucket, key: &str) -> DocumentKey {
    bucket.key(key).unwrap()
}

fn not_in_memory() -> OperationError {
    OperationError::TemporaryFailure(Busy::NotInMemory)
}
