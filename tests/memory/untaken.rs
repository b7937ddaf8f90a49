//! Of documents that are read one by one so much is in memory at most that nobody takes; who takes nothing has others refused,
//! and nobody waits for ever.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use piggin::messages::{Busy, OperationError};
use piggin::storage::OpenOptions;
use piggin::{Bucket, BucketConfig};
use supervisor::testing::{World, WorldSettings};

const DOCUMENTS: usize = 40;
const VALUE_BYTES: usize = 4 << 20;
/// The bound, and what each of two readers had begun.
const MOST_BYTES: u64 = (64 << 20) + 2 * VALUE_BYTES as u64;

async fn filled(world: &World) -> Bucket {
    let config = BucketConfig {
        vbuckets: Some(2),
        memory_quota_bytes: 512 << 20,
        store: OpenOptions {
            is_stepped: true,
            ..OpenOptions::new(1)
        },
        ..world.config()
    };
    let bucket = world.create(config).await.expect("a bucket");
    for number in 0..DOCUMENTS {
        let written = bucket.set(format!("{number}"), vec![b'v'; VALUE_BYTES]);
        written.persisted().await.expect("a write");
    }
    while bucket.memory().resident_documents > 0 {
        world.sleep(Duration::from_secs(1)).await;
    }
    bucket
}

#[test]
fn who_takes_nothing_costs_a_bounded_amount_and_nobody_his_answer() {
    let settings = WorldSettings {
        evicts: true,
        ..WorldSettings::default()
    };
    World::run_with(1, &settings, |world| async move {
        let bucket = filled(&world).await;
        let before = bucket.memory().bytes;
        let get = |number: usize| Box::pin(bucket.get(format!("{number}")));
        let mut asked: Vec<_> = (0..DOCUMENTS).map(get).collect();
        for one in &mut asked {
            let first = poll_fn(|context| Poll::Ready(one.as_mut().poll(context))).await;
            assert!(first.is_pending(), "it is read");
        }
        world.sleep(Duration::from_millis(900)).await;
        let held = bucket.memory().bytes - before;
        assert!(held > 32 << 20 && held <= MOST_BYTES, "{held}");
        world.sleep(Duration::from_secs(5)).await;
        let held = bucket.memory().bytes - before;
        assert!(held <= MOST_BYTES, "{held}");
        let (mut found, mut refused) = (0, 0);
        for one in asked {
            match one.await {
                Ok(document) => {
                    assert_eq!(document.value.len(), VALUE_BYTES);
                    found += 1;
                }
                Err(error) => {
                    assert_eq!(error, OperationError::TemporaryFailure(Busy::Queue));
                    refused += 1;
                }
            }
        }
        assert!(
            found >= 16 && refused > 0,
            "{found} found, {refused} refused"
        );
        // Everything is as it was: all are read who are asked for.
        let keys = (0..DOCUMENTS).map(|number| format!("{number}"));
        let all = bucket.get_many(keys).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        bucket.shutdown().await.expect("an end");
    })
    .expect("a run that ends");
}
