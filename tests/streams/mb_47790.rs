//! MB-47790: a scan that failed looked as if it were finished, the stream went silent, and nobody was told.

use piggin::messages::failure::ScanPurpose;
use piggin::messages::stream::StreamEndReason;
use piggin::messages::{FailureCause, FailureId, FailureKind, NextStep};
use piggin::{Bucket, ChangesOptions, Since};
use supervisor::testing::{Fault, World};

use crate::common::{Mirror, all, assert_at_base, filled, run};

const DOCUMENTS: usize = 60;

/// Fails the n-th step of a scan while everything is streamed.
async fn streamed_with_failure(world: &World, bucket: &Bucket, nth: u64) -> Mirror {
    world.inject(Fault::ScanAt(nth));
    let mut mirror = Mirror::default();
    mirror.take_all(bucket, all()).await;
    mirror
}

fn failed(mirror: &Mirror) -> usize {
    let ends = mirror.ends.values();
    ends.filter(|end| **end == StreamEndReason::BackfillFail)
        .count()
}

/// What must hold, whatever is planted.
pub(crate) async fn check(world: World) {
    let bucket = filled(&world, DOCUMENTS).await;
    let mirror = streamed_with_failure(&world, &bucket, 1).await;
    assert_eq!(world.faults_waiting(), 0, "nothing was read from disk");
    // Its stream says so; those of the other vbuckets go on to their ends.
    assert_eq!(mirror.ends.len(), 4);
    assert_eq!(failed(&mirror), 1, "{:?}", mirror.ends);
    let is_fine =
        |end: &StreamEndReason| matches!(end, StreamEndReason::Ok | StreamEndReason::BackfillFail);
    assert!(mirror.ends.values().all(is_fine), "{:?}", mirror.ends);
    // Told once, counted once; that it is logged once is shown with every other kind of failure.
    let failures = bucket.failures(FailureId(0)).failures;
    let [failure] = &failures[..] else {
        panic!("{failures:?}");
    };
    let purpose = ScanPurpose::Backfill;
    assert_eq!(failure.kind, FailureKind::Scan { purpose });
    assert!(matches!(failure.cause, FailureCause::Injected(_)));
    assert_eq!(failure.next, NextStep::Nothing);
    let (vbucket, _) = mirror
        .ends
        .iter()
        .find(|(_, end)| **end == StreamEndReason::BackfillFail)
        .expect("one that failed");
    assert_eq!(failure.vbucket, Some(*vbucket));
    let counters = bucket.statistics().failures;
    assert_eq!(
        counters.into_iter().collect::<Vec<_>>(),
        [("backfill_scan_failures", 1)]
    );
    assert_at_base(&world, &bucket).await;
    bucket.shutdown().await.expect("an orderly end");
}

#[test]
fn mb_47790_a_scan_that_fails_ends_its_stream_and_is_told_once() {
    run(1, check);
}

#[test]
fn mb_47790_whichever_step_fails_nothing_is_missing_behind_an_ok() {
    for nth in 1..100 {
        let has_struck = run(nth, async |world| {
            let bucket = filled(&world, DOCUMENTS).await;
            let mut mirror = streamed_with_failure(&world, &bucket, nth).await;
            let has_struck = world.faults_waiting() == 0;
            assert_eq!(
                failed(&mirror),
                usize::from(has_struck),
                "{:?}",
                mirror.ends
            );
            world.clear_faults();
            // Asked again from where it was, the consumer gets the rest.
            if has_struck {
                let mut whole = Mirror::default();
                whole.take_all(&bucket, all()).await;
                mirror = whole;
            }
            assert_eq!(mirror.all_documents().len(), DOCUMENTS);
            has_struck
        });
        if !has_struck {
            assert!(nth > 4, "each vbucket has a step at least");
            return;
        }
    }
    panic!("so many steps are not needed");
}

#[test]
fn mb_47790_a_consumer_goes_on_where_the_scan_failed() {
    run(3, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        world.inject(Fault::ScanAt(3));
        let mut mirror = Mirror::default();
        let token = mirror.take_all(&bucket, all()).await;
        assert_eq!(failed(&mirror), 1, "{:?}", mirror.ends);
        let rest = ChangesOptions {
            since: Since::Token(token),
            ..all()
        };
        mirror.take_all(&bucket, rest).await;
        assert_eq!(failed(&mirror), 0, "{:?}", mirror.ends);
        assert_eq!(mirror.all_documents().len(), DOCUMENTS);
    });
}
