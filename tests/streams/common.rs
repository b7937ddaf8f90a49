//! A bucket whose documents are on disk and not in its checkpoint log, and what a consumer makes of its changes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::stream::{StreamEndReason, StreamEvent};
use piggin::storage::{CollectionId, Item, OpenOptions, Seqno, SystemEvent, VbucketId};
use piggin::{Bucket, BucketConfig, Change, ChangesOptions, ChangesToken, Until};
use supervisor::testing::{World, WorldSettings};

/// Longer than anything takes that comes to an end: virtual time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run<T: Send>(seed: u64, scenario: impl AsyncFnOnce(World) -> T + Send) -> T {
    run_with(seed, &WorldSettings::default(), scenario)
}

/// The same, in a world that is set up so.
pub(crate) fn run_with<T: Send>(
    seed: u64,
    settings: &WorldSettings,
    scenario: impl AsyncFnOnce(World) -> T + Send,
) -> T {
    World::run_with(seed, settings, |world| scenario(world)).expect("a run that ends")
}

/// So small that a few hundred documents are sealed, and read back from disk.
pub(crate) fn config(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(4),
        actor_threads: Some(2),
        store: OpenOptions {
            log_file_bytes_min: 64 << 10,
            log_file_bytes_max: 128 << 10,
            unsealed_bytes: 16 << 10,
            segments_max: 2,
            container_bytes_min: 0,
            block_bytes: 4 << 10,
            index_cache_bytes: 0,
            is_stepped: true,
            ..OpenOptions::new(1)
        },
        ..world.config()
    }
}

/// A bucket with documents that a stream must read from disk.
pub(crate) async fn filled(world: &World, documents: usize) -> Bucket {
    filled_as(world, config(world), documents).await
}

/// The same, of a bucket that is set up so.
pub(crate) async fn filled_as(world: &World, config: BucketConfig, documents: usize) -> Bucket {
    let bucket = world.create(config.clone()).await.expect("a bucket");
    for number in 0..documents {
        let value = vec![b'v'; 500];
        bucket.set(key(number), value).await.expect("a write");
        if number % 5 == 0 {
            bucket.flush().await.expect("a flush");
        }
    }
    bucket.flush().await.expect("a flush");
    // Time for the background work to seal it.
    world.sleep(Duration::from_secs(10)).await;
    bucket.shutdown().await.expect("an end");
    world.open(config).await.expect("the bucket")
}

pub(crate) fn key(number: usize) -> String {
    format!("key {number}")
}

/// Everything up to now, from nothing.
pub(crate) fn all() -> ChangesOptions {
    ChangesOptions {
        until: Until::Now,
        ..ChangesOptions::default()
    }
}

/// What a consumer makes of changes, and what it checks of them on the way.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    /// Those of the default collection.
    pub(crate) documents: BTreeMap<VbucketId, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Those of others.
    pub(crate) others: BTreeMap<(VbucketId, CollectionId), BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(crate) ends: BTreeMap<VbucketId, StreamEndReason>,
    last: BTreeMap<VbucketId, Seqno>,
    /// End of the snapshot that is under way.
    awaited: BTreeMap<VbucketId, Seqno>,
    /// It sees every end of a stream, so that no snapshot may begin in another.
    is_of_one_stream: bool,
}

impl Mirror {
    /// Of a stream whose every end is told.
    pub(crate) fn of_one_stream() -> Mirror {
        Mirror {
            is_of_one_stream: true,
            ..Mirror::default()
        }
    }

    /// Another stream of changes begins: streams end anew.
    pub(crate) fn begin(&mut self) {
        self.ends.clear();
        self.awaited.clear();
    }

    pub(crate) fn take(&mut self, change: Change) {
        let Change { vbucket, event } = change;
        assert!(
            !self.ends.contains_key(&vbucket),
            "{vbucket}: after its end"
        );
        if let Some(seqno) = event.seqno() {
            let last = self.last.insert(vbucket, seqno);
            assert!(
                last.is_none_or(|last| last < seqno),
                "{vbucket}: {last:?}, {seqno}"
            );
            let end = self.awaited.get(&vbucket).copied();
            assert!(
                end.is_some_and(|end| seqno <= end),
                "{vbucket}: {seqno} outside {end:?}"
            );
            if end == Some(seqno) {
                self.awaited.remove(&vbucket);
            }
        }
        match event {
            StreamEvent::SnapshotMarker(marker) => {
                assert!(marker.start <= marker.end);
                let before = self.awaited.insert(vbucket, marker.end);
                assert!(before.is_none() || !self.is_of_one_stream, "{before:?}");
            }
            StreamEvent::Mutation(item) => {
                let value = item.document.value.to_vec();
                self.of(vbucket, &item).insert(key_of(&item), value);
            }
            StreamEvent::Deletion(item) | StreamEvent::Expiration(item) => {
                self.of(vbucket, &item).remove(&key_of(&item));
            }
            StreamEvent::SystemEvent(event) => {
                if let SystemEvent::CollectionEnd { collection, .. } = event.event {
                    self.others.remove(&(vbucket, collection));
                }
            }
            StreamEvent::SeqnoAdvanced(_) => {}
            StreamEvent::Prepare(_) | StreamEvent::Commit(_) | StreamEvent::Abort(_) => {
                panic!("{vbucket}: told to one who is no replica");
            }
            StreamEvent::StreamEnd(reason) => {
                if reason == StreamEndReason::Ok {
                    assert_eq!(self.awaited.get(&vbucket), None, "{vbucket}");
                }
                self.ends.insert(vbucket, reason);
            }
        }
    }

    /// The documents an item is one of.
    fn of(&mut self, vbucket: VbucketId, item: &Item) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        match item.document.key.collection() {
            CollectionId::DEFAULT => self.documents.entry(vbucket).or_default(),
            collection => self.others.entry((vbucket, collection)).or_default(),
        }
    }

    /// Forgets what is known of a vbucket that was rolled back.
    pub(crate) fn forget(&mut self, vbucket: VbucketId) {
        self.documents.remove(&vbucket);
        self.others.retain(|(of, _), _| *of != vbucket);
        self.last.remove(&vbucket);
        self.awaited.remove(&vbucket);
    }

    /// Takes changes to their end; the token behind them.
    pub(crate) async fn take_all(
        &mut self,
        bucket: &Bucket,
        options: ChangesOptions,
    ) -> ChangesToken {
        self.begin();
        let mut changes = bucket.changes(options).await.expect("changes");
        let next = async |changes: &mut piggin::Changes| {
            timeout(PATIENCE, changes.next()).await.expect("progress")
        };
        while let Some(change) = next(&mut changes).await {
            self.take(change);
        }
        changes.token()
    }

    /// Whether it is in no snapshot whose end did not come.
    pub(crate) fn is_whole(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Those of one collection that is not the default one.
    pub(crate) fn documents_of(&self, collection: CollectionId) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let of_it = self.others.iter().filter(|((_, of), _)| *of == collection);
        let all = of_it.flat_map(|(_, documents)| documents);
        all.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    pub(crate) fn all_documents(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let all = self.documents.values().flatten();
        all.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

fn key_of(item: &Item) -> Vec<u8> {
    item.document.key.key().to_vec()
}

/// Nothing of any stream is left.
pub(crate) async fn assert_at_base(world: &World, bucket: &Bucket) {
    world.sleep(Duration::from_secs(5)).await;
    let statistics = bucket.statistics();
    assert_eq!(
        (statistics.backfills, statistics.backfill_buffer_bytes),
        (0, 0)
    );
    for number in 0..bucket.vbucket_count() {
        let id = VbucketId::new(number).expect("a vbucket");
        let core = bucket.vbucket_core(id).expect("it");
        assert_eq!(core.cursors(), 1, "vbucket {id}: beside the flusher's");
    }
}
