//! Whoever may lack a deletion whose tombstone is gone is told to begin anew, when it asks or while it reads; nobody else is.

use std::time::Duration;

use piggin::messages::CompactOptions;
use piggin::messages::stream::{
    BufferAcknowledge, StreamEndReason, StreamEvent, StreamFlags, StreamOptions, StreamRequest,
    StreamRequestError,
};
use piggin::storage::Seqno;

use crate::common::{assert_at_base, filled, key, run};
use crate::heard::{ID, ask, from, request, stream};

const DOCUMENTS: usize = 60;

#[test]
fn purged_tombstones_send_back_who_may_lack_them_and_nobody_else() {
    run(5, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let mut deleted = 0;
        for number in 0..DOCUMENTS / 2 {
            deleted += usize::from(bucket.delete(key(number)).await.is_ok());
        }
        assert_eq!(deleted, DOCUMENTS / 2);
        bucket.flush().await.expect("a flush");
        let options = CompactOptions {
            drop_deletes: true,
            ..CompactOptions::default()
        };
        bucket.compact(ID, options).await.expect("a compaction");
        let statistics = bucket.statistics().vbuckets[0].clone();
        let purged = statistics.purge_seqno;
        assert!(purged > Seqno(2) && purged < statistics.high_seqno);
        let below = Seqno(purged.0 - 1);
        let refused = ask(&bucket, from(&bucket, below).await).await.err();
        let back = StreamRequestError::Rollback { seqno: Seqno::ZERO };
        assert_eq!(refused, Some(back));
        // Everybody else gets all that is left.
        let ignoring = StreamRequest {
            flags: StreamFlags::IGNORE_PURGED_TOMBSTONES,
            ..from(&bucket, Seqno(1)).await
        };
        let mut purged_too = from(&bucket, below).await;
        purged_too.options.purge_seqno = purged;
        for wanted in [ignoring, purged_too, from(&bucket, purged).await, request()] {
            let start = wanted.start;
            let until = StreamRequest {
                flags: wanted.flags.with(StreamFlags::TO_LATEST),
                ..wanted
            };
            let heard = stream(&bucket, until).await;
            assert_eq!(heard.end().await, StreamEndReason::Ok, "from {start}");
            assert_eq!(heard.last(), statistics.high_seqno);
        }
        assert_at_base(&world, &bucket).await;
    });
}

/// MB-63159: what is purged between the request and the reading counts, and so does what a collection got meanwhile.
#[test]
fn what_is_purged_before_it_is_read_ends_the_stream() {
    run(6, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let high = bucket.statistics().vbuckets[0].high_seqno;
        let start = Seqno(high.0 / 2);
        let small = |consumer: &str, request: StreamRequest| StreamRequest {
            consumer: consumer.into(),
            options: StreamOptions {
                buffer_bytes: Some(1),
                ..StreamOptions::default()
            },
            ..request
        };
        // They stand still behind their first event, and read the disk once more when they go on.
        let strict = stream(&bucket, small("strict", from(&bucket, start).await)).await;
        world.sleep(Duration::from_secs(1)).await;
        for number in 0..DOCUMENTS {
            bucket.delete(key(number)).await.expect("a deletion");
        }
        bucket.flush().await.expect("a flush");
        let core = bucket.vbucket_core(ID).expect("it");
        core.drop_stream_cursors();
        let options = CompactOptions {
            drop_deletes: true,
            ..CompactOptions::default()
        };
        bucket.compact(ID, options).await.expect("a compaction");
        assert!(bucket.statistics().vbuckets[0].purge_seqno > high);
        let producer = bucket.producer(ID).expect("a producer");
        let mut acknowledged = 0;
        let end = loop {
            let events = strict.events();
            if let Some(StreamEvent::StreamEnd(reason)) = events.last() {
                break *reason;
            }
            let got: u64 = strict.probe.received().iter().map(|one| one.bytes).sum();
            let bytes = got - acknowledged;
            acknowledged = got;
            let done = BufferAcknowledge {
                vbucket: ID,
                stream: strict.opened.stream,
                bytes,
            };
            drop(producer.send(done).await.expect("an answer"));
            world.sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(end, StreamEndReason::Rollback);
        assert_at_base(&world, &bucket).await;
    });
}
