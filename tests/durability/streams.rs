//! Who is no replica is told of what is committed, and of nothing else; a replica is told of everything, and heard.

use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::stream::{
    AcknowledgePrepared, OpenStream, StreamBatch, StreamError, StreamEvent, StreamId,
    StreamOptions, StreamRequest, SyncReplication,
};
use piggin::storage::{DurabilityLevel, Operation, Seqno, VbucketId};
use piggin::{Bucket, ChangesOptions};
use supervisor::testing::Probe;

use crate::common::{PATIENCE, Three, answer, begin, chain, created, key, run, settled};

const LEVEL: DurabilityLevel = DurabilityLevel::Majority;

#[test]
fn changes_show_what_is_committed_and_no_prepare() {
    run(1, async |worlds| {
        let three = Three::created(&worlds).await;
        let active = three.active();
        let mut changes = active
            .changes(ChangesOptions::default())
            .await
            .expect("changes");
        for number in 0..30 {
            active
                .set(key(number), "v")
                .durability(LEVEL)
                .await
                .expect("it");
            if number % 10 == 0 {
                active.flush().await.expect("a flush");
            }
        }
        let mut seen = 0;
        while seen < 30 {
            let change = timeout(PATIENCE, changes.next()).await.expect("progress");
            match change.expect("a change").event {
                StreamEvent::Mutation(item) => {
                    seen += 1;
                    let written = Operation::Mutation;
                    assert_eq!(item.operation, written, "as any other write");
                }
                StreamEvent::SnapshotMarker(_) | StreamEvent::SeqnoAdvanced(_) => {}
                event @ (StreamEvent::Deletion(_)
                | StreamEvent::Expiration(_)
                | StreamEvent::Prepare(_)
                | StreamEvent::Commit(_)
                | StreamEvent::Abort(_)
                | StreamEvent::SystemEvent(_)
                | StreamEvent::StreamEnd(_)) => panic!("{event:?}"),
            }
        }
    });
}

/// A snapshot that ends in a prepare has an end for everybody (MB-48368).
#[test]
fn a_prepare_at_the_end_holds_nobody_up() {
    run(2, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a", "b"]);
        let vbucket = active.vbucket_of(b"k");
        let mut changes = active
            .changes(ChangesOptions::default())
            .await
            .expect("changes");
        let asked = begin(&active, "k", "v", LEVEL);
        let advanced = async {
            loop {
                let change = changes.next().await.expect("a change");
                if let StreamEvent::SeqnoAdvanced(seqno) = change.event {
                    assert_eq!(change.vbucket, vbucket);
                    return seqno;
                }
            }
        };
        let seqno = timeout(PATIENCE, advanced).await.expect("an end");
        assert_eq!(seqno, Seqno(1));
        asked.abort();
    });
}

struct Hearing {
    probe: Probe<StreamBatch>,
    stream: StreamId,
}

/// A stream of the vbucket to a replica called `node`.
async fn replica(bucket: &Bucket, vbucket: VbucketId, node: Option<&str>) -> Hearing {
    let probe = Probe::start(|_: &StreamBatch| ());
    let request = StreamRequest {
        options: StreamOptions {
            buffer_bytes: None,
            sync_replication: node.map(|node| SyncReplication {
                node: node.into(),
                is_in_disk_snapshot: false,
            }),
            ..StreamOptions::default()
        },
        ..StreamRequest::new(vbucket, node.unwrap_or("by hand"))
    };
    let to = probe.recipient();
    let producer = bucket.producer(vbucket).expect("a producer");
    let opened = producer.send(OpenStream { request, to }).await;
    Hearing {
        stream: opened.expect("an answer").expect("a stream").stream,
        probe,
    }
}

async fn acknowledge(
    bucket: &Bucket,
    vbucket: VbucketId,
    stream: StreamId,
    seqno: Seqno,
) -> Result<(), StreamError> {
    let producer = bucket.producer(vbucket).expect("a producer");
    let done = AcknowledgePrepared {
        vbucket,
        stream,
        seqno,
    };
    producer.send(done).await.expect("an answer")
}

#[test]
fn a_word_counts_only_for_what_was_sent_on_a_stream_that_lives() {
    run(3, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a", "b"]);
        let vbucket = active.vbucket_of(b"k");
        let hearing = replica(&active, vbucket, Some("b")).await;
        let asked = begin(&active, "k", "v", LEVEL);
        let prepared = async {
            loop {
                let batches = hearing.probe.received();
                let mut events = batches.iter().flat_map(|batch| &batch.events);
                if events.any(|event| matches!(event, StreamEvent::Prepare(_))) {
                    return;
                }
                worlds[0].sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, prepared).await.expect("a prepare");
        // Of a stream that is over, or never was, nothing is heard, and that is nobody's fault.
        let other = StreamId(u64::MAX);
        let ignored = acknowledge(&active, vbucket, other, Seqno(1)).await;
        assert_eq!(ignored, Ok(()));
        worlds[0].sleep(Duration::from_secs(1)).await;
        assert!(!asked.is_finished());
        // What was not sent nobody can hold; the stream that says so is over, and its next word goes unheard.
        let second = replica(&active, vbucket, Some("c")).await;
        let unsent = acknowledge(&active, vbucket, second.stream, Seqno(99)).await;
        assert!(
            matches!(unsent, Err(StreamError::AcknowledgedUnsent { .. })),
            "{unsent:?}"
        );
        assert!(!asked.is_finished());
        acknowledge(&active, vbucket, hearing.stream, Seqno(1))
            .await
            .expect("it is heard");
        answer(asked).await.expect("a commit");
        settled(&active).await;
    });
}

#[test]
fn a_stream_that_shows_no_prepares_takes_no_word_for_them() {
    run(4, async |worlds| {
        let active = created(&worlds[0], "a").await;
        let vbucket = active.vbucket_of(b"k");
        let hearing = replica(&active, vbucket, None).await;
        let refused = acknowledge(&active, vbucket, hearing.stream, Seqno(0)).await;
        assert_eq!(refused, Err(StreamError::NotSynchronous(hearing.stream)));
    });
}
