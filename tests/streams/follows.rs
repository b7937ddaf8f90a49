//! Following a bucket while it is written to: what is written comes, in order, each snapshot with its end.

use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::stream::{
    BufferAcknowledge, OpenStream, StreamBatch, StreamEvent, StreamRequest,
};
use piggin::storage::{Seqno, VbucketId};
use piggin::{ChangesOptions, Since};
use supervisor::testing::Probe;

use crate::common::{Mirror, PATIENCE, config, filled, key, run};

#[test]
fn what_is_written_comes_without_a_flush() {
    run(1, async |world| {
        let bucket = world.create(config(&world)).await.expect("a bucket");
        let now = ChangesOptions {
            since: Since::Now,
            ..ChangesOptions::default()
        };
        let mut changes = bucket.changes(now).await.expect("changes");
        let mut mirror = Mirror::default();
        for number in 0..100 {
            bucket
                .set(key(number % 7), format!("{number}"))
                .await
                .expect("a write");
            let wanted = bucket.vbucket_of(key(number % 7).as_bytes());
            loop {
                let change = timeout(PATIENCE, changes.next()).await.expect("progress");
                let change = change.expect("a change");
                let is_it =
                    change.vbucket == wanted && matches!(change.event, StreamEvent::Mutation(_));
                mirror.take(change);
                if is_it {
                    break;
                }
            }
            let key = key(number % 7).into_bytes();
            let seen = &mirror.documents[&wanted][&key];
            assert_eq!(*seen, format!("{number}").into_bytes());
        }
        // Nothing of before came.
        bucket.delete(key(0)).await.expect("a deletion");
        let change = timeout(PATIENCE, changes.next()).await.expect("progress");
        assert!(matches!(
            change.expect("a marker").event,
            StreamEvent::SnapshotMarker(_)
        ));
        let change = timeout(PATIENCE, changes.next()).await.expect("progress");
        assert!(matches!(
            change.expect("it").event,
            StreamEvent::Deletion(_)
        ));
    });
}

#[test]
fn what_lies_on_disk_and_what_is_written_meanwhile_come_as_one() {
    run(2, async |world| {
        let bucket = filled(&world, 60).await;
        let mut changes = bucket
            .changes(ChangesOptions::default())
            .await
            .expect("changes");
        let mut mirror = Mirror::default();
        let mut number = 0;
        while let Ok(change) = timeout(Duration::from_secs(30), changes.next()).await {
            mirror.take(change.expect("a change"));
            number += 1;
            if number < 200 {
                bucket
                    .set(key(number % 80), "newer")
                    .await
                    .expect("a write");
            }
            if number % 20 == 0 {
                world.sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!(mirror.all_documents().len(), 80);
        for (key, value) in mirror.all_documents() {
            assert_eq!(bucket.get(&key).await.expect("it").value, value);
        }
    });
}

/// The markers of one stream, as its consumer gets them: each end is delivered once, and none lies in another.
#[test]
fn every_marker_that_is_sent_gets_its_end_once() {
    run(3, async |world| {
        let bucket = filled(&world, 60).await;
        let id = VbucketId::FIRST;
        let probe = Probe::<StreamBatch>::start(|_| ());
        let producer = bucket.producer(id).expect("a producer");
        let open = OpenStream {
            request: StreamRequest::new(id, "probe"),
            to: probe.recipient(),
        };
        let opened = producer
            .send(open)
            .await
            .expect("an answer")
            .expect("a stream");
        for number in 0..300 {
            bucket
                .set(key(number % 50), "newer")
                .await
                .expect("a write");
            if number % 10 == 0 {
                world.sleep(Duration::from_millis(3)).await;
            }
            if number % 97 == 0 {
                bucket.vbucket_core(id).expect("it").drop_stream_cursors();
            }
        }
        world.sleep(Duration::from_secs(30)).await;
        let (mut awaited, mut last_end, mut last) = (None, None, Seqno::ZERO);
        for event in probe.received().into_iter().flat_map(|batch| batch.events) {
            if let StreamEvent::SnapshotMarker(marker) = &event {
                assert_eq!(awaited, None, "a snapshot in another");
                assert!(last_end.is_none_or(|end| end < marker.start));
                (awaited, last_end) = (Some(marker.end), Some(marker.end));
            }
            if let Some(seqno) = event.seqno() {
                assert!(seqno > last);
                last = seqno;
                assert!(
                    awaited.is_some_and(|end| seqno <= end),
                    "{seqno} of {awaited:?}"
                );
                if awaited == Some(seqno) {
                    awaited = None;
                }
            }
            assert!(!matches!(event, StreamEvent::StreamEnd(_)), "{event:?}");
        }
        assert_eq!(awaited, None);
        assert_eq!(last, bucket.statistics().vbuckets[0].high_seqno);
        let bytes = probe.received().iter().map(|batch| batch.bytes).sum();
        let done = BufferAcknowledge {
            vbucket: id,
            stream: opened.stream,
            bytes,
        };
        assert_eq!(producer.send(done).await.expect("an answer"), Ok(()));
    });
}
