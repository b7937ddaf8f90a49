//! The scans of a compaction, in which expired documents are found: failed, aborted or complete, each is told as what it
//! is; what an unfinished run found is deleted once, and what it did not find the next one does.

use std::time::Duration;

use piggin::messages::failure::CompactionStage as Stage;
use piggin::messages::{CompactError, CompactOptions, FailureId, FailureKind, OperationError};
use piggin::storage::disk::{DiskErrorKind, Verb};
use piggin::storage::{AbortReason, OpenOptions, VbucketId};
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy};
use supervisor::testing::{DiskFault, Fault, HoldPoint, World, WorldSettings};

const DOCUMENTS: u64 = 60;
const EXPIRED: u64 = 20;
const OPTIONS: CompactOptions = CompactOptions {
    drop_deletes: false,
    purge_before_s: None,
};

fn run<T: Send>(seed: u64, scenario: impl AsyncFnOnce(World) -> T + Send) -> T {
    run_with(seed, &WorldSettings::default(), scenario)
}

fn run_with<T: Send>(
    seed: u64,
    settings: &WorldSettings,
    scenario: impl AsyncFnOnce(World) -> T + Send,
) -> T {
    World::run_with(seed, settings, |world| scenario(world)).expect("a run that ends")
}

/// A bucket on whose disk documents lie whose time is up.
async fn filled(world: &World) -> Bucket {
    let config = BucketConfig {
        vbuckets: Some(1),
        compaction: CompactionConfig {
            policy: CompactionPolicy::NEVER,
            ..CompactionConfig::default()
        },
        store: OpenOptions {
            log_file_bytes_min: 64 << 10,
            log_file_bytes_max: 128 << 10,
            unsealed_bytes: 4 << 10,
            block_bytes: 4 << 10,
            index_cache_bytes: 0,
            is_stepped: true,
            ..OpenOptions::new(1)
        },
        ..world.config()
    };
    let bucket = world.create(config).await.expect("a bucket");
    for number in 0..DOCUMENTS {
        let expiry = if number < EXPIRED { 100 } else { 0 };
        let write = bucket.set(key(number), vec![b'v'; 300]).expiry(expiry);
        write.await.expect("a write");
        if number % 10 == 0 {
            bucket.flush().await.expect("a flush");
        }
    }
    bucket.flush().await.expect("a flush");
    world.sleep(Duration::from_secs(200)).await;
    assert_eq!(bucket.statistics().documents, DOCUMENTS, "nobody looked");
    bucket
}

fn key(number: u64) -> String {
    format!("key {number}")
}

/// A run that comes to its end finds what is left, and everything else is as it was.
async fn finds_the_rest(bucket: &Bucket) {
    bucket
        .compact(VbucketId::FIRST, OPTIONS)
        .await
        .expect("a compaction");
    bucket.flush().await.expect("a flush");
    let statistics = bucket.statistics();
    assert_eq!(statistics.compaction.expired, EXPIRED, "each once");
    assert_eq!(statistics.documents, DOCUMENTS - EXPIRED);
    for number in 0..DOCUMENTS {
        match bucket.get(key(number)).await {
            Ok(_) => assert!(number >= EXPIRED),
            Err(OperationError::KeyNotFound) => assert!(number < EXPIRED),
            Err(error) => panic!("{error}"),
        }
    }
}

fn assert_told(bucket: &Bucket, stage: Stage) {
    let failures = bucket.failures(FailureId(0)).failures;
    let [failure] = &failures[..] else {
        panic!("{failures:?}");
    };
    let kind = FailureKind::Compaction { stage };
    assert_eq!(
        (failure.kind, failure.vbucket),
        (kind, Some(VbucketId::FIRST))
    );
    let statistics = bucket.statistics();
    let counted: Vec<_> = statistics.failures.into_iter().collect();
    assert_eq!(counted, [(kind.counter(), 1)]);
    assert_eq!(
        (statistics.compaction.failed, statistics.compaction.aborted),
        (1, 0)
    );
}

/// The one failure there was is not of a compaction.
fn assert_others(bucket: &Bucket) {
    let failures = bucket.statistics().failures;
    let counted: Vec<_> = failures.into_iter().collect();
    let sealing = [(FailureKind::Seal.counter(), 1)];
    assert_eq!(counted, sealing, "a failed read passed for none");
}

#[test]
fn whichever_stage_fails_is_told_and_no_expiry_is_lost() {
    for stage in [
        Stage::Start,
        Stage::Prepare,
        Stage::SystemEvent,
        Stage::Merge,
        Stage::Publish,
    ] {
        run(1, async |world| {
            let bucket = filled(&world).await;
            world.inject(Fault::CompactionPass(stage));
            let answer = bucket.compact(VbucketId::FIRST, OPTIONS).await;
            assert!(
                matches!(answer, Err(CompactError::Failed { stage: failed, .. }) if Stage::from(failed) == stage),
                "{stage:?}: {answer:?}"
            );
            assert_told(&bucket, stage);
            finds_the_rest(&bucket).await;
            assert_told(&bucket, stage);
            bucket.shutdown().await.expect("an orderly end");
        });
    }
}

#[test]
fn whichever_read_fails_is_told_and_no_expiry_is_lost() {
    for evicts in [false, true] {
        let settings = WorldSettings {
            evicts,
            ..WorldSettings::default()
        };
        let struck = (1..200).take_while(|nth| has_struck(*nth, &settings));
        let struck = struck.count();
        assert!(0 < struck && struck < 199, "{struck} reads failed");
    }
}

/// Whether that read of a compaction is one, and what becomes of it if it fails.
fn has_struck(nth: u64, settings: &WorldSettings) -> bool {
    run_with(nth, settings, async |world| {
        let bucket = filled(&world).await;
        let broken = DiskErrorKind::Other("broken".to_owned());
        world.inject(Fault::Disk(DiskFault::fail(Verb::Read, "", nth, broken)));
        let answer = bucket.compact(VbucketId::FIRST, OPTIONS).await;
        let has_struck = world.faults_waiting() == 0;
        world.clear_faults();
        match answer {
            // Where documents are to leave memory, others read, too: they say so.
            Ok(_) if has_struck => assert_others(&bucket),
            Ok(_) => {}
            Err(CompactError::Failed { stage, .. }) => {
                assert!(has_struck);
                assert_told(&bucket, stage.into());
            }
            Err(error) => panic!("{error}"),
        }
        finds_the_rest(&bucket).await;
        bucket.shutdown().await.expect("an orderly end");
        has_struck
    })
}

#[test]
fn an_aborted_run_is_no_failure_and_loses_no_expiry() {
    for stage in [Stage::Start, Stage::Merge, Stage::Publish] {
        run(2, async |world| {
            let bucket = filled(&world).await;
            let held = world.hold(HoldPoint {
                vbucket: VbucketId::FIRST,
                stage,
            });
            let asked = {
                let bucket = bucket.clone();
                actix::spawn(async move { bucket.compact(VbucketId::FIRST, OPTIONS).await })
            };
            held.reached().await;
            assert_eq!(bucket.cancel_compactions(None), 1);
            let cancelled = Err(CompactError::Aborted(AbortReason::Cancelled));
            assert_eq!(asked.await.expect("an answer"), cancelled, "{stage:?}");
            drop(held);
            assert_eq!(bucket.failures(FailureId(0)).failures, []);
            let compaction = bucket.statistics().compaction;
            assert_eq!((compaction.failed, compaction.aborted), (0, 1));
            finds_the_rest(&bucket).await;
            bucket.shutdown().await.expect("an orderly end");
        });
    }
}
