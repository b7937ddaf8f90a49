//! Whatever is asked wrongly gets exactly one typed answer, and nothing of it is left.

use piggin::messages::OperationError;
use piggin::messages::stream::{
    BufferAcknowledge, CloseStream, GetFailoverLog, OpenStream, StreamBatch, StreamError,
    StreamFilter, StreamFlags, StreamId, StreamOptions, StreamRequest, StreamRequestError,
};
use piggin::storage::{CollectionId, ScopeId, Seqno, SnapshotRange, VbucketId, VbucketUuid};
use piggin::{Bucket, ChangesError, ChangesOptions, ChangesToken, Since, TokenError};
use supervisor::testing::{Probe, World};

use crate::common::{Mirror, all, assert_at_base, filled, run};

fn request() -> StreamRequest {
    StreamRequest::new(VbucketId::FIRST, "test")
}

fn from(start: u64, snapshot: [u64; 2]) -> StreamRequest {
    StreamRequest {
        start: Seqno(start),
        snapshot: SnapshotRange {
            start: Seqno(snapshot[0]),
            end: Seqno(snapshot[1]),
        },
        ..request()
    }
}

async fn ask(
    bucket: &Bucket,
    request: StreamRequest,
    to: &Probe<StreamBatch>,
) -> Result<StreamId, StreamRequestError> {
    let producer = bucket.producer(VbucketId::FIRST).expect("a producer");
    let to = to.recipient();
    let answer = producer.send(OpenStream { request, to }).await;
    answer.expect("an answer").map(|opened| opened.stream)
}

async fn with_bucket(world: World, check: impl AsyncFnOnce(&Bucket, &Probe<StreamBatch>)) {
    let bucket = filled(&world, 40).await;
    let probe = Probe::<StreamBatch>::start(|_| ());
    check(&bucket, &probe).await;
    drop(probe);
    assert_at_base(&world, &bucket).await;
    bucket.shutdown().await.expect("an orderly end");
}

#[test]
fn a_wrong_request_is_refused_with_its_reason() {
    run(1, async |world| {
        with_bucket(world, async |bucket, probe| {
            let refused = async |request| {
                let refused = ask(bucket, request, probe).await;
                refused.expect_err("a refusal")
            };
            let end = StreamRequest {
                end: Seqno(1),
                ..from(2, [2, 2])
            };
            assert!(matches!(
                refused(end).await,
                StreamRequestError::StartAboveEnd { .. }
            ));
            let outside = refused(from(2, [3, 4])).await;
            assert!(matches!(
                outside,
                StreamRequestError::OutsideSnapshot { .. }
            ));
            let unknown = refused(from(2, [2, 2])).await;
            assert_eq!(unknown, StreamRequestError::Rollback { seqno: Seqno::ZERO });
            let collection = StreamRequest {
                filter: StreamFilter::Collections(vec![CollectionId(77)]),
                ..request()
            };
            let collection = refused(collection).await;
            assert_eq!(
                collection,
                StreamRequestError::UnknownCollection(CollectionId(77))
            );
            let flags = StreamRequest {
                flags: StreamFlags(1),
                ..request()
            };
            assert_eq!(
                refused(flags).await,
                StreamRequestError::UnknownFlags { unknown: 1 }
            );
            let vbucket = VbucketId::new(1000).expect("a number");
            let vbucket = StreamRequest {
                vbucket,
                ..request()
            };
            assert!(matches!(
                refused(vbucket.clone()).await,
                StreamRequestError::Vbucket(OperationError::UnknownVbucket(_))
            ));
            let scope = StreamRequest {
                filter: StreamFilter::Scope(ScopeId(77)),
                ..request()
            };
            let unknown = StreamRequestError::UnknownScope(ScopeId(77));
            assert_eq!(refused(scope).await, unknown);
            let nothing = StreamRequest {
                filter: StreamFilter::Collections(Vec::new()),
                ..request()
            };
            assert_eq!(refused(nothing).await, StreamRequestError::EmptyFilter);
            for length in [0, 201] {
                let named = StreamRequest {
                    consumer: "n".repeat(length).into(),
                    // Of no vbucket either: words come first.
                    vbucket: vbucket.vbucket,
                    ..request()
                };
                let refused = refused(named).await;
                assert_eq!(refused, StreamRequestError::ConsumerName { length });
            }
            assert_eq!(probe.received(), []);
        })
        .await;
    });
}

#[test]
fn a_consumer_ahead_of_the_vbucket_must_go_back() {
    run(2, async |world| {
        with_bucket(world, async |bucket, probe| {
            let producer = bucket.producer(VbucketId::FIRST).expect("a producer");
            let get = GetFailoverLog {
                vbucket: VbucketId::FIRST,
            };
            let log = producer.send(get).await.expect("an answer").expect("a log");
            let high = bucket.statistics().vbuckets[0].high_seqno;
            let ahead = StreamRequest {
                vbucket_uuid: log[0].uuid,
                ..from(high.0 + 5, [high.0 + 5, high.0 + 5])
            };
            let refused = ask(bucket, ahead, probe).await;
            assert_eq!(refused, Err(StreamRequestError::Rollback { seqno: high }));
            let strict = StreamRequest {
                vbucket_uuid: VbucketUuid(4),
                flags: StreamFlags::STRICT_VB_UUID,
                ..request()
            };
            let refused = ask(bucket, strict, probe).await;
            assert_eq!(
                refused,
                Err(StreamRequestError::Rollback { seqno: Seqno::ZERO })
            );
        })
        .await;
    });
}

#[test]
fn a_second_stream_of_a_name_is_refused_and_the_first_goes_on() {
    run(3, async |world| {
        with_bucket(world, async |bucket, probe| {
            let stream = ask(bucket, request(), probe).await.expect("a stream");
            let again = ask(bucket, request(), probe).await;
            assert!(matches!(
                again,
                Err(StreamRequestError::StreamExists { .. })
            ));
            let other = StreamRequest {
                stream_number: 1,
                ..request()
            };
            let other = ask(bucket, other, probe).await.expect("a stream");
            let before = probe.await_received(1).await.len();
            bucket.set("written meanwhile", "1").await.expect("a write");
            probe.await_received(before + 1).await;
            let producer = bucket.producer(VbucketId::FIRST).expect("a producer");
            for stream in [stream, other] {
                let vbucket = VbucketId::FIRST;
                let closed = producer.send(CloseStream { vbucket, stream }).await;
                assert_eq!(closed.expect("an answer"), Ok(()));
            }
        })
        .await;
    });
}

#[test]
fn acknowledgements_of_what_is_not_there_are_refused() {
    run(4, async |world| {
        with_bucket(world, async |bucket, probe| {
            let producer = bucket.producer(VbucketId::FIRST).expect("a producer");
            let vbucket = VbucketId::FIRST;
            let acknowledge = async |stream, bytes| {
                let done = BufferAcknowledge {
                    vbucket,
                    stream,
                    bytes,
                };
                producer.send(done).await.expect("an answer")
            };
            let stream = StreamId(999);
            assert_eq!(
                acknowledge(stream, 1).await,
                Err(StreamError::NotFound { vbucket, stream })
            );
            let small = StreamRequest {
                options: StreamOptions {
                    buffer_bytes: Some(1),
                    ..StreamOptions::default()
                },
                ..request()
            };
            let stream = ask(bucket, small, probe).await.expect("a stream");
            let first = probe.await_received(1).await;
            // One event overshoots the window, then the producer waits.
            assert_eq!(first[0].events.len(), 1);
            let outstanding = first[0].bytes;
            let too_much = StreamError::AcknowledgedTooMuch {
                acknowledged: outstanding + 1,
                outstanding,
            };
            assert_eq!(acknowledge(stream, outstanding + 1).await, Err(too_much));
            assert_eq!(probe.received().len(), 1);
            assert_eq!(acknowledge(stream, outstanding).await, Ok(()));
            assert_eq!(probe.await_received(2).await.len(), 2);
            let closed = producer.send(CloseStream { vbucket, stream }).await;
            assert_eq!(closed.expect("an answer"), Ok(()));
            let ended = probe.await_received(3).await;
            assert_eq!(ended[2].events.len(), 1);
            let dead = acknowledge(stream, 1).await;
            assert_eq!(dead, Err(StreamError::NotFound { vbucket, stream }));
        })
        .await;
    });
}

#[test]
fn a_token_that_is_damaged_or_of_another_bucket_is_refused() {
    run(5, async |world| {
        let bucket = filled(&world, 40).await;
        let token = Mirror::default().take_all(&bucket, all()).await;
        let text = token.to_string();
        let digits = text.get(10..12).unwrap();
        let damaged = text.replace(digits, "zz").parse::<ChangesToken>();
        assert!(matches!(damaged, Err(TokenError::Damaged(_))));
        let since = |token| ChangesOptions {
            since: Since::Token(token),
            ..all()
        };
        let filtered = ChangesOptions {
            filter: StreamFilter::Collections(vec![CollectionId::DEFAULT]),
            ..since(token.clone())
        };
        let refused = bucket.changes(filtered).await.expect_err("a refusal");
        assert_eq!(refused, ChangesError::Token(TokenError::OtherSelection));
        assert!(bucket.changes(since(token)).await.is_ok());
        let unknown = ChangesOptions {
            filter: StreamFilter::Collections(vec![CollectionId(77)]),
            ..all()
        };
        let refused = bucket.changes(unknown).await.expect_err("a refusal");
        let unknown = StreamRequestError::UnknownCollection(CollectionId(77));
        assert_eq!(refused, ChangesError::Request(unknown));
        assert_at_base(&world, &bucket).await;
    });
}
