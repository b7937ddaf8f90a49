//! While there is no store, whoever asks for what is not in memory is told in bounded time, and it is served again when the
//! store is back.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use actors::vbucket::EvictionWalk;
use piggin::messages::{Busy, FailureId, FailureKind, OperationError};
use piggin::storage::disk::{DiskErrorKind, Fault, Verb};
use piggin::storage::{KvStore, Outcome, Seqno, StorageError};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::World;

use crate::common::core;
use crate::support::small;

/// Longer than anything takes that comes to an end: virtual time.
const PATIENCE: Duration = Duration::from_secs(60);
const CALLERS: usize = 200;

async fn evict(bucket: &Bucket) {
    bucket.flush().await.expect("a flush");
    {
        let lease = bucket.store_handle().lease().expect("a store");
        for vbucket in bucket.vbuckets() {
            while !matches!(
                lease.store().seal(vbucket, Seqno::MAX),
                Outcome::Complete(())
            ) {}
        }
    }
    for vbucket in bucket.vbuckets() {
        let core = core(bucket, vbucket);
        core.shrink_log();
        while core.figures().documents > 0 {
            let mut walk = EvictionWalk::default();
            while !core.evict(&mut walk).is_at_end {}
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn what_is_not_in_memory_is_not_waited_for_without_end() {
    World::run(0, |world| async move {
        let config = BucketConfig {
            vbuckets: Some(2),
            ..small(world.config())
        };
        let bucket = world.create(config).await.expect("a bucket");
        bucket.set("a", "value").await.expect("a write");
        evict(&bucket).await;
        let broken = DiskErrorKind::Other("broken".to_owned());
        let disk = world.simulated_disk();
        disk.inject(Fault::failed_call(broken).on(Verb::Open).lasting());
        let store = bucket.store_handle();
        store.recall(store.generation(), StorageError::Closed);

        let begin = Instant::now();
        let all = join_all((0..CALLERS).map(|number| {
            let bucket = bucket.clone();
            async move {
                match number % 3 {
                    0 => bucket.get("a").await.map(drop),
                    1 => bucket.append("a", "x").await.map(drop),
                    _ => bucket.exists("a").await.map(drop),
                }
            }
        }));
        let answers = timeout(PATIENCE, all).await.expect("answers");
        let not_in_memory = OperationError::TemporaryFailure(Busy::NotInMemory);
        for answer in answers {
            assert_eq!(answer, Err(not_in_memory.clone()));
        }
        assert!(begin.elapsed() > Duration::from_secs(5), "it did not wait");
        let told = bucket.failures(FailureId(0)).failures;
        let told = told
            .iter()
            .filter(|failure| failure.kind == FailureKind::Fetch);
        assert_eq!(told.count(), 1, "once for all who waited");

        disk.clear_faults();
        let found = timeout(PATIENCE, async {
            loop {
                match bucket.get("a").await {
                    Err(error) if error == not_in_memory => {}
                    answer => return answer,
                }
            }
        });
        let found = found.await.expect("an answer").expect("the document");
        assert_eq!(found.value, "value");
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}
