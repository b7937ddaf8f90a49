//! Whichever call of the disk fails while a bucket compacts a vbucket with two dropped collections: whoever asked is told
//! that it failed, and at which stage, or that all is done; what is left the next one does.

use piggin::messages::{CompactError, FailureId, FailureKind};
use piggin::storage::disk::{DiskErrorKind, Verb};
use supervisor::testing::{DiskFault, Fault, World};

use crate::seeds::past::{self, DROPPED, PLAIN, VBUCKET};

/// More calls than any compaction here makes.
const CALLS_MAX: u64 = 200;

/// With the `nth` call of a verb failing; whether there is such a call.
async fn failed_at(world: World, verb: Verb, nth: u64) -> bool {
    let context = format!("{verb:?} {nth}");
    past::write(&world);
    let bucket = world.open(past::config(&world)).await.expect("a bucket");
    let broken = DiskErrorKind::Other("broken".to_owned());
    world.inject(Fault::Disk(DiskFault::fail(verb, "", nth, broken)));
    let answer = bucket.compact(VBUCKET, PLAIN).await;
    let has_struck = world.faults_waiting() == 0;
    world.clear_faults();
    let failures = bucket.failures(FailureId(0)).failures;
    let is_compaction = |kind| matches!(kind, FailureKind::Compaction { .. });
    let told: Vec<_> = failures
        .iter()
        .map(|failure| failure.kind)
        .filter(|kind| is_compaction(*kind))
        .collect();
    match answer {
        Ok(compacted) => {
            assert_eq!(compacted.erased.len(), DROPPED.len(), "{context}");
            assert_eq!(told, [], "{context}");
        }
        Err(CompactError::Failed {
            stage, published, ..
        }) => {
            assert!(has_struck, "{context}");
            assert_eq!(published, None, "{context}: no pass reads alone");
            let stage = stage.into();
            assert_eq!(told, [FailureKind::Compaction { stage }], "{context}");
        }
        Err(error) => panic!("{context}: {error}"),
    }
    let again = bucket.compact(VBUCKET, PLAIN).await;
    again.unwrap_or_else(|error| panic!("{context}: {error}"));
    bucket.shutdown().await.expect("an orderly end");
    // Counts are those of a scan, and the store is sound.
    let held = past::held(&world);
    assert_eq!(held.dropped, [], "{context}");
    for id in DROPPED {
        assert_eq!(held.of(id), [], "{context}");
    }
    has_struck
}

#[test]
fn whichever_call_fails_is_told_and_the_next_run_cleans_up() {
    for verb in [Verb::Open, Verb::Write, Verb::Sync, Verb::SyncDirectory] {
        let last = (1..CALLS_MAX).find(|nth| {
            let ended = World::run(*nth, |world| failed_at(world, verb, *nth));
            !ended.unwrap_or_else(|error| panic!("{verb:?} {nth}: {error}"))
        });
        assert!(last.is_some_and(|last| last > 1), "{verb:?}: {last:?}");
    }
}
