//! A stream that reads from disk reads on what it began with, whatever compactions put in its place meanwhile.

use std::collections::BTreeMap;

use tokio::time::timeout;

use piggin::messages::CompactOptions;
use piggin::messages::stream::{StreamEndReason, StreamEvent};
use piggin::storage::VbucketId;
use piggin::{Bucket, ChangesOptions};

use crate::common::{Mirror, PATIENCE, all, assert_at_base, filled, key, run};

/// More than may wait for a consumer that stands still.
const DOCUMENTS: usize = 800;

async fn compact_all(bucket: &Bucket) {
    let options = CompactOptions {
        drop_deletes: true,
        purge_before_s: None,
    };
    let report = bucket.compact_all(options).await;
    assert_eq!(report.failed().count(), 0, "{report:?}");
    let bytes = report.total();
    assert!(bytes.bytes_before > 0, "{bytes:?}");
}

#[test]
fn a_stream_that_began_before_a_compaction_reads_what_there_was() {
    run(12, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let options = ChangesOptions {
            buffer_bytes: 0,
            ..all()
        };
        let mut changes = bucket.changes(options).await.expect("changes");
        let mut mirror = Mirror::default();
        // The first vbucket of which a document came is being read from disk, and has more than fits in between.
        let of: VbucketId = loop {
            let change = changes.next().await.expect("a change");
            let vbucket = change.vbucket;
            let is_document = matches!(change.event, StreamEvent::Mutation(_));
            mirror.take(change);
            if is_document {
                break vbucket;
            }
        };
        let is_of = |number: &usize| bucket.vbucket_of(key(*number).as_bytes()) == of;
        let numbers: Vec<usize> = (0..DOCUMENTS).filter(is_of).collect();
        for (place, number) in numbers.iter().enumerate() {
            if place % 2 == 0 {
                bucket.delete(key(*number)).await.expect("a deletion");
            } else {
                let renewed = bucket.set(key(*number), "renewed").await;
                renewed.expect("a write");
            }
        }
        bucket.flush().await.expect("a flush");
        compact_all(&bucket).await;
        let before = mirror.documents.get(&of).map_or(0, BTreeMap::len);
        assert!(before < numbers.len(), "all of it was sent before");
        while let Some(change) = timeout(PATIENCE, changes.next()).await.expect("progress") {
            mirror.take(change);
        }
        assert!(mirror.ends.values().all(|end| *end == StreamEndReason::Ok));
        let got = mirror.documents.get(&of).expect("it came");
        assert_eq!(got.len(), numbers.len());
        assert!(got.values().all(|value| *value == vec![b'v'; 500]));
        assert_at_base(&world, &bucket).await;
        bucket.shutdown().await.expect("an orderly end");
    });
}
