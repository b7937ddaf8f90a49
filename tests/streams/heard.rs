//! One stream of the first vbucket, as its consumer hears it.

use std::collections::BTreeSet;

use tokio::time::timeout;

use piggin::messages::stream::{
    GetFailoverLog, OpenStream, SnapshotFlags, StreamBatch, StreamEndReason, StreamEvent,
    StreamFlags, StreamOpened, StreamOptions, StreamRequest, StreamRequestError,
};
use piggin::storage::{CollectionId, Seqno, SnapshotRange, SystemEvent, VbucketId, VbucketUuid};
use piggin::{Bucket, Change};
use supervisor::testing::Probe;

use crate::common::{Mirror, PATIENCE, key};

pub(crate) const ID: VbucketId = VbucketId::FIRST;

/// A stream at its consumer.
pub(crate) struct Heard {
    pub(crate) opened: StreamOpened,
    pub(crate) probe: Probe<StreamBatch>,
}

pub(crate) fn request() -> StreamRequest {
    StreamRequest {
        options: StreamOptions {
            buffer_bytes: None,
            ..StreamOptions::default()
        },
        ..StreamRequest::new(ID, "flags")
    }
}

pub(crate) fn flagged(flags: StreamFlags) -> StreamRequest {
    StreamRequest { flags, ..request() }
}

/// From there on, everything before being whole.
pub(crate) async fn from(bucket: &Bucket, start: Seqno) -> StreamRequest {
    StreamRequest {
        start,
        snapshot: SnapshotRange { start, end: start },
        vbucket_uuid: newest_branch(bucket).await,
        ..request()
    }
}

async fn newest_branch(bucket: &Bucket) -> VbucketUuid {
    let producer = bucket.producer(ID).expect("a producer");
    let log = producer.send(GetFailoverLog { vbucket: ID }).await;
    log.expect("an answer").expect("a log")[0].uuid
}

pub(crate) async fn ask(
    bucket: &Bucket,
    request: StreamRequest,
) -> Result<Heard, StreamRequestError> {
    let probe = Probe::<StreamBatch>::start(|_| ());
    let producer = bucket.producer(ID).expect("a producer");
    let to = probe.recipient();
    let answer = timeout(PATIENCE, producer.send(OpenStream { request, to })).await;
    let opened = answer.expect("in time").expect("an answer")?;
    Ok(Heard { opened, probe })
}

pub(crate) async fn stream(bucket: &Bucket, request: StreamRequest) -> Heard {
    ask(bucket, request).await.expect("a stream")
}

impl Heard {
    pub(crate) fn events(&self) -> Vec<StreamEvent> {
        let batches = self.probe.received();
        batches.into_iter().flat_map(|batch| batch.events).collect()
    }

    /// What the consumer made of it so far; every event checked.
    pub(crate) fn mirror(&self) -> Mirror {
        let mut mirror = Mirror::of_one_stream();
        for event in self.events() {
            mirror.take(Change { vbucket: ID, event });
        }
        mirror
    }

    /// Why it ended.
    pub(crate) async fn end(&self) -> StreamEndReason {
        let ended = async {
            for count in 1.. {
                self.probe.await_received(count).await;
                if let Some(StreamEvent::StreamEnd(reason)) = self.events().last() {
                    return *reason;
                }
            }
            unreachable!("it ends");
        };
        timeout(PATIENCE, ended).await.expect("an end")
    }

    pub(crate) fn markers(&self) -> Vec<SnapshotFlags> {
        let events = self.events().into_iter();
        let flags = events.filter_map(|event| {
            let StreamEvent::SnapshotMarker(marker) = event else {
                return None;
            };
            Some(marker.flags)
        });
        flags.collect()
    }

    pub(crate) fn last(&self) -> Seqno {
        let events = self.events();
        let last = events.iter().rev().find_map(StreamEvent::seqno);
        last.unwrap_or_default()
    }

    /// Numbers of the collections that began and ended.
    pub(crate) fn collections(&self) -> (BTreeSet<CollectionId>, BTreeSet<CollectionId>) {
        let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
        for event in self.events() {
            let StreamEvent::SystemEvent(event) = event else {
                continue;
            };
            match event.event {
                SystemEvent::CollectionBegin { collection, .. } => begun.insert(collection),
                SystemEvent::CollectionEnd { collection, .. } => ended.insert(collection),
                SystemEvent::ScopeBegin { .. } | SystemEvent::ScopeEnd { .. } => false,
            };
        }
        (begun, ended)
    }
}

/// Keys of the first vbucket.
pub(crate) fn keys_of_first(bucket: &Bucket, count: usize) -> Vec<String> {
    let keys = (1000..).map(key);
    let is_of_it = |key: &String| bucket.vbucket_of(key.as_bytes()) == ID;
    keys.filter(is_of_it).take(count).collect()
}
