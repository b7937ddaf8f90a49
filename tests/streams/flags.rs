//! What a request says of where a stream begins and ends, and of what it is for, holds through the whole engine: from disk,
//! from memory, and over from the one into the other.

use std::collections::BTreeSet;
use std::time::Duration;

use piggin::Bucket;
use piggin::messages::stream::{
    SnapshotFlags, StreamEndReason, StreamFilter, StreamFlags, StreamRequest, StreamRequestError,
};
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{ChildName, OperationError};
use piggin::storage::{ScopeId, Seqno, VbucketState};
use supervisor::testing::{Fault, World};

use crate::common::{PATIENCE, assert_at_base, config, filled, filled_as, run};
use crate::heard::{Heard, ID, ask, flagged, from, keys_of_first, request, stream};
use crate::support::evicting::resident;

const DOCUMENTS: usize = 60;

/// For so long nothing more gets to disk.
fn stall_writers(bucket: &Bucket, world: &World, time: Duration) {
    for child in bucket.children() {
        let name = child.name.as_str().to_owned();
        if name.starts_with("writer-") {
            let child = ChildName::new(name);
            world.inject(Fault::Stall { child, time });
        }
    }
}

#[test]
fn the_disk_alone_ends_at_what_is_on_disk() {
    run(1, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let on_disk = bucket.statistics().vbuckets[0].persisted_seqno;
        stall_writers(&bucket, &world, Duration::from_secs(20));
        let keys = keys_of_first(&bucket, 5);
        for key in &keys {
            bucket.set(key, "in memory").await.expect("a write");
        }
        assert!(bucket.statistics().vbuckets[0].high_seqno > on_disk);
        let heard = stream(&bucket, flagged(StreamFlags::DISK_ONLY)).await;
        assert_eq!(heard.opened.end, on_disk);
        assert_eq!(heard.end().await, StreamEndReason::Ok);
        assert_eq!(heard.last(), on_disk);
        let is_disk = |flags: &SnapshotFlags| flags.has(SnapshotFlags::DISK);
        assert!(heard.markers().iter().all(is_disk));
        let documents = heard.mirror().all_documents();
        assert!(!documents.is_empty());
        for key in &keys {
            assert!(!documents.contains_key(key.as_bytes()));
        }
        assert_at_base(&world, &bucket).await;
        world.sleep(PATIENCE).await;
        // With both: the newest item is in memory, and not waited for.
        let both = StreamFlags::DISK_ONLY.with(StreamFlags::TO_LATEST);
        let heard = stream(&bucket, flagged(both)).await;
        assert_eq!(heard.end().await, StreamEndReason::Ok);
        assert_eq!(heard.last(), bucket.statistics().vbuckets[0].high_seqno);
        // Behind all there is: it ends without a word.
        let high = heard.last();
        let behind = StreamRequest {
            flags: StreamFlags::DISK_ONLY,
            ..from(&bucket, high).await
        };
        let heard = stream(&bucket, behind).await;
        assert_eq!(heard.end().await, StreamEndReason::Ok);
        assert_eq!(heard.events().len(), 1);
    });
}

#[test]
fn to_the_latest_ends_there_from_disk_and_from_memory() {
    run(2, async |world| {
        let bucket = filled_as(&world, resident(config(&world)), DOCUMENTS).await;
        let keys = keys_of_first(&bucket, 8);
        for key in &keys[..4] {
            bucket.set(key, "in memory").await.expect("a write");
        }
        let high = bucket.statistics().vbuckets[0].high_seqno;
        let heard = stream(&bucket, flagged(StreamFlags::TO_LATEST)).await;
        assert_eq!(heard.opened.end, high);
        for key in &keys[4..] {
            bucket.set(key, "later").await.expect("a write");
        }
        assert_eq!(heard.end().await, StreamEndReason::Ok);
        // The snapshot that holds the end is sent whole, and no other.
        assert!(heard.last() >= high);
        let documents = heard.mirror().all_documents();
        assert!(
            keys[..4]
                .iter()
                .all(|key| documents.contains_key(key.as_bytes()))
        );
        // From memory alone.
        let high = bucket.statistics().vbuckets[0].high_seqno;
        let near = Seqno(high.0 - 2);
        let latest = StreamRequest {
            flags: StreamFlags::TO_LATEST,
            ..from(&bucket, near).await
        };
        let heard = stream(&bucket, latest).await;
        assert_eq!(heard.end().await, StreamEndReason::Ok);
        assert_eq!(heard.last(), high);
        assert!(heard.markers()[0].has(SnapshotFlags::MEMORY));
        assert_at_base(&world, &bucket).await;
    });
}

/// MB-53448: others write on, and nothing of the collection comes any more.
#[test]
fn to_the_latest_of_a_collection_ends_at_its_own() {
    run(3, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let made = bucket.create_collection("_default", "fruit").await;
        made.expect("a collection");
        let fruit = bucket.collection("_default", "fruit").expect("it");
        let keys = keys_of_first(&bucket, 6);
        for key in &keys[..3] {
            fruit.set(key, "fruit").await.expect("a write");
        }
        let newest = bucket.statistics().vbuckets[0].high_seqno;
        for key in &keys {
            bucket.set(key, "other").await.expect("a write");
        }
        for is_flushed in [false, true] {
            if is_flushed {
                bucket.flush().await.expect("a flush");
                bucket.vbucket_core(ID).expect("it").shrink_log();
            }
            let wanted = StreamRequest {
                filter: StreamFilter::Collections(vec![fruit.id()]),
                ..flagged(StreamFlags::TO_LATEST)
            };
            let heard = stream(&bucket, wanted).await;
            assert_eq!(heard.opened.end, newest);
            assert_eq!(heard.end().await, StreamEndReason::Ok);
            let mirror = heard.mirror();
            assert_eq!(mirror.documents_of(fruit.id()).len(), 3);
            assert!(mirror.all_documents().is_empty());
            assert_eq!(heard.collections().0, [fruit.id()].into());
        }
        assert_at_base(&world, &bucket).await;
    });
}

#[test]
fn a_scope_is_streamed_with_what_begins_in_it_until_it_ends() {
    run(4, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        bucket.create_scope("shop").await.expect("a scope");
        let shop = bucket.manifest().scope("shop").expect("its number");
        let keys = keys_of_first(&bucket, 3);
        let wanted = StreamRequest {
            filter: StreamFilter::Scope(shop),
            ..request()
        };
        // Without a collection yet.
        let live = stream(&bucket, wanted.clone()).await;
        let mut ids = BTreeSet::new();
        for name in ["orders", "bills"] {
            let made = bucket.create_collection("shop", name).await;
            made.expect("a collection");
            let collection = bucket.collection("shop", name).expect("it");
            for key in &keys {
                collection.set(key, name).await.expect("a write");
                bucket.set(key, "other").await.expect("a write");
            }
            ids.insert(collection.id());
        }
        world.sleep(Duration::from_secs(5)).await;
        let check = |heard: &Heard, what: &str| {
            let mirror = heard.mirror();
            assert!(mirror.all_documents().is_empty(), "{what}");
            for id in &ids {
                assert_eq!(mirror.documents_of(*id).len(), keys.len(), "{what}");
            }
            assert_eq!(heard.collections().0, ids, "{what}");
        };
        check(&live, "from memory");
        // The same from disk, by another consumer.
        bucket.flush().await.expect("a flush");
        bucket.vbucket_core(ID).expect("it").shrink_log();
        let other = StreamRequest {
            consumer: "other".into(),
            flags: StreamFlags::DISK_ONLY,
            ..wanted.clone()
        };
        let heard = stream(&bucket, other).await;
        assert_eq!(heard.end().await, StreamEndReason::Ok);
        check(&heard, "from disk");
        // One of its collections ends, then it does.
        bucket.drop_collection("shop", "bills").await.expect("gone");
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(live.collections().1.len(), 1);
        assert!(live.mirror().ends.is_empty());
        bucket.drop_scope("shop").await.expect("gone");
        assert_eq!(live.end().await, StreamEndReason::FilterEmpty);
        assert_eq!(live.collections().1, ids);
        let gone = ask(&bucket, wanted).await.err();
        assert_eq!(gone, Some(StreamRequestError::UnknownScope(shop)));
        let never = StreamRequest {
            filter: StreamFilter::Scope(ScopeId(4711)),
            ..request()
        };
        let never = ask(&bucket, never).await.err();
        assert_eq!(never, Some(StreamRequestError::UnknownScope(ScopeId(4711))));
        assert_at_base(&world, &bucket).await;
    });
}

#[test]
fn from_the_latest_tells_what_comes_and_a_replica_is_for_who_wants_one() {
    run(7, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let high = bucket.statistics().vbuckets[0].high_seqno;
        let strict = StreamFlags::FROM_LATEST.with(StreamFlags::STRICT_VB_UUID);
        let heard = stream(&bucket, flagged(strict)).await;
        assert_eq!(heard.opened.start, high);
        let keys = keys_of_first(&bucket, 1);
        bucket.set(&keys[0], "new").await.expect("a write");
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(heard.mirror().all_documents().len(), 1);
        let vbucket = bucket.vbucket(ID).expect("it");
        let become_it = |state| SetVbucketState {
            state,
            topology: None,
            is_takeover: false,
        };
        let changed = vbucket.send(become_it(VbucketState::Replica)).await;
        changed.expect("it lives").expect("a change");
        assert_eq!(heard.end().await, StreamEndReason::StateChanged);
        let active = ask(&bucket, flagged(StreamFlags::ACTIVE_VB_ONLY)).await;
        let not_mine = |refused: Option<StreamRequestError>| {
            let refused = refused.expect("a refusal");
            let is_it =
                |error: &OperationError| matches!(error, OperationError::NotMyVbucket { .. });
            assert!(
                matches!(&refused, StreamRequestError::Vbucket(error) if is_it(error)),
                "{refused:?}"
            );
        };
        not_mine(active.err());
        let replica = stream(&bucket, flagged(StreamFlags::TO_LATEST)).await;
        assert_eq!(replica.end().await, StreamEndReason::Ok);
        assert_eq!(replica.last().0, high.0 + 1);
        for state in [VbucketState::Pending, VbucketState::Dead] {
            let changed = vbucket.send(become_it(state)).await;
            changed.expect("it lives").expect("a change");
            not_mine(ask(&bucket, request()).await.err());
        }
        assert_at_base(&world, &bucket).await;
    });
}
