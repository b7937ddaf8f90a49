//! A consumer of one vbucket, by messages alone: small windows, every event checked, its stream opened again whenever it
//! ended, from where it was.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use parking_lot::Mutex;
use tokio::time::timeout;

use piggin::messages::stream::{
    BufferAcknowledge, CloseStream, OpenStream, StreamBatch, StreamEndReason, StreamError,
    StreamEvent, StreamId, StreamOptions, StreamRequest, StreamRequestError,
};
use piggin::storage::{Seqno, SnapshotRange, VbucketId, VbucketUuid};
use piggin::{Bucket, Change};

use crate::common::{Mirror, PATIENCE};

/// Takes what comes, and does nothing for a while when it is told so.
#[derive(Default)]
pub(crate) struct Mailbox {
    batches: Arc<Mutex<VecDeque<StreamBatch>>>,
    rests_for: Option<Duration>,
}

impl Mailbox {
    /// One that takes what fits in it, and nothing more for so long.
    pub(crate) fn resting(
        batches: &Arc<Mutex<VecDeque<StreamBatch>>>,
        time: Duration,
    ) -> Addr<Mailbox> {
        let mailbox = Mailbox {
            batches: Arc::clone(batches),
            rests_for: Some(time),
        };
        mailbox.start()
    }
}

impl Actor for Mailbox {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(time) = self.rests_for {
            ctx.set_mailbox_capacity(1);
            ctx.wait(fut::wrap_future(tokio::time::sleep(time)));
        }
    }
}

impl Handler<StreamBatch> for Mailbox {
    type Result = ();

    fn handle(&mut self, batch: StreamBatch, _: &mut Context<Self>) {
        self.batches.lock().push_back(batch);
    }
}

/// Ends it, as a consumer ends that breaks down.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Die;

impl Handler<Die> for Mailbox {
    type Result = ();

    fn handle(&mut self, _: Die, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

/// What becomes of a stream when its consumer wants it anew.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaves {
    /// It closes the one it has.
    Closing,
    /// It dies, and another one comes in its place.
    Dying,
}

/// The consumer.
pub(crate) struct Follower {
    pub(crate) vbucket: VbucketId,
    pub(crate) mirror: Mirror,
    /// Markers that came.
    pub(crate) snapshots: u64,
    /// Answers that sent it back.
    pub(crate) rollbacks: u64,
    window: u64,
    mailbox: Addr<Mailbox>,
    batches: Arc<Mutex<VecDeque<StreamBatch>>>,
    stream: Option<StreamId>,
    uuid: VbucketUuid,
    seqno: Seqno,
    snapshot: SnapshotRange,
}

impl Follower {
    pub(crate) fn new(vbucket: VbucketId, window: u64) -> Follower {
        let batches = Arc::<Mutex<VecDeque<StreamBatch>>>::default();
        Follower {
            vbucket,
            mirror: Mirror::of_one_stream(),
            snapshots: 0,
            rollbacks: 0,
            window,
            mailbox: mailbox(&batches),
            batches,
            stream: None,
            uuid: VbucketUuid(0),
            seqno: Seqno::ZERO,
            snapshot: SnapshotRange::default(),
        }
    }

    pub(crate) fn has_stream(&self) -> bool {
        self.stream.is_some()
    }

    pub(crate) fn seqno(&self) -> Seqno {
        self.seqno
    }

    /// Takes up to `max` batches, and acknowledges them; opens the stream first if it has none.
    pub(crate) async fn take(&mut self, bucket: &Bucket, max: usize) {
        if self.stream.is_none() {
            self.open(bucket).await;
        }
        for _ in 0..max {
            let Some(batch) = self.batches.lock().pop_front() else {
                return;
            };
            if Some(batch.stream) == self.stream {
                self.handle(bucket, batch).await;
            }
        }
    }

    async fn handle(&mut self, bucket: &Bucket, batch: StreamBatch) {
        let StreamBatch {
            vbucket,
            stream,
            events,
            bytes,
        } = batch;
        assert_eq!(vbucket, self.vbucket);
        for event in events {
            self.note(&event);
            self.mirror.take(Change { vbucket, event });
        }
        let done = BufferAcknowledge {
            vbucket,
            stream,
            bytes,
        };
        let Some(producer) = bucket.producer(vbucket) else {
            return;
        };
        match timeout(PATIENCE, producer.send(done)).await {
            // It ended, or a panic took it; the process is gone; the same while it was asked.
            Ok(
                Ok(Ok(()) | Err(StreamError::NotFound { .. } | StreamError::Producer(_))) | Err(_),
            ) => {}
            other => panic!("{other:?}"),
        }
    }

    fn note(&mut self, event: &StreamEvent) {
        match event {
            StreamEvent::SnapshotMarker(marker) => {
                self.snapshots += 1;
                self.snapshot = SnapshotRange {
                    start: marker.start,
                    end: marker.end,
                };
            }
            StreamEvent::StreamEnd(reason) => {
                assert_ne!(*reason, StreamEndReason::Ok, "it was to go on for ever");
                self.stream = None;
            }
            StreamEvent::Prepare(_) | StreamEvent::Commit(_) | StreamEvent::Abort(_) => {
                panic!("told to one who is no replica: {event:?}");
            }
            StreamEvent::Mutation(_)
            | StreamEvent::Deletion(_)
            | StreamEvent::Expiration(_)
            | StreamEvent::SystemEvent(_)
            | StreamEvent::SeqnoAdvanced(_) => {
                self.seqno = event.seqno().expect("its place");
                if self.seqno == self.snapshot.end {
                    self.snapshot.start = self.seqno;
                }
            }
        }
    }

    async fn open(&mut self, bucket: &Bucket) {
        let Some(producer) = bucket.producer(self.vbucket) else {
            return;
        };
        // What is left is of a stream that is over.
        self.batches.lock().clear();
        self.mirror.begin();
        let has_nothing_of_it = self.seqno < self.snapshot.start;
        let snapshot = if has_nothing_of_it {
            SnapshotRange {
                start: self.seqno,
                end: self.seqno,
            }
        } else {
            self.snapshot
        };
        let open = OpenStream {
            request: StreamRequest {
                start: self.seqno,
                snapshot,
                vbucket_uuid: self.uuid,
                options: StreamOptions {
                    buffer_bytes: Some(self.window),
                    ..StreamOptions::default()
                },
                ..StreamRequest::new(self.vbucket, "follower")
            },
            to: self.mailbox.clone().recipient(),
        };
        match timeout(PATIENCE, producer.send(open)).await {
            Ok(Ok(Ok(opened))) => {
                self.stream = Some(opened.stream);
                self.uuid = opened.failover_log[0].uuid;
            }
            Ok(Ok(Err(StreamRequestError::Rollback { seqno }))) => {
                assert!(seqno <= self.seqno, "back to {seqno} from {}", self.seqno);
                self.rollbacks += 1;
                self.forget();
            }
            // Asked again: a panic, or the end of the process.
            Ok(Ok(Err(StreamRequestError::Vbucket(_))) | Err(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    /// The simplest that is right: it has nothing any more.
    fn forget(&mut self) {
        self.mirror.forget(self.vbucket);
        self.seqno = Seqno::ZERO;
        self.snapshot = SnapshotRange::default();
        self.uuid = VbucketUuid(0);
    }

    /// Wants its stream anew.
    pub(crate) async fn reconnect(&mut self, bucket: &Bucket, how: Leaves) {
        match how {
            Leaves::Closing => {
                let close = self.stream.take().map(|stream| CloseStream {
                    vbucket: self.vbucket,
                    stream,
                });
                if let (Some(producer), Some(close)) = (bucket.producer(self.vbucket), close) {
                    drop(timeout(PATIENCE, producer.send(close)).await);
                }
            }
            Leaves::Dying => {
                self.mailbox.send(Die).await.expect("its end");
                self.stream = None;
                self.batches = Arc::default();
                self.mailbox = mailbox(&self.batches);
            }
        }
    }

    /// The process is gone, and with it the stream.
    pub(crate) fn lose(&mut self) {
        self.stream = None;
    }
}

fn mailbox(batches: &Arc<Mutex<VecDeque<StreamBatch>>>) -> Addr<Mailbox> {
    let mailbox = Mailbox {
        batches: Arc::clone(batches),
        rests_for: None,
    };
    mailbox.start()
}
