//! MB-50060 from end to end, by public means: a collection with a durable write under way is dropped, and the pass over the
//! prepares fails. Nothing changes: not the monitor, the drop list, the disk, nor the client that waits; the next run erases all
//! of it, and the client gets exactly one answer. Run as it is, and by `tests/planted` with the bug planted.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use piggin::messages::durability::DurabilityStatus;
use piggin::messages::failure::CompactionStage as Stage;
use piggin::messages::{CompactError, CompactOptions, OperationError};
use piggin::storage::{
    CompactionStage, DroppedCollection, DurabilityLevel, KvStore, Namespace, Outcome, Seqno,
    SeqnoRange, Topology, VbucketId,
};
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy};
use supervisor::testing::{Fault, World};

use crate::plant;

const VBUCKET: VbucketId = VbucketId::FIRST;
const PLAIN: CompactOptions = CompactOptions {
    drop_deletes: false,
    purge_before_s: None,
};

/// How everything stands that a failed compaction may not change.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    monitor: DurabilityStatus,
    dropped: Vec<DroppedCollection>,
    /// Prepares on disk, by seqno and key.
    prepares: Vec<(Seqno, Vec<u8>)>,
    answers: u32,
}

fn standing(bucket: &Bucket, answers: &AtomicU32) -> Standing {
    let store = bucket.store_handle();
    let lease = store.lease().expect("the store");
    let snapshot = lease.store().snapshot(VBUCKET).expect("a snapshot");
    let mut scan = snapshot.scan_by_seqno(SeqnoRange {
        first: Seqno(1),
        last: Seqno::MAX,
    });
    let mut prepares = Vec::new();
    loop {
        let outcome = scan.step(usize::MAX, &mut |view| {
            if view.namespace() == Namespace::Prepared {
                prepares.push((view.seqno, view.key.to_vec()));
            }
            ControlFlow::Continue(())
        });
        match outcome {
            Outcome::Yielded => {}
            Outcome::Complete(_) => break,
            other @ (Outcome::Aborted(_) | Outcome::Failed(_)) => panic!("{other:?}"),
        }
    }
    Standing {
        monitor: bucket.durability_status(VBUCKET).expect("a vbucket"),
        dropped: snapshot.dropped_collections(),
        prepares,
        answers: answers.load(Ordering::SeqCst),
    }
}

fn config(world: &World) -> BucketConfig {
    BucketConfig {
        node_name: Some("a".to_owned()),
        vbuckets: Some(1),
        compaction: CompactionConfig {
            policy: CompactionPolicy::NEVER,
            ..CompactionConfig::default()
        },
        ..world.config()
    }
}

#[test]
fn mb_50060_end_to_end() {
    plant();
    World::run(50060, async |world: World| {
        let bucket = world.create(config(&world)).await.expect("a bucket");
        // The other node never comes.
        let chain = Topology::of_chain(["a", "b"]);
        bucket
            .set_topology(bucket.vbuckets(), &chain)
            .expect("a topology");
        bucket
            .create_collection("_default", "doomed")
            .await
            .expect("a collection");
        let doomed = bucket.collection("_default", "doomed").expect("it");
        bucket.set("stays", "v").await.expect("a write");
        doomed.set("plain", "v").await.expect("a write");
        let answers = Arc::<AtomicU32>::default();
        let client = {
            let (doomed, answers) = (doomed.clone(), Arc::clone(&answers));
            actix::spawn(async move {
                let write = doomed.set("durable", "v");
                let write = write.durability(DurabilityLevel::Majority);
                let longest = Duration::from_millis(65_534);
                let answer = write.durability_timeout(longest).await;
                answers.fetch_add(1, Ordering::SeqCst);
                answer
            })
        };
        world.sleep(Duration::from_millis(1)).await;
        bucket.flush().await.expect("a flush");
        bucket
            .drop_collection("_default", "doomed")
            .await
            .expect("a drop");
        let before = standing(&bucket, &answers);
        assert_eq!(before.prepares.len(), 1, "{before:?}");
        assert_eq!((before.monitor.prepares, before.monitor.waiting), (1, 1));
        assert_eq!((before.dropped.len(), before.answers), (1, 0));

        world.inject(Fault::CompactionPass(Stage::Prepare));
        let answer = bucket.compact(VBUCKET, PLAIN).await;
        let Err(CompactError::Failed {
            stage,
            cause,
            published: None,
        }) = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!(stage, CompactionStage::Prepare);
        assert_eq!(cause, Fault::CompactionPass(Stage::Prepare).cause());
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(standing(&bucket, &answers), before, "nothing changed");
        assert_eq!(doomed.get("plain").await.map(drop), {
            let manifest_uid = bucket.manifest().uid;
            Err(OperationError::UnknownCollection { manifest_uid })
        });

        let compacted = bucket.compact(VBUCKET, PLAIN).await.expect("a compaction");
        assert_eq!(compacted.prepares_erased.len(), 1);
        let answered = tokio::time::timeout(Duration::from_secs(5), client).await;
        let answered = answered.expect("before its time is up").expect("no panic");
        assert_eq!(answered, Err(OperationError::SyncWriteAmbiguous));
        let after = standing(&bucket, &answers);
        assert_eq!((after.monitor.prepares, after.monitor.waiting), (0, 0));
        assert_eq!((after.dropped, after.prepares), (Vec::new(), Vec::new()));
        // Past its deadline nothing more comes, and nobody waits.
        world.sleep(Duration::from_secs(120)).await;
        assert_eq!(answers.load(Ordering::SeqCst), 1, "exactly one answer");
        assert!(bucket.get("stays").await.is_ok());
        bucket.shutdown().await.expect("an orderly end");
    })
    .expect("a run that ends");
}
