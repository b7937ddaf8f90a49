//! What the mailbox of a recipient has no room for waits, and is not lost: neither changes nor the last word of a stream,
//! whoever panics meanwhile. A recipient that died is in nobody's way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use parking_lot::Mutex;
use tokio::time::timeout;

use piggin::messages::ChildName;
use piggin::messages::stream::{
    GetFailoverLog, OpenStream, StreamBatch, StreamEndReason, StreamEvent, StreamOptions,
    StreamRequest, StreamRequestError,
};
use piggin::storage::VbucketId;
use piggin::{Bucket, Change};
use supervisor::testing::{Fault, World};

use crate::common::{Mirror, PATIENCE, assert_at_base, filled, key, run};
use crate::follower::{Die, Mailbox};

const DOCUMENTS: usize = 60;
const REST: Duration = Duration::from_secs(60);

type Batches = Arc<Mutex<VecDeque<StreamBatch>>>;

/// A stream that only the mailbox holds up.
async fn open(bucket: &Bucket, to: &Addr<Mailbox>) -> Result<(), StreamRequestError> {
    let id = VbucketId::FIRST;
    let open = OpenStream {
        request: StreamRequest {
            options: StreamOptions {
                buffer_bytes: None,
                ..StreamOptions::default()
            },
            ..StreamRequest::new(id, "mailbox")
        },
        to: to.clone().recipient(),
    };
    let producer = bucket.producer(id).expect("a producer");
    let answer = timeout(PATIENCE, producer.send(open)).await;
    answer.expect("in time").expect("an answer").map(drop)
}

/// Everything that came, checked.
fn taken(batches: &Batches) -> Mirror {
    let mut mirror = Mirror::of_one_stream();
    for batch in std::mem::take(&mut *batches.lock()) {
        let vbucket = batch.vbucket;
        for event in batch.events {
            mirror.take(Change { vbucket, event });
        }
    }
    mirror
}

async fn documents_of_first(bucket: &Bucket) -> usize {
    let mut count = 0;
    for number in 0..DOCUMENTS {
        let is_there = bucket.exists(key(number)).await.expect("an answer");
        let is_in_first = bucket.vbucket_of(key(number).as_bytes()) == VbucketId::FIRST;
        count += usize::from(is_there && is_in_first);
    }
    count
}

async fn overwrite(world: &World, bucket: &Bucket, times: usize) {
    for number in 0..times {
        let write = bucket.set(key(number % DOCUMENTS), vec![b'n'; 300]);
        write.await.expect("a write");
        if number % 50 == 0 {
            bucket.flush().await.expect("a flush");
            world.sleep(Duration::from_millis(20)).await;
        }
    }
}

/// It dies, which is noticed when there is something for it.
async fn leave(bucket: &Bucket, mailbox: &Addr<Mailbox>) {
    mailbox.send(Die).await.expect("its end");
    for number in 0..DOCUMENTS {
        bucket.set(key(number), "once more").await.expect("a write");
    }
}

#[test]
fn a_recipient_that_died_keeps_nothing_where_nothing_changes() {
    run(9, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let batches = Batches::default();
        let mailbox = Mailbox::resting(&batches, Duration::ZERO);
        open(&bucket, &mailbox).await.expect("a stream");
        world.sleep(Duration::from_secs(1)).await;
        let core = bucket.vbucket_core(VbucketId::FIRST).expect("it");
        assert_eq!(core.cursors(), 2, "that of the flusher, and its own");
        mailbox.send(Die).await.expect("its end");
        world.sleep(Duration::from_secs(11)).await;
        assert_eq!(core.cursors(), 1);
        drop(core);
        assert_at_base(&world, &bucket).await;
    });
}

#[test]
fn a_full_mailbox_delays_and_loses_nothing() {
    run(1, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let batches = Batches::default();
        let slow = Mailbox::resting(&batches, REST);
        world.sleep(Duration::from_millis(1)).await;
        open(&bucket, &slow).await.expect("a stream");
        overwrite(&world, &bucket, 400).await;
        world.sleep(REST / 2).await;
        assert!(batches.lock().is_empty(), "it reads nothing");
        world.sleep(REST).await;
        let mirror = taken(&batches);
        assert!(mirror.is_whole());
        assert!(mirror.ends.is_empty(), "{:?}", mirror.ends);
        let documents = mirror.all_documents();
        assert_eq!(documents.len(), documents_of_first(&bucket).await);
        for (key, value) in documents {
            assert_eq!(bucket.get(&key).await.expect("it").value, value);
        }
        leave(&bucket, &slow).await;
        assert_at_base(&world, &bucket).await;
    });
}

#[test]
fn a_recipient_that_died_gives_its_name_back() {
    run(2, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let (gone, batches) = (Batches::default(), Batches::default());
        let dies = Mailbox::resting(&gone, Duration::from_millis(50));
        open(&bucket, &dies).await.expect("a stream");
        dies.send(Die).await.expect("its end");
        world.sleep(Duration::from_millis(1)).await;
        assert!(!dies.connected());
        let lives = Mailbox::resting(&batches, Duration::ZERO);
        open(&bucket, &lives).await.expect("a stream of that name");
        overwrite(&world, &bucket, 60).await;
        let before = taken(&gone).all_documents().len();
        world.sleep(Duration::from_secs(5)).await;
        let mirror = taken(&batches);
        assert_eq!(
            mirror.all_documents().len(),
            documents_of_first(&bucket).await
        );
        assert!(mirror.is_whole());
        assert_eq!(taken(&gone).all_documents().len(), 0, "{before} before");
        let again = open(&bucket, &lives).await;
        assert!(matches!(
            again,
            Err(StreamRequestError::StreamExists { .. })
        ));
        leave(&bucket, &lives).await;
        assert_at_base(&world, &bucket).await;
    });
}

#[test]
fn the_end_of_a_stream_waits_for_room_over_a_panic() {
    run(3, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let batches = Batches::default();
        let slow = Mailbox::resting(&batches, REST);
        world.sleep(Duration::from_millis(1)).await;
        open(&bucket, &slow).await.expect("a stream");
        overwrite(&world, &bucket, 100).await;
        // Twice: what could not be said is kept from life to life.
        for _ in 0..2 {
            let child = ChildName::new("producer-0");
            world.inject(Fault::PanicIn { child, nth: 1 });
            let producer = bucket.producer(VbucketId::FIRST).expect("a producer");
            let get = GetFailoverLog {
                vbucket: VbucketId::FIRST,
            };
            // This message strikes it, if no other was faster.
            drop(producer.send(get).await.expect("an answer"));
            world.sleep(Duration::from_secs(5)).await;
            assert_eq!(world.faults_waiting(), 0);
        }
        assert!(batches.lock().is_empty(), "it reads nothing");
        assert_at_base(&world, &bucket).await;
        world.sleep(2 * REST).await;
        let events: Vec<StreamEvent> = {
            let batches = batches.lock();
            let all = batches.iter().flat_map(|batch| batch.events.clone());
            all.collect()
        };
        let ends = events.iter();
        let ends = ends.filter(|event| matches!(event, StreamEvent::StreamEnd(_)));
        assert_eq!(ends.count(), 1);
        let last = StreamEvent::StreamEnd(StreamEndReason::Disconnected);
        assert_eq!(events.last(), Some(&last));
        // It asks again, and gets everything.
        batches.lock().clear();
        let again = Mailbox::resting(&batches, Duration::ZERO);
        open(&bucket, &again).await.expect("a stream");
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(
            taken(&batches).all_documents().len(),
            documents_of_first(&bucket).await
        );
        leave(&bucket, &again).await;
        assert_at_base(&world, &bucket).await;
    });
}
