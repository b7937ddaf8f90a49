//! MB-38428: the flusher runs while a compaction of the same vbucket does, and never waits for it. A compaction is held at
//! each of its named steps, and writes of the same vbucket are persisted meanwhile.

use piggin::Bucket;
use piggin::messages::OperationError;
use piggin::messages::failure::CompactionStage;
use supervisor::testing::{Clock, HoldPoint, Latencies, World, WorldSettings};

use super::past::{self, PLAIN, VBUCKET};
use crate::plant;

/// Every named step, in their order.
const STEPS: [CompactionStage; 6] = [
    CompactionStage::Start,
    CompactionStage::Collection,
    CompactionStage::Prepare,
    CompactionStage::SystemEvent,
    CompactionStage::Merge,
    CompactionStage::Publish,
];

/// A world in which nothing takes any time that nobody waits for.
fn run(scenario: impl AsyncFn(World, CompactionStage) + Send + Sync) {
    plant();
    let settings = WorldSettings {
        latencies: Latencies::all(0..=0),
        late_permille: 0,
        events_max: 50_000,
        ..WorldSettings::default()
    };
    for step in STEPS {
        let ended = World::run_with(38428, &settings, |world| scenario(world, step));
        ended.unwrap_or_else(|error| panic!("held at {step:?}: {error}"));
    }
}

/// A write of each kind, each on disk when this returns.
async fn write(bucket: &Bucket) {
    bucket.set("new", "1").persisted().await.expect("a write");
    let renewed = bucket.set("a", "renewed").persisted();
    renewed.await.expect("an overwrite");
    bucket.delete("d").persisted().await.expect("a deletion");
    bucket.set("c", "again").persisted().await.expect("a write");
}

/// With a compaction held at that step: does `work`, and has the compaction come to its end.
async fn held_at(world: &World, bucket: &Bucket, step: CompactionStage, work: impl Future) {
    let hold = world.hold(HoldPoint {
        vbucket: VBUCKET,
        stage: step,
    });
    let asked = bucket.clone();
    let compaction = actix::spawn(async move { asked.compact(VBUCKET, PLAIN).await });
    hold.reached().await;
    work.await;
    assert!(!compaction.is_finished(), "it is held");
    hold.release();
    let compacted = compaction.await.expect("no panic");
    let compacted = compacted.expect("a compaction");
    assert_eq!(compacted.erased.len(), 2, "{compacted:?}");
}

#[test]
fn mb_38428_a_flush_waits_for_no_step_of_a_compaction() {
    run(async |world, step| {
        past::write(&world);
        let bucket = world.open(past::config(&world)).await.expect("a bucket");
        held_at(&world, &bucket, step, async {
            let began = world.clock().monotonic();
            write(&bucket).await;
            let ended = world.clock().monotonic();
            assert_eq!(ended, began, "held at {step:?}");
        })
        .await;
    });
}

#[test]
fn mb_38428_what_is_flushed_during_a_compaction_is_there_after_it() {
    run(async |world, step| {
        past::write(&world);
        let bucket = world.open(past::config(&world)).await.expect("a bucket");
        held_at(&world, &bucket, step, write(&bucket)).await;
        // What comes later seals over what was lost, if it was: the log does not bring it back.
        bucket.set("later", "1").persisted().await.expect("a write");
        check(&bucket).await;
        bucket.shutdown().await.expect("an orderly end");
        let bucket = world.open(past::config(&world)).await.expect("a bucket");
        check(&bucket).await;
        bucket.shutdown().await.expect("an orderly end");
        let held = past::held(&world);
        assert_eq!(held.value("new"), Some(&b"1"[..]), "held at {step:?}");
        assert_eq!(held.value("a"), Some(&b"renewed"[..]), "held at {step:?}");
        assert_eq!(held.value("b"), Some(&b"b"[..]), "held at {step:?}");
        assert_eq!(held.value("c"), Some(&b"again"[..]), "held at {step:?}");
        assert_eq!(held.value("d"), None, "held at {step:?}");
    });
}

async fn check(bucket: &Bucket) {
    for (key, value) in [("new", "1"), ("a", "renewed"), ("b", "b"), ("c", "again")] {
        let found = bucket.get(key).await.map(|found| found.value);
        assert_eq!(found.as_deref(), Ok(value.as_bytes()), "{key}");
    }
    let gone = bucket.get("d").await;
    assert_eq!(gone, Err(OperationError::KeyNotFound));
}
