//! Changes that wait for what left memory hold their values meanwhile: so many bytes of them wait at most, in the bucket as a whole.
//! One more is refused, nothing of it is done, and those that wait are done as ever.

use std::future::{Future, IntoFuture, poll_fn};
use std::task::Poll;
use std::time::Duration;

use piggin::messages::{Busy, OperationError};
use supervisor::testing::{World, WorldSettings};

use piggin::BucketConfig;

const DOCUMENTS: usize = 40;
const VALUE_BYTES: usize = 4 << 20;
/// Sixteen of them.
const WAIT_MOST: usize = (64 << 20) / VALUE_BYTES;

/// Whether it must wait, or what it is answered at once.
async fn first_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(
        |context| match std::pin::Pin::new(&mut *future).poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => Poll::Ready(None),
        },
    )
    .await
}

#[test]
fn so_many_bytes_wait_and_no_more() {
    let settings = WorldSettings {
        evicts: true,
        ..WorldSettings::default()
    };
    World::run_with(1, &settings, |world| async move {
        let config = BucketConfig {
            vbuckets: Some(4),
            memory_quota_bytes: 512 << 20,
            ..world.config()
        };
        let bucket = world.create(config).await.expect("a bucket");
        for number in 0..DOCUMENTS {
            let written = bucket.set(format!("{number}"), "first ");
            written.persisted().await.expect("a write");
        }
        while bucket.memory().resident_documents > 0 {
            world.sleep(Duration::from_secs(1)).await;
        }
        let append = |number: usize| {
            let more = vec![b'v'; VALUE_BYTES];
            Box::pin(bucket.append(format!("{number}"), more).into_future())
        };
        let mut asked: Vec<_> = (0..DOCUMENTS).map(append).collect();
        let refused = Err(OperationError::TemporaryFailure(Busy::Queue));
        for (number, one) in asked.iter_mut().enumerate() {
            let answer = first_poll(one).await.map(|answer| answer.map(drop));
            let expected = (number >= WAIT_MOST).then(|| refused.clone());
            assert_eq!(answer, expected, "{number}");
        }
        // What brings no value waits beside them, and one that nobody waits for any more makes room.
        let mut touch = Box::pin(bucket.touch("39", 60).into_future());
        assert!(first_poll(&mut touch).await.is_none());
        asked.truncate(WAIT_MOST);
        drop(asked.remove(0));
        let mut again = append(39);
        assert!(first_poll(&mut again).await.is_none());
        for one in asked {
            one.await.expect("done");
        }
        touch.await.expect("touched");
        again.await.expect("done");
        for number in 0..DOCUMENTS {
            let found = bucket.get(format!("{number}")).await.expect("a document");
            let is_longer = (1..WAIT_MOST).contains(&number) || number == 39;
            let length = if is_longer { 6 + VALUE_BYTES } else { 6 };
            assert_eq!(found.value.len(), length, "{number}");
        }
        bucket.shutdown().await.expect("a shutdown");
    })
    .expect("a run");
}
