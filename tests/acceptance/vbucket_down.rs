//! A vbucket whose data is damaged is out of service and says why, at every door; it never looks empty, and the
//! others serve.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use piggin::messages::failure::WarmupPhase;
use piggin::messages::vbucket::{DescribeVbucket, Get};
use piggin::messages::{DownCause, FailureKind, OperationError};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{Advice, CollectionId, DocumentKey, StorageError};
use piggin::{Bucket, BucketConfig};

use crate::support::{
    Result, TestDisk, assert_filled, block_on, fill, key_in, kinds, made_small, small, vbucket,
};

/// Flips a bit wherever these bytes lie.
fn damage(disk: &SimulatedDisk, bytes: &[u8]) -> Result {
    let mut found = 0;
    for (name, content) in disk.files() {
        for (offset, window) in content.windows(bytes.len()).enumerate() {
            if window == bytes {
                disk.flip_bit(&name, u64::try_from(offset)?, 0)?;
                found += 1;
            }
        }
    }
    assert!(found > 0);
    Ok(())
}

#[test]
fn one_vbucket_is_down_and_says_why() -> Result {
    let disk = SimulatedDisk::new();
    let config = || small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(made_small(config())))?;
    let id = vbucket(1);
    let key = key_in(&bucket, id, 100);
    block_on(bucket.set(&key, "a document that is damaged").persisted())?;
    let keys = fill(&bucket, 2);
    block_on(bucket.shutdown())?;
    damage(&disk, b"a document that is damaged")?;

    let bucket = block_on(Bucket::open(config()))?;
    let down = block_on(bucket.get(&key)).unwrap_err();
    let OperationError::VbucketDown {
        vbucket: named,
        cause: DownCause::Storage(cause),
    } = &down
    else {
        panic!("{down:?}");
    };
    assert_eq!(*named, id);
    let text = down.to_string();
    assert!(
        text.contains("vbucket 1") && text.contains("corruption in"),
        "{text}"
    );
    assert_eq!(down.advice(), Advice::Repair, "{cause:?}");
    assert!(
        matches!(
            &**cause,
            StorageError::Corruption { .. } | StorageError::VbucketDown { .. }
        ),
        "{cause:?}"
    );
    for answer in [
        block_on(bucket.get_meta(&key)).err(),
        block_on(bucket.exists(&key)).err(),
        block_on(bucket.set(&key, "1")).err(),
        block_on(bucket.set(&key, "1").persisted()).err(),
        block_on(bucket.delete(&key)).err(),
        block_on(bucket.touch(&key, 1)).err(),
    ] {
        assert_eq!(answer.as_ref(), Some(&down));
    }
    let actor = bucket.vbucket(id).unwrap();
    let get = Get {
        key: DocumentKey::new(CollectionId::DEFAULT, key.as_bytes())?,
    };
    assert_eq!(block_on(actor.send(get))?.as_ref(), Err(&down));
    match block_on(actor.send(DescribeVbucket))? {
        Ok(described) => assert!(described.down.is_some()),
        Err(error) => assert_eq!(error, down),
    }
    let described = bucket.statistics().vbuckets;
    let are_down: Vec<bool> = described.iter().map(|one| one.down.is_some()).collect();
    assert_eq!(are_down, [false, true, false, false]);
    // Told once, by the phase that found it.
    assert!(
        matches!(
            kinds(&bucket)[..],
            [FailureKind::Warmup {
                phase: WarmupPhase::State | WarmupPhase::Documents
            }]
        ),
        "{:?}",
        kinds(&bucket)
    );

    let others: Vec<String> = keys
        .into_iter()
        .filter(|key| bucket.vbucket_of(key.as_bytes()) != id)
        .collect();
    assert_filled(&bucket, &others);
    for key in &others {
        block_on(bucket.set(key, crate::support::value_of(key)).persisted())?;
    }
    block_on(bucket.shutdown())?;
    let bucket = block_on(Bucket::open(config()))?;
    assert_filled(&bucket, &others);
    assert_eq!(
        block_on(bucket.get(&key)).map_err(|error| error.advice()),
        Err(Advice::Repair)
    );
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_flush_waits_for_the_others_before_it_tells() -> Result {
    let disk = TestDisk::new(SimulatedDisk::new());
    let config = made_small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(config))?;
    disk.hold_syncs_of("writer-0");
    for id in [0, 1] {
        let key = key_in(&bucket, vbucket(id), 0);
        block_on(bucket.set(&key, "in memory"))?;
    }
    let core = |id| bucket.vbucket_core(vbucket(id)).unwrap();
    core(0).take_down(DownCause::Escalated("for this test".to_owned()));
    {
        let mut flush = pin!(bucket.flush());
        let mut context = Context::from_waker(Waker::noop());
        assert!(flush.as_mut().poll(&mut context).is_pending());
        disk.let_go();
        let told = block_on(flush).unwrap_err();
        assert!(
            matches!(told, OperationError::VbucketDown { vbucket: id, .. } if id == vbucket(0))
        );
    }
    assert_eq!(core(1).settled_seqno(), core(1).high_seqno());
    drop(bucket);
    Ok(())
}
