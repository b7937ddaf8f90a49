//! The power goes at every single call of the disk of a promotion: a replica whose source has a newer manifest, with other
//! collections, becomes active beside others; whatever of that is found on disk, the bucket opens with its own collections
//! and every document in them, and with those of the source once one active vbucket has them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use actors::vbucket::VbucketCore;
use actors::vbucket::checkpoint::ReplicaSnapshot;
use piggin::messages::OperationError;
use piggin::messages::vbucket::SetVbucketState;
use piggin::storage::{
    Cas, CollectionId, Document, DocumentKey, Item, ManifestUid, ScopeId, Seqno, SystemEvent,
    VbucketId, VbucketState,
};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::World;

const VBUCKETS: u16 = 4;
const KEYS: usize = 24;

fn config(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(VBUCKETS),
        ..world.config()
    }
}

fn replica() -> VbucketId {
    VbucketId::new(VBUCKETS - 1).expect("a number of a vbucket")
}

fn event(seqno: Seqno, event: &SystemEvent) -> Arc<Item> {
    let key = event.key().expect("a short key");
    let document = Document::new(key, event.value(), Cas(seqno.0 << 20));
    let mut item = Item::mutation(seqno, document);
    item.operation = event.operation();
    Arc::new(item)
}

/// What its source did since: one collection less, another more, under a manifest that is newer than the bucket's.
fn tell(core: &VbucketCore, dropped: CollectionId) {
    let epoch = core.begin_stream().expect("a stream");
    let first = core.high_seqno().next();
    let uid = ManifestUid(9);
    let end = SystemEvent::CollectionEnd {
        uid,
        scope: ScopeId::DEFAULT,
        collection: dropped,
        start: Seqno(1),
    };
    let begin = SystemEvent::CollectionBegin {
        uid,
        scope: ScopeId::DEFAULT,
        collection: CollectionId(16),
        name: "x".to_owned(),
        max_ttl_s: 0,
    };
    let key = DocumentKey::new(CollectionId(16), b"of the source").expect("a short key");
    let third = first.next().next();
    let document = Document::new(key, "x", Cas(third.0 << 20));
    let items = [
        event(first, &end),
        event(first.next(), &begin),
        Arc::new(Item::mutation(third, document)),
    ];
    // Of its disk: a flush ends where such a snapshot does.
    let snapshot = ReplicaSnapshot::disk(first, third, Seqno::ZERO);
    let marked = core.apply_marker(epoch, &snapshot, true);
    marked.expect("a snapshot");
    for item in items {
        core.apply_item(epoch, item).expect("an item");
    }
}

async fn become_it(bucket: &Bucket, state: VbucketState) {
    let change = SetVbucketState {
        state,
        topology: None,
        is_takeover: false,
    };
    let actor = bucket.vbucket(replica()).expect("it");
    let changed = actor.send(change).await.expect("it lives");
    changed.expect("a change");
}

async fn filled(world: &World) -> Bucket {
    let bucket = world.create(config(world)).await.expect("a bucket");
    for name in ["a", "b"] {
        let created = bucket.create_collection("_default", name).await;
        created.expect("a collection");
        let collection = bucket.collection("_default", name).expect("it");
        for number in 0..KEYS {
            let written = collection.set(format!("key {number}"), name).persisted();
            written.await.expect("a write");
        }
    }
    bucket
}

/// The bucket has its collections, and every vbucket but the one that was rolled over to them what was in them. Whether it
/// has that of the source, too.
async fn check(bucket: &Bucket, call: u64) -> bool {
    let manifest = bucket.manifest();
    let names: Vec<&str> = manifest
        .collections
        .values()
        .map(|entry| entry.name.as_str())
        .collect();
    let (own, brought) = (["_default", "a", "b"], ["_default", "a", "b", "x"]);
    let has_brought = names == brought;
    assert!(has_brought || names == own, "at call {call}: {names:?}");
    for id in (0..VBUCKETS).filter_map(VbucketId::new) {
        let core = bucket.vbucket_core(id).expect("it");
        if core.state() == VbucketState::Active {
            assert_eq!(
                core.collections_manifest(),
                manifest,
                "at call {call}: {id}"
            );
        }
    }
    for name in ["a", "b"] {
        let collection = bucket.collection("_default", name).expect("it");
        for number in 0..KEYS {
            let key = format!("key {number}");
            let found = collection.get(&key).await;
            if bucket.vbucket_of(key.as_bytes()) == replica() {
                let is_possible = match &found {
                    Ok(found) => found.value == name,
                    // Its source had dropped it, and it began anew; or it is a replica still.
                    Err(OperationError::KeyNotFound) => name == "a",
                    Err(OperationError::NotMyVbucket { .. }) => true,
                    Err(_) => false,
                };
                assert!(is_possible, "at call {call}: {name} {key}: {found:?}");
            } else {
                let value = found.map(|found| found.value);
                assert_eq!(
                    value.as_deref(),
                    Ok(name.as_bytes()),
                    "at call {call}: {key}"
                );
            }
        }
    }
    has_brought
}

/// Whether the power went before the promotion was on disk.
async fn cut_at(world: World, call: u64) -> bool {
    let bucket = filled(&world).await;
    let dropped = bucket.collection("_default", "a").expect("it").id();
    become_it(&bucket, VbucketState::Replica).await;
    bucket.flush().await.expect("a flush");
    let core = bucket.vbucket_core(replica()).expect("it");
    world.simulated_disk().cut_power_at_call(call);
    tell(&core, dropped);
    become_it(&bucket, VbucketState::Active).await;
    assert!(bucket.manifest().uid > ManifestUid(9));
    let flushed = timeout(Duration::from_secs(5), bucket.flush()).await;
    let is_on_disk = matches!(flushed, Ok(Ok(())));
    drop(core);
    world.cut_power();
    let bucket = world.open(config(&world)).await.expect("the bucket");
    let has_brought = check(&bucket, call).await;
    assert!(!is_on_disk || has_brought, "at call {call}");
    let core = bucket.vbucket_core(replica()).expect("it");
    let (state, told) = (core.state(), core.collections_manifest().uid);
    drop(core);
    assert!(
        !is_on_disk || state == VbucketState::Active,
        "at call {call}"
    );
    // Whoever is promoted then brings what it has on disk, and no uid is given twice.
    if state == VbucketState::Replica {
        become_it(&bucket, VbucketState::Active).await;
    }
    let created = bucket.create_collection("_default", "c").await;
    assert!(created.expect("a collection") > told, "at call {call}");
    bucket
        .drop_collection("_default", "c")
        .await
        .expect("a drop");
    let brought = check(&bucket, call).await;
    assert!(brought || !has_brought, "at call {call}");
    bucket.shutdown().await.expect("an orderly end");
    let bucket = world.open(config(&world)).await.expect("the bucket");
    assert_eq!(check(&bucket, call).await, brought, "at call {call}");
    bucket.shutdown().await.expect("an orderly end");
    !is_on_disk
}

#[test]
fn a_promotion_leaves_the_bucket_its_collections_and_adds_to_them_wherever_the_power_goes() {
    let mut calls = 0;
    for call in 1.. {
        let was_cut = World::run(call, |world| cut_at(world, call));
        if !was_cut.expect("a run that ends") {
            break;
        }
        calls = call;
    }
    println!("{calls} calls");
    assert!(calls > 2, "{calls}");
}
