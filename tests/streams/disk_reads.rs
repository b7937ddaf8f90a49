//! Whichever read of the disk fails, each stream ends with a reason or completes exactly, in time, and leaves nothing.

use std::collections::BTreeMap;

use piggin::messages::stream::StreamEndReason;
use piggin::storage::disk::{DiskErrorKind, Verb};
use supervisor::testing::{DiskFault, Fault};

use crate::common::{Mirror, all, assert_at_base, filled, run};

const DOCUMENTS: usize = 300;

#[test]
fn the_nth_read_of_a_backfill_may_fail() {
    for nth in 1..500u64 {
        let is_beyond = run(nth, async |world| {
            let bucket = filled(&world, DOCUMENTS).await;
            let reads = world.simulated_disk().calls_of(Verb::Read);
            let broken = DiskErrorKind::Other("broken".to_owned());
            world.inject(Fault::Disk(DiskFault::fail(Verb::Read, "", nth, broken)));
            let mut mirror = Mirror::default();
            // Fails when a minute passes without progress.
            mirror.take_all(&bucket, all()).await;
            let reads = world.simulated_disk().calls_of(Verb::Read) - reads;
            let is_ok = |end: &&StreamEndReason| **end == StreamEndReason::Ok;
            let completed = mirror.ends.values().filter(is_ok).count();
            assert_eq!(mirror.ends.len(), 4);
            if reads < nth {
                assert_eq!(completed, 4, "{:?}", mirror.ends);
                assert_eq!(mirror.all_documents().len(), DOCUMENTS);
            }
            let complete = mirror.ends.iter().filter(|(_, end)| is_ok(end));
            for (vbucket, _) in complete {
                let is_here = |number: &usize| {
                    bucket.vbucket_of(crate::common::key(*number).as_bytes()) == *vbucket
                };
                let expected = (0..DOCUMENTS).filter(is_here).count();
                let got = mirror.documents.get(vbucket).map_or(0, BTreeMap::len);
                assert_eq!(got, expected, "vbucket {vbucket}");
            }
            assert_at_base(&world, &bucket).await;
            reads < nth
        });
        if is_beyond {
            assert!(nth > 4, "hardly anything was read from disk");
            return;
        }
    }
    panic!("so many reads are not needed");
}
