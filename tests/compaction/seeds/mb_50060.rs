//! MB-50060: a compaction that erases dropped collections and whose pass over the prepares fails must fail as a whole:
//! nothing is published, the drop list stays, nobody is told that prepares are gone; the next run cleans everything up.

use std::time::Duration;

use piggin::Bucket;
use piggin::messages::compactor::PreparesErased;
use piggin::messages::failure::CompactionStage as Stage;
use piggin::messages::{CompactError, FailureId, FailureKind};
use piggin::storage::{CollectionId, CompactionStage, ErasedPrepare, Operation};
use supervisor::testing::{Fault, Probe, World};

use super::past::{self, DROPPED, Held, PLAIN, Past, VBUCKET};
use crate::plant;

fn run(scenario: impl AsyncFnOnce(World) + Send) {
    plant();
    World::run(50060, |world| scenario(world)).expect("a run that ends");
}

/// The bucket, and a recording durability monitor.
async fn opened(world: &World) -> (Bucket, Probe<PreparesErased>) {
    let bucket = world.open(past::config(world)).await.expect("a bucket");
    let monitor = Probe::start(|_: &PreparesErased| ());
    bucket.tell_erased_prepares(monitor.recipient());
    (bucket, monitor)
}

fn erased(past: &Past, collections: &[CollectionId]) -> Vec<ErasedPrepare> {
    let of = |id: &CollectionId| past.incomplete[id].clone();
    let prepares = collections.iter().map(of);
    prepares
        .map(|(key, seqno)| ErasedPrepare { key, seqno })
        .collect()
}

/// A failure of that stage was told once, and counted once.
fn assert_told(bucket: &Bucket, stage: Stage) {
    let failures = bucket.failures(FailureId(0)).failures;
    let kind = FailureKind::Compaction { stage };
    let kinds: Vec<_> = failures.iter().map(|failure| failure.kind).collect();
    assert_eq!(kinds, [kind]);
    let statistics = bucket.statistics();
    let counted: Vec<_> = statistics.failures.into_iter().collect();
    assert_eq!(counted, [(kind.counter(), 1)]);
    assert_eq!(statistics.compaction.failed, 1);
    assert_eq!(statistics.compaction.aborted, 0);
}

/// The next run, without any fault, erases all of both collections and tells of their prepares.
async fn cleans_up(world: &World, past: &Past, left: &[CollectionId]) {
    let (bucket, monitor) = opened(world).await;
    let compacted = bucket.compact(VBUCKET, PLAIN).await.expect("a compaction");
    let ids: Vec<_> = compacted.erased.iter().map(|one| one.collection).collect();
    assert_eq!(ids, left);
    let told = monitor.await_received(1).await;
    let [
        PreparesErased {
            vbucket, prepares, ..
        },
    ] = &told[..]
    else {
        panic!("told {} times", told.len());
    };
    assert_eq!((*vbucket, prepares), (VBUCKET, &erased(past, left)));
    let again = bucket.compact(VBUCKET, PLAIN).await.expect("another");
    assert_eq!((again.erased.len(), again.prepares_erased.len()), (0, 0));
    world.sleep(Duration::from_secs(5)).await;
    assert_eq!(monitor.received().len(), 1, "told once");
    assert_eq!(bucket.failures(FailureId(0)).failures, []);
    bucket.shutdown().await.expect("an orderly end");
    let held = past::held(world);
    assert_eq!(held.dropped, []);
    for collection in DROPPED {
        assert_eq!(held.of(collection), []);
    }
    assert!(held.value("a").is_some() && held.value("committed").is_some());
}

/// One run with a fault at that stage, of which nothing may be published.
fn publishes_nothing(stage: Stage, expected: CompactionStage) {
    run(async |world| {
        let past = past::write(&world);
        let before = past::held(&world);
        assert_eq!(before.dropped.len(), 2);
        let (bucket, monitor) = opened(&world).await;
        world.inject(Fault::CompactionPass(stage));
        let answer = bucket.compact(VBUCKET, PLAIN).await;
        let Err(CompactError::Failed {
            stage: failed,
            cause,
            published: None,
        }) = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!(failed, expected);
        assert_eq!(cause, Fault::CompactionPass(stage).cause());
        assert_told(&bucket, stage);
        world.sleep(Duration::from_secs(60)).await;
        assert_eq!(monitor.received(), []);
        bucket.shutdown().await.expect("an orderly end");
        assert_eq!(past::held(&world), before, "nothing changed");
        cleans_up(&world, &past, &DROPPED).await;
    });
}

#[test]
fn mb_50060_a_failed_prepare_pass_publishes_nothing() {
    publishes_nothing(Stage::Prepare, CompactionStage::Prepare);
}

#[test]
fn a_failed_system_event_pass_publishes_nothing() {
    publishes_nothing(Stage::SystemEvent, CompactionStage::SystemEvent);
}

#[test]
fn a_failed_publish_publishes_nothing() {
    publishes_nothing(Stage::Publish, CompactionStage::Publish);
}

/// MB-49742.
#[test]
fn a_failed_collection_pass_keeps_that_collection_and_publishes_the_rest() {
    run(async |world| {
        let past = past::write(&world);
        let before = past::held(&world);
        let (bucket, monitor) = opened(&world).await;
        world.inject(Fault::CompactionPass(Stage::Collection));
        let answer = bucket.compact(VBUCKET, PLAIN).await;
        let Err(CompactError::Failed {
            stage: CompactionStage::Collection(failed),
            published: Some(published),
            ..
        }) = answer
        else {
            panic!("{answer:?}");
        };
        let other = DROPPED.into_iter().find(|id| *id != failed).expect("it");
        let ids: Vec<_> = published.erased.iter().map(|one| one.collection).collect();
        assert_eq!(ids, [other]);
        assert_told(&bucket, Stage::Collection);
        let told = monitor.await_received(1).await;
        assert_eq!(told[0].prepares, erased(&past, &[other]));
        bucket.shutdown().await.expect("an orderly end");
        let held = past::held(&world);
        let listed: Vec<_> = held.dropped.iter().map(|one| one.collection).collect();
        assert_eq!(listed, [failed]);
        let lasting = |held: &Held| {
            let of_it = held.of(failed).into_iter();
            // What is completed goes by its own rule, dropped or not.
            let lasting = of_it.filter(|(operation, key)| match operation {
                Operation::Abort { .. } => false,
                Operation::Prepare { .. } => **key == past.incomplete[&failed].0,
                Operation::Mutation
                | Operation::Deletion { .. }
                | Operation::CommitMutation { .. }
                | Operation::CommitDeletion { .. }
                | Operation::SystemEventBegin
                | Operation::SystemEventEnd => true,
            });
            lasting.map(|(_, key)| key.clone()).collect::<Vec<_>>()
        };
        let stays = lasting(&held);
        assert_eq!(stays, lasting(&before), "documents and prepares stay");
        assert!(stays.contains(&past.incomplete[&failed].0));
        assert_eq!(held.of(other), []);
        cleans_up(&world, &past, &[failed]).await;
    });
}
