//! Who is no replica is told of what is committed, and of nothing else; a replica is told of everything, and heard.

use std::time::Duration;

use actix::prelude::*;
use tokio::time::timeout;

use piggin::messages::OperationError;
use piggin::messages::stream::{
    AcknowledgePrepared, CloseStream, OpenStream, StreamBatch, StreamError, StreamEvent, StreamId,
    StreamOptions, StreamRequest, StreamRequestError, SyncReplication,
};
use piggin::messages::vbucket::SetVbucketState;
use piggin::storage::{DurabilityLevel, Operation, Seqno, Topology, VbucketId, VbucketState};
use piggin::{Bucket, ChangesOptions};
use supervisor::testing::{Probe, World};

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
    let opened = open(bucket, vbucket, ("by hand", node)).await;
    opened.expect("a stream")
}

/// The same, by that consumer.
async fn open(
    bucket: &Bucket,
    vbucket: VbucketId,
    (consumer, node): (&str, Option<&str>),
) -> Result<Hearing, StreamRequestError> {
    let probe = Probe::start(|_: &StreamBatch| ());
    let request = asked_for(vbucket, consumer, node);
    let to = probe.recipient();
    let producer = bucket.producer(vbucket).expect("a producer");
    let opened = producer.send(OpenStream { request, to }).await;
    let stream = opened.expect("an answer")?.stream;
    Ok(Hearing { probe, stream })
}

fn asked_for(vbucket: VbucketId, consumer: &str, node: Option<&str>) -> StreamRequest {
    StreamRequest {
        options: StreamOptions {
            buffer_bytes: None,
            sync_replication: node.map(|node| SyncReplication {
                node: node.into(),
                is_in_disk_snapshot: false,
            }),
            ..StreamOptions::default()
        },
        ..StreamRequest::new(vbucket, consumer)
    }
}

/// A consumer's mailbox, until it dies.
struct Mailbox;

#[derive(Message)]
#[rtype(result = "()")]
struct Die;

impl Actor for Mailbox {
    type Context = Context<Self>;
}

impl Handler<StreamBatch> for Mailbox {
    type Result = ();

    fn handle(&mut self, _: StreamBatch, _: &mut Context<Self>) {}
}

impl Handler<Die> for Mailbox {
    type Result = ();

    fn handle(&mut self, _: Die, context: &mut Context<Self>) {
        context.stop();
    }
}

impl Hearing {
    /// Waits until it was sent a prepare.
    async fn prepare(&self, world: &World) {
        let prepared = async {
            loop {
                let batches = self.probe.received();
                let mut events = batches.iter().flat_map(|batch| &batch.events);
                if events.any(|event| matches!(event, StreamEvent::Prepare(_))) {
                    return;
                }
                world.sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, prepared).await.expect("a prepare");
    }
}

async fn close(bucket: &Bucket, vbucket: VbucketId, stream: StreamId) {
    let producer = bucket.producer(vbucket).expect("a producer");
    let closed = producer.send(CloseStream { vbucket, stream }).await;
    closed.expect("an answer").expect("it is closed");
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
        let first = replica(&active, vbucket, Some("b")).await;
        let asked = begin(&active, "k", "v", LEVEL);
        first.prepare(&worlds[0]).await;
        let says = async |stream, seqno| {
            let heard = acknowledge(&active, vbucket, stream, Seqno(seqno)).await;
            // Whatever it led to has happened by then, and nobody's time is up.
            worlds[0].sleep(Duration::from_secs(1)).await;
            heard
        };
        // Of a stream that never was, or is over, nothing is heard, and that is nobody's fault.
        assert_eq!(says(StreamId(u64::MAX), 1).await, Ok(()));
        assert!(!asked.is_finished(), "a stream that never was");
        // What was not sent nobody can hold; the stream that says so is over.
        let unsent = says(first.stream, 99).await;
        assert!(
            matches!(unsent, Err(StreamError::AcknowledgedUnsent { .. })),
            "{unsent:?}"
        );
        assert!(!asked.is_finished(), "it was not sent");
        assert_eq!(says(first.stream, 1).await, Ok(()));
        assert!(!asked.is_finished(), "a stream that contradicted itself");
        let second = replica(&active, vbucket, Some("b")).await;
        second.prepare(&worlds[0]).await;
        close(&active, vbucket, second.stream).await;
        assert_eq!(says(second.stream, 1).await, Ok(()));
        assert!(!asked.is_finished(), "a stream that was closed");
        let third = replica(&active, vbucket, Some("b")).await;
        third.prepare(&worlds[0]).await;
        assert_eq!(says(third.stream, 1).await, Ok(()));
        answer(asked).await.expect("a commit");
        settled(&active).await;
    });
}

#[test]
fn a_word_counts_only_in_the_role_it_was_said_in() {
    run(5, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a", "b"]);
        let vbucket = active.vbucket_of(b"k");
        let before = replica(&active, vbucket, Some("b")).await;
        let asked = begin(&active, "k", "v", LEVEL);
        before.prepare(&worlds[0]).await;
        let core = active.vbucket_core(vbucket).expect("a vbucket");
        for state in [VbucketState::Replica, VbucketState::Active] {
            let topology = Some(Topology::of_chain(["a", "b"]));
            let change = SetVbucketState {
                state,
                topology,
                is_takeover: false,
            };
            core.set_state(change).expect("another role");
        }
        let late = acknowledge(&active, vbucket, before.stream, Seqno(1)).await;
        assert_eq!(late, Ok(()));
        assert_eq!(answer(asked).await, Err(OperationError::SyncWriteAmbiguous));
        worlds[0].sleep(Duration::from_secs(1)).await;
        let prepares = || {
            let status = active.durability_status(vbucket);
            status.expect("a vbucket").prepares
        };
        assert_eq!(prepares(), 1, "said in another role");
        let now = replica(&active, vbucket, Some("b")).await;
        now.prepare(&worlds[0]).await;
        let heard = acknowledge(&active, vbucket, now.stream, Seqno(1)).await;
        assert_eq!(heard, Ok(()));
        settled(&active).await;
    });
}

#[test]
fn a_node_is_heard_on_one_stream() {
    run(6, async |worlds| {
        let active = created(&worlds[0], "a").await;
        let vbucket = active.vbucket_of(b"k");
        let first = open(&active, vbucket, ("one", Some("b"))).await;
        let first = first.expect("a stream");
        let again = open(&active, vbucket, ("two", Some("b"))).await;
        let node = "b".into();
        assert_eq!(
            again.map(|hearing| hearing.stream),
            Err(StreamRequestError::NodeHasStream { node })
        );
        let other = open(&active, vbucket, ("two", Some("c"))).await;
        other.expect("a stream of another node");
        close(&active, vbucket, first.stream).await;
        let next = open(&active, vbucket, ("three", Some("b"))).await;
        next.expect("a stream of the node");
    });
}

/// A node whose consumer died, where nothing happens any more, is missed all the same: another stream of the node is heard.
#[test]
fn a_node_whose_consumer_died_is_given_up() {
    run(7, async |worlds| {
        let active = created(&worlds[0], "a").await;
        chain(&active, ["a", "b"]);
        let vbucket = active.vbucket_of(b"k");
        let mailbox = Mailbox.start();
        let producer = active.producer(vbucket).expect("a producer");
        let request = asked_for(vbucket, "one", Some("b"));
        let to = mailbox.clone().recipient();
        let opened = producer.send(OpenStream { request, to }).await;
        opened.expect("an answer").expect("a stream");
        let asked = begin(&active, "k", "v", LEVEL);
        worlds[0].sleep(Duration::from_secs(1)).await;
        let taken = open(&active, vbucket, ("two", Some("b"))).await;
        assert!(matches!(
            taken,
            Err(StreamRequestError::NodeHasStream { .. })
        ));
        mailbox.send(Die).await.expect("an answer");
        worlds[0].sleep(Duration::from_secs(15)).await;
        let next = open(&active, vbucket, ("two", Some("b"))).await;
        let next = next.expect("a stream of the node");
        next.prepare(&worlds[0]).await;
        let heard = acknowledge(&active, vbucket, next.stream, Seqno(1)).await;
        assert_eq!(heard, Ok(()));
        answer(asked).await.expect("a commit");
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
