//! A caller's mistakes are told by name, with what helps, and change nothing.

use std::time::Duration;

use piggin::messages::OperationError;
use piggin::messages::vbucket::{Set, SetVbucketState, WriteOptions};
use piggin::storage::{Advice, Cas, CollectionId, Document, DocumentKey, VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig};

use crate::support::{Result, TempDirectory, block_on, key_in, made_small, vbucket};

fn bucket(directory: &TempDirectory) -> Result<Bucket> {
    Ok(block_on(Bucket::create(made_small(BucketConfig::at(
        directory.path(),
    ))))?)
}

#[test]
fn keys_outside_the_limits() -> Result {
    let directory = TempDirectory::new();
    let bucket = bucket(&directory)?;
    for key in [vec![], vec![b'k'; 300]] {
        let refused = [
            block_on(bucket.set(&key, "1")).err(),
            block_on(bucket.get(&key)).err(),
            block_on(bucket.delete(&key)).err(),
            block_on(bucket.exists(&key)).err(),
        ];
        for error in refused {
            let error = error.unwrap();
            assert!(matches!(error, OperationError::Key(_)), "{error:?}");
            assert_eq!(error.advice(), Advice::FixRequest);
        }
    }
    assert_eq!(bucket.statistics().documents, 0);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_value_over_the_limit() -> Result {
    let directory = TempDirectory::new();
    let bucket = bucket(&directory)?;
    let length = Document::VALUE_LENGTH_MAX + 1;
    assert_eq!(length, 20 * 1024 * 1024 + 1);
    let error = block_on(bucket.set("key", vec![0; length])).unwrap_err();
    assert_eq!(error, OperationError::ValueTooLarge { length });
    assert_eq!(error.advice(), Advice::FixRequest);
    assert!(error.to_string().contains("20971520"), "{error}");
    assert!(!block_on(bucket.exists("key"))?);
    // The most there may be is taken.
    block_on(bucket.set("key", vec![0; length - 1]).persisted())?;
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_version_that_is_not_the_newest() -> Result {
    let directory = TempDirectory::new();
    let bucket = bucket(&directory)?;
    let first = block_on(bucket.set("key", "1"))?;
    let second = block_on(bucket.set("key", "2").cas(first.cas))?;
    let mismatch = OperationError::CasMismatch {
        current: second.cas,
    };
    assert_eq!(
        block_on(bucket.set("key", "3").cas(first.cas)),
        Err(mismatch.clone())
    );
    assert_eq!(
        block_on(bucket.replace("key", "3").cas(first.cas)),
        Err(mismatch.clone())
    );
    assert_eq!(
        block_on(bucket.delete("key").cas(first.cas)),
        Err(mismatch.clone())
    );
    assert_eq!(mismatch.advice(), Advice::FixRequest);
    assert!(mismatch.to_string().contains("read it again"), "{mismatch}");
    let missing = block_on(bucket.set("no key", "3").cas(Cas(7)));
    assert_eq!(missing, Err(OperationError::KeyNotFound));
    assert_eq!(block_on(bucket.get("key"))?.value, "2");
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_vbucket_there_is_none_of() -> Result {
    let directory = TempDirectory::new();
    let bucket = bucket(&directory)?;
    assert!(bucket.vbucket(VbucketId::new(4).unwrap()).is_none());
    assert!(
        bucket
            .recipient::<Set>(VbucketId::new(1023).unwrap())
            .is_none()
    );
    assert!(bucket.recipient::<Set>(vbucket(3)).is_some());
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_vbucket_that_is_not_active() -> Result {
    let directory = TempDirectory::new();
    let bucket = bucket(&directory)?;
    let (id, other) = (vbucket(1), key_in(&bucket, vbucket(2), 0));
    let key = key_in(&bucket, id, 0);
    block_on(bucket.set(&key, "1"))?;
    let actor = bucket.vbucket(id).unwrap();
    let set_state = |state| {
        let change = SetVbucketState {
            state,
            topology: None,
            is_takeover: false,
        };
        block_on(actor.send(change)).unwrap()
    };
    for state in [VbucketState::Replica, VbucketState::Dead] {
        assert_eq!(set_state(state)?.state, state);
        let not_mine = OperationError::NotMyVbucket { vbucket: id, state };
        assert_eq!(not_mine.advice(), Advice::FixRequest);
        assert_eq!(block_on(bucket.get(&key)), Err(not_mine.clone()));
        assert_eq!(block_on(bucket.set(&key, "2")), Err(not_mine.clone()));
        assert_eq!(
            block_on(bucket.set(&key, "2").persisted()),
            Err(not_mine.clone())
        );
        let message = Set {
            key: DocumentKey::new(CollectionId::DEFAULT, key.as_bytes())?,
            value: "2".into(),
            options: WriteOptions::default(),
        };
        assert_eq!(block_on(actor.send(message))?, Err(not_mine));
        block_on(bucket.set(&other, "served").persisted())?;
    }
    assert_eq!(
        set_state(VbucketState::Pending)?.state,
        VbucketState::Pending
    );
    let pending = block_on(bucket.get(&key)).unwrap_err();
    assert_eq!(pending.advice(), Advice::RetryLater, "{pending}");
    set_state(VbucketState::Active)?;
    assert_eq!(block_on(bucket.get(&key))?.value, "1");
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn settings_no_bucket_can_work_with() {
    let directory = TempDirectory::new();
    let config = || made_small(BucketConfig::at(directory.path()));
    let memory_quota_bytes = BucketConfig {
        memory_quota_bytes: 0,
        ..config()
    };
    let mailbox_messages_max = BucketConfig {
        mailbox_messages_max: 0,
        ..config()
    };
    let stall_limit = BucketConfig {
        stall_limit: Duration::ZERO,
        ..config()
    };
    let metrics_every = BucketConfig {
        metrics_every: Some(Duration::ZERO),
        ..config()
    };
    let expiry_sweep_every = |every| BucketConfig {
        expiry_sweep_every: every,
        ..config()
    };
    let too_often = expiry_sweep_every(Duration::from_millis(999));
    let too_seldom = expiry_sweep_every(Duration::from_secs(31 * 24 * 3600));
    for (name, config) in [
        ("memory_quota_bytes", memory_quota_bytes),
        ("expiry_sweep_every", too_often),
        ("expiry_sweep_every", too_seldom),
        ("mailbox_messages_max", mailbox_messages_max),
        ("stall_limit", stall_limit),
        ("metrics_every", metrics_every),
    ] {
        let error = block_on(Bucket::create(config)).unwrap_err();
        assert_eq!(error.advice(), Advice::FixRequest);
        assert!(error.to_string().contains(name), "{error}");
    }
}
