//! The power goes at every single call of the disk of a change of the manifest: each vbucket has the old manifest on disk
//! or the new one, the bucket opens with one of them in all vbuckets, and with the new one if that was acknowledged.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::{CollectionsManifest, ManifestChange};
use piggin::storage::{
    ItemView, KeyRange, KvStore, LogStore, ManifestUid, Namespace, OpenOptions, Outcome,
    SystemEvent, VbucketId,
};
use piggin::{Bucket, BucketConfig};
use supervisor::testing::World;

const VBUCKETS: u16 = 4;

fn config(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(VBUCKETS),
        log_shards: Some(2),
        ..world.config()
    }
}

fn create(scope: &str, collection: &str) -> ManifestChange {
    ManifestChange::CreateCollection {
        scope: scope.to_owned(),
        collection: collection.to_owned(),
        max_ttl_s: 0,
    }
}

fn changes() -> [ManifestChange; 4] {
    let (scope, collection) = (|| "s".to_owned(), || "a".to_owned());
    [
        ManifestChange::CreateScope {
            scope: "t".to_owned(),
        },
        create("s", "c"),
        ManifestChange::DropCollection {
            scope: scope(),
            collection: collection(),
        },
        ManifestChange::DropScope { scope: scope() },
    ]
}

/// A scope with two collections and a document in each vbucket and collection; manifest 3.
async fn filled(world: &World) -> Bucket {
    let bucket = world.create(config(world)).await.expect("a bucket");
    bucket.create_scope("s").await.expect("a scope");
    for name in ["a", "b"] {
        bucket.create_collection("s", name).await.expect("it");
        let collection = bucket.collection("s", name).expect("it");
        for number in 0..12 {
            let written = collection.set(format!("key {number}"), name);
            written.persisted().await.expect("a write");
        }
    }
    bucket
}

/// What each vbucket has on disk: its uid, and how many collections it says there are.
fn on_disk(world: &World) -> Vec<(u64, usize)> {
    let disk = world.simulated_disk().crash_keeping_everything();
    let store = LogStore::open(Arc::new(disk), OpenOptions::new(1)).expect("a store");
    let manifest = |id| {
        let snapshot = store.snapshot(id).expect("a vbucket");
        let uid = snapshot.state().identity.manifest_uid;
        let mut begun = 0;
        let mut scan = snapshot.scan_by_key(KeyRange::all(Namespace::SystemEvent));
        let mut visit = |view: ItemView<'_>| {
            let event = SystemEvent::read(view.operation, view.key, view.value);
            let is_begin = |event| matches!(event, SystemEvent::CollectionBegin { .. });
            begun += usize::from(event.is_ok_and(is_begin));
            ControlFlow::Continue(())
        };
        let outcome = scan.step(usize::MAX, &mut visit);
        assert!(matches!(outcome, Outcome::Complete(_)), "{outcome:?}");
        (uid, begun)
    };
    let ids = (0..VBUCKETS).filter_map(VbucketId::new);
    ids.map(manifest).collect()
}

fn manifests(bucket: &Bucket) -> Vec<Arc<CollectionsManifest>> {
    let ids = (0..VBUCKETS).filter_map(VbucketId::new);
    ids.map(|id| {
        bucket
            .vbucket_core(id)
            .expect("a core")
            .collections_manifest()
    })
    .collect()
}

/// Whether the power went before the change was acknowledged.
async fn cut_at(world: World, change: ManifestChange, call: u64, after: usize) -> bool {
    let bucket = filled(&world).await;
    world.simulated_disk().cut_power_at_call(call);
    let changed = timeout(
        Duration::from_secs(5),
        bucket.change_manifest(change.clone()),
    )
    .await;
    let is_acknowledged = matches!(changed, Ok(Ok(ManifestUid(4))));
    world.cut_power();
    for (uid, collections) in on_disk(&world) {
        let expected = if uid == 4 { after } else { 2 };
        assert!(uid == 3 || uid == 4, "{change:?} at {call}: {uid}");
        assert_eq!(collections, expected, "{change:?} at {call}: {uid}");
    }
    let bucket = world.open(config(&world)).await.expect("the bucket");
    let manifest = bucket.manifest();
    assert!(
        !is_acknowledged || manifest.uid.0 == 4,
        "{change:?} at {call}"
    );
    for of_vbucket in manifests(&bucket) {
        assert_eq!(of_vbucket, manifest, "{change:?} at {call}");
    }
    for name in ["a", "b"] {
        let Ok(collection) = bucket.collection("s", name) else {
            continue;
        };
        for number in 0..12 {
            let found = collection.get(format!("key {number}")).await;
            assert_eq!(found.expect("a document").value, name);
        }
    }
    // Whoever was behind is brought up on disk as well.
    bucket.flush().await.expect("a flush");
    let uid = manifest.uid.0;
    let collections = if uid == 4 { after } else { 2 };
    assert_eq!(
        on_disk(&world),
        vec![(uid, collections); usize::from(VBUCKETS)]
    );
    bucket.shutdown().await.expect("an orderly end");
    !is_acknowledged
}

#[test]
fn a_change_is_whole_wherever_the_power_goes() {
    for (number, change) in changes().into_iter().enumerate() {
        let after = [2, 3, 1, 0][number];
        let mut calls = 0;
        for call in 1.. {
            let change = change.clone();
            let was_cut = World::run(call, |world| cut_at(world, change, call, after));
            if !was_cut.expect("a run that ends") {
                break;
            }
            calls = call;
        }
        println!("{change:?}: {calls} calls");
        assert!(calls > 2, "{change:?}: {calls}");
    }
}
